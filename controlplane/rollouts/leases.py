"""Grants and refuses activation leases: the second gate, asked for by agents.

Gathers the facts under the locks of the rollout and of the fleet's budget, so that no two grants
can take the same place; `domain/admission.py` says yes or no."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import BigIntegerField, CharField, Count, Exists, OuterRef, Q, QuerySet

from controlplane.domain.admission import BEGIN_WITHIN_SECONDS, Granted, Instant, LeaseFacts, admit
from controlplane.domain.errors import Conflict
from controlplane.domain.gates import Verdict, held_against
from controlplane.domain.policy import policy_of, resolve
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    OUT_OF_STAGE,
    STAGE_FAILURES,
    STARTED_STAGE,
    DeploymentState,
    RolloutState,
    StageState,
)
from controlplane.domain.windows import WindowKind
from controlplane.fleet.identity import Caller
from controlplane.fleet.queries import sites_closed
from controlplane.rollouts.availability import (
    busy_with,
    changing,
    changing_limit,
    unavailable,
    unavailable_peer,
)
from controlplane.rollouts.earlier_stages import earlier_unwell
from controlplane.rollouts.freezes import fleet_budget, frozen_sites
from controlplane.rollouts.models import (
    Deployment,
    DeploymentKind,
    GateVerdict,
    Rollout,
    SiteModel,
    Stage,
)
from controlplane.rollouts.prepared import Slot, prepared
from controlplane.rollouts.services import lock_rollout
from controlplane.rollouts.snapshots import has_windows, is_frozen_somewhere, result_of, withdrawn
from controlplane.rollouts.waits import has_begun

_COUNTED = ("sites", "failed", "active", "retrying", "retried_now")


@dataclass(frozen=True, kw_only=True)
class LeaseQuestion:
    """What an agent asks: may it put this version to work, for this wish? `asked` is when, by its
    own clock."""

    model: str
    epoch: int
    generation: int
    manifest_digest: str
    asked: Instant


@dataclass(frozen=True, kw_only=True)
class LeaseAnswer:
    """What an agent is told. Granted: `lease` and within how many seconds it must begin, counted
    from before it asked. Refused: why, and when to ask again."""

    granted: bool
    lease: int | None = None
    begin_within_seconds: int | None = None
    reason_code: str = ""
    reason: str = ""
    retry_seconds: int | None = None

    def document(self) -> dict[str, object]:
        """As the protocol has it (docs/agent-protocol.md, section 6)."""
        if self.granted:
            within = self.begin_within_seconds
            return {"granted": True, "lease": self.lease, "begin_within_seconds": within}
        return {
            "granted": False,
            "reason_code": self.reason_code,
            "reason": self.reason,
            "retry_seconds": self.retry_seconds,
        }


def request_lease(*, caller: Caller, question: LeaseQuestion, now: datetime) -> LeaseAnswer:
    """Whether the site may put to work now what is wished of the model.

    Asking again is safe: the same deployment gets its slot again. Raises `Conflict`
    (`wish-superseded`) when that wish is no longer the present one.
    """
    with transaction.atomic():
        asked = {
            "site": caller.site_id,
            "model": question.model,
            "generation": question.generation,
            "digest": question.manifest_digest,
        }
        found = _wished_by(**asked) if question.epoch == caller.epoch else []
        if not found:
            raise _superseded(question)
        rollout = lock_rollout(found[0][0], wait=True)
        assert rollout is not None  # its deployment is there
        budget = fleet_budget(lock=True)
        # Again under the locks: it may have been called back meanwhile. The deployment is locked
        # only now that the rollout is: the engine takes them in that order.
        locked = _wished(**asked).select_for_update(of=("self",))
        row = locked.select_related("site", "stage").first()
        if row is None:
            raise _superseded(question)
        if row.state not in ACTIVE_DEPLOYMENT:
            return _for_repair(rollout, row, now)
        # It asks for a newer wish, so an older lease of it is void.
        Deployment.objects.filter(
            may_still_begin=True,
            site=row.site_id,
            model=row.model_id,
            generation__lt=row.generation,
        ).update(may_still_begin=False)
        answer = admit(_facts(rollout, row, budget.changing_percent, now))
        if not isinstance(answer, Granted):
            return _refused(answer.code, answer.reason)
        if _is_overtaken(row, question.asked):
            return LeaseAnswer(
                granted=True, lease=row.lease, begin_within_seconds=BEGIN_WITHIN_SECONDS
            )
        row.lease += 1
        row.holds_lease, row.leased_at = True, now
        row.lease_boot = question.asked.boot
        row.lease_uptime = question.asked.uptime
        row.save(update_fields=["lease", "holds_lease", "leased_at", "lease_boot", "lease_uptime"])
        return LeaseAnswer(granted=True, lease=row.lease, begin_within_seconds=BEGIN_WITHIN_SECONDS)


def _is_overtaken(row: Deployment, asked: Instant) -> bool:
    """A copy of the question that the lease answers, or an older one that came late. Written down
    as the newest, it would let a report from before the lease's end free a slot still in use."""
    if not row.holds_lease or row.lease_uptime is None or row.lease_boot != asked.boot:
        return False
    return asked.uptime <= row.lease_uptime


