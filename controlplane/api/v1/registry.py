"""Models that follow a registry (MLflow), and the versions that are brought in from there."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of, may_roll_out, person_of
from controlplane.api.standings import IMPORT_FIELDS
from controlplane.api.v1.fields import StrictBody, VersionNumber
from controlplane.catalog.models import ImportedVersion, ImportState, RegistryLink
from controlplane.catalog.queries import find_model
from controlplane.catalog.registry.linking import (
    find_import,
    find_link,
    import_version,
    link_model,
    only_link,
    unlink,
)
from controlplane.catalog.registry.sources import mlflow_source

# How long a caller waits for the registry.
_ASKED_SECONDS = 10.0


def _watched() -> dict[str, Any]:
    """Anew for each field: a child belongs to one."""
    child = serializers.CharField(max_length=40, allow_blank=True)
    return {"child": child, "required": False, "default": dict}


class RegistryLinkIn(StrictBody):
    remote_name = serializers.CharField(max_length=256, help_text="the registered model in MLflow")
    aliases = serializers.DictField(
        **_watched(),
        help_text='alias to the channel that it moves: {"prod": "stable"}; empty: it moves none, '
        "and what it leads to is brought in",
    )
    stages = serializers.DictField(
        **_watched(), help_text='the same of stages: {"Production": "stable"}'
    )


class RegistryLinkOut(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    model = serializers.CharField(source="model.name")
    registry = serializers.CharField()
    remote_name = serializers.CharField()
    aliases = serializers.DictField(child=serializers.CharField())
    stages = serializers.DictField(child=serializers.CharField())
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    checked_at = serializers.DateTimeField(allow_null=True)
    wanted_at = serializers.DateTimeField(
        allow_null=True, help_text="somebody asked for a look, which is not over"
    )
    failed_since = serializers.DateTimeField(allow_null=True)
    failure = serializers.CharField(help_text="why the last look failed")


class ImportIn(StrictBody):
    """Exactly one of `version`, `alias` and `stage`."""

    version = VersionNumber(required=False, allow_null=True, default=None)
    alias = serializers.CharField(max_length=200, required=False, allow_blank=True, default="")
    stage = serializers.CharField(max_length=40, required=False, allow_blank=True, default="")
    remote_name = serializers.CharField(
        max_length=256,
        required=False,
        allow_blank=True,
        default="",
        help_text="of which linked model, where there are several",
    )


class ImportOut(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    registry = serializers.CharField(source="link.registry")
    remote_name = serializers.CharField(source="link.remote_name")
    remote_version = serializers.CharField()
    state = serializers.ChoiceField(choices=ImportState.choices)
    reason = serializers.CharField(help_text="why it failed, or what it waits for")
    version = serializers.SerializerMethodField(help_text="the version that it became")
    source_uri = serializers.CharField()
    run_id = serializers.CharField()
    channels = serializers.ListField(
        child=serializers.CharField(), help_text="that move to it once it is here and approved"
    )
    attempts = serializers.IntegerField()
    not_before = serializers.DateTimeField(allow_null=True)
    asked_by = serializers.CharField()
    asked_at = serializers.DateTimeField()
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_version(self, row: ImportedVersion) -> str | None:
        return str(row.version.number) if row.version else None


class RegistryLinks(ListAPIView[RegistryLink]):
    serializer_class = RegistryLinkOut
    # A link moves channels, which is an approver's business.
    write_scope = Scope.APPROVE
    filter_backends = ()

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return RegistryLink.objects.none()
        rows = RegistryLink.objects.filter(model=find_model(self.kwargs["name"]))
        return rows.select_related("model").order_by("remote_name", "pk")

    @extend_schema(
        request=RegistryLinkIn,
        responses={201: RegistryLinkOut, 200: RegistryLinkOut},
        description="Lets the model follow one of MLflow, and makes it if there is none. The same "
        "link again answers 200 and takes the aliases and stages given now. Where it moves a "
        "channel with a strategy, the scope `rollout` is needed as well.",
    )
    def post(self, request: Request, name: str) -> Response:
        body = RegistryLinkIn(data=request.data)
        body.is_valid(raise_exception=True)
        link, created = link_model(
            model_name=name,
            **body.validated_data,
            actor=actor_of(request),
            person=person_of(request),
            may_roll_out=may_roll_out(request),
            now=timezone.now(),
        )
        return Response(RegistryLinkOut(link).data, status=201 if created else 200)


class RegistryLinkDetail(APIView):
    write_scope = Scope.APPROVE

    @extend_schema(responses=RegistryLinkOut)
    def get(self, request: Request, name: str, link_id: int) -> Response:
        return Response(RegistryLinkOut(find_link(find_model(name), link_id)).data)

    @extend_schema(
        responses={204: None},
        description="The model follows it no more. Versions that came from there stay.",
    )
    def delete(self, request: Request, name: str, link_id: int) -> Response:
        link = find_link(find_model(name), link_id)
        unlink(link=link, actor=actor_of(request), now=timezone.now())
        return Response(status=204)


class Imports(ListAPIView[ImportedVersion]):
    serializer_class = ImportOut
    write_scope = Scope.PUSH
    filter_backends = ()

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return ImportedVersion.objects.none()
        rows = ImportedVersion.objects.filter(link__model=find_model(self.kwargs["name"]))
        return rows.select_related("link__model", "version").order_by("-asked_at", "-pk")

    @extend_schema(
        request=ImportIn,
        responses={202: ImportOut},
        description="Asks for a version by its number in MLflow, or for the one that an alias or a "
        "stage leads to now: that is looked up once, and what counts from then on is the number. "
        "Ask for the import until its `state` is `imported` or `failed`. One that failed is tried "
        "anew; one that is here stays.",
    )
    def post(self, request: Request, name: str) -> Response:
        body = ImportIn(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        row, _ = import_version(
            link=only_link(find_model(name), given["remote_name"]),
            version=str(given["version"]) if given["version"] else "",
            alias=given["alias"],
            stage=given["stage"],
            source=mlflow_source(read_seconds=_ASKED_SECONDS),
            actor=actor_of(request),
            person=person_of(request),
            now=timezone.now(),
        )
        return Response(ImportOut(row).data, status=202)


class ImportDetail(APIView):
    etag_fields = IMPORT_FIELDS

    @extend_schema(responses=ImportOut)
    def get(self, request: Request, name: str, import_id: int) -> Response:
        return Response(ImportOut(find_import(find_model(name), import_id)).data)
