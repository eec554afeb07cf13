"""What people may do about the way back: return a rollout or a part of it, and stop waiting for
those that do not come. Each is one transaction under the lock of the rollout's row."""

from collections.abc import Sequence
from datetime import datetime

from django.db import transaction

from controlplane.domain.decisions import RollBack
from controlplane.domain.errors import Conflict, Forbidden
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    NOT_WAITED_FOR,
    NOTHING_SOUND,
    DeploymentState,
)
from controlplane.rollouts import effects
from controlplane.rollouts import site_effects as sites
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.freezes import active_freezes, sentence
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout
from controlplane.rollouts.verb_parts import done, find_stage, lock_for, noted, require_reason
from controlplane.rollouts.way_back import why_it_stays


def roll_back_rollout(
    *,
    rollout_id: int,
    reason: str,
    actor: str,
    now: datetime,
    stage_name: str | None = None,
    site_name: str | None = None,
    may_while_frozen: bool = False,
) -> Rollout:
    """Returns every site this rollout reached, or one stage's, or one site, to the version it had
    before. Of a part, the rest of the rollout goes on without it. A site whose version from before
    is quarantined keeps what it serves, and its part says so.

    Raises `Conflict`: `nothing-to-return`, and `nothing-sound-to-return-to` where the verb would
    change nothing. Of a whole rollout that is told by its end.
    Raises `Forbidden` (`frozen`) during a freeze, unless the caller may roll back nevertheless.
    """
    require_reason(reason)
    with transaction.atomic():
        rollout = lock_for(rollout_id, "rollback")
        require_unfrozen(may_while_frozen, now)
        if stage_name is None and site_name is None:
            turn_back(rollout, reason, actor, now)
            return rollout
        rows = sites.reached(rollout)
        # Nor may those that were to get it still: left alone they would be offered it next.
        never = sites.latest(rollout).filter(state=DeploymentState.PENDING)
        if stage_name is not None:
            stage = find_stage(rollout, stage_name)
            rows, never = rows.filter(stage=stage), never.filter(stage=stage)
        if site_name is not None:
            rows, never = rows.filter(site__name=site_name), never.filter(site__name=site_name)
        chosen, spared = list(rows), list(never)
        if not chosen and not spared:
            where = " of ".join(filter(None, [site_name and f"site {site_name}", stage_name]))
            raise Conflict("nothing-to-return", f"{where or 'It'} has not got this version.")
        if not spared:
            _require_some_way_back(chosen)
        why = f"rolled back by {actor}: {reason}"
        moves = sites.return_sites(rollout, now, rows, why)
        # They leave the stage: the attempt that now counts says that they do not get the version.
        settled = sites.latest(rollout).filter(pk__in=[row.pk for row in chosen])
        moves += sites.next_attempt(list(settled), DeploymentState.CANCELLED, now, reason=why)
        moves += sites.end(spared, DeploymentState.CANCELLED, now, code="turned-back", reason=why)
        data: dict[str, object] = {"stage": stage_name, "site": site_name}
        return noted(rollout, "returned", reason, actor, now, deployments=moves, data=data)


def _require_some_way_back(chosen: Sequence[Deployment]) -> None:
    """Not where each site is through with this version and has nothing sound to return to."""
    reasons = why_it_stays(chosen)
    if any(row.state in ACTIVE_DEPLOYMENT or row.site_id not in reasons for row in chosen):
        return
    names = _some_names([row.site.name for row in chosen])
    raise Conflict(NOTHING_SOUND, f"{names}: {reasons[chosen[0].site_id]}.")


def turn_back(rollout: Rollout, reason: str, actor: str, now: datetime) -> None:
    decision = RollBack(reason_code="operator", reason=f"rolled back by {actor}: {reason}")
    effects.roll_back(rollout, decision, actor=actor, now=now)
    ring_after_commit(rollout.pk)


def stop_waiting(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Lets a rollout that turns back, or is called off, end without the sites it waits for. What is
    wished of them stands: each returns when it can, and counts as changing until it has.

    Raises `Conflict` (`nothing-waited-for`).
    """
    require_reason(reason)
    with transaction.atomic():
        rollout = lock_for(rollout_id, "stop-waiting")
        before = rollout.state
        there = sites.latest(rollout).filter(state__in=ACTIVE_DEPLOYMENT)
        back = sites.latest(rollout, DeploymentKind.ROLLBACK).filter(state__in=ACTIVE_DEPLOYMENT)
        sites.hold(rollout, there, back)
        finishing, returning = list(there), list(back)
        names = [row.site.name for row in finishing + returning]
        if not names:
            raise Conflict("nothing-waited-for", f"Rollout {rollout_id} waits for no site.")
        sites.call_back(rollout, finishing, now)
        why = {"code": NOT_WAITED_FOR, "reason": f"not waited for, by {actor}: {reason}"}
        moves = sites.end(finishing, DeploymentState.CANCELLED, now, **why)
        moves += sites.end(returning, DeploymentState.ROLLBACK_FAILED, now, **why)
        said = f"; not waited for {_some_names(names)}: by {actor}: {reason}"[:400]
        cause = rollout.cause[: 500 - len(said)] + said
        effects.compare_and_set(
            rollout,
            cause=cause,
            reason_code="stopped-waiting",
            reason=cause,
            waiting_since=now,
        )
        return done(
            rollout,
            "stopped_waiting",
            before,
            reason=reason,
            actor=actor,
            now=now,
            deployments=moves,
            data={"sites": names},
        )


def _some_names(names: Sequence[str]) -> str:
    """Three of them; the event has all."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    count = "1 site" if len(names) == 1 else f"{len(names)} sites"
    return f"{count} ({', '.join(names[:3])}{more})"


def require_unfrozen(may_while_frozen: bool, now: datetime) -> None:
    freeze = active_freezes(now).order_by("pk").first()
    if freeze is not None and not may_while_frozen:
        raise Forbidden(
            "frozen",
            f"Rolling back during a freeze needs the right to freeze; {sentence(freeze)}",
        )
