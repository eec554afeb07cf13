"""A transaction that is not committed: remembers the rows of a rollout and puts them back."""

from collections import Counter
from dataclasses import fields
from typing import Any

from controlplane.domain.decisions import CountSoak, Wait
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.clock import moment
from controlplane.ops.simulation.rows import Rollout
from controlplane.ops.simulation.views import rollout_view


def _values(row: Any) -> list[tuple[Any, str, Any]]:
    kept = []
    for field in fields(row):
        value = getattr(row, field.name)
        if isinstance(value, Counter):
            value = Counter(value)
        elif isinstance(value, list):
            value = list(value)
        kept.append((row, field.name, value))
    return kept


def step_not_committed(centre: Centre, rollout: Rollout, now: float) -> None:
    """A decision of which nothing is kept: the process died before the commit."""
    first = centre.decide(rollout_view(centre, rollout, now), moment(now))
    if isinstance(first, Wait | CountSoak):
        return  # it would have changed nothing else, so there is nothing to put back
    model = rollout.version.model
    generations, changed_at = list(centre.generations), dict(centre.changed_at)
    wishes = [(rows, rows.get(model)) for rows in centre.rows]
    active = {key: list(rows) for key, rows in centre.active.items() if key[1] == model}
    kept = _values(rollout)
    for row in (*rollout.stages, *rollout.forward, *rollout.rollback):
        kept += _values(row)
    for _, wish in wishes:
        kept += _values(wish) if wish is not None else []
    centre.step(rollout, now)
    for row, name, value in kept:
        setattr(row, name, value)
    centre.generations[:] = generations
    centre.changed_at = changed_at
    for rows, wish in wishes:
        if wish is None:
            rows.pop(model, None)
    for key in [key for key in centre.active if key[1] == model]:
        centre.active[key] = active.get(key, [])
    centre.notes.clear()
    centre.forget_answers()
