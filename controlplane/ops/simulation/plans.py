"""The rollouts that people of a simulated history ask for: stages and policies, by chance.

Knows sites by their number only; changes nothing."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from controlplane.domain.policy import Amount, OnFailure, OnSilent, StagePolicy
from controlplane.ops.simulation.centre import PlannedStage

_MINUTE = 60.0
_HOUR = 3600.0
# Below that, stages are few: what stands when faults stop must be over within the quiet time.
_LONG_QUIET_SECONDS = 2 * _HOUR
# So many sites at once whatever the share, that a stage of a few takes no longer than a large one.
_FEW = 8


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A plan and how it goes. `welcomes`: who joins late fits one of its stages."""

    stages: Sequence[PlannedStage]
    barrier: bool
    welcomes: bool
    approval_required: bool


def make_plan(
    rng: Random, tiers: Sequence[Sequence[int]], *, quiet_seconds: float, longest_soak: float
) -> Asked:
    """Some of each tier, in two to four stages, tier after tier; seldom an empty one."""
    sites: list[int] = []
    for tier in tiers:
        sites += rng.sample(tier, math.ceil(len(tier) * rng.uniform(0.5, 1)))
    most = 3 if quiet_seconds > _LONG_QUIET_SECONDS else 1
    cuts = sorted(rng.randint(1, len(sites)) for _ in range(rng.randint(1, most)))
    has_trailing = rng.random() < 0.4
    stages = [
        PlannedStage(
            sites=sites[a:b],
            soak_seconds=rng.choice((0.0, rng.uniform(30.0, longest_soak))),
            policy=make_policy(rng, b - a, may_defer=has_trailing),
        )
        for a, b in itertools.pairwise([0, *cuts, len(sites)])
    ]
    if has_trailing:
        stages.append(PlannedStage(sites=(), policy=make_policy(rng, 1), trailing=True))
    return Asked(
        stages=stages,
        barrier=rng.random() < 0.25,
        welcomes=has_trailing and rng.random() < 0.8,
        approval_required=rng.random() < 0.15,
    )


def make_policy(rng: Random, sites: int, *, may_defer: bool = False) -> StagePolicy:
    """What a stage of so many sites bears."""
    few: tuple[Amount, ...] = (1, 2) if sites <= _FEW else ()
    deadline, on_silent = None, OnSilent.WAIT
    if rng.random() < 0.5:
        deadline = rng.uniform(10 * _MINUTE, 40 * _MINUTE)
        on_silent = rng.choice(tuple(OnSilent) if may_defer else (OnSilent.WAIT, OnSilent.COUNT))
    return StagePolicy(
        max_concurrent=rng.choice((None, None, "50%", "34%", *few)),
        max_unavailable=rng.choice(("25%", "25%", "34%", "50%", "100%", *few, *few)),
        failures_tolerated=rng.choice((0, 0, 0, 1, "10%", "20%")),
        stale_tolerated=rng.choice(("10%", "10%", "0%", "20%")),
        on_failure=OnFailure.ROLLBACK if rng.random() < 0.65 else OnFailure.PAUSE,
        progress_deadline_seconds=deadline,
        on_silent=on_silent,
        retries=rng.choice((0, 0, 1, 2)),
        retry_after_seconds=rng.choice((30.0, 300.0)),
        approval=rng.random() < 0.12,
        gates=("latency",) if rng.random() < 0.2 else (),
        inconclusive_seconds=rng.choice((1200.0, 3600.0)),
    )
