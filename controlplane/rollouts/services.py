"""The engine at work: the tick, the turn of one rollout, and how one begins.

What people may do to a rollout stands in `verbs.py`. Each takes `now`, holds one transaction, and
does no network I/O inside it."""

import traceback
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import structlog
from django.db import DEFAULT_DB_ALIAS, IntegrityError, transaction
from django.db.models import BigIntegerField, QuerySet

from controlplane.catalog.models import Model, Version
from controlplane.domain.decide import decide
from controlplane.domain.decisions import CountSoak, Finish, Pause, Wait
from controlplane.domain.errors import Conflict, FieldError, InvalidInput
from controlplane.domain.rollout import (
    FINAL_ROLLOUT,
    DeploymentState,
    OnConflict,
    RolloutState,
    StageState,
    allowed_verbs,
)
from controlplane.domain.selection import Plan
from controlplane.domain.selector import SiteSelector
from controlplane.domain.stages import StageSpec
from controlplane.domain.strategies import StrategySpec
from controlplane.fleet.models import Site
from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts import effects
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.drift import correct_drift
from controlplane.rollouts.history import record
from controlplane.rollouts.late_joiners import add_late_joiners
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
    require_still_usable,
    rollout_ahead,
)
from controlplane.rollouts.prepared import Slot, columns, prepared
from controlplane.rollouts.snapshots import rollout_view, stages_of

log = structlog.get_logger(__name__)

# Of one rollout at a time, so that the others get their turn too; the next tick goes on from there.
DECISIONS_PER_TURN = 50
DRIFT_EVERY = timedelta(seconds=30)
_ROLLOUT, _MODEL = columns(Rollout, without="excluded"), columns(Model)
_VERSION = columns(Version, without="manifest")


def tick(*, now: datetime) -> None:
    """The engine's heartbeat: advances every active rollout. One that cannot be advanced does not
    hold up the others."""
    for rollout_id in open_rollout_ids():
        with suppress(Exception):  # told and logged there
            advance_rollout(rollout_id=rollout_id, now=now, wait=True)
    try:
        _look_for_drift(now)
    except Exception:
        log.exception("drift.correction_failed")
    record_beat(name="tick", now=now)


def _look_for_drift(now: datetime) -> None:
    """Not at every tick: it looks at every site, and nothing it does is urgent."""
    last = EngineBeat.objects.filter(name="drift").values_list("at", flat=True).first()
    if last is None or now - last >= DRIFT_EVERY:
        record_beat(name="drift", now=now)
        correct_drift(now=now)


def open_rollout_ids(model_id: int | None = None) -> list[int]:
    """All that are not final, queued ones too; of one model, or of all."""
    states = [state.value for state in FINAL_ROLLOUT]
    rows = Rollout.objects.exclude(state__in=states).order_by("pk")
    if model_id is not None:
        rows = rows.filter(model=model_id)
    return list(rows.values_list("pk", flat=True))


def record_beat(*, name: str, now: datetime) -> None:
    """Notes that a part of the engine lives."""
    EngineBeat.objects.update_or_create(name=name, defaults={"at": now})


def lock_rollout(rollout_id: int, *, wait: bool) -> Rollout | None:
    """The row, locked until the transaction ends. None: it is gone, or (without `wait`) somebody
    holds it: another worker, or an agent's question for a lease.

    SQLite has no row locks; there the whole transaction is exclusive (BEGIN IMMEDIATE).
    """
    locked = _locked(not wait, rollout=rollout_id)
    if not locked:
        return None
    rollout = Rollout.from_db(DEFAULT_DB_ALIAS, _ROLLOUT, locked[0])
    # Not joined with the locked row: PostgreSQL reads only that one again after a wait, and a
    # quarantine that was waited for must be seen.
    (values,) = _version(version=rollout.version_id)
    known = len(_VERSION)
    rollout.version = Version.from_db(DEFAULT_DB_ALIAS, _VERSION, values[:known])
    rollout.model = rollout.version.model = Model.from_db(DEFAULT_DB_ALIAS, _MODEL, values[known:])
    return rollout


@prepared
def _locked(skip_locked: bool) -> QuerySet[Rollout, Any]:
    rows = Rollout.objects.select_for_update(skip_locked=skip_locked).order_by()
    return rows.filter(pk=Slot("rollout", BigIntegerField())).values_list(*_ROLLOUT)


@prepared
def _version() -> QuerySet[Version, Any]:
    rows = Version.objects.filter(pk=Slot("version", BigIntegerField())).order_by()
    return rows.values_list(*_VERSION, *(f"model__{name}" for name in _MODEL))


