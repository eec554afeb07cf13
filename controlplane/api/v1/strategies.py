"""Named ways through the fleet: kept, versioned, never edited."""

from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.api.v1.plans import ApprovalTermsOut, StageSchema
from controlplane.api.v1.rollout_verbs import ReasonIn
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.strategies import StrategySpec
from controlplane.rollouts.strategies import (
    create_strategy,
    find_strategy,
    retire_strategy,
    strategies,
)


class ApprovalTermsIn(serializers.Serializer[Any]):
    required = serializers.BooleanField(required=False, default=False)  # type: ignore[assignment]  # a field of that name
    by_other = serializers.BooleanField(required=False, default=True)


class StrategyInSchema(serializers.Serializer[Any]):
    """Documents what the domain accepts; it names every fault at once."""

    name = serializers.CharField(max_length=40)
    version = serializers.IntegerField(
        min_value=1, required=False, help_text="the next one, if given: 409 for another"
    )
    title = serializers.CharField(max_length=200, required=False)
    stages = StageSchema(many=True)
    barrier = serializers.BooleanField(required=False, default=False)
    late_joiners = serializers.BooleanField(
        required=False, default=False, help_text="adds a trailing stage, if there is none"
    )
    approval = ApprovalTermsIn(required=False)


class StrategyOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    version = serializers.IntegerField()
    title = serializers.CharField()
    stages = StageSchema(many=True)
    barrier = serializers.BooleanField()
    late_joiners = serializers.BooleanField()
    approval = ApprovalTermsOut()
    built_in = serializers.BooleanField(help_text="comes with Waypost and cannot be changed")
    retired = serializers.BooleanField(help_text="no rollout can be started by it any more")


class Strategies(APIView):
    write_scope = Scope.ROLLOUT

    @extend_schema(
        operation_id="strategies_list",
        responses=StrategyOut(many=True),
        description="The latest version of each that is in use, the built-in ones first.",
    )
    def get(self, request: Request) -> Response:
        return Response([_document(spec) for spec in strategies()])

    @extend_schema(
        request=StrategyInSchema,
        responses={201: StrategyOut},
        description="Keeps a strategy, or the next version of one. Rollouts that run stay as they "
        "were planned.",
    )
    def post(self, request: Request) -> Response:
        row = create_strategy(document=request.data, actor=actor_of(request), now=timezone.now())
        return Response(_document(find_strategy(row.name, row.version)), status=201)


class StrategyDetail(APIView):
    @extend_schema(
        responses=StrategyOut,
        parameters=[
            OpenApiParameter("version", OpenApiTypes.INT, description="Left out: the latest.")
        ],
    )
    def get(self, request: Request, name: str) -> Response:
        return Response(_document(find_strategy(name, _version(request))))


class RetireStrategy(APIView):
    write_scope = Scope.ROLLOUT

    @extend_schema(request=ReasonIn, responses=StrategyOut)
    def post(self, request: Request, name: str) -> Response:
        body = ReasonIn(data=request.data)
        body.is_valid(raise_exception=True)
        version = find_strategy(name).version
        retire_strategy(
            name=name,
            reason=body.validated_data["reason"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(_document(find_strategy(name, version)))


def _document(spec: StrategySpec) -> Any:
    own = {"built_in": spec.built_in, "retired": spec.retired}
    return StrategyOut(spec.document() | own).data


def _version(request: Request) -> int | None:
    text = request.query_params.get("version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and text[0] != "0"):
        fault = FieldError(field="version", message="must be a whole number from 1")
        raise InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
    return int(text)
