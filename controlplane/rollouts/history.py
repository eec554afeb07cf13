"""What happened to a rollout, so that it can be told again: one event per turn, written in its
transaction, with the state before and after of everything it moved.

`domain/replay.py` makes the states of a rollout from these events alone."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from controlplane.audit.models import Event
from controlplane.audit.services import record_event
from controlplane.domain.replay import Replay, Told, replay
from controlplane.rollouts.models import Deployment, Rollout, Stage

ENGINE = "engine"


def stage_moves(stages: Iterable[Stage], after: str) -> list[dict[str, object]]:
    """Of stages as they are before: what the event says of them."""
    return [{"stage": s.index, "before": s.state, "after": after} for s in stages]


def move_of(row: Deployment, *, before: str, after: str) -> dict[str, object]:
    """What the event says of one deployment; its site must have been read with it."""
    return {
        "site": row.site.name,
        "kind": row.kind,
        "attempt": row.attempt,
        "before": before,
        "after": after,
    }


def record(
    rollout: Rollout,
    action: str,
    *,
    now: datetime,
    before: str,
    reason: str = "",
    actor: str = ENGINE,
    stages: Iterable[Mapping[str, object]] = (),
    deployments: Iterable[Mapping[str, object]] = (),
    data: Mapping[str, object] | None = None,
) -> None:
    """Writes `rollout.ACTION`. `before` is the rollout's state before the turn."""
    record_event(
        now=now,
        actor=actor,
        action=f"rollout.{action}",
        object_type="rollout",
        object_id=str(rollout.pk),
        reason=reason,
        data={
            "before": str(before),
            "state": str(rollout.state),
            "revision": rollout.revision,
            "stages": [dict(move) for move in stages],
            "deployments": [dict(move) for move in deployments],
            **(data or {}),
        },
    )


def replayed(rollout: Rollout) -> tuple[Replay, list[str]]:
    """The rollout as its events tell it, and every point where its rows say something else."""
    rows = Event.objects.filter(object_type="rollout", object_id=str(rollout.pk)).order_by("pk")
    events = rows.values_list("pk", "action", "data")
    told = replay(Told(id=pk, action=action, data=data) for pk, action, data in events)
    differences = list(told.faults)
    if told.state != rollout.state:
        differences.append(f"the rollout is {rollout.state}, the events say {told.state}")
    for stage in rollout.stages.all():
        if (said := told.stages.get(stage.index)) != stage.state:
            differences.append(f"stage {stage.name} is {stage.state}, the events say {said}")
    parts = Deployment.objects.filter(rollout=rollout).order_by("pk")
    rows_say = {
        (site, kind, attempt): state
        for site, kind, attempt, state in parts.values_list(
            "site__name", "kind", "attempt", "state"
        )
    }
    for key in sorted(rows_say.keys() | told.deployments.keys()):
        row, said = rows_say.get(key), told.deployments.get(key)
        if row != said:
            site, kind, attempt = key
            differences.append(f"{kind} {attempt} of {site} is {row}, the events say {said}")
    return told, differences
