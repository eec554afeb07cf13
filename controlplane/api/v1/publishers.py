"""CI jobs that may trade their identity for a short token: who is trusted, and with what."""

from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import ApiToken, Scope, TrustedPublisher
from controlplane.accounts.publishers import (
    MAX_MINUTES,
    create_publisher,
    find_publisher,
    publishers,
    revoke_publisher,
)
from controlplane.accounts.services import MAX_MODELS
from controlplane.api.auth import actor_of
from controlplane.api.v1.fields import StrictBody
from controlplane.api.v1.tokens import SCOPES, TokenReasonIn


class PublisherIn(StrictBody):
    name = serializers.CharField(max_length=63)
    issuer = serializers.CharField(
        max_length=300,
        help_text="the claim `iss`, such as https://token.actions.githubusercontent.com",
    )
    audience = serializers.CharField(
        max_length=300, help_text="what the job asks its provider to write into `aud`"
    )
    claims = serializers.DictField(
        child=serializers.CharField(max_length=300),
        help_text='each must have exactly this value: {"repository": "acme/vad", '
        '"ref": "refs/heads/main"}',
    )
    scopes = serializers.ListField(
        child=serializers.ChoiceField(SCOPES), min_length=1, max_length=len(SCOPES)
    )
    models = serializers.ListField(
        child=serializers.CharField(max_length=64),
        required=False,
        default=list,
        max_length=MAX_MODELS,
        help_text="the token's writes may concern these models alone; left out: all",
    )
    minutes = serializers.IntegerField(
        min_value=1, max_value=MAX_MINUTES, required=False, default=15
    )


class PublisherOut(serializers.ModelSerializer[TrustedPublisher]):
    user = serializers.CharField(source="user.username", help_text="for whom its tokens act")
    claims = serializers.DictField(child=serializers.CharField())
    scopes = serializers.ListField(child=serializers.ChoiceField(SCOPES))
    models = serializers.ListField(
        source="model_names", child=serializers.CharField(), help_text="empty: all"
    )
    minutes = serializers.IntegerField()

    class Meta:
        model = TrustedPublisher
        fields = (
            "name",
            "issuer",
            "audience",
            "claims",
            "user",
            "scopes",
            "models",
            "minutes",
            "created_by",
            "created_at",
            "last_used_at",
            "revoked_at",
        )


class Publishers(ListAPIView[TrustedPublisher]):
    serializer_class = PublisherOut
    write_scope = Scope.APPROVE
    filter_backends = ()

    def models_concerned(self, request: Request) -> list[str]:
        """The service holds them against the token that asks."""
        return []

    def get_queryset(self) -> Any:
        return publishers()

    @extend_schema(
        request=PublisherIn,
        responses={201: PublisherOut},
        description="Trusts the jobs of an issuer whose identity has these claims. Their tokens "
        "act for the person behind the caller, with no more than the caller may do.",
    )
    def post(self, request: Request) -> Response:
        body = PublisherIn(data=request.data)
        body.is_valid(raise_exception=True)
        assert isinstance(request.auth, ApiToken)
        given = dict(body.validated_data)
        models = given.pop("models")
        publisher = create_publisher(
            **given,
            model_names=models,
            user=request.auth.user,
            granted_by=request.auth,
            actor=actor_of(request),
            now=timezone.now(),
        )
        headers = {"Location": f"/api/v1/publishers/{publisher.name}"}
        return Response(PublisherOut(publisher).data, status=201, headers=headers)


class PublisherDetail(APIView):
    @extend_schema(responses=PublisherOut)
    def get(self, request: Request, name: str) -> Response:
        return Response(PublisherOut(find_publisher(name)).data)


class RevokePublisher(APIView):
    """Nothing more is traded in for its jobs."""

    write_scope = Scope.APPROVE

    def models_concerned(self, request: Request) -> list[str] | None:
        """Of an unknown one: none, and the view says that it is unknown."""
        rows = TrustedPublisher.objects.filter(name=self.kwargs["name"].replace("\0", ""))
        row = rows.first()
        return [] if row is None else row.model_names or None

    @extend_schema(request=TokenReasonIn, responses=PublisherOut)
    def post(self, request: Request, name: str) -> Response:
        body = TokenReasonIn(data=request.data)
        body.is_valid(raise_exception=True)
        publisher = revoke_publisher(
            publisher=find_publisher(name),
            reason=body.validated_data["reason"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(PublisherOut(publisher).data)
