"""Models and versions for CI: manifest first, then the missing bytes, then finalise."""

from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, PolymorphicProxySerializer, extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import ApiToken, Scope
from controlplane.api.auth import actor_of, person_of
from controlplane.api.v1.fields import StrictBody, VersionNumber, asks_for
from controlplane.api.v1.version_documents import (
    LineageSchema,
    ManifestSchema,
    VersionOut,
    shown_with,
)
from controlplane.catalog.dry_run import DryRun, Would, try_push
from controlplane.catalog.model_settings import (
    MAX_APPROVALS,
    MAX_QUOTA_BYTES,
    MAX_QUOTA_VERSIONS,
    change_model,
)
from controlplane.catalog.models import ContentClass, DriftPolicy, Model, UnsignedPolicy, Version
from controlplane.catalog.queries import (
    find_model,
    find_version,
    models_with_latest,
    versions_of,
)
from controlplane.catalog.services import (
    create_model,
    create_version,
    discard_upload,
    finalise_version,
)
from controlplane.catalog.versions import MAX_NOTES, change_version
from controlplane.domain.findings import Level


class ModelIn(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=64)
    description = serializers.CharField(
        max_length=500, required=False, default="", allow_blank=True
    )


class ModelPatch(StrictBody):
    description = serializers.CharField(max_length=500, required=False, allow_blank=True)
    drift_policy = serializers.ChoiceField(
        DriftPolicy.choices,
        required=False,
        help_text="when a site serves another version than is desired: correct it, hold (leave it "
        "and show it), or adopt what it serves",
    )
    approvals_needed = serializers.IntegerField(
        min_value=0,
        max_value=MAX_APPROVALS,
        required=False,
        help_text="people who must approve a version of class data; one that executes code needs "
        "two at least, none of them its author",
    )
    unsigned = serializers.ChoiceField(
        UnsignedPolicy.choices,
        required=False,
        help_text="what becomes of a version that no release key signed",
    )
    quota_bytes = serializers.IntegerField(
        min_value=1, max_value=MAX_QUOTA_BYTES, required=False, allow_null=True
    )
    quota_versions = serializers.IntegerField(
        min_value=1, max_value=MAX_QUOTA_VERSIONS, required=False, allow_null=True
    )
    reason = serializers.CharField(
        max_length=400,
        required=False,
        default="",
        allow_blank=True,
        help_text="required where less is asked for than before",
    )


class ModelOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    description = serializers.CharField()
    drift_policy = serializers.ChoiceField(DriftPolicy.choices)
    approvals_needed = serializers.IntegerField()
    unsigned = serializers.ChoiceField(UnsignedPolicy.choices)
    quota_bytes = serializers.IntegerField(
        allow_null=True, help_text="of all its versions together; null: no limit"
    )
    quota_versions = serializers.IntegerField(allow_null=True)
    created_at = serializers.DateTimeField()
    latest_version = serializers.SerializerMethodField()
    revision = serializers.IntegerField(help_text="rises with every change of the model itself")

    def get_latest_version(self, model: Model) -> str | None:
        latest: int | None = getattr(model, "latest_version", None)
        return str(latest) if latest else None


class VersionIn(serializers.Serializer[Any]):
    version = VersionNumber(required=False, allow_null=True, default=None)
    # Checked by the domain, which names every fault at once; here only their place is claimed.
    manifest = serializers.JSONField()
    labels = serializers.DictField(child=serializers.CharField(), required=False, default=dict)
    lineage = serializers.JSONField(required=False, default=None)
    texts = serializers.DictField(
        child=serializers.CharField(allow_blank=True, trim_whitespace=False),
        required=False,
        default=dict,
        help_text="for a dry run: config.pbtxt and golden.json, by their paths in the version",
    )


class VersionInSchema(VersionIn):
    manifest = ManifestSchema()  # type: ignore[assignment]  # documents what the domain accepts
    lineage = LineageSchema(required=False)  # type: ignore[assignment]  # the same


class FindingOut(serializers.Serializer[Any]):
    level = serializers.ChoiceField([level.value for level in Level])
    place = serializers.CharField(help_text="as config.pbtxt:12 instance_group.count")
    file = serializers.CharField()
    line = serializers.IntegerField(allow_null=True)
    field = serializers.CharField()
    message = serializers.CharField()
    cure = serializers.CharField()


class DryRunConflictOut(serializers.Serializer[Any]):
    code = serializers.CharField()
    detail = serializers.CharField()


class DryRunOut(serializers.Serializer[Any]):
    """What the push would come to; nothing of it is kept."""

    findings = FindingOut(many=True)
    would = serializers.ChoiceField([would.value for would in Would])
    conflict = DryRunConflictOut(allow_null=True)
    version = VersionNumber(allow_null=True, help_text="the same version, where there is one")
    missing = serializers.ListField(
        child=serializers.CharField(), help_text="SHA-256 of the files that would have to be sent"
    )
    content_class = serializers.ChoiceField(ContentClass.choices)
    approvals_needed = serializers.IntegerField()
    by_others = serializers.BooleanField(help_text="the author's own yes would not count")