def advance_rollout(
    *, rollout_id: int, now: datetime, rung_at: datetime | None = None, wait: bool = False
) -> None:
    """Takes a rollout as far as it can go now. Safe to call at any time, any number of times, from
    any number of workers.

    Each decision is read, taken and applied in a transaction of its own: sites are locked for one
    effect only, and whoever is killed leaves rows from which the next turn goes on.

    A ring (`rung_at`) from before the look of another ring is passed over: when a thousand sites
    end at once their rings pile up, and one look sees what all of them rang for. Where the clocks
    of hosts differ that may pass over one too many, which the next tick makes good. The tick itself
    waits for its turn (`wait`): many agents that ask for leases must not keep the engine out.
    """
    try:
        for _ in range(DECISIONS_PER_TURN):
            with transaction.atomic():
                if not take_decision(rollout_id, now, rung_at, wait):
                    return
            wait = True  # a turn that has begun is not left because an agent asks for a lease
    except effects.LostRace as race:
        log.info("rollout.lost_race", rollout=rollout_id, detail=str(race))
        return
    except Exception as error:
        log.exception("rollout.advance_failed", rollout=rollout_id)
        _tell_failure(rollout_id, error, now)
        raise
    log.warning("rollout.turn_unfinished", rollout=rollout_id, decisions=DECISIONS_PER_TURN)


def take_decision(rollout_id: int, now: datetime, rung_at: datetime | None, wait: bool) -> bool:
    """Whether there may be another one to take now."""
    rollout = lock_rollout(rollout_id, wait=wait)
    # A ring may come late or twice: what is over stays as it ended, reason and all.
    if rollout is None or rollout.state in FINAL_ROLLOUT:
        return False
    if rung_at is not None and rollout.advanced_at and rung_at <= rollout.advanced_at:
        return False
    stages = stages_of(rollout)
    add_late_joiners(rollout, stages, now)
    decision = decide(rollout_view(rollout, stages, now), now)
    effects.apply(rollout, decision, now)
    if isinstance(decision, Finish):
        _ring_next(rollout)
    if not isinstance(decision, Wait | CountSoak | Pause | Finish):
        return True
    if rung_at is not None:
        Rollout.objects.filter(pk=rollout_id).update(advanced_at=now)
    return False


def _tell_failure(rollout_id: int, error: Exception, now: datetime) -> None:
    """Says at the rollout why nothing moves there; the next good turn says what is so instead. The
    error's own words stay in the log: they may hold what was read."""
    frames = traceback.extract_tb(error.__traceback__)
    place = [frame.name for frame in frames if "controlplane" in frame.filename][-1]
    sentence = (
        f"a turn of the engine failed ({type(error).__name__} in {place}); nothing is half done, "
        "and it tries again at every tick; the traceback is in the engine's log under "
        f"rollout.advance_failed, rollout {rollout_id}"
    )
    try:
        with transaction.atomic():
            rollout = lock_rollout(rollout_id, wait=True)
            if rollout is not None and rollout.state not in FINAL_ROLLOUT:
                effects.note_reason(rollout, "engine-error", sentence, now)
    except Exception:  # the database itself, maybe; what was raised first is what counts
        log.exception("rollout.failure_not_told", rollout=rollout_id)


def _ring_next(rollout: Rollout) -> None:
    """Who queued behind it need not wait for the next tick."""
    queued = Rollout.objects.filter(model=rollout.model_id, state=RolloutState.QUEUED)
    for rollout_id in queued.order_by("pk").values_list("pk", flat=True)[:1]:
        ring_after_commit(rollout_id)


