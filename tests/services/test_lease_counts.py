"""How many sites a lease question counts as unavailable, and what counting them takes."""

from datetime import datetime

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from tests.factories import make_joined_site, make_version
from tests.services.steps import one_stage, running, serving

pytestmark = pytest.mark.django_db


def test_a_site_that_switches_and_is_not_well_takes_one_place(now: datetime) -> None:
    agents = [make_joined_site(f"s-{n}", now=now) for n in range(4)]
    serving(agents, now=now)
    running(make_version(now=now), one_stage(max_unavailable=2), now=now)
    agents[0].begin("vad", now=now)
    agents[0].report("vad", "verifying", now=now, healthy=False)

    assert agents[1].ask_lease("vad", now=now).granted
    answer = agents[2].ask_lease("vad", now=now)

    assert answer.reason == "at most 2 of 4 may be unavailable in stage all, 2 are: s-0, s-1"


def test_three_are_named_in_order_and_all_are_counted(now: datetime) -> None:
    agents = [make_joined_site(f"s-{n}", now=now) for n in range(6)]
    serving(agents, now=now)
    running(make_version(now=now), one_stage(max_unavailable=4), now=now)
    for number in (4, 1, 3):
        agents[number].begin("vad", now=now)
    agents[2].report("vad", "staged", now=now, healthy=False)

    answer = agents[5].ask_lease("vad", now=now)

    assert answer.reason == ("at most 4 of 6 may be unavailable in stage all, 4 are: s-1, s-2, s-3")


def test_asking_takes_as_many_queries_with_few_sites_as_with_many(now: datetime) -> None:
    counts, agents = [], []
    for model, more in (("vad", 4), ("ocr", 8)):
        agents += [make_joined_site(now=now) for _ in range(more)]
        serving(agents, model=model, now=now)
        running(make_version(model, now=now), one_stage(max_unavailable=1), now=now)
        agents[0].begin(model, now=now)
        with CaptureQueriesContext(connection) as captured:
            assert not agents[1].ask_lease(model, now=now).granted
        counts.append(len(captured))
        agents[0].report(model, "succeeded", now=now)

    assert counts[0] == counts[1]
