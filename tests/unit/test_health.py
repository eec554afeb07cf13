"""A site is healthy only on fresh evidence."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from controlplane.domain.health import SiteFacts, SiteHealth, site_health
from tests.unit.views import FRESH_WITHIN, NOW

WELL = SiteFacts(joined=True, last_seen_at=NOW, triton_live=True, models_wrong=0, models_moving=0)


@pytest.mark.parametrize(
    ("facts", "health", "words"),
    [
        pytest.param(WELL, SiteHealth.HEALTHY, "fresh", id="all as wished is healthy"),
        pytest.param(
            replace(WELL, joined=False, last_seen_at=None),
            SiteHealth.NEW,
            "no agent",
            id="a site nobody joined is new",
        ),
        pytest.param(
            replace(WELL, last_seen_at=None),
            SiteHealth.STALE,
            "never reported",
            id="a joined site that never spoke is stale",
        ),
        pytest.param(
            replace(WELL, last_seen_at=NOW - timedelta(seconds=51)),
            SiteHealth.STALE,
            "silent for 51 s (limit 50 s)",
            id="a silent site is stale and says for how long",
        ),
        pytest.param(
            replace(WELL, last_seen_at=NOW - FRESH_WITHIN),
            SiteHealth.HEALTHY,
            "fresh",
            id="a report as old as the limit still counts",
        ),
        pytest.param(
            replace(WELL, last_seen_at=NOW + timedelta(hours=1)),
            SiteHealth.HEALTHY,
            "fresh",
            id="a report from another host's faster clock counts as fresh",
        ),
        pytest.param(
            replace(WELL, last_seen_at=NOW - timedelta(days=1), triton_live=False, models_wrong=1),
            SiteHealth.STALE,
            "silent",
            id="old evidence of a fault is stale, not degraded",
        ),
        pytest.param(
            replace(WELL, triton_live=False),
            SiteHealth.DEGRADED,
            "Triton",
            id="a dead Triton degrades",
        ),
        pytest.param(
            replace(WELL, triton_live=None),
            SiteHealth.HEALTHY,
            "fresh",
            id="an unknown Triton alone is no fault",
        ),
        pytest.param(
            replace(WELL, models_wrong=1, models_moving=1),
            SiteHealth.DEGRADED,
            "1 model is not",
            id="a wrong model outweighs a moving one",
        ),
        pytest.param(
            replace(WELL, models_wrong=2),
            SiteHealth.DEGRADED,
            "2 models are not",
            id="several wrong models are counted",
        ),
        pytest.param(
            replace(WELL, models_moving=2),
            SiteHealth.UPDATING,
            "2 models are being switched",
            id="moving models are an update",
        ),
    ],
)
def test_health_of_a_site(facts: SiteFacts, health: SiteHealth, words: str) -> None:
    verdict = site_health(facts, NOW, FRESH_WITHIN)

    assert verdict.health is health
    assert words in verdict.reason


def test_silence_never_becomes_health_as_time_goes_by() -> None:
    later: list[datetime] = [NOW + FRESH_WITHIN + timedelta(seconds=2**n) for n in range(25)]

    assert {site_health(WELL, at, FRESH_WITHIN).health for at in later} == {SiteHealth.STALE}
