"""Rollouts for CI and scripts: plan, start, watch, read what happened."""

from typing import Any

import django_filters
from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import serializers
from rest_framework.generics import GenericAPIView, ListAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of, person_of
from controlplane.api.etags import is_unchanged
from controlplane.api.paging import NewestFirst
from controlplane.api.standings import rollout_standing
from controlplane.api.v1.plans import PlanOut, RolloutIn, RolloutInSchema, asked_of, plan_document
from controlplane.api.v1.rollout_documents import (
    DeploymentOut,
    RolloutOut,
    RolloutSummary,
    deployment_context,
    rollout_document,
    shown,
)
from controlplane.audit.models import Event
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.rollout import DeploymentState, OnConflict, RolloutState
from controlplane.rollouts.history import replayed
from controlplane.rollouts.models import Deployment, Rollout
from controlplane.rollouts.planning import plan_rollout
from controlplane.rollouts.queries import deployments_of, find_rollout, rollouts
from controlplane.rollouts.services import start_rollout


class RolloutFilter(django_filters.FilterSet):  # type: ignore[misc]  # the library carries no types
    model = django_filters.CharFilter(field_name="model__name")
    state = django_filters.ChoiceFilter(choices=[(s.value, s.value) for s in RolloutState])

    class Meta:
        model = Rollout
        fields = ("model", "state")


class Rollouts(GenericAPIView[Rollout]):
    queryset = Rollout.objects.none()
    filterset_class = RolloutFilter
    # Of the version that is rolled out.
    selector_labels = "version__labels"
    selector_columns = {"model": "model__name", "state": "state"}
    write_scope = Scope.ROLLOUT

    @extend_schema(responses=RolloutSummary(many=True))
    def get(self, request: Request) -> Response:
        rows = rollouts().defer("version__manifest")
        page = self.paginate_queryset(self.filter_queryset(rows))
        return self.get_paginated_response(RolloutSummary(page, many=True).data)

    @extend_schema(
        request=RolloutInSchema,
        responses={201: RolloutOut, 200: PlanOut},
        parameters=[
            OpenApiParameter(
                "dry_run", OpenApiTypes.BOOL, description="Answer 200 with the plan, start nothing."
            )
        ],
    )
    def post(self, request: Request) -> Response:
        body = RolloutIn(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        asked = asked_of(given, timezone.now())
        on_conflict = OnConflict(given["on_conflict"])
        if _flag(request, "dry_run", default=False):
            planned = plan_rollout(**asked, while_active=on_conflict is not OnConflict.REFUSE)
            return Response(plan_document(planned, asked["start_at"]))
        rollout = start_rollout(
            **asked,
            on_conflict=on_conflict,
            note=given["note"],
            expect_plan=given["expect_plan"],
            actor=actor_of(request),
            person=person_of(request),
        )
        headers = {"Location": f"/api/v1/rollouts/{rollout.pk}"}
        return Response(rollout_document(rollout.pk), status=201, headers=headers)


class RolloutDetail(APIView):
    @extend_schema(
        responses=RolloutOut,
        parameters=[
            OpenApiParameter(
                "deployments",
                OpenApiTypes.BOOL,
                description="false leaves out each site's part; `counts` says how they stand.",
            ),
        ],
    )
    def get(self, request: Request, rollout_id: int) -> Response:
        deployments = _flag(request, "deployments", default=True)
        # Before the document is made: a change in between is then news at the next look.
        tag = rollout_standing(rollout_id).tag
        if is_unchanged(request._request, tag):
            return Response(status=304, headers={"ETag": tag})
        document = rollout_document(rollout_id, deployments=deployments)
        return Response(document, headers={"ETag": tag})


class DeploymentFilter(django_filters.FilterSet):  # type: ignore[misc]  # the library carries no types
    stage = django_filters.CharFilter(field_name="stage__name")
    site = django_filters.CharFilter(field_name="site__name")
    state = django_filters.ChoiceFilter(choices=[(s.value, s.value) for s in DeploymentState])
    all_attempts = django_filters.ChoiceFilter(
        choices=[("true", "true"), ("false", "false")],
        method="leave",
        help_text="true shows those too that a later attempt has taken the place of",
    )

    def leave(self, rows: Any, name: str, value: str) -> Any:
        """The view's to do: without the parameter only the latest attempts are shown."""
        return rows

    class Meta:
        model = Deployment
        fields = ("stage", "site", "state")


class Deployments(GenericAPIView[Deployment]):
    """Each site's part, in the order of stages and sites."""

    queryset = Deployment.objects.none()
    filterset_class = DeploymentFilter

    @extend_schema(responses=DeploymentOut(many=True))
    def get(self, request: Request, rollout_id: int) -> Response:
        rollout = find_rollout(rollout_id)
        rows = self.filter_queryset(shown(deployments_of(rollout)).order_by(*_ORDER))
        if request.query_params.get("all_attempts") != "true":
            rows = rows.filter(superseded=False)
        page = self.paginate_queryset(rows) or []
        context = deployment_context(rollout, page)
        return self.get_paginated_response(DeploymentOut(page, many=True, context=context).data)


_ORDER = ("stage__index", "site__name", "kind", "attempt")


class EventOut(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    actor = serializers.CharField(help_text="user:NAME, token:NAME, agent:SITE or engine")
    action = serializers.CharField()
    reason = serializers.CharField()
    request_id = serializers.CharField()
    data = serializers.DictField(  # type: ignore[assignment]  # a field of that name
        help_text="the states before and after of everything it moved"
    )


class RolloutEvents(ListAPIView[Event]):
    """What happened to a rollout, newest first."""

    serializer_class = EventOut
    pagination_class = NewestFirst
    filter_backends = ()

    def get_queryset(self) -> QuerySet[Event]:
        if getattr(self, "swagger_fake_view", False):
            return Event.objects.none()
        rollout = find_rollout(self.kwargs["rollout_id"])
        return Event.objects.filter(object_type="rollout", object_id=str(rollout.pk))


class ReplayedDeploymentOut(serializers.Serializer[Any]):
    site = serializers.CharField()
    kind = serializers.CharField()
    attempt = serializers.IntegerField()
    state = serializers.CharField()


class ReplayOut(serializers.Serializer[Any]):
    """The rollout as its events alone tell it."""

    state = serializers.CharField()
    stages = serializers.DictField(child=serializers.CharField(), help_text="state by index")
    deployments = ReplayedDeploymentOut(many=True)
    differences = serializers.ListField(
        child=serializers.CharField(),
        help_text="where an event does not follow from those before, or the rows say other than "
        "the events; empty when nothing was lost",
    )


class RolloutReplay(APIView):
    """Tells the rollout again from its events; without differences none is missing."""

    @extend_schema(responses=ReplayOut)
    def get(self, request: Request, rollout_id: int) -> Response:
        told, differences = replayed(find_rollout(rollout_id))
        deployments = [
            {"site": site, "kind": kind, "attempt": attempt, "state": state}
            for (site, kind, attempt), state in sorted(told.deployments.items())
        ]
        document = {
            "state": told.state,
            "stages": {str(index): state for index, state in sorted(told.stages.items())},
            "deployments": deployments,
            "differences": differences,
        }
        return Response(ReplayOut(document).data)


def _flag(request: Request, name: str, *, default: bool) -> bool:
    text = request.query_params.get(name, str(default).lower())
    if text not in ("true", "false"):
        fault = FieldError(field=name, message="must be true or false")
        raise InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
    return text == "true"
