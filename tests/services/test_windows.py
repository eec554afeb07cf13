"""Windows of the fleet: kept or refused with every fault named, read at a constant cost, and met
by every site's polls."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from controlplane.domain.windows import Window, WindowKind
from controlplane.fleet.inventory import AcceleratorFacts, MachineFacts, record_machine
from controlplane.fleet.models import MaintenanceWindow, Site
from controlplane.fleet.polling import SNAPSHOT_LIFETIME, SPREAD_SECONDS, forget_windows
from controlplane.fleet.queries import (
    redundancy_peers,
    sites_closed,
    stale_limit_seconds,
    stale_limits,
    traits_by_site,
    warnings_by_window,
    window_warnings,
    windows_by_site,
)
from controlplane.fleet.services import create_window, delete_window, retire_site, update_site
from tests.factories import ACTOR, make_joined_site, make_site
from tests.fake_agent import FakeAgent
from tests.services.threads import at_once

NIGHT: Mapping[str, object] = {
    "name": "night",
    "kind": "activation",
    "selector": {"tier": "edge"},
    "days": ["mon", "tue", "wed", "thu", "fri"],
    "start": time(22, 0),
    "minutes": 480,
}
NEXT_NIGHT = datetime(2026, 11, 23, 22, 0, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    """What a process remembers of windows is of another test's rows."""
    forget_windows()
    yield
    forget_windows()


def make_window(*, now: datetime, **changes: object) -> MaintenanceWindow:
    return create_window(fields={**NIGHT, **changes}, actor=ACTOR, now=now)


class TestMakingAndDeleting:
    def test_a_window_is_kept_and_written_down(self, now: datetime) -> None:
        made = make_window(days=["fri", "mon", "mon"], timezone="Europe/Berlin", now=now)

        kept = MaintenanceWindow.objects.get()
        assert (kept.days, kept.created_by, kept.created_at) == (["mon", "fri"], ACTOR, now)
        event = Event.objects.get(action="window.created")
        assert (event.object_type, event.object_id, event.actor) == ("window", "night", ACTOR)
        assert event.data == {
            "kind": "activation",
            "selector": {"tier": "edge"},
            "days": ["mon", "fri"],
            "start": "22:00",
            "minutes": 480,
            "timezone": "Europe/Berlin",
        }
        assert made.pk == kept.pk

    @pytest.mark.parametrize(
        ("changes", "field", "words"),
        [
            ({"name": "no spaces"}, "name", "letters, numbers"),
            ({"kind": "both"}, "kind", "not a valid choice"),
            ({"selector": {"tier": "cloud"}}, "selector.tier", "must be one of hyperscale"),
            ({"selector": {"teir": "edge"}}, "selector.teir", "allowed are tier"),
            ({"selector": []}, "selector", "must be an object"),
            ({"selector": None}, "selector", "must be an object"),
            ({"days": []}, "days", "must be some of mon, tue"),
            ({"days": ["monday"]}, "days", "must be some of mon, tue"),
            ({"days": "mon"}, "days", "must be some of mon, tue"),
            ({"days": [0]}, "days", "must be some of mon, tue"),
            ({"days": [["mon"]]}, "days", "must be some of mon, tue"),
            ({"minutes": 0}, "minutes", "greater than or equal to 1"),
            ({"minutes": 10_081}, "minutes", "less than or equal to 10080"),
            ({"timezone": "Berlin"}, "timezone", "use a name such as Europe/Berlin"),
        ],
    )
    def test_what_cannot_be_is_refused_at_its_field(
        self, changes: dict[str, object], field: str, words: str, now: datetime
    ) -> None:
        with pytest.raises(InvalidInput) as caught:
            make_window(**changes, now=now)

        assert caught.value.code == "window-invalid"
        assert [fault.field for fault in caught.value.errors] == [field]
        assert words in caught.value.errors[0].message
        assert not MaintenanceWindow.objects.exists()
        assert not Event.objects.filter(action="window.created").exists()

    def test_every_fault_is_named_at_once(self, now: datetime) -> None:
        with pytest.raises(InvalidInput) as caught:
            make_window(minutes=0, days=["x"], selector={"tier": "x"}, now=now)
        assert {f.field for f in caught.value.errors} == {"minutes", "days", "selector.tier"}

    def test_a_name_can_be_taken_once(self, now: datetime) -> None:
        make_window(now=now)
        with pytest.raises(Conflict) as caught:
            make_window(minutes=60, now=now)
        assert caught.value.code == "window-exists"
        assert MaintenanceWindow.objects.get().minutes == 480

    def test_a_deleted_window_is_gone_and_remembered(self, now: datetime) -> None:
        make_window(now=now)
        delete_window(name="night", actor=ACTOR, now=now)
        assert not MaintenanceWindow.objects.exists()
        assert Event.objects.get(action="window.deleted").data["minutes"] == 480
        for name in ("night", "\0"):
            with pytest.raises(NotFound) as caught:
                delete_window(name=name, actor=ACTOR, now=now)
            assert caught.value.code == "window-unknown"

    @pytest.mark.usefixtures("transactional_db")
    def test_of_several_that_delete_it_at_once_one_is_written_down(self, now: datetime) -> None:
        make_window(now=now)
        at_once(lambda _: delete_window(name="night", actor=ACTOR, now=now), range(4))
        assert Event.objects.filter(action="window.deleted").count() == 1