class Models(ListAPIView[Model]):
    serializer_class = ModelOut
    write_scope = Scope.PUSH
    filter_backends = ()

    def get_queryset(self) -> Any:
        return models_with_latest()

    @extend_schema(request=ModelIn, responses={201: ModelOut, 200: ModelOut})
    def post(self, request: Request) -> Response:
        body = ModelIn(data=request.data)
        body.is_valid(raise_exception=True)
        model, created = create_model(
            **body.validated_data, actor=actor_of(request), now=timezone.now()
        )
        return Response(ModelOut(model).data, status=201 if created else 200)


class ModelDetail(APIView):
    write_scope = Scope.APPROVE

    def check_permissions(self, request: Request) -> None:
        """What is done about drift is said by who may steer rollouts, all else by approvers."""
        if request.method == "PATCH" and isinstance(request.auth, ApiToken):
            asked = set(request.data) if isinstance(request.data, dict) else set()
            if "drift_policy" in asked:
                self.write_scope = Scope.ROLLOUT
                super().check_permissions(request)
                if asked <= {"drift_policy", "reason"}:
                    return
            self.write_scope = Scope.APPROVE
        super().check_permissions(request)

    @extend_schema(responses=ModelOut)
    def get(self, request: Request, name: str) -> Response:
        return Response(ModelOut(find_model(name)).data)

    @extend_schema(
        request=ModelPatch,
        responses=ModelOut,
        description="Changes what is given and leaves the rest. Versions that wait for approvals "
        "or a signature are looked at again; approved ones stay approved. `drift_policy` needs "
        "the scope `rollout`, all else `approve`.",
    )
    def patch(self, request: Request, name: str) -> Response:
        body = ModelPatch(data=request.data)
        body.is_valid(raise_exception=True)
        changes = dict(body.validated_data)
        reason = changes.pop("reason")
        change_model(
            model=find_model(name),
            changes=changes,
            reason=reason,
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(ModelOut(find_model(name)).data)


class Versions(ListAPIView[Version]):
    serializer_class = VersionOut
    write_scope = Scope.PUSH
    filterset_fields = ("state",)
    selector_labels = "labels"

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return Version.objects.none()
        return versions_of(self.kwargs["name"]).prefetch_related(*shown_with())

    @extend_schema(
        request=VersionInSchema,
        responses={
            (201, "application/json"): VersionOut,
            (200, "application/json"): PolymorphicProxySerializer(
                component_name="VersionOrDryRun",
                serializers=[VersionOut, DryRunOut],
                resource_type_field_name=None,
            ),
        },
        parameters=[
            OpenApiParameter(
                "dry_run",
                OpenApiTypes.BOOL,
                description="Answer 200 with every fault at once, and keep nothing.",
            )
        ],
        description="Reserves a version. Upload what `missing` names, then finalise. "
        "The same manifest again answers 200 and the same version.",
    )
    def post(self, request: Request, name: str) -> Response:
        body = VersionIn(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        asked = {
            "model_name": name,
            "number": given["version"],
            "manifest": given["manifest"],
            "labels": given["labels"],
            "lineage": given["lineage"],
        }
        if asks_for(request, "dry_run"):
            return Response(_dry_run_document(try_push(**asked, texts=given["texts"])))
        version, created = create_version(
            **asked, actor=actor_of(request), author=person_of(request), now=timezone.now()
        )
        return Response(VersionOut(version).data, status=201 if created else 200)


def _dry_run_document(found: DryRun) -> Any:
    conflict = found.conflict
    return DryRunOut(
        {
            "findings": [{**vars(each), "place": each.place} for each in found.findings],
            "would": found.would,
            "conflict": conflict and {"code": conflict.code, "detail": conflict.detail},
            "version": found.version,
            "missing": found.missing,
            "content_class": found.content_class,
            "approvals_needed": found.rule.needed,
            "by_others": found.rule.by_others,
        }
    ).data


class VersionPatch(StrictBody):
    labels = serializers.DictField(
        child=serializers.CharField(allow_blank=True),
        required=False,
        help_text="all of them, in place of those before",
    )
    notes = serializers.CharField(
        max_length=MAX_NOTES, required=False, allow_blank=True, trim_whitespace=False
    )


class VersionDetail(APIView):
    write_scope = Scope.PUSH

    @extend_schema(responses=VersionOut)
    def get(self, request: Request, name: str, number: int) -> Response:
        return Response(VersionOut(find_version(name, number)).data)

    @extend_schema(
        request=VersionPatch,
        responses=VersionOut,
        description="Labels and notes; all else of a version never changes.",
    )
    def patch(self, request: Request, name: str, number: int) -> Response:
        body = VersionPatch(data=request.data)
        body.is_valid(raise_exception=True)
        change_version(
            version=find_version(name, number),
            **body.validated_data,
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(VersionOut(find_version(name, number)).data)

    @extend_schema(responses={204: None}, description="Discards a push that was not finalised.")
    def delete(self, request: Request, name: str, number: int) -> Response:
        version = find_version(name, number)
        discard_upload(version=version, actor=actor_of(request), now=timezone.now())
        return Response(status=204)


class FinaliseVersion(APIView):
    write_scope = Scope.PUSH

    @extend_schema(request=None, responses=VersionOut)
    def post(self, request: Request, name: str, number: int) -> Response:
        version = finalise_version(
            version=find_version(name, number), actor=actor_of(request), now=timezone.now()
        )
        return Response(VersionOut(version).data)
