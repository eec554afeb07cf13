"""Every write of rollouts: the tick, the turn of one rollout, and what people may do to it.

Each takes `now`, holds one transaction, and does no network I/O inside it."""

from collections.abc import Sequence
from datetime import datetime

import structlog
from django.db import IntegrityError, transaction

from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.rollout import (
    ACTIVE_ROLLOUT,
    FINAL_ROLLOUT,
    CountSoak,
    DeploymentState,
    Finish,
    RollBack,
    RolloutState,
    StageState,
    Wait,
    allowed_verbs,
    decide,
)
from controlplane.domain.selection import Plan, StageSpec
from controlplane.fleet.models import Site
from controlplane.rollouts import effects
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.models import (
    Deployment,
    DeploymentKind,
    EngineBeat,
    Rollout,
    Stage,
)
from controlplane.rollouts.planning import (
    RolloutPlan,
    active_rollout,
    already_active,
    plan_rollout,
)
from controlplane.rollouts.snapshots import rollout_view

log = structlog.get_logger(__name__)

# A turn may begin, skip empty stages and start one; more steps than this are a loop in `decide`.
MAX_STEPS_PER_TURN = 200


def tick(*, now: datetime) -> None:
    """The engine's heartbeat: advances every active rollout, each in a transaction of its own, so
    that one that cannot be advanced does not hold up the others."""
    for rollout_id in active_rollout_ids():
        try:
            advance_rollout(rollout_id=rollout_id, now=now)
        except Exception:
            log.exception("rollout.advance_failed", rollout=rollout_id)
    record_beat(name="tick", now=now)


def active_rollout_ids() -> list[int]:
    states = [state.value for state in ACTIVE_ROLLOUT]
    return list(
        Rollout.objects.filter(state__in=states).order_by("pk").values_list("pk", flat=True)
    )


def record_beat(*, name: str, now: datetime) -> None:
    """Notes that a part of the engine lives."""
    EngineBeat.objects.update_or_create(name=name, defaults={"at": now})


def lock_rollout(rollout_id: int, *, wait: bool) -> Rollout | None:
    """The row, locked until the transaction ends. None: it is gone, or (without `wait`) another
    worker holds it and will do what there is to do.

    SQLite has no row locks; there the whole transaction is exclusive (BEGIN IMMEDIATE).
    """
    return (
        Rollout.objects.select_for_update(of=("self",), skip_locked=not wait)
        .select_related("model", "version")
        .filter(pk=rollout_id)
        .first()
    )


def advance_rollout(*, rollout_id: int, now: datetime) -> None:
    """Takes a rollout as far as it can go now. Safe to call at any time, any number of times, from
    any number of workers."""
    try:
        with transaction.atomic():
            _advance_locked(rollout_id, now)
    except effects.LostRace as race:
        log.info("rollout.lost_race", rollout=rollout_id, detail=str(race))


def _advance_locked(rollout_id: int, now: datetime) -> None:
    rollout = lock_rollout(rollout_id, wait=False)
    # A ring may come late or twice: what is over stays as it ended, reason and all.
    if rollout is None or rollout.state in FINAL_ROLLOUT:
        return
    for _ in range(MAX_STEPS_PER_TURN):
        decision = decide(rollout_view(rollout, now), now)
        effects.apply(rollout, decision, now)
        if isinstance(decision, Wait | CountSoak | Finish):
            return
    raise RuntimeError(f"rollout {rollout_id} does not come to rest")


def start_rollout(
    *,
    model_name: str,
    version_number: int,
    stages: Sequence[StageSpec],
    note: str = "",
    expect_plan: str | None = None,
    actor: str,
    now: datetime,
) -> Rollout:
    """Plans a rollout and hands it to the engine.

    With `expect_plan`, the digest of a plan that somebody looked at, it starts only if the plan is
    still that one. Raises what `plan_rollout` does, and `Conflict` (`plan-changed`).
    """
    try:
        with transaction.atomic():
            planned = plan_rollout(
                model_name=model_name, version_number=version_number, stages=stages, now=now
            )
            if expect_plan is not None and expect_plan != planned.digest:
                raise Conflict(
                    "plan-changed",
                    "The sites, the stages or the version are not those of the plan that was "
                    "looked at; look at the plan again.",
                    extra={"plan_digest": planned.digest},
                )
            return _start_rollout(planned, note, actor=actor, now=now)
    except IntegrityError as error:
        # Two starts raced; the constraint let one through.
        if active := active_rollout(model_name):
            raise already_active(active) from error
        raise


