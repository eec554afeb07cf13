"""Queries put into SQL once: each time they are asked what is given then counts, as the ORM's own
would, and nothing of an earlier time is left in them."""

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest
from django.db import DEFAULT_DB_ALIAS, connection, transaction
from django.db.models import BooleanField, CharField, DateTimeField, ExpressionWrapper, Q, QuerySet
from django.test.utils import CaptureQueriesContext

from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Site
from controlplane.rollouts.freezes import fleet_budget
from controlplane.rollouts.leases import request_lease
from controlplane.rollouts.prepared import Slot, columns, prepared
from controlplane.rollouts.services import advance_rollout, lock_rollout
from tests.factories import make_joined_site, make_rollout, make_version

pytestmark = pytest.mark.usefixtures("db")
written: list[str] = []


@prepared
def young(order: str) -> QuerySet[Site, Any]:
    written.append(order)
    late = ExpressionWrapper(
        Q(created_at__gt=Slot("after", DateTimeField())), output_field=BooleanField()
    )
    rows = Site.objects.filter(tier=Slot("tier", CharField())).annotate(late=late).order_by(order)
    return rows.values_list("name", "labels", "created_at", "late")


@prepared
def every_column() -> QuerySet[Site, Any]:
    return Site.objects.filter(name=Slot("name", CharField())).values_list(*columns(Site))


@prepared
def locked() -> QuerySet[Site, Any]:
    return Site.objects.select_for_update().order_by("pk").values_list("pk")


@pytest.fixture
def sites(now: datetime) -> None:
    for number, name in enumerate(("a", "b")):
        at = now + timedelta(hours=number)
        Site.objects.create(name=name, tier="edge", labels={"n": name}, created_at=at)
    Site.objects.create(name="c", tier="regional", created_at=now)


def test_what_is_given_counts_each_time_and_comes_back_as_python_has_it(
    sites: None, now: datetime
) -> None:
    hour = timedelta(hours=1)

    assert young("name", tier="edge", after=now) == [
        ("a", {"n": "a"}, now, False),
        ("b", {"n": "b"}, now + hour, True),
    ]
    assert young("name", tier="edge", after=now + hour)[1] == ("b", {"n": "b"}, now + hour, False)
    assert young("name", tier="regional", after=now - hour) == [("c", {}, now, True)]


def test_is_written_once_for_each_shape(sites: None, now: datetime) -> None:
    for _ in range(2):
        young("-name", tier="edge", after=now)
    rows = young("-created_at", tier="edge", after=now)

    assert (written.count("-name"), written.count("-created_at")) == (1, 1)
    assert [name for name, *_ in rows] == ["b", "a"]


def test_an_instance_made_of_its_columns_is_the_one_that_the_orm_makes(sites: None) -> None:
    (values,) = every_column(name="b")

    made = Site.from_db(DEFAULT_DB_ALIAS, columns(Site), values)

    assert vars(made) | {"_state": None} == vars(Site.objects.get(name="b")) | {"_state": None}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="SQLite has no row locks")
@pytest.mark.django_db(transaction=True)
def test_rows_are_locked_inside_a_transaction_only_also_the_second_time(sites: None) -> None:
    with transaction.atomic():
        assert len(locked()) == 3
    with pytest.raises(transaction.TransactionManagementError, match="inside a transaction"):
        locked()


def test_a_quarantine_and_a_reason_are_read_anew_at_every_lock(now: datetime) -> None:
    rollout = make_rollout(agents=[make_joined_site("edge-1", now=now)], now=now)
    for state in ("quarantined", "approved"):
        type(rollout.version).objects.update(state=state)
        with transaction.atomic():
            seen = lock_rollout(rollout.pk, wait=True)
        assert seen is not None
        assert (seen.version.state, seen.model.name) == (state, rollout.model.name)


def test_what_a_turn_and_a_lease_ask_does_not_grow_with_the_sites(now: datetime) -> None:
    fleet_budget()  # is made by the first who asks for it
    asked: list[tuple[int, int]] = []
    for count in (2, 6):
        agents = [make_joined_site(f"of-{count}-{n}", now=now) for n in range(count)]
        version = make_version(f"of-{count}", now=now)
        rollout = make_rollout(RolloutState.RUNNING, version=version, agents=agents, now=now)
        for agent in agents:
            agent.report(version.model.name, "staged", now=now)
        turn = partial(advance_rollout, rollout_id=rollout.pk, now=now)
        turn()
        question = agents[0].question(version.model.name, now=now)
        ask = partial(request_lease, caller=agents[0].caller(now=now), question=question, now=now)
        asked.append((statements(turn), statements(ask)))

    # A turn: the lock, the version, the stages, how many are where, and who is on the way.
    assert asked == [(5, 17)] * 2


def statements(work: Callable[[], object]) -> int:
    with CaptureQueriesContext(connection) as queries:
        work()
    return sum(each["sql"].startswith(("SELECT", "UPDATE", "INSERT")) for each in queries)
