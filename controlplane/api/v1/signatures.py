"""Keys that may sign versions, and the signatures over them."""

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
from controlplane.api.v1.fields import StrictBody
from controlplane.api.v1.rollout_verbs import ReasonIn
from controlplane.catalog.models import SigningKey, UnsignedPolicy, Version
from controlplane.catalog.queries import find_version
from controlplane.catalog.signatures import SignatureVerdict, signature_standing, signatures_of
from controlplane.catalog.signing import attach_signature
from controlplane.catalog.signing_keys import add_signing_key, revoke_signing_key, signing_keys
from controlplane.catalog.trust_chains import MAX_KEY_TEXT
from controlplane.domain.oms import MAX_BUNDLE_BYTES


class SigningKeyIn(StrictBody):
    name = serializers.CharField(max_length=63, help_text="for ever: events use it")
    public_key = serializers.CharField(
        max_length=MAX_KEY_TEXT, help_text="PEM, on P-256, P-384 or P-521; never the private half"
    )


class SigningKeyOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    public_key = serializers.CharField()
    key_type = serializers.CharField()
    fingerprint = serializers.CharField(help_text="SHA-256 of the key as DER, in hex")
    added_by = serializers.CharField()
    added_at = serializers.DateTimeField()
    revoked_at = serializers.DateTimeField(
        allow_null=True, help_text="from then on its signatures count no more"
    )
    revoked_reason = serializers.CharField()


class SigningKeys(ListAPIView[SigningKey]):
    serializer_class = SigningKeyOut
    write_scope = Scope.APPROVE
    filter_backends = ()

    def get_queryset(self) -> Any:
        return signing_keys()

    @extend_schema(
        request=SigningKeyIn,
        responses={201: SigningKeyOut, 200: SigningKeyOut},
        description="Lets a key sign versions. The same key under the same name again answers 200.",
    )
    def post(self, request: Request) -> Response:
        body = SigningKeyIn(data=request.data)
        body.is_valid(raise_exception=True)
        key, created = add_signing_key(
            **body.validated_data, actor=actor_of(request), now=timezone.now()
        )
        return Response(SigningKeyOut(key).data, status=201 if created else 200)


class RevokeSigningKey(APIView):
    write_scope = Scope.APPROVE

    @extend_schema(
        request=ReasonIn,
        responses=SigningKeyOut,
        description="Its signatures count no more. It cannot be taken back. Sites have keys of "
        "their own in agent.toml: take it out there too.",
    )
    def post(self, request: Request, name: str) -> Response:
        body = ReasonIn(data=request.data)
        body.is_valid(raise_exception=True)
        key = revoke_signing_key(
            name=name, **body.validated_data, actor=actor_of(request), now=timezone.now()
        )
        return Response(SigningKeyOut(key).data)


class StandingOut(serializers.Serializer[Any]):
    signed_by = serializers.ListField(child=serializers.CharField(), help_text="names of live keys")
    policy = serializers.ChoiceField(
        UnsignedPolicy.choices, help_text="what becomes of unsigned versions of the model"
    )
    verdict = serializers.ChoiceField([verdict.value for verdict in SignatureVerdict])
    sentence = serializers.CharField()


class SignatureOut(serializers.Serializer[Any]):
    kind = serializers.SerializerMethodField(help_text="oms: OpenSSF Model Signing")
    key = serializers.CharField(source="key.name")
    fingerprint = serializers.CharField(source="key.fingerprint")
    revoked_at = serializers.DateTimeField(source="key.revoked_at", allow_null=True)
    added_by = serializers.CharField()
    added_at = serializers.DateTimeField()
    bundle = serializers.JSONField(help_text="as `model_signing verify key` reads it")

    def get_kind(self, signature: Any) -> str:
        return "oms"


class VersionSignaturesOut(serializers.Serializer[Any]):
    standing = StandingOut()
    signatures = SignatureOut(many=True)


class RawJSON(BaseParser):
    """Hands the text on: a key that stands in it twice must not get lost before it is read."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        raw: bytes = stream.read(MAX_BUNDLE_BYTES + 1)
        return raw


class VersionSignature(APIView):
    write_scope = Scope.PUSH
    parser_classes = (RawJSON,)

    @extend_schema(responses=VersionSignaturesOut)
    def get(self, request: Request, name: str, number: int) -> Response:
        return Response(_document(find_version(name, number)))

    @extend_schema(
        request={"application/json": OpenApiTypes.OBJECT},
        responses={201: VersionSignaturesOut, 200: VersionSignaturesOut},
        description="Attaches a signature over the version's files: an OpenSSF Model Signing "
        "bundle in key mode, as `waypost sign` or `model_signing sign key` writes it. It is kept "
        "if one of the signing keys made it and it names exactly the version's files. A second "
        "one by the same key answers 200 and changes nothing.",
    )
    def put(self, request: Request, name: str, number: int) -> Response:
        version = find_version(name, number)
        bundle = request.data if isinstance(request.data, bytes) else b""
        _, created = attach_signature(
            version=version, bundle=bundle, actor=actor_of(request), now=timezone.now()
        )
        return Response(_document(version), status=201 if created else 200)


def _document(version: Version) -> Any:
    signatures = signatures_of(version)
    return VersionSignaturesOut(
        {"standing": signature_standing(version), "signatures": signatures}
    ).data