def _start_rollout(planned: RolloutPlan, note: str, *, actor: str, now: datetime) -> Rollout:
    version, plan = planned.version, planned.plan
    rollout = Rollout.objects.create(
        model=version.model,
        version=version,
        state=RolloutState.PLANNED,
        reason_code="planned",
        reason="waiting for the engine",
        waiting_since=now,
        note=note,
        seed=planned.seed,
        plan_digest=planned.digest,
        excluded=[{"site": name, "reason": reason} for name, reason in plan.excluded],
        created_by=actor,
        created_at=now,
    )
    _write_plan(rollout, plan)
    record_event(
        now=now,
        actor=actor,
        action="rollout.created",
        object_type="rollout",
        object_id=str(rollout.pk),
        reason=note,
        data={
            "version": str(version),
            "plan_digest": planned.digest,
            "stages": [spec.document() for spec, _ in plan.stages],
        },
    )
    ring_after_commit(rollout.pk)
    return rollout


def _write_plan(rollout: Rollout, plan: Plan) -> None:
    ids = dict(Site.objects.values_list("name", "pk"))
    for index, (spec, names) in enumerate(plan.stages):
        stage = Stage.objects.create(
            rollout=rollout,
            index=index,
            name=spec.name,
            select=spec.document(),
            soak_seconds=spec.soak_seconds,
            state=StageState.PENDING,
        )
        Deployment.objects.bulk_create(
            [
                Deployment(
                    rollout=rollout,
                    stage=stage,
                    site_id=ids[name],
                    model_id=rollout.model_id,
                    kind=DeploymentKind.FORWARD,
                    to_version=rollout.version,
                    state=DeploymentState.PENDING,
                )
                for name in names
            ],
            batch_size=500,
        )


def pause_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Holds promotion. Sites already offered the version go on; a failed site still rolls back."""
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "pause")
        by = f"paused by {actor}: {reason}" if reason else f"paused by {actor}"
        effects.compare_and_set(
            rollout,
            state=RolloutState.PAUSED,
            cause=by[:500],
            reason_code="paused",
            reason=by[:500],
            waiting_since=now,
        )
        return _done(rollout, "paused", reason=reason, actor=actor, now=now)


def resume_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Lets a paused rollout go on from where it stood."""
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "resume")
        effects.compare_and_set(
            rollout,
            state=RolloutState.RUNNING,
            cause="",
            reason_code="resumed",
            reason=f"resumed by {actor}"[:500],
            waiting_since=now,
        )
        # The pause itself is no soak time.
        Stage.objects.filter(rollout=rollout, state=StageState.SOAKING).update(
            soak_counted_until=now
        )
        return _done(rollout, "resumed", reason=reason, actor=actor, now=now)


def abort_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Stops where it stands: sites that serve the version keep it, no other site gets it."""
    _require_reason(reason)
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "abort")
        effects.cancel(rollout, reason=f"aborted by {actor}: {reason}", actor=actor, now=now)
        ring_after_commit(rollout.pk)
        return rollout


def roll_back_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Returns every site this rollout reached to the version it had before."""
    _require_reason(reason)
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "rollback")
        decision = RollBack(reason_code="operator", reason=f"rolled back by {actor}: {reason}")
        effects.roll_back(rollout, decision, actor=actor, now=now)
        ring_after_commit(rollout.pk)
        return rollout


def _done(rollout: Rollout, action: str, *, reason: str, actor: str, now: datetime) -> Rollout:
    record_event(
        now=now,
        actor=actor,
        action=f"rollout.{action}",
        object_type="rollout",
        object_id=str(rollout.pk),
        reason=reason,
        data={"state": str(rollout.state), "revision": rollout.revision},
    )
    ring_after_commit(rollout.pk)
    return rollout


def _lock_for(rollout_id: int, verb: str) -> Rollout:
    rollout = lock_rollout(rollout_id, wait=True)
    if rollout is None:
        raise NotFound("rollout-unknown", f"There is no rollout {rollout_id}.")
    verbs = allowed_verbs(RolloutState(rollout.state))
    if verb not in verbs:
        now_allowed = ", ".join(verbs) if verbs else "nothing; it is final"
        raise Conflict(
            "verb-not-allowed",
            f"Rollout {rollout_id} is {rollout.state}: {verb} is not possible. "
            f"Possible now: {now_allowed}.",
            extra={"allowed_verbs": verbs},
        )
    return rollout


def _require_reason(reason: str) -> None:
    if not reason.strip():
        fault = FieldError(field="reason", message="say why; it is kept with the rollout")
        raise InvalidInput("reason-required", "A reason is required.", errors=[fault])
