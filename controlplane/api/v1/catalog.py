"""Models and versions for CI: manifest first, then the missing bytes, then finalise."""

from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.api.v1.fields import StrictBody, VersionNumber
from controlplane.catalog.models import DriftPolicy, Model, Version, VersionState
from controlplane.catalog.queries import (
    find_model,
    find_version,
    manifest_of,
    missing_digests,
    models_with_latest,
    versions_of,
)
from controlplane.catalog.services import (
    create_model,
    create_version,
    discard_upload,
    finalise_version,
    set_drift_policy,
    store_blob,
)


class ModelIn(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=64)
    description = serializers.CharField(
        max_length=500, required=False, default="", allow_blank=True
    )


class ModelPatch(StrictBody):
    drift_policy = serializers.ChoiceField(
        DriftPolicy.choices,
        help_text="when a site serves another version than is desired: correct it, hold (leave it "
        "and show it), or adopt what it serves",
    )
    reason = serializers.CharField(max_length=400, required=False, default="", allow_blank=True)


class ModelOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    description = serializers.CharField()
    drift_policy = serializers.ChoiceField(DriftPolicy.choices)
    created_at = serializers.DateTimeField()
    latest_version = serializers.SerializerMethodField()

    def get_latest_version(self, model: Model) -> str | None:
        latest: int | None = getattr(model, "latest_version", None)
        return str(latest) if latest else None


class ManifestFileSchema(serializers.Serializer[Any]):
    path = serializers.CharField()
    size = serializers.IntegerField(min_value=0)
    sha256 = serializers.CharField()


class ManifestSchema(serializers.Serializer[Any]):
    schema = serializers.ChoiceField(choices=["waypost.manifest/1"])
    files = ManifestFileSchema(many=True)


class VersionIn(serializers.Serializer[Any]):
    version = VersionNumber(required=False, allow_null=True, default=None)
    # Checked by the domain, which names every fault at once; here only its place is claimed.
    manifest = serializers.JSONField()
    labels = serializers.DictField(child=serializers.CharField(), required=False, default=dict)


class VersionInSchema(VersionIn):
    manifest = ManifestSchema()  # type: ignore[assignment]  # documents what the domain accepts


class VersionOut(serializers.Serializer[Any]):
    model = serializers.CharField(source="model.name")
    version = VersionNumber(source="number")
    state = serializers.ChoiceField(choices=VersionState.choices)
    state_reason = serializers.CharField(help_text="who quarantined it, and why")
    manifest_digest = serializers.CharField()
    manifest = ManifestSchema()
    size_bytes = serializers.IntegerField()
    labels = serializers.DictField(child=serializers.CharField())
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    registered_at = serializers.DateTimeField(allow_null=True)
    missing = serializers.SerializerMethodField(
        help_text="SHA-256 of the files that are still to be uploaded"
    )

    def get_missing(self, version: Version) -> list[str]:
        if version.state != VersionState.UPLOADING:
            return []
        return missing_digests(manifest_of(version))


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
    write_scope = Scope.ROLLOUT

    @extend_schema(responses=ModelOut)
    def get(self, request: Request, name: str) -> Response:
        return Response(ModelOut(find_model(name)).data)

    @extend_schema(request=ModelPatch, responses=ModelOut)
    def patch(self, request: Request, name: str) -> Response:
        body = ModelPatch(data=request.data)
        body.is_valid(raise_exception=True)
        set_drift_policy(
            model=find_model(name),
            policy=DriftPolicy(body.validated_data["drift_policy"]),
            reason=body.validated_data["reason"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(ModelOut(find_model(name)).data)


class Versions(ListAPIView[Version]):
    serializer_class = VersionOut
    write_scope = Scope.PUSH
    filter_backends = ()

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return Version.objects.none()
        return versions_of(self.kwargs["name"])

    @extend_schema(
        request=VersionInSchema,
        responses={201: VersionOut, 200: VersionOut},
        description="Reserves a version. Upload what `missing` names, then finalise. "
        "The same manifest again answers 200 and the same version.",
    )
    def post(self, request: Request, name: str) -> Response:
        body = VersionIn(data=request.data)
        body.is_valid(raise_exception=True)
        version, created = create_version(
            model_name=name,
            number=body.validated_data["version"],
            manifest=body.validated_data["manifest"],
            labels=body.validated_data["labels"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(VersionOut(version).data, status=201 if created else 200)


class VersionDetail(APIView):
    write_scope = Scope.PUSH

    @extend_schema(responses=VersionOut)
    def get(self, request: Request, name: str, number: int) -> Response:
        return Response(VersionOut(find_version(name, number)).data)

    @extend_schema(responses={204: None}, description="Discards a push that was not finalised.")
    def delete(self, request: Request, name: str, number: int) -> Response:
        version = find_version(name, number)
        discard_upload(version=version, actor=actor_of(request), now=timezone.now())
        return Response(status=204)


class AnyBytes(BaseParser):
    """Hands the body on as a stream: a file is never held in memory."""

    media_type = "*/*"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        return stream


class VersionBlob(APIView):
    write_scope = Scope.PUSH
    parser_classes = (AnyBytes,)

    @extend_schema(
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses={201: None, 200: None},
        description="One file of the manifest, whole. Kept only if its size and SHA-256 match.",
    )
    def put(self, request: Request, name: str, number: int, sha256: str) -> Response:
        version = find_version(name, number)
        created = store_blob(
            version=version, sha256=sha256, stream=request._request, now=timezone.now()
        )
        return Response(status=201 if created else 200)


class FinaliseVersion(APIView):
    write_scope = Scope.PUSH

    @extend_schema(request=None, responses=VersionOut)
    def post(self, request: Request, name: str, number: int) -> Response:
        version = finalise_version(
            version=find_version(name, number), actor=actor_of(request), now=timezone.now()
        )
        return Response(VersionOut(version).data)
