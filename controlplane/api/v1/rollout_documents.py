"""Rollouts as the API shows them: with the reason of every wait, and in a constant number of
queries, however many sites there are."""

from collections.abc import Iterable
from typing import Any

from django.db.models import Prefetch, QuerySet, prefetch_related_objects
from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from controlplane.api.v1 import reasons
from controlplane.api.v1.fields import VersionNumber
from controlplane.api.v1.plans import (
    ApprovalTermsOut,
    ExclusionOut,
    LimitsOut,
    PolicySchema,
    SelectSchema,
    limits_document,
    strategy_name,
)
from controlplane.domain.gates import Verdict
from controlplane.domain.policy import limit_sentences, policy_of, resolve
from controlplane.domain.rollout import (
    FINAL_ROLLOUT,
    OUT_OF_STAGE,
    DeploymentState,
    ResumeChoice,
    RolloutState,
    StageState,
    WaitsFor,
    allowed_verbs,
    waits_for,
)
from controlplane.rollouts.models import Approval, Deployment, DeploymentKind, Rollout, Stage
from controlplane.rollouts.queries import deployment_counts, deployments_of, find_rollout
from controlplane.rollouts.waits import held_sites

CHOICES = [choice.value for choice in ResumeChoice]


class DeploymentOut(serializers.Serializer[Any]):
    site = serializers.CharField(source="site.name")
    stage = serializers.SerializerMethodField()
    kind = serializers.ChoiceField(choices=DeploymentKind.choices)
    state = serializers.ChoiceField(choices=[state.value for state in DeploymentState])
    attempt = serializers.IntegerField(help_text="the latest counts; older ones stay as they ended")
    superseded = serializers.BooleanField(help_text="a later attempt counts instead")
    from_version = VersionNumber(allow_null=True)
    to_version = VersionNumber(allow_null=True)
    variant = serializers.CharField(
        help_text="the build that the site is planned with, or was given; empty: not known"
    )
    variant_reason = serializers.CharField(help_text="why that one; empty until it is offered")
    reason_code = serializers.CharField()
    reason = serializers.CharField(help_text="what the site or the engine said last")
    why = serializers.SerializerMethodField(help_text="why it stands where it stands")
    waiting_since = serializers.SerializerMethodField(help_text="null once it is over")
    not_before = serializers.DateTimeField(
        allow_null=True, help_text="after a failure it is not offered again before"
    )
    holds_lease = serializers.BooleanField(help_text="it may activate, or is at it")
    leased_at = serializers.DateTimeField(allow_null=True)
    started_at = serializers.DateTimeField(source="offered_at", allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_stage(self, row: Deployment) -> str:
        return str(self.context["stages"][row.stage_id].name)

    def get_why(self, row: Deployment) -> str:
        return self._why(row).sentence

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_waiting_since(self, row: Deployment) -> Any:
        since = self._why(row).since
        return since and serializers.DateTimeField().to_representation(since)

    def _why(self, row: Deployment) -> reasons.Why:
        stage, rollout = self.context["stages"][row.stage_id], self.context["rollout"]
        held, now = self.context["held"], self.context["now"]
        return reasons.of_deployment(row, stage, rollout, held=held, now=now)


class VerdictOut(serializers.Serializer[Any]):
    gate = serializers.CharField()
    verdict = serializers.ChoiceField(choices=[verdict.value for verdict in Verdict])
    reason = serializers.CharField()
    evidence = serializers.DictField()
    actor = serializers.CharField()
    judged_at = serializers.DateTimeField()
    fresh_until = serializers.DateTimeField(
        allow_null=True, help_text="after that it counts no more; null: it does not age"
    )


class CountsOut(serializers.Serializer[Any]):
    """How many sites are in which state, by their latest attempt."""

    forward = serializers.DictField(child=serializers.IntegerField())
    rollback = serializers.DictField(child=serializers.IntegerField())


class StageOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    index = serializers.IntegerField()
    state = serializers.ChoiceField(choices=[state.value for state in StageState])
    select = SelectSchema()
    policy = PolicySchema()
    limits = serializers.SerializerMethodField(
        help_text="the policy in whole sites, of those that still count"
    )
    limit_sentences = serializers.SerializerMethodField()
    trailing = serializers.BooleanField(help_text="takes sites that join late or were put off")
    soak_seconds = serializers.FloatField()
    soaked_seconds = serializers.FloatField()
    inconclusive_seconds = serializers.FloatField(
        help_text="for how long the evidence has been missing"
    )
    reason = serializers.CharField()
    why = serializers.SerializerMethodField(help_text="why it stands where it stands")
    waiting_since = serializers.SerializerMethodField(help_text="null once it is over")
    sites = serializers.SerializerMethodField(help_text="how many were ever to be reached by it")
    counts = serializers.SerializerMethodField()
    started_at = serializers.DateTimeField(allow_null=True)
    promoted_at = serializers.DateTimeField(
        allow_null=True, help_text="somebody ended its soak before the time"
    )
    accepted_at = serializers.DateTimeField(
        allow_null=True, help_text="somebody let it go on in spite of what had failed"
    )
    finished_at = serializers.DateTimeField(allow_null=True)
    verdicts = VerdictOut(many=True)
    deployments = serializers.SerializerMethodField(
        help_text="the attempts that count; left out with deployments=false"
    )

    @extend_schema_field(LimitsOut)
    def get_limits(self, stage: Stage) -> Any:
        return limits_document(resolve(policy_of(stage.policy), self._counting(stage)))

    def get_limit_sentences(self, stage: Stage) -> list[str]:
        return limit_sentences(policy_of(stage.policy), self._counting(stage))

    def get_why(self, stage: Stage) -> str:
        return reasons.of_stage(stage, self.context["rollout"]).sentence

    @extend_schema_field(serializers.DateTimeField(allow_null=True))
    def get_waiting_since(self, stage: Stage) -> Any:
        since = reasons.of_stage(stage, self.context["rollout"]).since
        return since and serializers.DateTimeField().to_representation(since)

    def get_sites(self, stage: Stage) -> int:
        return sum(self._forward(stage).values())

    @extend_schema_field(CountsOut)
    def get_counts(self, stage: Stage) -> Any:
        kinds = {kind: self.context["counts"].get((stage.pk, kind), {}) for kind in DeploymentKind}
        return {str(kind): dict(sorted(counts.items())) for kind, counts in kinds.items()}

    @extend_schema_field(DeploymentOut(many=True))
    def get_deployments(self, stage: Stage) -> Any:
        by_stage = self.context["deployments"]
        rows = by_stage[stage.pk] if by_stage else []
        return DeploymentOut(rows, many=True, context=self.context).data

    def to_representation(self, stage: Stage) -> Any:
        document = super().to_representation(stage)
        if self.context["deployments"] is None:
            del document["deployments"]
        return document

    def _forward(self, stage: Stage) -> dict[DeploymentState, int]:
        counts: dict[DeploymentState, int] = self.context["counts"].get(
            (stage.pk, DeploymentKind.FORWARD), {}
        )
        return counts

    def _counting(self, stage: Stage) -> int:
        counts = self._forward(stage)
        return sum(count for state, count in counts.items() if state not in OUT_OF_STAGE)


class RolloutSummary(serializers.Serializer[Any]):
    id = serializers.IntegerField()
    revision = serializers.IntegerField(
        help_text="rises with every turn of it; wait for a later one with ?wait=25s&since="
    )
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
    waits_for = serializers.SerializerMethodField(help_text="who or what ends the wait")
    pause_code = serializers.CharField(
        help_text="why the engine paused it; empty if it did not. `resume` then wants a choice"
    )
    choices = serializers.SerializerMethodField(help_text="what `resume` wants, if anything")
    allowed_verbs = serializers.SerializerMethodField()
    plan_digest = serializers.CharField()
    strategy = serializers.SerializerMethodField(help_text="with its version: edge-first@2")
    barrier = serializers.BooleanField()
    start_at = serializers.DateTimeField(allow_null=True)
    superseded_by = serializers.IntegerField(source="superseded_by_id", allow_null=True)
    bytes_to_move = serializers.IntegerField(help_text="at most")
    expected_seconds = serializers.FloatField(allow_null=True, help_text="an estimate of the plan")
    note = serializers.CharField()
    created_by = serializers.CharField()
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_final(self, rollout: Rollout) -> bool:
        return rollout.state in FINAL_ROLLOUT

    @extend_schema_field(serializers.ChoiceField([word.value for word in WaitsFor]))
    def get_waits_for(self, rollout: Rollout) -> str:
        return waits_for(RolloutState(rollout.state), rollout.reason_code).value

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(CHOICES)))
    def get_choices(self, rollout: Rollout) -> list[str]:
        return CHOICES if rollout.state == RolloutState.PAUSED and rollout.pause_code else []

    def get_allowed_verbs(self, rollout: Rollout) -> list[str]:
        return allowed_verbs(RolloutState(rollout.state))

    def get_strategy(self, rollout: Rollout) -> str | None:
        return strategy_name(rollout.strategy_name, rollout.strategy_version)