def _for_repair(rollout: Rollout, row: Deployment, now: datetime) -> LeaseAnswer:
    """The deployment is over and its wish stands: the site mends itself, as after a lost disk, and
    takes no slot of a rollout. Only what stands above rollouts can say no, and that the version
    did not come to be used here the first time."""
    if row.state != DeploymentState.SUCCEEDED:
        why = f"its part here ended {row.state.replace('_', ' ')} ({row.reason}); a new rollout "
        return _refused("failed-here", why + "brings it again")
    if against := withdrawn(rollout.version) or _frozen(row, now):
        return _refused("held", against)
    return LeaseAnswer(granted=True, lease=row.lease + 1, begin_within_seconds=BEGIN_WITHIN_SECONDS)


def _refused(code: str, reason: str) -> LeaseAnswer:
    return LeaseAnswer(
        granted=False,
        reason_code=code,
        reason=reason[:500],
        retry_seconds=math.ceil(settings.WAYPOST_POLL_SECONDS),
    )


def _wished(*, site: Any, model: Any, generation: Any, digest: Any) -> QuerySet[Deployment]:
    """The deployment behind the present wish, if that is what the question is about."""
    # What was verified there is a build; a wish from before there were builds is the version.
    its_build = Q(desired_variant__manifest_digest=digest)
    whole = Q(desired_variant=None, desired__manifest_digest=digest)
    stands = SiteModel.objects.filter(
        its_build | whole,
        site=OuterRef("site"),
        model=OuterRef("model"),
        generation=OuterRef("generation"),
    )
    return Deployment.objects.filter(
        Exists(stands),
        site_id=site,
        model__name=model,
        generation=generation,
        kind=DeploymentKind.FORWARD,
        superseded=False,
    ).order_by("pk")


@prepared
def _wished_by() -> QuerySet[Deployment, Any]:
    wished = _wished(
        site=Slot("site", BigIntegerField()),
        model=Slot("model", CharField()),
        generation=Slot("generation", BigIntegerField()),
        digest=Slot("digest", CharField()),
    )
    return wished.values_list("rollout_id")[:1]


def _superseded(question: LeaseQuestion) -> Conflict:
    return Conflict(
        "wish-superseded",
        f"Generation {question.epoch}.{question.generation} is not what is wished of "
        f"{question.model} now; poll again.",
    )


