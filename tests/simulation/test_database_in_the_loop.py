"""The same agents, network, people and judge, with the real services and their rows as the centre:
what they promise is judged by what the simulated sites serve."""

from collections.abc import Iterator

import pytest
from django.test import override_settings

from controlplane.ops.simulation.invariants import Invariant
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.summary import Outcome
from controlplane.ops.simulation.world import Parts, simulate
from controlplane.rollouts.evidence import PATIENCE
from tests.simulation.database import DatabaseCentre
from tests.simulation.database_engine import DatabaseEngine
from tests.simulation.planted_decisions import asks_nobody
from tests.simulation.planted_parts import AsksNobody

POLL_SECONDS = 300.0


def history(seed: int, *, models: int = 1, parts: Parts | None = None) -> Outcome:
    options = Options(
        sites=12,
        hours=6,
        seed=seed,
        poll_seconds=POLL_SECONDS,
        tick_seconds=60,
        patience=PATIENCE,
        models=models,
    )
    return simulate(options, parts or Parts(centre=DatabaseCentre, engine=DatabaseEngine))


@pytest.fixture(autouse=True)
def _seldom() -> Iterator[None]:
    stale = 3 * POLL_SECONDS + 5
    with override_settings(WAYPOST_POLL_SECONDS=POLL_SECONDS, WAYPOST_STALE_SECONDS=stale):
        yield


@pytest.mark.django_db
@pytest.mark.parametrize(("seed", "models"), [(1, 2), (3, 1), (4, 1)])
def test_the_services_keep_every_promise(seed: int, models: int) -> None:
    outcome = history(seed, models=models)
    assert outcome.broken is None, outcome.failure()
    print(outcome.progress())
    for mishap in ("workers killed", "ticks doubled", "rings lost"):
        assert outcome.faults[mishap], outcome.faults
    assert outcome.checked[Invariant.LEASES]
    assert sum(outcome.rollouts.values())


@pytest.mark.django_db
def test_an_agent_that_asks_nobody_is_found_here_too() -> None:
    spoilt = Parts(
        centre=DatabaseCentre,
        engine=DatabaseEngine,
        agent_decide=asks_nobody,
        agent=AsksNobody,
    )
    assert history(3, parts=spoilt).broken is Invariant.UNAVAILABLE