class TestWhoIsUnderWhich:
    def test_a_window_holds_for_the_sites_it_selects_by_their_own_clock(
        self, now: datetime
    ) -> None:
        edge = make_site("edge", now=now)
        update_site(site=edge, fields={"timezone": "Asia/Tokyo"}, actor=ACTOR, now=now)
        make_site("hub", tier="regional", now=now)
        make_window(now=now)
        make_window(name="fixed", kind="download", timezone="Europe/Berlin", now=now)

        fixed, own = windows_by_site()[edge.pk]

        assert set(windows_by_site()) == {edge.pk}
        assert own == Window(
            kind=WindowKind.ACTIVATION,
            days=frozenset(range(5)),
            start=time(22, 0),
            minutes=480,
            timezone="Asia/Tokyo",
        )
        assert (fixed.kind, fixed.timezone) == (WindowKind.DOWNLOAD, "Europe/Berlin")

    def test_sites_can_be_asked_for_alone(self, now: datetime) -> None:
        one, two = make_site(now=now), make_site(now=now)
        make_window(now=now)
        assert set(windows_by_site([one.pk])) == {one.pk}
        assert set(windows_by_site(iter([one.pk, two.pk]))) == {one.pk, two.pk}
        assert windows_by_site([]) == {}

    def test_closed_sites_come_with_their_next_opening(self, now: datetime) -> None:
        edge, far = make_site("edge", now=now), make_site("far", now=now)
        update_site(site=far, fields={"timezone": "Asia/Tokyo"}, actor=ACTOR, now=now)
        make_site("hub", tier="regional", now=now)
        make_window(now=now)

        assert sites_closed(WindowKind.ACTIVATION, now=now) == {
            edge.pk: NEXT_NIGHT,
            far.pk: datetime(2026, 11, 23, 13, 0, tzinfo=UTC),
        }
        tokyo_night = datetime(2026, 11, 23, 13, 0, tzinfo=UTC)
        assert set(sites_closed(WindowKind.ACTIVATION, now=tokyo_night)) == {edge.pk}
        assert sites_closed(WindowKind.DOWNLOAD, now=now) == {}

    def test_a_retired_site_is_under_none(self, now: datetime) -> None:
        site = make_site(now=now)
        make_window(now=now)
        retire_site(site=site, reason="closed", actor=ACTOR, now=now)
        assert windows_by_site() == {}
        assert windows_by_site([site.pk]) == {}

    def test_costs_the_same_queries_however_many_sites_and_windows(self, now: datetime) -> None:
        def cost(read: Any) -> int:
            with CaptureQueriesContext(connection) as captured:
                read()
            return len(captured)

        def closed() -> object:
            return sites_closed(WindowKind.ACTIVATION, now=now)

        assert (cost(windows_by_site), cost(closed), cost(window_warnings)) == (1, 1, 1 + 1)
        make_site(now=now)
        make_window(now=now)
        few = [cost(windows_by_site), cost(closed), cost(window_warnings)]
        for turn in range(6):
            make_site(now=now)
            make_window(name=f"w-{turn}", now=now)
        assert [cost(windows_by_site), cost(closed), cost(window_warnings)] == few == [4, 4, 4]


class TestWarnings:
    def test_a_window_that_selects_no_site_is_kept_with_a_warning(self, now: datetime) -> None:
        make_site("hub", tier="regional", now=now)
        make_window(now=now)
        assert window_warnings() == ["Window night selects no site at present."]

    def test_a_window_shorter_than_the_polls_of_its_sites_names_one(
        self, settings: Any, now: datetime
    ) -> None:
        settings.WAYPOST_POLL_SECONDS = 15
        make_site("a", now=now)
        for name, poll in (("b", 1200), ("c", 3600)):
            site = make_site(name, now=now)
            update_site(site=site, fields={"poll_seconds": poll}, actor=ACTOR, now=now)
        make_window(now=now)
        make_window(name="short", minutes=15, now=now)
        make_window(name="fitting", minutes=60, now=now)

        (sentence,) = window_warnings()

        assert sentence.startswith("Window short is open for 15 min, less than b and 1 more may")
        assert "(3600 s)" in sentence
        assert warnings_by_window() == {"short": [sentence]}


