"""What every verb begins and ends with: the lock and whether it is allowed now, the reason, and the
event with the ring for the engine."""

from collections.abc import Sequence
from datetime import datetime

from django.db.models import F

from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.rollout import FINAL_ROLLOUT, RolloutState, allowed_verbs
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.history import record
from controlplane.rollouts.models import Rollout, Stage
from controlplane.rollouts.services import lock_rollout


def lock_for(rollout_id: int, verb: str) -> Rollout:
    rollout = lock(rollout_id)
    verbs = allowed_verbs(RolloutState(rollout.state))
    if verb not in verbs:
        over = rollout.state in FINAL_ROLLOUT
        now_allowed = ", ".join(verbs) or ("nothing; it is final" if over else "nothing yet")
        raise Conflict(
            "verb-not-allowed",
            f"Rollout {rollout_id} is {rollout.state}: {verb} is not possible. "
            f"Possible now: {now_allowed}.",
            extra={"allowed_verbs": verbs},
        )
    return rollout


def lock(rollout_id: int) -> Rollout:
    rollout = lock_rollout(rollout_id, wait=True)
    if rollout is None:
        raise NotFound("rollout-unknown", f"There is no rollout {rollout_id}.")
    return rollout


def noted(
    rollout: Rollout,
    action: str,
    reason: str,
    actor: str,
    now: datetime,
    *,
    deployments: Sequence[dict[str, object]] = (),
    data: dict[str, object] | None = None,
) -> Rollout:
    """For verbs that change what the engine sees, and not the state itself."""
    Rollout.objects.filter(pk=rollout.pk).update(revision=F("revision") + 1)
    rollout.revision += 1
    return done(
        rollout,
        action,
        rollout.state,
        reason=reason,
        actor=actor,
        now=now,
        deployments=deployments,
        data=data,
    )


def done(
    rollout: Rollout,
    action: str,
    before: str,
    *,
    reason: str,
    actor: str,
    now: datetime,
    deployments: Sequence[dict[str, object]] = (),
    data: dict[str, object] | None = None,
) -> Rollout:
    record(
        rollout,
        action,
        now=now,
        before=before,
        reason=reason,
        actor=actor,
        deployments=deployments,
        data=data,
    )
    ring_after_commit(rollout.pk)
    return rollout


def find_stage(rollout: Rollout, name: str) -> Stage:
    """A stage by its name. Raises `NotFound` (`stage-unknown`)."""
    stage = rollout.stages.filter(name=name).first()
    if stage is None:
        names = ", ".join(rollout.stages.values_list("name", flat=True))
        raise NotFound("stage-unknown", f"Rollout {rollout.pk} has no stage {name!r}: {names}.")
    return stage


def require_reason(reason: str) -> None:
    """Raises `InvalidInput` (`reason-required`)."""
    if not reason.strip():
        fault = FieldError(field="reason", message="say why; it is kept with the rollout")
        raise InvalidInput("reason-required", "A reason is required.", errors=[fault])