def _facts(
    rollout: Rollout, row: Deployment, changing_percent: int | None, now: datetime
) -> LeaseFacts:
    by_build = _stage_counts(row)
    counts = sum(by_build.values(), Counter[str]())
    in_stage = counts["sites"]
    limits = resolve(policy_of(row.stage.policy), in_stage)
    unproven, tolerated = _failures(row.stage, by_build, counts)
    away, names = unavailable(row, limits.max_unavailable, now)
    limit = changing_limit(changing_percent)
    closed: Mapping[int, datetime] = {}
    if has_windows():
        closed = sites_closed(WindowKind.ACTIVATION, now=now, site_ids=[row.site_id])
    return LeaseFacts(
        rollout_state=RolloutState(rollout.state),
        cause=rollout.cause,
        stage=row.stage.name,
        stage_state=StageState(row.stage.state),
        stage_sites=in_stage,
        unavailable=away,
        max_unavailable=limits.max_unavailable,
        unavailable_names=names,
        withdrawn=withdrawn(rollout.version),
        gate_fails=_gate_that_fails(rollout),
        earlier_unwell=earlier_unwell(rollout, row.stage, now),
        frozen=_frozen(row, now),
        closed=row.site_id in closed,
        opens_at=closed.get(row.site_id),
        changing=changing(row.site_id, now) if limit is not None else 0,
        changing_limit=limit,
        peer_unavailable=unavailable_peer(row.site, now),
        busy_with=busy_with(row),
        untried=not row.failed_before and not has_begun(row),
        unproven=unproven,
        failures_tolerated=tolerated,
        retries_blocked=counts["retrying"] > 0
        and not counts["retried_now"]
        and counts["active"] >= limits.max_concurrent,
    )


def _frozen(row: Deployment, now: datetime) -> str:
    if not is_frozen_somewhere(now):
        return ""
    return frozen_sites(now, [row.site_id]).get(row.site_id, "")


def _gate_that_fails(rollout: Rollout) -> str:
    """What stops the rollout when the engine next looks (`domain/decide.py`), said at once."""
    if not _failing_gates(rollout=rollout.pk):
        return ""
    failing = _failing(rollout.pk)
    for row in failing.select_related("stage").order_by("stage__index", "gate"):
        if against := held_against(result_of(row), row.stage.accepted_at):
            return f"stage {row.stage.name}: {against}"
    return ""


def _failing(rollout: Any) -> QuerySet[GateVerdict]:
    return GateVerdict.objects.filter(
        stage__rollout=rollout, stage__state__in=STARTED_STAGE, verdict=Verdict.FAIL
    )


@prepared
def _failing_gates() -> QuerySet[GateVerdict, Any]:
    return _failing(Slot("rollout", BigIntegerField())).order_by().values_list("pk")[:1]


def _failures(
    stage: Stage, by_build: Mapping[str, Mapping[str, int]], counts: Mapping[str, int]
) -> tuple[int, int]:
    """How many are not proven and how many of them are borne: of the first build that has more than
    its sites bear, where the stage gives several, else of all."""
    builds = sorted(name for name in by_build if name)
    for each in [by_build[name] for name in builds] if len(builds) > 1 else []:
        unproven, tolerated = _of_some(stage, each)
        if unproven > tolerated:
            return unproven, tolerated
    return _of_some(stage, counts)


def _of_some(stage: Stage, counts: Mapping[str, int]) -> tuple[int, int]:
    limits = resolve(policy_of(stage.policy), counts["sites"])
    tolerated = max(limits.failures_tolerated, stage.accepted_failures)
    return counts["failed"] + counts["retrying"], tolerated


def _stage_counts(row: Deployment) -> dict[str, Counter[str]]:
    """By the build they were given, of the latest attempts of the stage: those that count, failed
    and active; and of those that failed before, the ones that are not over, and of these the active
    ones."""
    rows = _by_build(stage=row.stage_id)
    return {
        variant: Counter(dict(zip(_COUNTED, figures, strict=True))) for variant, *figures in rows
    }


@prepared
def _by_build() -> QuerySet[Deployment, Any]:
    active, failed_before = Q(state__in=ACTIVE_DEPLOYMENT), Q(failed_before=True)
    pending = Q(state=DeploymentState.PENDING)
    rows = Deployment.objects.filter(
        stage=Slot("stage", BigIntegerField()), kind=DeploymentKind.FORWARD, superseded=False
    ).order_by()
    return rows.values_list("variant").annotate(
        sites=Count("pk", filter=~Q(state__in=OUT_OF_STAGE)),
        failed=Count("pk", filter=Q(state__in=STAGE_FAILURES)),
        active=Count("pk", filter=active),
        retrying=Count("pk", filter=failed_before & (active | pending)),
        retried_now=Count("pk", filter=failed_before & active),
    )
