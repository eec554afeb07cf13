"""API tokens of the person behind the caller, and short ones for the identity of a CI job."""

from datetime import timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.exchange import exchange_identity
from controlplane.accounts.models import ApiToken, Scope
from controlplane.accounts.services import (
    MAX_MODELS,
    create_api_token,
    find_token,
    require_revocable,
    revoke_api_token,
    tokens_of,
)
from controlplane.api.auth import actor_of
from controlplane.api.v1.fields import StrictBody
from controlplane.domain.errors import FieldError, InvalidInput

SCOPES = Scope.choices


class TokenIn(StrictBody):
    name = serializers.CharField(max_length=100, help_text="what it is for, as events show it")
    scopes = serializers.ListField(
        child=serializers.ChoiceField(SCOPES),
        min_length=1,
        max_length=len(SCOPES),
        help_text="none that the calling token lacks; `read` comes with every other",
    )
    models = serializers.ListField(
        child=serializers.CharField(max_length=64),
        required=False,
        default=list,
        max_length=MAX_MODELS,
        help_text="its writes may concern these models alone; left out: all",
    )
    days = serializers.FloatField(
        min_value=0.001,
        max_value=365,
        required=False,
        default=None,
        allow_null=True,
        help_text="at most 365, and no longer than the calling token; left out: 90, or what that "
        "one has left",
    )


class TokenOut(serializers.ModelSerializer[ApiToken]):
    id = serializers.IntegerField()
    user = serializers.CharField(source="user.username")
    hint = serializers.CharField(help_text="how the secret begins")
    scopes = serializers.ListField(child=serializers.ChoiceField(SCOPES))
    models = serializers.ListField(
        source="model_names", child=serializers.CharField(), help_text="empty: all"
    )
    exchanged_for = serializers.CharField(
        help_text="whose identity it was traded for; empty: somebody made it"
    )

    class Meta:
        model = ApiToken
        fields: tuple[str, ...] = (
            "id",
            "name",
            "user",
            "hint",
            "scopes",
            "models",
            "exchanged_for",
            "created_at",
            "expires_at",
            "last_used_at",
            "revoked_at",
        )


class NewTokenOut(TokenOut):
    token = serializers.CharField(help_text="shown once")

    class Meta(TokenOut.Meta):
        fields: tuple[str, ...] = (*TokenOut.Meta.fields, "token")


class TokenReasonIn(StrictBody):
    reason = serializers.CharField(max_length=400, required=False, default="", allow_blank=True)


class Tokens(ListAPIView[ApiToken]):
    """Of the caller's person. The service holds a new one against the token that asks for it."""

    serializer_class = TokenOut
    write_scope = Scope.READ
    filter_backends = ()

    def models_concerned(self, request: Request) -> list[str]:
        return []

    def get_queryset(self) -> Any:
        if getattr(self, "swagger_fake_view", False):
            return ApiToken.objects.none()
        rows = tokens_of(_caller(self.request).user)
        live = self.request.query_params.get("live")
        if live not in (None, "true", "false"):
            fault = FieldError(field="live", message="must be true or false")
            raise InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
        now = timezone.now()
        if live == "true":
            return rows.filter(revoked_at=None, expires_at__gt=now)
        return rows.exclude(revoked_at=None, expires_at__gt=now) if live == "false" else rows

    @extend_schema(
        parameters=[
            OpenApiParameter("live", OpenApiTypes.BOOL, description="Those that work, or the rest.")
        ]
    )
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return super().get(request, *args, **kwargs)

    @extend_schema(
        request=TokenIn,
        responses={201: NewTokenOut},
        description="A token for the same person, with no more than the calling one may do.",
    )
    def post(self, request: Request) -> Response:
        body = TokenIn(data=request.data)
        body.is_valid(raise_exception=True)
        given, caller = body.validated_data, _caller(request)
        token, secret = create_api_token(
            user=caller.user,
            name=given["name"],
            scopes=given["scopes"],
            model_names=given["models"],
            lifetime=None if given["days"] is None else timedelta(days=given["days"]),
            granted_by=caller,
            actor=actor_of(request),
            now=timezone.now(),
        )
        headers = {"Location": f"/api/v1/tokens/{token.pk}"}
        document = {**TokenOut(token).data, "token": secret}
        return Response(document, status=201, headers=headers)


class TokenDetail(APIView):
    @extend_schema(responses=TokenOut)
    def get(self, request: Request, token_id: int) -> Response:
        return Response(TokenOut(find_token(_caller(request).user, token_id)).data)


class RevokeToken(APIView):
    """Takes effect with the next request. A token can end itself, and what it could have made."""

    write_scope = Scope.READ

    def models_concerned(self, request: Request) -> list[str]:
        return []

    @extend_schema(request=TokenReasonIn, responses=TokenOut)
    def post(self, request: Request, token_id: int) -> Response:
        body = TokenReasonIn(data=request.data)
        body.is_valid(raise_exception=True)
        caller = _caller(request)
        token = find_token(caller.user, token_id)
        require_revocable(token, by=caller)
        revoke_api_token(
            token=token,
            reason=body.validated_data["reason"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(TokenOut(find_token(caller.user, token_id)).data)


class ExchangeIn(StrictBody):
    token = serializers.CharField(
        max_length=16 * 1024, help_text="the job's identity: a JSON Web Token of its CI system"
    )
    publisher = serializers.CharField(
        max_length=63,
        required=False,
        default=None,
        allow_null=True,
        help_text="which, where several trust the job",
    )


class ExchangedOut(serializers.Serializer[Any]):
    token = serializers.CharField(help_text="shown once; ends by itself within minutes")
    expires_at = serializers.DateTimeField()
    publisher = serializers.CharField()
    scopes = serializers.ListField(child=serializers.ChoiceField(SCOPES))
    models = serializers.ListField(child=serializers.CharField(), help_text="empty: all")


class ExchangeToken(APIView):
    """For a CI job that holds no secret: proves by its provider's signature who it is."""

    authentication_classes = ()
    permission_classes = ()

    @extend_schema(request=ExchangeIn, responses={201: ExchangedOut}, auth=[])
    def post(self, request: Request) -> Response:
        body = ExchangeIn(data=request.data)
        body.is_valid(raise_exception=True)
        token, secret, publisher = exchange_identity(
            identity=body.validated_data["token"],
            publisher_name=body.validated_data["publisher"],
            now=timezone.now(),
        )
        document = {
            "token": secret,
            "expires_at": token.expires_at,
            "publisher": publisher.name,
            "scopes": token.scopes,
            "models": token.model_names,
        }
        return Response(ExchangedOut(document).data, status=201)


def _caller(request: Request) -> ApiToken:
    assert isinstance(request.auth, ApiToken)
    return request.auth
