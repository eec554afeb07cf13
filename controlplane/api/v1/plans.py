"""What a rollout is asked for, and the plan that answers a dry run."""

from datetime import datetime
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from controlplane.api.v1.fields import Moment, StrictBody, VersionOrChannel
from controlplane.api.v1.windows import SiteSelectorSchema
from controlplane.catalog.channels import find_channel
from controlplane.catalog.queries import find_model
from controlplane.domain.errors import FieldError, InvalidInput, NotFound
from controlplane.domain.policy import Limits, OnFailure, OnSilent, Switch
from controlplane.domain.probation import MAX_SECONDS as MAX_PROBATION_SECONDS
from controlplane.domain.rollout import OnConflict
from controlplane.domain.stages import PER, parse_exclude, parse_stages
from controlplane.domain.strategies import StrategySpec
from controlplane.rollouts.planning import PlannedStage, RolloutPlan
from controlplane.rollouts.strategies import find_strategy

AMOUNT = {"oneOf": [{"type": "integer"}, {"type": "string", "example": "25%"}]}


@extend_schema_field(AMOUNT)
class Amount(serializers.Field[Any, Any, Any, Any]):
    """Sites as a whole number, or as a share of the stage. Documents what the domain accepts."""

    def to_representation(self, value: Any) -> Any:
        return value


class ProbationSchema(serializers.Serializer[Any]):
    """The site counts the new version's requests and goes back by itself when a bound is broken."""

    seconds = serializers.FloatField(min_value=0, max_value=MAX_PROBATION_SECONDS)
    max_error_rate = serializers.FloatField(required=False, min_value=0, max_value=1)
    min_requests = serializers.IntegerField(
        required=False, min_value=1, help_text="nothing is judged before; 1 when left out"
    )
    max_mean_latency_ms = serializers.FloatField(required=False, min_value=0)


class PolicySchema(serializers.Serializer[Any]):
    """What a stage bears; what is left out has its default."""

    max_concurrent = Amount(required=False, allow_null=True)
    max_unavailable = Amount(required=False)
    failures_tolerated = Amount(required=False)
    successes_required = Amount(required=False, allow_null=True)
    stale_tolerated = Amount(required=False)
    on_failure = serializers.ChoiceField([word.value for word in OnFailure], required=False)
    progress_deadline_seconds = serializers.FloatField(required=False, allow_null=True)
    on_silent = serializers.ChoiceField([word.value for word in OnSilent], required=False)
    retries = serializers.IntegerField(required=False)
    retry_after_seconds = serializers.FloatField(required=False)
    approval = serializers.BooleanField(required=False)
    gates = serializers.ListField(child=serializers.CharField(), required=False)
    inconclusive_seconds = serializers.FloatField(required=False)
    switch = serializers.ChoiceField(
        [word.value for word in Switch],
        required=False,
        help_text="surge: both versions in memory, nobody waits; replace: the one before is "
        "unloaded first; auto: by the site's memory",
    )
    probation = ProbationSchema(required=False, allow_null=True)

    def to_representation(self, policy: Any) -> Any:
        """As it was written: what nobody asked for is not shown as if somebody had."""
        return dict(policy)


class SelectSchema(SiteSelectorSchema):
    """A selector, and how many are drawn of what it leaves."""

    percent = serializers.IntegerField(min_value=1, max_value=100, required=False)
    count = serializers.IntegerField(min_value=1, required=False)
    per = serializers.ChoiceField(PER, required=False)


class StageSchema(serializers.Serializer[Any]):
    name = serializers.CharField(max_length=40)
    select = SelectSchema(required=False)
    soak_seconds = serializers.FloatField(min_value=0, required=False, default=60)
    policy = PolicySchema(required=False)
    trailing = serializers.BooleanField(required=False, default=False)


class RolloutIn(StrictBody):
    model = serializers.CharField(max_length=64)
    version = VersionOrChannel(
        help_text='a number, or a channel such as "@stable": what it points at now'
    )
    strategy = serializers.CharField(
        max_length=60,
        required=False,
        default=None,
        allow_null=True,
        help_text='"edge-first", or "edge-first@2" for one version of it; not beside stages',
    )
    # Stages and whom to leave out are checked by the domain, which names every fault at once.
    stages = serializers.JSONField(required=False, default=None)
    exclude = serializers.JSONField(required=False, default=None)
    barrier = serializers.BooleanField(
        required=False,
        default=None,
        allow_null=True,
        help_text="the bytes to all sites at once, activation stage by stage; "
        "left out: as the strategy says",
    )
    start_at = Moment(required=False, default=None, allow_null=True)
    on_conflict = serializers.ChoiceField(
        [choice.value for choice in OnConflict],
        required=False,
        default=OnConflict.REFUSE.value,
        help_text="while another rollout of the model is not over",
    )
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
    exclude = SiteSelectorSchema(required=False)  # type: ignore[assignment]  # documents what the domain accepts


class ExclusionOut(serializers.Serializer[Any]):
    site = serializers.CharField()
    reason = serializers.CharField()


class LimitsOut(serializers.Serializer[Any]):
    """A policy in whole sites."""

    sites = serializers.IntegerField()
    max_concurrent = serializers.IntegerField()
    max_unavailable = serializers.IntegerField()
    failures_tolerated = serializers.IntegerField()
    successes_required = serializers.IntegerField()
    stale_tolerated = serializers.IntegerField()


class PlannedStageOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    select = SelectSchema()
    soak_seconds = serializers.FloatField()
    policy = PolicySchema()
    trailing = serializers.BooleanField()
    sites = serializers.ListField(child=serializers.CharField())
    limits = LimitsOut()
    limit_sentences = serializers.ListField(child=serializers.CharField())
    bytes_to_move = serializers.IntegerField()
    expected_seconds = serializers.FloatField()
    variants = serializers.DictField(
        child=serializers.IntegerField(), help_text="how many sites get which build"
    )


class ApprovalTermsOut(serializers.Serializer[Any]):
    required = serializers.BooleanField(  # type: ignore[assignment]  # a field of that name
        help_text="it starts only once somebody approved the plan"
    )
    by_other = serializers.BooleanField(help_text="the author's own approval does not count")


class PlanOut(serializers.Serializer[Any]):
    """What a rollout would do; nothing of it is kept."""

    model = serializers.CharField()
    version = serializers.CharField()
    plan_digest = serializers.CharField(help_text="send it as `expect_plan` to start just this")
    strategy = serializers.CharField(allow_null=True, help_text="with its version: edge-first@2")
    barrier = serializers.BooleanField()
    start_at = serializers.DateTimeField(allow_null=True)
    approval = ApprovalTermsOut()
    sites = serializers.IntegerField()
    bytes_to_move = serializers.IntegerField(help_text="at most; a site may hold some files")
    soak_seconds = serializers.FloatField(help_text="the least time it takes, loading left out")
    expected_seconds = serializers.FloatField()
    expected_end = serializers.DateTimeField(help_text="an estimate, by `assumptions`")
    assumptions = serializers.ListField(child=serializers.CharField())
    warnings = serializers.ListField(
        child=serializers.CharField(), help_text="what is likely not meant"
    )
    stages = PlannedStageOut(many=True)
    excluded = ExclusionOut(many=True)


def asked_of(body: dict[str, Any], now: datetime) -> dict[str, Any]:
    """The arguments that a plan and a start have in common. Raises `InvalidInput`."""
    start_at = body["start_at"]
    if start_at is not None and start_at <= now:
        fault = FieldError(field="start_at", message="must be in the future; leave it out for now")
        raise InvalidInput("start-in-the-past", "The start is in the past.", errors=[fault])
    stages = body["stages"]
    return {
        "model_name": body["model"],
        "version_number": _number(body["model"], body["version"]),
        "stages": None if stages is None else parse_stages(stages),
        "strategy": None if body["strategy"] is None else _strategy(body["strategy"]),
        "exclude": parse_exclude(body["exclude"]),
        "barrier": body["barrier"],
        "start_at": start_at,
        "now": now,
    }


def _number(model_name: str, version: int | str) -> int:
    """Of the version that is named, by a channel too. Raises `InvalidInput`."""
    if isinstance(version, int):
        return version
    try:
        channel = find_channel(find_model(model_name), version.removeprefix("@"))
    except NotFound as error:
        fault = FieldError(field="version", message=error.detail)
        raise InvalidInput(error.code, error.detail, errors=[fault]) from error
    assert channel.version is not None  # it is moved to one when it is made
    return channel.version.number


def strategy_name(name: str, version: int | None) -> str | None:
    """As a rollout names it: `edge-first@2`."""
    return f"{name}@{version}" if name else None


def _strategy(text: str) -> StrategySpec:
    name, at, number = text.partition("@")
    right = number.isascii() and number.isdigit() and len(number) <= 9 and number[0] != "0"
    if at and not right:
        fault = FieldError(field="strategy", message="must be a name, or NAME@VERSION")
        raise InvalidInput("strategy-invalid", f"{text!r} names no strategy.", errors=[fault])
    try:
        return find_strategy(name, int(number) if at else None)
    except NotFound as error:
        fault = FieldError(field="strategy", message=error.detail)
        raise InvalidInput("strategy-unknown", error.detail, errors=[fault]) from error


def plan_document(planned: RolloutPlan, start_at: datetime | None) -> Any:
    plan = planned.plan
    return PlanOut(
        {
            "model": planned.version.model.name,
            "version": str(planned.version.number),
            "plan_digest": planned.digest,
            "strategy": strategy_name(planned.strategy_name, planned.strategy_version),
            "barrier": planned.barrier,
            "start_at": start_at,
            "approval": {
                "required": planned.approval_required,
                "by_other": planned.approval_by_other,
            },
            "sites": plan.sites,
            "bytes_to_move": planned.bytes_to_move,
            "soak_seconds": plan.soak_seconds,
            "expected_seconds": planned.expected_seconds,
            "expected_end": planned.expected_end,
            "assumptions": planned.assumptions,
            "warnings": planned.warnings,
            "stages": [_stage(stage) for stage in planned.stages],
            "excluded": planned.excluded_document(),
        }
    ).data


def _stage(stage: PlannedStage) -> dict[str, object]:
    return {
        "name": stage.spec.name,
        "select": stage.spec.select_document(),
        "soak_seconds": stage.spec.soak_seconds,
        "policy": stage.spec.policy.document(),
        "trailing": stage.spec.trailing,
        "sites": stage.sites,
        "limits": limits_document(stage.limits),
        "limit_sentences": stage.limit_sentences,
        "bytes_to_move": stage.bytes_to_move,
        "expected_seconds": stage.expected_seconds,
        "variants": dict(stage.variants),
    }


def limits_document(limits: Limits) -> dict[str, int]:
    return vars(limits)