class TestPolls:
    def polls(self, agent: FakeAgent, now: datetime) -> float:
        return agent.caller(now=now).poll_seconds

    def site(self, now: datetime, **fields: object) -> FakeAgent:
        agent = make_joined_site(now=now)
        update_site(site=agent.site, fields=fields, actor=ACTOR, now=now)
        agent.open_session(now=now)
        return agent

    def test_a_site_asks_at_its_own_pace_else_at_the_fleets(
        self, settings: Any, now: datetime
    ) -> None:
        settings.WAYPOST_POLL_SECONDS = 20
        assert self.polls(self.site(now), now) == 20
        assert self.polls(self.site(now, poll_seconds=3600), now) == 3600

    def test_before_an_opening_it_comes_just_after_it(self, now: datetime) -> None:
        before = NEXT_NIGHT - timedelta(minutes=30)
        agents = [self.site(before, poll_seconds=3600) for _ in range(6)]
        make_window(now=now)

        waits = [self.polls(agent, before) for agent in agents]

        assert all(1800 <= wait <= 1800 + SPREAD_SECONDS for wait in waits)
        assert len(set(waits)) == len(waits)  # spread out
        assert waits == [self.polls(agent, before) for agent in agents]  # and always the same

    def test_inside_a_window_it_asks_several_times(self, now: datetime) -> None:
        slow = self.site(now, poll_seconds=86_400)
        make_window(start=time(11, 0), minutes=90, now=now)
        assert self.polls(slow, now) == 1800

    def test_windows_cost_a_poll_no_query_but_every_half_minute(self, now: datetime) -> None:
        agent = self.site(now)

        def cost(at: datetime) -> int:
            with CaptureQueriesContext(connection) as captured:
                agent.caller(now=at)
            return len(captured)

        assert cost(now) == 1
        make_window(now=now)
        assert cost(now) == 1 + 4
        assert cost(now + SNAPSHOT_LIFETIME - timedelta(seconds=1)) == 1
        assert cost(now + SNAPSHOT_LIFETIME) == 1 + 4
        delete_window(name="night", actor=ACTOR, now=now)
        assert cost(now + SNAPSHOT_LIFETIME) == 1

    def test_a_change_of_sites_shows_after_half_a_minute(self, now: datetime) -> None:
        slow = self.site(now, poll_seconds=86_400)
        make_window(start=time(11, 0), minutes=90, selector={"labels": {"ring": "0"}}, now=now)
        assert self.polls(slow, now) == 86_400
        update_site(site=slow.site, fields={"labels": {"ring": "0"}}, actor=ACTOR, now=now)
        assert self.polls(slow, now) == 86_400
        assert self.polls(slow, now + SNAPSHOT_LIFETIME) == 1800


class TestWhatIsKnownOfSites:
    def test_traits_hold_the_names_of_the_accelerators(self, now: datetime) -> None:
        bare, rich = make_site("bare", labels={"ring": "0"}, now=now), make_joined_site(now=now)
        cards = [("u1", "L4"), ("u2", "H100"), ("u3", "L4")]
        machine = MachineFacts(
            hostname="h", accelerators=tuple(AcceleratorFacts(uuid=u, name=n) for u, n in cards)
        )
        record_machine(caller=rich.caller(now=now), machine=machine, now=now)
        gone = make_site(now=now)
        retire_site(site=gone, reason="closed", actor=ACTOR, now=now)

        with CaptureQueriesContext(connection) as captured:
            traits = traits_by_site()

        assert len(captured) == 2
        assert set(traits) == {bare.pk, rich.site.pk}
        assert (traits[bare.pk].hardware, traits[bare.pk].labels) == ("none", {"ring": "0"})
        assert traits[rich.site.pk].hardware == "H100 + L4"
        assert traits_by_site([rich.site.pk]) == {rich.site.pk: traits[rich.site.pk]}

    def test_peers_are_the_others_of_the_group(self, now: datetime) -> None:
        def member(group: str) -> Site:
            site = make_site(now=now)
            return update_site(site=site, fields={"redundancy_group": group}, actor=ACTOR, now=now)

        a, b, other, alone, _ = (member(g) for g in ("oslo", "oslo", "rome", "", ""))
        retire_site(site=member("oslo"), reason="closed", actor=ACTOR, now=now)

        assert redundancy_peers(a) == [b.pk]
        assert (redundancy_peers(other), redundancy_peers(alone)) == ([], [])

    def test_a_site_that_asks_seldom_may_be_silent_longer(
        self, settings: Any, now: datetime
    ) -> None:
        settings.WAYPOST_STALE_SECONDS = 50
        plain, often, seldom = (make_site(now=now) for _ in range(3))
        for site, poll in ((often, 5), (seldom, 600)):
            update_site(site=site, fields={"poll_seconds": poll}, actor=ACTOR, now=now)

        assert [stale_limit_seconds(site) for site in (plain, often, seldom)] == [50, 50, 1805]
        assert stale_limits() == {seldom.pk: 1805}
