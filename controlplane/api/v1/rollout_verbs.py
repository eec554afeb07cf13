"""What people may do to a rollout, one endpoint a verb, and the verdicts of its gates."""

import json
from collections.abc import Callable
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_view
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import Scope
from controlplane.api.auth import actor_of, may_freeze, person_of
from controlplane.api.v1.fields import StrictBody
from controlplane.api.v1.rollout_documents import CHOICES, RolloutOut, VerdictOut, rollout_document
from controlplane.domain.gates import Verdict
from controlplane.domain.rollout import ResumeChoice
from controlplane.rollouts.approvals import approve_rollout, record_verdict
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.turning_back import roll_back_rollout, stop_waiting
from controlplane.rollouts.verbs import (
    abort_rollout,
    pause_rollout,
    promote_rollout,
    resume_rollout,
    retry_failed,
)

MAX_EVIDENCE_BYTES = 16 * 1024
MAX_FRESH_SECONDS = 30 * 24 * 3600


class ReasonIn(StrictBody):
    reason = serializers.CharField(max_length=400, required=False, default="", allow_blank=True)


class ResumeIn(ReasonIn):
    choice = serializers.ChoiceField(
        CHOICES,
        required=False,
        default=None,
        allow_null=True,
        help_text="needed after a pause by the engine: try again what failed, accept it as it is, "
        "or roll back",
    )


class RollBackIn(ReasonIn):
    stage = serializers.CharField(max_length=40, required=False, default=None, allow_null=True)
    site = serializers.CharField(max_length=63, required=False, default=None, allow_null=True)


class ApproveIn(ReasonIn):
    plan_digest = serializers.CharField(
        max_length=71, help_text="of the plan that was looked at; 409 `plan-changed` for another"
    )
    stage = serializers.CharField(
        max_length=40,
        required=False,
        default=None,
        allow_null=True,
        help_text="left out: the plan as a whole",
    )


class VerdictIn(StrictBody):
    verdict = serializers.ChoiceField([verdict.value for verdict in Verdict])
    reason = serializers.CharField(max_length=500, required=False, default="", allow_blank=True)
    evidence = serializers.DictField(required=False, default=dict)
    fresh_seconds = serializers.FloatField(
        min_value=1,
        max_value=MAX_FRESH_SECONDS,
        required=False,
        default=None,
        allow_null=True,
        help_text="after that it counts no more; null: it does not age",
    )

    def validate_evidence(self, evidence: dict[str, Any]) -> dict[str, Any]:
        if len(json.dumps(evidence)) > MAX_EVIDENCE_BYTES:
            raise serializers.ValidationError(
                f"is longer than {MAX_EVIDENCE_BYTES} bytes; give a summary and a link"
            )
        return evidence


class RolloutVerb(APIView):
    """One verb of an operator. Subclasses name the service and its body."""

    write_scope = Scope.ROLLOUT
    body: type[StrictBody] = ReasonIn
    service: Callable[..., Rollout]

    @extend_schema(request=ReasonIn, responses=RolloutOut)
    def post(self, request: Request, rollout_id: int) -> Response:
        body = self.body(data=request.data)
        body.is_valid(raise_exception=True)
        type(self).service(
            rollout_id=rollout_id,
            actor=actor_of(request),
            now=timezone.now(),
            **self.arguments(request, body.validated_data),
        )
        return Response(rollout_document(rollout_id))

    def arguments(self, request: Request, given: dict[str, Any]) -> dict[str, Any]:
        return {"reason": given["reason"]}


class PauseRollout(RolloutVerb):
    service = staticmethod(pause_rollout)


class PromoteRollout(RolloutVerb):
    service = staticmethod(promote_rollout)


class AbortRollout(RolloutVerb):
    service = staticmethod(abort_rollout)


class StopWaiting(RolloutVerb):
    service = staticmethod(stop_waiting)


class RetryFailed(RolloutVerb):
    service = staticmethod(retry_failed)


@extend_schema_view(post=extend_schema(request=ResumeIn, responses=RolloutOut))
class ResumeRollout(RolloutVerb):
    service = staticmethod(resume_rollout)
    body = ResumeIn

    def arguments(self, request: Request, given: dict[str, Any]) -> dict[str, Any]:
        choice = given["choice"]
        return {
            "reason": given["reason"],
            "choice": ResumeChoice(choice) if choice else None,
            "may_while_frozen": may_freeze(request),
        }


@extend_schema_view(post=extend_schema(request=RollBackIn, responses=RolloutOut))
class RollBackRollout(RolloutVerb):
    service = staticmethod(roll_back_rollout)
    body = RollBackIn

    def arguments(self, request: Request, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "reason": given["reason"],
            "stage_name": given["stage"],
            "site_name": given["site"],
            "may_while_frozen": may_freeze(request),
        }


@extend_schema_view(post=extend_schema(request=ApproveIn, responses=RolloutOut))
class ApproveRollout(RolloutVerb):
    service = staticmethod(approve_rollout)
    body = ApproveIn

    def arguments(self, request: Request, given: dict[str, Any]) -> dict[str, Any]:
        return {
            "reason": given["reason"],
            "plan_digest": given["plan_digest"],
            "stage_name": given["stage"],
            "person": person_of(request),
        }


class GateVerdicts(APIView):
    """What a gate says of a stage. The newest word counts; a failing one stops the rollout."""

    write_scope = Scope.ROLLOUT

    @extend_schema(request=VerdictIn, responses=VerdictOut)
    def put(self, request: Request, rollout_id: int, stage: str, gate: str) -> Response:
        body = VerdictIn(data=request.data)
        body.is_valid(raise_exception=True)
        given = body.validated_data
        row = record_verdict(
            rollout_id=rollout_id,
            stage_name=stage,
            gate=gate,
            verdict=Verdict(given["verdict"]),
            reason=given["reason"],
            evidence=given["evidence"],
            fresh_seconds=given["fresh_seconds"],
            actor=actor_of(request),
            now=timezone.now(),
        )
        return Response(VerdictOut(row).data)