def start_rollout(
    *,
    model_name: str,
    version_number: int,
    stages: Sequence[StageSpec] | None = None,
    strategy: StrategySpec | None = None,
    exclude: SiteSelector | None = None,
    barrier: bool | None = None,
    note: str = "",
    start_at: datetime | None = None,
    on_conflict: OnConflict = OnConflict.REFUSE,
    expect_plan: str | None = None,
    actor: str,
    person: str = "",
    now: datetime,
) -> Rollout:
    """Plans a rollout and hands it to the engine. `person` is who stands behind the actor, when
    that is a token.

    With `expect_plan`, the digest of a plan that somebody looked at, it starts only if the plan is
    still that one. While another rollout of the model is not over, `on_conflict` says whether this
    one is refused, waits for its end, or stops it and follows it; who queued before goes first.
    Raises what `plan_rollout` does, `Conflict` (`plan-changed`, `rollout-active`) and
    `InvalidInput` (`start-in-the-past`).
    """
    if start_at is not None and start_at <= now:
        fault = FieldError(field="start_at", message="must be in the future; leave it out for now")
        raise InvalidInput("start-in-the-past", "The start is in the past.", errors=[fault])
    try:
        with transaction.atomic():
            planned = plan_rollout(
                model_name=model_name,
                version_number=version_number,
                stages=stages,
                strategy=strategy,
                exclude=exclude,
                barrier=barrier,
                now=now,
                while_active=on_conflict is not OnConflict.REFUSE,
                start_at=start_at,
            )
            if expect_plan is not None and expect_plan != planned.digest:
                raise Conflict(
                    "plan-changed",
                    "The sites, the stages or the version are not those of the plan that was "
                    "looked at; look at the plan again.",
                    extra={"plan_digest": planned.digest},
                )
            active, ahead = active_rollout(model_name), rollout_ahead(model_name)
            # Once more: another start may have been committed since the plan was made.
            if on_conflict is OnConflict.REFUSE and ahead:
                raise already_active(ahead)
            rollout = _create(
                planned,
                note,
                start_at,
                exclude=exclude,
                queued=ahead is not None,
                actor=actor,
                person=person or person_of(actor),
                now=now,
            )
            if active is not None and on_conflict is OnConflict.SUPERSEDE:
                supersede(active.pk, by=rollout, actor=actor, now=now)
            # Last, as everybody else locks rollouts before versions.
            require_still_usable(planned.version)
            return rollout
    except IntegrityError as error:
        # Two starts raced; the constraint let one through.
        if active := active_rollout(model_name):
            raise already_active(active) from error
        raise


def person_of(actor: str) -> str:
    """The person's name, where the actor is one: `user:ann` is ann."""
    return actor.removeprefix("user:")


def supersede(rollout_id: int, *, by: Rollout, actor: str, now: datetime) -> None:
    """Stops a rollout in favour of a newer one, which begins when it has ended. One that turns back
    or stops already is let finish; inside the transaction of the newer one."""
    old = lock_rollout(rollout_id, wait=True)
    if old is None or "abort" not in allowed_verbs(RolloutState(old.state)):
        return
    reason = f"superseded by rollout {by.pk} (version {by.version.number}), started by {actor}"
    effects.cancel(old, reason=reason, actor=actor, now=now, superseded_by=by)
    ring_after_commit(old.pk)


def _create(
    planned: RolloutPlan,
    note: str,
    start_at: datetime | None,
    *,
    exclude: SiteSelector | None,
    queued: bool,
    actor: str,
    person: str,
    now: datetime,
) -> Rollout:
    version, plan = planned.version, planned.plan
    rollout = Rollout.objects.create(
        model=version.model,
        version=version,
        state=RolloutState.QUEUED if queued else RolloutState.PLANNED,
        reason_code="queued" if queued else "planned",
        reason="waiting for the engine",
        waiting_since=now,
        note=note,
        seed=planned.seed,
        plan_digest=planned.digest,
        excluded=planned.excluded_document(),
        warnings=list(planned.warnings),
        exclude=exclude.document() if exclude else {},
        strategy_name=planned.strategy_name,
        strategy_version=planned.strategy_version,
        barrier=planned.barrier,
        start_at=start_at,
        approval_required=planned.approval_required,
        approval_by_other=planned.approval_by_other,
        bytes_to_move=planned.bytes_to_move,
        expected_seconds=planned.expected_seconds,
        created_by=actor,
        author=person,
        created_at=now,
    )
    moves = _write_plan(rollout, plan)
    record(
        rollout,
        "created",
        now=now,
        before="",
        actor=actor,
        reason=note,
        stages=[
            {"stage": index, "before": "", "after": StageState.PENDING.value}
            for index in range(len(plan.stages))
        ],
        deployments=moves,
        data={
            "version": str(version),
            "plan_digest": planned.digest,
            "plan": [spec.document() for spec, _ in plan.stages],
        },
    )
    ring_after_commit(rollout.pk)
    return rollout


def _write_plan(rollout: Rollout, plan: Plan) -> list[dict[str, object]]:
    """One query per stage and one for its sites, however many there are."""
    ids = dict(Site.objects.filter(retired_at=None).values_list("name", "pk"))
    traits = traits_by_site()
    moves: list[dict[str, object]] = []
    for index, (spec, names) in enumerate(plan.stages):
        stage = Stage.objects.create(
            rollout=rollout,
            index=index,
            name=spec.name,
            select=spec.select_document(),
            policy=spec.policy.document(),
            trailing=spec.trailing,
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
                    hardware=traits[ids[name]].hardware,
                    variant=plan.variants.get(name, ""),
                )
                for name in names
            ],
            batch_size=500,
        )
        moves += [
            {
                "site": name,
                "kind": DeploymentKind.FORWARD.value,
                "attempt": 1,
                "before": "",
                "after": DeploymentState.PENDING.value,
            }
            for name in names
        ]
    return moves