class ApprovalOut(serializers.Serializer[Any]):
    by = serializers.CharField(source="actor")
    at = serializers.DateTimeField()
    expires_at = serializers.DateTimeField()
    stage = serializers.CharField(
        source="stage.name", allow_null=True, help_text="null: of the plan as a whole"
    )
    reason = serializers.CharField()


class RolloutOut(RolloutSummary):
    approval = serializers.SerializerMethodField()
    approvals = ApprovalOut(many=True)
    warnings = serializers.ListField(child=serializers.CharField())
    stages = StageOut(many=True)
    excluded = ExclusionOut(many=True)

    @extend_schema_field(ApprovalTermsOut)
    def get_approval(self, rollout: Rollout) -> Any:
        return {"required": rollout.approval_required, "by_other": rollout.approval_by_other}


def rollout_document(rollout_id: int, *, deployments: bool = True) -> Any:
    """The rollout with its stages and, if wanted, each site's part. Raises `NotFound`."""
    rollout = find_rollout(rollout_id)
    approvals = Prefetch("approvals", Approval.objects.select_related("stage"))
    prefetch_related_objects([rollout], "stages__verdicts", approvals)
    rows = list(shown(deployments_of(rollout).filter(superseded=False))) if deployments else []
    by_stage: dict[int, list[Deployment]] = {stage.pk: [] for stage in rollout.stages.all()}
    for row in rows:
        by_stage[row.stage_id].append(row)
    context = deployment_context(rollout, rows) | {
        "deployments": by_stage if deployments else None,
        "counts": deployment_counts([rollout.pk]),
    }
    return RolloutOut(rollout, context=context).data


def deployment_context(rollout: Rollout, rows: Iterable[Deployment]) -> dict[str, Any]:
    """What `DeploymentOut` needs of the rest. What holds offers is only asked if one waits."""
    now = timezone.now()
    waiting = [row.site_id for row in rows if row.state == DeploymentState.PENDING]
    return {
        "rollout": rollout,
        "stages": {stage.pk: stage for stage in rollout.stages.all()},
        "held": held_sites(rollout.model_id, waiting, now) if waiting else {},
        "now": now,
    }


def shown(rows: QuerySet[Deployment]) -> QuerySet[Deployment]:
    """Without the manifests of their versions, which nobody sees here."""
    return rows.defer("from_version__manifest", "to_version__manifest")
