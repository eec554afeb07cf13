"""Rollouts for CI and scripts: start, watch, steer."""

import time
from typing import Any

import django_filters
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.generics import GenericAPIView
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of
from controlplane.api.v1.fields import VersionNumber
from controlplane.audit.queries import latest_event_of
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.rollout import (
    FINAL_ROLLOUT,
    DeploymentState,
    RolloutState,
    StageState,
    allowed_verbs,
)
from controlplane.domain.selection import TIERS, parse_stages
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, Stage
from controlplane.rollouts.planning import RolloutPlan, plan_rollout
from controlplane.rollouts.queries import deployments_of, find_rollout, rollouts
from controlplane.rollouts.services import (
    abort_rollout,
    pause_rollout,
    resume_rollout,
    roll_back_rollout,
    start_rollout,
)

MAX_WAIT_SECONDS = 30
LOOK_EVERY_SECONDS = 0.5


class SelectSchema(serializers.Serializer[Any]):
    tier = serializers.ChoiceField(choices=TIERS, required=False)
    labels = serializers.DictField(child=serializers.CharField(), required=False)
    sites = serializers.ListField(child=serializers.CharField(), required=False)
    percent = serializers.IntegerField(min_value=1, max_value=100, required=False)


class StageSchema(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=40)
    select = SelectSchema(required=False)
    soak_seconds = serializers.FloatField(min_value=0, required=False, default=60)


class RolloutIn(serializers.Serializer[Any]):
    model = serializers.CharField(max_length=64)
    version = VersionNumber()
    # Checked by the domain, which names every fault at once.
    stages = serializers.JSONField(required=False, default=None)
    note = serializers.CharField(max_length=500, required=False, default="", allow_blank=True)
    expect_plan = serializers.CharField(
        max_length=71,
        required=False,
        default=None,
        allow_null=True,
        help_text="digest of a plan that was looked at: 409 `plan-changed` if it is another now",
    )


class RolloutInSchema(RolloutIn):
    stages = StageSchema(many=True, required=False)  # type: ignore[assignment]  # documents what the domain accepts


class ExclusionOut(serializers.Serializer[Any]):
    site = serializers.CharField()
    reason = serializers.CharField()


class PlannedStageOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    select = SelectSchema()
    soak_seconds = serializers.FloatField()
    sites = serializers.ListField(child=serializers.CharField())


class PlanOut(serializers.Serializer[Any]):
    """What a rollout would do; nothing of it is kept."""

    model = serializers.CharField()
    version = serializers.CharField()
    plan_digest = serializers.CharField(help_text="send it as `expect_plan` to start just this")
    sites = serializers.IntegerField()
    bytes_to_move = serializers.IntegerField(help_text="at most; a site may hold some files")
    soak_seconds = serializers.FloatField(help_text="the least time it takes, loading left out")
    stages = PlannedStageOut(many=True)
    excluded = ExclusionOut(many=True)


class ReasonIn(serializers.Serializer[Any]):
    reason = serializers.CharField(max_length=400, required=False, default="", allow_blank=True)


class DeploymentOut(serializers.Serializer[Any]):
    site = serializers.CharField(source="site.name")
    kind = serializers.ChoiceField(choices=DeploymentKind.choices)
    state = serializers.ChoiceField(choices=[state.value for state in DeploymentState])
    from_version = VersionNumber(allow_null=True)
    to_version = VersionNumber(allow_null=True)
    reason_code = serializers.CharField()
    reason = serializers.CharField()
    started_at = serializers.DateTimeField(source="offered_at", allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)


class StageOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    index = serializers.IntegerField()
    state = serializers.ChoiceField(choices=[state.value for state in StageState])
    select = SelectSchema()
    soak_seconds = serializers.FloatField()
    soaked_seconds = serializers.FloatField()
    reason = serializers.CharField()
    sites = serializers.SerializerMethodField(help_text="how many the plan put into this stage")
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)
    deployments = serializers.SerializerMethodField()

    def get_sites(self, stage: Stage) -> int:
        return sum(row.kind == DeploymentKind.FORWARD for row in self._deployments(stage))

    @extend_schema_field(DeploymentOut(many=True))
    def get_deployments(self, stage: Stage) -> Any:
        return DeploymentOut(self._deployments(stage), many=True).data

    def _deployments(self, stage: Stage) -> list[Deployment]:
        """Fetched once for all stages by `_document`."""
        rows: list[Deployment] = self.context["deployments"][stage.pk]
        return rows


