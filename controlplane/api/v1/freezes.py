"""What stands above all rollouts: freezes, and the budget of changes."""

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.api.v1.fields import Moment, StrictBody
from controlplane.api.v1.rollout_verbs import ReasonIn
from controlplane.api.v1.windows import SiteSelectorSchema
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts.freezes import (
    active_freezes,
    fleet_budget,
    freeze_sites,
    held,
    lift_freeze,
    set_budget,
)
from controlplane.rollouts.models import Budget, Freeze


class FreezeIn(StrictBody):
    # Checked by the domain, which names every fault at once.
    selector = serializers.JSONField(required=False, default=dict)
    reason = serializers.CharField(max_length=400, allow_blank=True)
    until = Moment(required=False, default=None, allow_null=True)


class FreezeInSchema(FreezeIn):
    selector = SiteSelectorSchema(required=False)  # type: ignore[assignment]  # documents what the domain accepts


class FreezeOut(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    selector = SiteSelectorSchema(help_text="empty: every site")
    reason = serializers.CharField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    until = serializers.DateTimeField(allow_null=True, help_text="null: until it is lifted")
    lifted_at = serializers.DateTimeField(allow_null=True)
    lifted_by = serializers.CharField()
    active = serializers.SerializerMethodField()
    sites = serializers.SerializerMethodField(help_text="how many it holds now")

    def get_active(self, freeze: Freeze) -> bool:
        now = self.context["now"]
        return freeze.lifted_at is None and (freeze.until is None or freeze.until > now)

    def get_sites(self, freeze: Freeze) -> int:
        return held(freeze, self.context["traits"]) if self.get_active(freeze) else 0


class Freezes(GenericAPIView[Freeze]):
    queryset = Freeze.objects.all()
    filter_backends = ()
    write_scope = Scope.FREEZE

    @extend_schema(
        responses=FreezeOut(many=True),
        parameters=[OpenApiParameter("active", OpenApiTypes.BOOL, description="Of all, those.")],
    )
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(_chosen(request, self.get_queryset()))
        return self.get_paginated_response(FreezeOut(page, many=True, context=_context()).data)

    @extend_schema(
        request=FreezeInSchema,
        responses={201: FreezeOut},
        description="Holds offers and activations at the selected sites at once; sites that are "
        "switching finish.",
    )
    def post(self, request: Request) -> Response:
        body = FreezeIn(data=request.data)
        body.is_valid(raise_exception=True)
        freeze = freeze_sites(**body.validated_data, actor=actor_of(request), now=timezone.now())
        return Response(FreezeOut(freeze, context=_context()).data, status=201)


class LiftFreeze(APIView):
    write_scope = Scope.FREEZE

    @extend_schema(request=ReasonIn, responses=FreezeOut)
    def post(self, request: Request, freeze_id: int) -> Response:
        body = ReasonIn(data=request.data)
        body.is_valid(raise_exception=True)
        freeze = lift_freeze(
            freeze_id=freeze_id,
            reason=body.validated_data["reason"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(FreezeOut(freeze, context=_context()).data)


class BudgetIn(StrictBody):
    changing_percent = serializers.IntegerField(
        allow_null=True,
        help_text="share of all sites that may activate something within an hour; null: no limit",
    )
    reason = serializers.CharField(max_length=400, required=False, default="", allow_blank=True)


class BudgetOut(serializers.Serializer[Any]):
    changing_percent = serializers.IntegerField(allow_null=True)


class FleetBudget(APIView):
    """What may change at once over all rollouts."""

    write_scope = Scope.FREEZE

    @extend_schema(responses=BudgetOut)
    def get(self, request: Request) -> Response:
        return Response(_budget_document(fleet_budget()))

    @extend_schema(request=BudgetIn, responses=BudgetOut)
    def put(self, request: Request) -> Response:
        body = BudgetIn(data=request.data)
        body.is_valid(raise_exception=True)
        budget = set_budget(**body.validated_data, actor=actor_of(request), now=timezone.now())
        return Response(_budget_document(budget))


def _context() -> dict[str, Any]:
    return {"now": timezone.now(), "traits": traits_by_site()}


def _chosen(request: Request, rows: QuerySet[Freeze]) -> QuerySet[Freeze]:
    wanted = request.query_params.get("active")
    if wanted is None:
        return rows
    if wanted not in ("true", "false"):
        fault = FieldError(field="active", message="must be true or false")
        raise InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
    now_active = active_freezes(timezone.now()).values("pk")
    return rows.filter(pk__in=now_active) if wanted == "true" else rows.exclude(pk__in=now_active)


def _budget_document(budget: Budget) -> Any:
    return BudgetOut(budget).data
