"""Strategies that people keep: a new version for every change, and none is ever edited."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from controlplane.domain.strategies import BUILT_IN
from controlplane.rollouts.models import Strategy
from controlplane.rollouts.strategies import (
    create_strategy,
    find_strategy,
    retire_strategy,
    strategies,
)
from tests.factories import ACTOR

DOCUMENT: dict[str, Any] = {
    "name": "night-shift",
    "title": "Regional first",
    "stages": [{"name": "regional", "select": {"tier": "regional"}}, {"name": "rest"}],
    "late_joiners": True,
}


def kept(now: datetime, **changes: object) -> Strategy:
    return create_strategy(document=DOCUMENT | changes, actor=ACTOR, now=now)


def retired(name: str, *, now: datetime) -> None:
    retire_strategy(name=name, reason="too slow", actor=ACTOR, now=now)


def test_a_strategy_is_kept_and_found(now: datetime) -> None:
    row = kept(now)
    spec = find_strategy("night-shift")

    assert (row.name, row.version, row.title) == ("night-shift", 1, "Regional first")
    assert (spec.version, spec.retired, spec.built_in) == (1, False, False)
    assert [stage.name for stage in spec.all_stages] == ["regional", "rest", "stragglers"]
    assert spec.document() == row.document


def test_a_change_is_the_next_version_and_the_old_one_stays_as_it_was(now: datetime) -> None:
    first = kept(now)
    second = kept(now, title="Regional, with care", version=2)

    assert (first.version, second.version) == (1, 2)
    assert find_strategy("night-shift").title == "Regional, with care"
    assert find_strategy("night-shift", 1).title == "Regional first"


@pytest.mark.parametrize("version", [1, 3])
def test_a_version_that_is_not_the_next_is_refused(now: datetime, version: int) -> None:
    kept(now)
    with pytest.raises(Conflict) as caught:
        kept(now, version=version)

    assert caught.value.code == "strategy-changed"
    assert caught.value.extra == {"latest_version": 1}
    assert Strategy.objects.count() == 1


def test_a_bad_document_is_refused_and_nothing_is_kept(now: datetime) -> None:
    with pytest.raises(InvalidInput) as caught:
        kept(now, stages=[])

    assert caught.value.code == "strategy-invalid"
    assert not Strategy.objects.exists()
    assert not Event.objects.filter(object_type="strategy").exists()


@pytest.mark.parametrize("name", [spec.name for spec in BUILT_IN])
def test_the_name_of_a_built_in_one_is_taken(now: datetime, name: str) -> None:
    with pytest.raises(Conflict) as created:
        kept(now, name=name)
    with pytest.raises(Conflict) as ended:
        retired(name, now=now)

    assert created.value.code == ended.value.code == "strategy-builtin"


def test_the_list_has_the_built_in_ones_and_the_latest_of_each_kept_one(now: datetime) -> None:
    kept(now)
    kept(now, title="newer")
    kept(now, name="alone")
    kept(now, name="old")
    retired("old", now=now)

    listed = strategies()

    assert listed[: len(BUILT_IN)] == list(BUILT_IN)
    assert [(spec.name, spec.version) for spec in listed[len(BUILT_IN) :]] == [
        ("alone", 1),
        ("night-shift", 2),
    ]


def test_a_built_in_one_is_found_by_its_name_and_version(now: datetime) -> None:
    assert find_strategy("canary") == find_strategy("canary", 1) == BUILT_IN[0]
    with pytest.raises(NotFound):
        find_strategy("canary", 2)


@pytest.mark.parametrize("name", ["nope", "", "a\0b", "x" * 5000])
def test_an_unknown_one_is_not_found(now: datetime, name: str) -> None:
    with pytest.raises(NotFound) as caught:
        find_strategy(name)
    assert caught.value.code == "strategy-unknown"


def test_a_retired_one_can_be_looked_at_but_is_no_longer_offered(now: datetime) -> None:
    kept(now)
    retired("night-shift", now=now + timedelta(hours=1))

    assert find_strategy("night-shift", 1).retired
    with pytest.raises(NotFound):
        find_strategy("night-shift")
    with pytest.raises(NotFound):
        retired("night-shift", now=now)


def test_a_new_version_brings_a_retired_name_back(now: datetime) -> None:
    kept(now)
    retired("night-shift", now=now)
    kept(now, title="again")

    assert (find_strategy("night-shift").version, find_strategy("night-shift").retired) == (
        2,
        False,
    )
    assert find_strategy("night-shift", 1).retired


def test_who_kept_and_who_retired_a_strategy_stands_in_the_log(now: datetime) -> None:
    kept(now)
    retired("night-shift", now=now)
    events = Event.objects.filter(object_type="strategy", object_id="night-shift").order_by("pk")

    assert [(e.action, e.actor, e.reason, e.data) for e in events] == [
        ("strategy.created", ACTOR, "", {"version": 1}),
        ("strategy.retired", ACTOR, "too slow", {"version": 1}),
    ]