class RolloutSummary(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    model = serializers.CharField(source="model.name")
    version = VersionNumber()
    state = serializers.ChoiceField(choices=[state.value for state in RolloutState])
    final = serializers.SerializerMethodField()
    reason_code = serializers.CharField()
    reason = serializers.CharField(help_text="why it stands where it stands, for a person")
    cause = serializers.CharField(
        help_text="why it was paused, aborted or rolled back; empty while it is on its way"
    )
    waiting_since = serializers.DateTimeField()
    allowed_verbs = serializers.SerializerMethodField()
    plan_digest = serializers.CharField()
    note = serializers.CharField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_final(self, rollout: Rollout) -> bool:
        return rollout.state in FINAL_ROLLOUT

    def get_allowed_verbs(self, rollout: Rollout) -> list[str]:
        return allowed_verbs(RolloutState(rollout.state))


class RolloutOut(RolloutSummary):
    stages = StageOut(many=True)
    excluded = ExclusionOut(many=True)


class RolloutFilter(django_filters.FilterSet):  # type: ignore[misc]  # the library carries no types
    model = django_filters.CharFilter(field_name="model__name")
    state = django_filters.ChoiceFilter(choices=[(s.value, s.value) for s in RolloutState])

    class Meta:
        model = Rollout
        fields = ("model", "state")


class Rollouts(GenericAPIView[Rollout]):
    queryset = Rollout.objects.none()
    filterset_class = RolloutFilter
    write_scope = Scope.ROLLOUT

    @extend_schema(responses=RolloutSummary(many=True))
    def get(self, request: Request) -> Response:
        page = self.paginate_queryset(self.filter_queryset(rollouts()))
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
        asked = {
            "model_name": body.validated_data["model"],
            "version_number": body.validated_data["version"],
            "stages": parse_stages(body.validated_data["stages"]),
            "now": timezone.now(),
        }
        if _is_dry_run(request):
            return Response(_plan_document(plan_rollout(**asked)))
        rollout = start_rollout(
            **asked,
            note=body.validated_data["note"],
            expect_plan=body.validated_data["expect_plan"],
            actor=actor_of(request),
        )
        headers = {"Location": f"/api/v1/rollouts/{rollout.pk}"}
        return Response(_document(rollout.pk), status=201, headers=headers)


class RolloutDetail(APIView):
    @extend_schema(
        responses={200: RolloutOut, 304: None},
        parameters=[
            OpenApiParameter(
                "wait",
                OpenApiTypes.INT,
                description="Seconds (at most 30) to wait for a change after `If-None-Match`.",
            ),
            OpenApiParameter("If-None-Match", OpenApiTypes.STR, OpenApiParameter.HEADER),
        ],
    )
    def get(self, request: Request, rollout_id: int) -> Response:
        held = request.headers.get("If-None-Match", "")
        deadline = time.monotonic() + _wait_seconds(request)
        while (tag := _tag(rollout_id)) == held and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_SECONDS)
        if tag == held:
            return Response(status=304, headers={"ETag": tag})
        return Response(_document(rollout_id), headers={"ETag": tag})


class RolloutVerb(APIView):
    """One verb of an operator. Subclasses name the service."""

    write_scope = Scope.ROLLOUT
    service: Any

    @extend_schema(request=ReasonIn, responses=RolloutOut)
    def post(self, request: Request, rollout_id: int) -> Response:
        body = ReasonIn(data=request.data)
        body.is_valid(raise_exception=True)
        type(self).service(
            rollout_id=rollout_id,
            reason=body.validated_data["reason"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(_document(rollout_id))


class PauseRollout(RolloutVerb):
    service = staticmethod(pause_rollout)


class ResumeRollout(RolloutVerb):
    service = staticmethod(resume_rollout)


class AbortRollout(RolloutVerb):
    service = staticmethod(abort_rollout)


class RollBackRollout(RolloutVerb):
    service = staticmethod(roll_back_rollout)


def _is_dry_run(request: Request) -> bool:
    text = request.query_params.get("dry_run", "false")
    if text not in ("true", "false"):
        fault = FieldError(field="dry_run", message="must be true or false")
        raise InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
    return text == "true"


def _plan_document(planned: RolloutPlan) -> Any:
    plan = planned.plan
    return PlanOut(
        {
            "model": planned.version.model.name,
            "version": str(planned.version.number),
            "plan_digest": planned.digest,
            "sites": plan.sites,
            "bytes_to_move": planned.bytes_to_move,
            "soak_seconds": plan.soak_seconds,
            "stages": [
                {
                    "name": spec.name,
                    "select": spec.document(),
                    "soak_seconds": spec.soak_seconds,
                    "sites": names,
                }
                for spec, names in plan.stages
            ],
            "excluded": [{"site": name, "reason": reason} for name, reason in plan.excluded],
        }
    ).data


def _wait_seconds(request: Request) -> int:
    text = request.query_params.get("wait", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and int(text) <= MAX_WAIT_SECONDS):
        fault = FieldError(field="wait", message=f"must be 0 to {MAX_WAIT_SECONDS} seconds")
        raise InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
    return int(text)


def _tag(rollout_id: int) -> str:
    """Changes with the rollout (its revision) and with every step of a site (an event)."""
    step = latest_event_of(object_type="rollout", object_id=str(rollout_id))
    return f'"{find_rollout(rollout_id).revision}.{step}"'


def _document(rollout_id: int) -> Any:
    """The rollout with its stages and deployments, from three queries."""
    rollout = find_rollout(rollout_id)
    rows: dict[int, list[Any]] = {stage.pk: [] for stage in rollout.stages.all()}
    for row in deployments_of(rollout):
        rows[row.stage_id].append(row)
    return RolloutOut(rollout, context={"deployments": rows}).data
