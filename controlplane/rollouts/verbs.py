"""What people may do to a rollout that goes on: hold it, let it go on, hurry it, end it. Each verb
is one transaction under the lock of its row.

A verb says what a person wants; what follows from it is decided by the engine, as ever. The way
back stands in `turning_back.py`, approvals and the word of gates in `approvals.py`."""

from datetime import datetime

from django.db import transaction

from controlplane.catalog.models import VersionState
from controlplane.domain.errors import Conflict
from controlplane.domain.gates import Verdict
from controlplane.domain.rollout import (
    STAGE_FAILURES,
    STARTED_STAGE,
    ResumeChoice,
    RolloutState,
    StageState,
    allowed_verbs,
    resume_choices,
)
from controlplane.rollouts import effects
from controlplane.rollouts import site_effects as sites
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.models import GateVerdict, Rollout, Stage
from controlplane.rollouts.sightings import ailing_notes
from controlplane.rollouts.turning_back import require_unfrozen, turn_back
from controlplane.rollouts.verb_parts import done, lock_for, noted, require_reason


def pause_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Holds everything: no offer, no activation. Sites that are switching finish, downloads go on,
    and a site that fails is still dealt with by its stage's policy."""
    with transaction.atomic():
        rollout = lock_for(rollout_id, "pause")
        by = f"paused by {actor}: {reason}" if reason else f"paused by {actor}"
        before = rollout.state
        effects.compare_and_set(
            rollout,
            state=RolloutState.PAUSED,
            cause=by[:500],
            pause_code="",
            reason_code="paused",
            reason=by[:500],
            waiting_since=now,
        )
        return done(rollout, "paused", before, reason=reason, actor=actor, now=now)


def resume_rollout(
    *,
    rollout_id: int,
    reason: str,
    actor: str,
    now: datetime,
    choice: ResumeChoice | None = None,
    may_while_frozen: bool = False,
) -> Rollout:
    """Lets a paused rollout go on from where it stood.

    One that the engine paused goes on only with a choice: `retry` what failed or go on measuring,
    `accept` it as it is, or roll back; and with a reason. Raises `Conflict` (`choice-required`),
    and what `roll_back_rollout` does.
    """
    with transaction.atomic():
        rollout = lock_for(rollout_id, "resume")
        if rollout.pause_code:
            choice = _required_choice(rollout, choice)
        if choice is not None:
            require_reason(reason)
        if choice is ResumeChoice.ROLLBACK:
            require_unfrozen(may_while_frozen, now)
            turn_back(rollout, reason, actor, now)
            return rollout
        code, before = rollout.pause_code, rollout.state
        moves: list[dict[str, object]] = []
        if choice is ResumeChoice.RETRY:
            moves = sites.retry_failed(rollout, now, stage_index=None, forced=True)
            _measure_again(rollout)
        if choice is ResumeChoice.ACCEPT:
            _accept(rollout, now)
        effects.compare_and_set(
            rollout,
            state=RolloutState.RUNNING,
            cause="",
            pause_code="",
            reason_code="resumed",
            reason=f"resumed by {actor}"[:500],
            waiting_since=now,
        )
        # The pause itself is no soak time, and no time without evidence.
        Stage.objects.filter(rollout=rollout, state=StageState.SOAKING).update(
            soak_counted_until=now, inconclusive_seconds=0
        )
        return done(
            rollout,
            "resumed",
            before,
            reason=reason,
            actor=actor,
            now=now,
            deployments=moves,
            data={"choice": choice.value if choice else None, "pause_code": code},
        )


def _required_choice(rollout: Rollout, choice: ResumeChoice | None) -> ResumeChoice:
    """One that leads somewhere: a quarantined version is rolled back, or released first."""
    withdrawn = rollout.version.state == VersionState.QUARANTINED
    possible = (ResumeChoice.ROLLBACK,) if withdrawn else resume_choices(rollout.pause_code)
    if choice in possible:
        return choice
    release = "; or release the version first" if withdrawn else ""
    raise Conflict(
        "choice-required",
        f"The engine paused rollout {rollout.pk} ({rollout.pause_code}): {rollout.cause} "
        f"Say what is to become of that: {', '.join(possible)}{release}.",
        extra={"choices": [c.value for c in possible], "pause_code": rollout.pause_code},
    )


def _measure_again(rollout: Rollout) -> None:
    """What a gate held against a stage no longer counts, but the gate must speak again."""
    GateVerdict.objects.filter(stage__rollout=rollout, verdict=Verdict.FAIL).update(
        verdict=Verdict.INCONCLUSIVE, reason="failed before; to be measured again"
    )


def _accept(rollout: Rollout, now: datetime) -> None:
    """What has failed or is unwell so far is no longer held against the stages that have begun; and
    where the evidence stayed away, it is gone on without."""
    if rollout.pause_code == "gate-inconclusive":
        rollout.stages.filter(state=StageState.SOAKING).update(promoted_at=now)
    _, unwell = ailing_notes(rollout, now)
    for stage in rollout.stages.all():
        failures = sites.latest(rollout).filter(stage=stage, state__in=STAGE_FAILURES).count()
        current = stage.state in STARTED_STAGE
        emptied = stage.state == StageState.PENDING and rollout.pause_code == "canary-empty"
        if failures or current or emptied:
            accepted = failures + len(unwell.get(stage.pk, ()))
            Stage.objects.filter(pk=stage.pk).update(accepted_at=now, accepted_failures=accepted)
        if emptied:
            return


def promote_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Ends the soak of the stage that soaks. It overrides missing evidence, never evidence against
    the version, and never an approval: two may be needed there. Raises `Conflict`
    (`nothing-soaks`)."""
    require_reason(reason)
    with transaction.atomic():
        rollout = lock_for(rollout_id, "promote")
        stage = rollout.stages.filter(state=StageState.SOAKING).first()
        if stage is None:
            raise Conflict(
                "nothing-soaks",
                "No stage is soaking: only a stage whose sites all serve the version can be "
                "promoted.",
                extra={"allowed_verbs": allowed_verbs(RolloutState(rollout.state))},
            )
        Stage.objects.filter(pk=stage.pk).update(promoted_at=now)
        return noted(rollout, "promoted", reason, actor, now, data={"stage": stage.name})


def retry_failed(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Another attempt, at once, for every site that failed or timed out. A rollout that the engine
    paused stays paused until it is resumed. Raises `Conflict` (`nothing-failed`)."""
    with transaction.atomic():
        rollout = lock_for(rollout_id, "retry-failed")
        moves = sites.retry_failed(rollout, now, stage_index=None, forced=True)
        if not moves:
            raise Conflict("nothing-failed", f"No site of rollout {rollout_id} has failed.")
        return noted(rollout, "retried", reason, actor, now, deployments=moves)


def abort_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Stops where it stands: sites that serve the version keep it, no other site gets it."""
    require_reason(reason)
    with transaction.atomic():
        rollout = lock_for(rollout_id, "abort")
        effects.cancel(rollout, reason=f"aborted by {actor}: {reason}", actor=actor, now=now)
        ring_after_commit(rollout.pk)
        return rollout
