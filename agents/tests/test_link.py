"""The conversation with the centre over real HTTP, step by step on a clock of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_centre import AGENT, SITE, TOKEN, FakeCentre, Handler
from fake_triton import FakeClock
from versions import MODEL, make_version
from waypost_agent.board import Board, TritonStatus
from waypost_agent.centre import Centre
from waypost_agent.config import Timeouts
from waypost_agent.deliveries import Deliveries
from waypost_agent.identity import Identity, Membership
from waypost_agent.link import Link
from waypost_agent.measurement_queue import MeasurementQueue
from waypost_agent.protocol import Desired, ModelReport


class Talk:
    """A link that joined, its board and its clock; `uniform` gives the highest it may."""

    def __init__(self, centre: FakeCentre, folder: Path) -> None:
        self.fake = centre
        self.clock = FakeClock()
        self.board = Board(http_urls={"": "http://127.0.0.1:8000"})
        self.identity = Identity(folder)
        self.centre = Centre(
            centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=2.0
        )
        enrolled = self.centre.post(
            "enrol",
            {
                "token": TOKEN,
                "public_key": self.identity.public_key(),
                "agent_version": "0",
                "hostname": "h",
            },
        )
        assert enrolled.body["agent"] == AGENT
        self.waiting = MeasurementQueue(folder / "measurements", self.clock)
        self.inventory: dict[str, Any] = {"hostname": "h", "disk_free_bytes": 1}
        self.link = self.new_link()

    def new_link(self) -> Link:
        return Link(
            self.centre,
            self.identity,
            Membership(
                centre_url=self.fake.url,
                agent=AGENT,
                site=SITE,
                poll_seconds=10.0,
                token_sha256="0",
            ),
            self.board,
            inventory=lambda: self.inventory,
            clock=self.clock,
            uniform=lambda low, high: high,
            timeouts=Timeouts(),
            deliveries=Deliveries(self.waiting, self.clock, lambda low, high: high),
        )

    def measure(self, *numbers: int) -> None:
        for seq in numbers:
            self.waiting.put(
                {"boot_id": "boot-1", "seq": seq, "to_uptime": self.clock.boottime(), "models": []}
            )

    def step(self) -> float:
        """One step; then time passes until the next is due."""
        seconds = self.link.step()
        self.clock.now += seconds
        return seconds

    def paths(self) -> list[str]:
        return [path for _, path, _ in self.fake.requests]

    def held(self) -> Desired:
        held = self.board.desired()
        assert held is not None
        return held

    def show(
        self,
        phase: str,
        generation: int = 1,
        reason: str = "because",
        lease: int | None = None,
    ) -> None:
        report = ModelReport(
            model=MODEL,
            generation=generation,
            deployment=1,
            target="1",
            phase=phase,
            serving="1",
            healthy=True,
            reason_code="ok",
            reason=reason,
            lease=lease,
        )
        self.board.seat().show(
            observed=(1, generation),
            triton=TritonStatus(live=True, version="2.51.0"),
            models=(report,),
        )


@pytest.fixture
def talk(centre: FakeCentre, tmp_path: Path) -> Iterator[Talk]:
    centre.poll_seconds = 10.0
    talk = Talk(centre, tmp_path)
    yield talk
    talk.centre.close()


def answering(*answers: tuple[int, dict[str, Any], dict[str, str]]) -> Any:
    """Sabotage that gives these answers, the last one for ever."""
    left = list(answers)

    def answer(handler: Handler) -> bool:
        status, body, headers = left.pop(0) if len(left) > 1 else left[0]
        handler.send_json(status, body, headers)
        return True

    return answer


def test_a_first_step_logs_in_polls_and_reports(talk: Talk) -> None:
    talk.fake.publish(make_version("1"))
    talk.step()
    assert talk.paths()[1:] == ["challenge", "session", "desired", "report"]
    assert talk.held().pair == (1, 1)
    (report,) = talk.fake.reports
    assert report["seq"] == 1
    assert report["inventory"] == talk.inventory
    (_, _, headers) = talk.fake.requests[-1]
    assert headers["Waypost-Protocol"] == "1"
    assert headers["User-Agent"].startswith("waypost-agent/")


def test_a_report_says_when_it_was_made_by_the_machines_own_clock(talk: Talk) -> None:
    generation = talk.fake.publish(make_version("1"))
    before = talk.clock.boottime()
    talk.step()
    talk.show("staged", generation)
    talk.link.step()
    made = [report["made"] for report in talk.fake.reports]
    assert {moment["boot_id"] for moment in made} == {"boot-1"}
    first, second = (moment["uptime_seconds"] for moment in made)
    assert before <= first <= second <= talk.clock.boottime()


def test_an_unchanged_state_costs_a_304(talk: Talk) -> None:
    talk.fake.publish(make_version("1"))
    talk.step()
    held = talk.held()
    talk.step()
    (_, _, headers) = [r for r in talk.fake.requests if r[1] == "desired"][-1]
    assert headers["If-None-Match"] == '"1.1"'
    assert talk.held() is held


def test_the_interval_is_the_centres_with_jitter(talk: Talk) -> None:
    assert talk.step() == pytest.approx(12.0)  # 10 s and the jitter at its most
    talk.fake.poll_seconds = 100.0
    talk.step()
    assert talk.step() == pytest.approx(120.0)


def test_reports_count_up_within_a_session_and_name_the_generation(talk: Talk) -> None:
    generation = talk.fake.publish(make_version("1"))
    talk.step()
    for phase in ("downloading", "proving", "succeeded"):
        talk.show(phase, generation)
        talk.link.step()
    assert [report["seq"] for report in talk.fake.reports] == [1, 2, 3, 4]
    last = talk.fake.reports[-1]
    assert (last["epoch"], last["observed_generation"]) == (1, 1)
    assert last["models"][0]["phase"] == "succeeded"
    assert "inventory" not in last


def test_nothing_new_is_not_reported_before_the_time(talk: Talk) -> None:
    talk.step()
    talk.clock.now -= 5.0
    count = len(talk.fake.reports)
    talk.link.step()
    assert len(talk.fake.reports) == count


def settled(talk: Talk, phase: str = "succeeded") -> None:
    """The centre took a report of this, and holds such ones."""
    talk.fake.holds = True
    generation = talk.fake.publish(make_version("1"))
    talk.step()
    talk.show(phase, generation)
    talk.step()


def spoken(talk: Talk, seconds: float) -> tuple[int, int]:
    """How many polls and reports that time brings."""
    until, polls, reports = talk.clock.now + seconds, talk.paths().count("desired"), 0
    reports = len(talk.fake.reports)
    while talk.clock.now < until:
        talk.step()
    return talk.paths().count("desired") - polls, len(talk.fake.reports) - reports


def test_the_polls_of_a_site_in_peace_stand_for_its_reports(talk: Talk) -> None:
    settled(talk)
    polls, reports = spoken(talk, 250.0)
    assert polls >= 20
    assert reports == 0
    (_, _, headers) = talk.fake.requests[-1]
    assert headers["Waypost-Holds"] == str(talk.fake.reports[-1]["seq"])


def test_a_whole_report_comes_every_quarter_of_an_hour_all_the_same(talk: Talk) -> None:
    settled(talk)
    talk.inventory = {**talk.inventory, "disk_free_bytes": 2}  # no news by itself
    _, reports = spoken(talk, 1850.0)
    assert reports == 2
    assert all(report["inventory"] == talk.inventory for report in talk.fake.reports[-2:])


def test_an_inventory_that_changed_is_told_within_minutes_and_once(talk: Talk) -> None:
    settled(talk)
    talk.inventory = {**talk.inventory, "accelerators": []}
    assert spoken(talk, 330.0)[1] == 1
    assert talk.fake.reports[-1]["inventory"] == talk.inventory
    assert spoken(talk, 330.0)[1] == 0


def test_what_triton_is_comes_with_the_report_that_says_that_it_lives(talk: Talk) -> None:
    """The first look may come later than the first report."""
    talk.step()
    assert "inventory" in talk.fake.reports[-1]
    talk.inventory = {**talk.inventory, "servers": [{"name": "", "live": True}]}
    talk.show("succeeded", talk.fake.publish(make_version("1")))
    talk.link.step()
    assert talk.fake.reports[-1]["inventory"] == talk.inventory


def test_reports_are_packed_once_the_centre_took_something_packed(talk: Talk) -> None:
    def report_headers() -> Any:
        return [headers for _, path, headers in talk.fake.requests if path == "report"][-1]

    generation = talk.fake.publish(make_version("1"))
    talk.step()
    assert "Content-Encoding" not in report_headers()
    talk.measure(1)
    talk.step()
    talk.show("failed", generation)
    talk.link.step()
    assert report_headers()["Content-Encoding"] == "gzip"
    assert talk.fake.reports[-1]["models"][0]["phase"] == "failed"
    talk.fake.session = "wps_another"  # perhaps that of a centre that was set back
    talk.show("succeeded", generation)
    talk.link.step()
    assert "Content-Encoding" not in report_headers()


def test_a_poll_has_no_header_that_says_nothing(talk: Talk) -> None:
    """Four an hour for each byte: they are most of what an agent at peace sends."""
    settled(talk)
    spoken(talk, 30.0)
    (_, _, headers) = [request for request in talk.fake.requests if request[1] == "desired"][-1]
    assert {name.lower() for name in headers} == {
        *("host", "user-agent", "waypost-protocol", "authorization"),
        *("if-none-match", "waypost-holds"),
    }


def test_what_changes_is_reported_at_once_and_held_from_then_on(talk: Talk) -> None:
    settled(talk)
    talk.show("failed", talk.fake.generation)
    talk.link.step()
    assert talk.fake.reports[-1]["models"][0]["phase"] == "failed"
    assert spoken(talk, 100.0)[1] == 0


def test_what_is_under_way_is_told_at_each_interval(talk: Talk) -> None:
    settled(talk, "staged")
    polls, reports = spoken(talk, 120.0)
    assert reports == polls


def test_a_centre_that_does_not_hold_a_report_is_told_it_anew(talk: Talk) -> None:
    settled(talk)
    talk.fake.holds = False  # an older one, or one that lost its rows
    polls, reports = spoken(talk, 120.0)
    assert reports >= polls - 1
    talk.fake.holds = True
    talk.fake.session = "wps_another"
    spoken(talk, 30.0)
    assert talk.fake.reports[-1]["seq"] == 1  # a new session begins with a report of its own


def test_a_session_the_centre_forgot_is_made_anew_and_the_call_repeated(talk: Talk) -> None:
    talk.step()
    talk.fake.session = "wps_another"
    talk.step()
    assert len(talk.fake.sessions) == 2
    assert talk.fake.reports[-1]["session"] == talk.fake.sessions[-1]
    assert talk.fake.reports[-1]["seq"] == 1
    assert talk.fake.counter == 2


def test_a_session_is_renewed_before_its_end(talk: Talk) -> None:
    talk.step()
    talk.clock.now += 0.81 * 3600
    talk.link.step()
    assert len(talk.fake.sessions) == 2


def test_a_download_that_was_refused_makes_a_new_session(talk: Talk) -> None:
    talk.step()
    token = talk.board.token()
    assert token is not None
    talk.board.reject_token(token)
    talk.link.step()
    assert talk.board.token() == talk.fake.sessions[-1] != token


def test_a_counter_is_never_used_twice_even_when_the_answer_is_lost(talk: Talk) -> None:
    talk.fake.sabotage["session"] = answering((500, {}, {}))
    talk.step()
    del talk.fake.sabotage["session"]
    talk.step()
    assert talk.fake.counter == 2


def test_retry_after_is_obeyed(talk: Talk) -> None:
    talk.fake.sabotage["desired"] = answering((503, {}, {"Retry-After": "40"}))
    assert talk.link.step() >= 40.0
    asked = len(talk.fake.requests)
    talk.clock.now += 39.0
    talk.link.step()
    assert len(talk.fake.requests) == asked
    talk.clock.now += 10.0
    talk.link.step()
    assert len(talk.fake.requests) > asked


def test_silence_changes_nothing_and_is_asked_less_and_less(talk: Talk) -> None:
    talk.fake.publish(make_version("1"))
    talk.step()
    held = talk.held()
    talk.fake.close()
    talk.centre.close()  # an open connection would still be answered
    pauses = [talk.step() for _ in range(12)]
    assert pauses == sorted(pauses)
    assert pauses[0] <= 2.0
    assert pauses[-1] == pytest.approx(120.0)
    assert talk.held() is held


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b"<html>log in to the hotel's network</html>"),
        (302, b""),
        (403, b"<html>proxy</html>"),
        (500, b"{}"),
        (200, b"[1, 2]"),
        (200, b'{"epoch": 1, "generation": 99, "site": "edge-1"}'),
    ],
    ids=str,
)
def test_an_answer_that_is_no_answer_changes_nothing(talk: Talk, status: int, body: bytes) -> None:
    talk.fake.publish(make_version("1"))
    talk.step()
    held = talk.held()

    def answer(handler: Handler) -> bool:
        handler.send(status, body, {"Location": "http://x/", "Waypost-Poll-Seconds": "10"})
        return True

    talk.fake.sabotage["desired"] = answer
    talk.step()
    talk.step()
    assert talk.held() is held


def test_a_wish_with_a_bad_manifest_is_refused_whole_and_reported_for_its_model(
    talk: Talk,
) -> None:
    first = talk.fake.publish(make_version("1"))
    talk.step()
    held = talk.held()
    talk.show("succeeded", first)
    second = talk.fake.publish(make_version("2"))
    talk.fake.wishes[MODEL]["manifest"]["files"][0]["path"] = "../../etc/cron.d/x"
    talk.step()
    talk.step()
    assert talk.held() is held
    (entry,) = talk.fake.reports[-1]["models"]
    assert (entry["generation"], entry["phase"], entry["target"]) == (second, "failed", "2")
    assert entry["reason_code"] == "manifest-invalid"
    assert (entry["serving"], entry["healthy"]) == ("1", True)
    talk.fake.publish(make_version("1"))
    talk.step()
    talk.step()
    assert talk.held().generation == 3


def test_a_centre_that_went_back_in_time_is_refused_and_told(talk: Talk) -> None:
    generation = talk.fake.publish(make_version("1"))
    generation = talk.fake.publish(make_version("2"))
    talk.step()
    held = talk.held()
    talk.show("succeeded", generation)
    talk.fake.generation = 1
    talk.fake.wishes.clear()
    talk.fake.sabotage["report"] = recording = RecordingReports()
    talk.step()
    talk.step()
    assert talk.held() is held
    (entry,) = recording.bodies[-1]["models"]
    assert entry["reason_code"] == "server-behind"
    assert (entry["phase"], entry["serving"]) == ("succeeded", "1")
    talk.fake.epoch, talk.fake.generation = 2, 1
    talk.step()
    assert talk.held().pair == (2, 1)


class RecordingReports:
    """Accepts every report, also of generations that this centre no longer knows."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, handler: Handler) -> bool:
        self.bodies.append(json.loads(handler.body))
        answer = {
            "epoch": handler.server.centre.epoch,
            "generation": handler.server.centre.generation,
            "poll_seconds": 10,
            "duplicate": False,
            "superseded": [],
        }
        handler.send_json(200, answer)
        return True


def test_wishes_for_another_site_are_refused(talk: Talk, monkeypatch: pytest.MonkeyPatch) -> None:
    talk.fake.publish(make_version("1"))
    monkeypatch.setattr("fake_centre.SITE", "edge-2")
    talk.step()
    assert talk.board.desired() is None


def test_wishes_that_change_without_a_new_generation_are_refused(talk: Talk) -> None:
    talk.fake.publish(make_version("1"))
    talk.step()
    held = talk.held()
    document = talk.fake.desired()
    document["models"] = []
    talk.fake.sabotage["desired"] = answering((200, document, {"Waypost-Poll-Seconds": "10"}))
    talk.step()
    talk.step()
    assert talk.held() is held


def test_a_superseded_report_makes_it_poll_at_once(talk: Talk) -> None:
    generation = talk.fake.publish(make_version("1"))
    talk.step()
    talk.fake.superseded = [MODEL]
    talk.show("downloading", generation)
    talk.fake.publish(make_version("2"))
    talk.clock.now -= 5.0
    talk.step()
    talk.link.step()
    assert talk.held().generation == 2


def test_a_poll_that_was_called_for_is_made_at_once_and_once(talk: Talk) -> None:
    talk.fake.publish(make_version("1"))
    talk.step()
    talk.clock.now -= 5.0
    talk.fake.publish(make_version("2"))
    talk.board.call_for_poll()
    talk.link.step()
    assert talk.held().generation == 2
    polls = talk.paths().count("desired")
    talk.link.step()
    assert talk.paths().count("desired") == polls


def test_a_poll_that_was_called_for_and_not_answered_stays_due(talk: Talk) -> None:
    talk.fake.publish(make_version("1"))
    talk.step()
    talk.clock.now -= 5.0
    talk.fake.publish(make_version("2"))
    talk.fake.sabotage["desired"] = answering((503, {}, {}))
    talk.board.call_for_poll()
    talk.link.step()
    del talk.fake.sabotage["desired"]
    talk.clock.now += 1.0  # the pause after silence, far from the next poll by the clock
    talk.link.step()
    assert talk.held().generation == 2


def test_a_call_for_a_poll_wakes_the_link(talk: Talk) -> None:
    talk.step()
    talk.clock.now -= 5.0
    assert not talk.link._has_cause()
    talk.board.call_for_poll()
    assert talk.link._has_cause()


def test_a_refused_wish_does_not_hide_the_lease_under_which_the_old_one_began(talk: Talk) -> None:
    first = talk.fake.publish(make_version("1"))
    talk.step()
    talk.show("proving", first, lease=17)
    talk.fake.publish(make_version("2"))
    talk.fake.wishes[MODEL]["manifest"]["files"][0]["path"] = "../../etc/cron.d/x"
    talk.step()
    talk.step()
    (entry,) = talk.fake.reports[-1]["models"]
    assert (entry["phase"], entry["reason_code"], entry["lease"]) == (
        "failed",
        "manifest-invalid",
        17,
    )


def test_a_report_the_centre_will_not_take_is_not_repeated_for_ever(talk: Talk) -> None:
    talk.step()
    problem = {"type": "about:blank", "status": 422, "code": "invalid-request", "detail": "no"}
    talk.fake.sabotage["report"] = answering((422, problem, {}))
    talk.show("succeeded")
    talk.clock.now -= 5.0
    talk.link.step()
    count = talk.paths().count("report")
    talk.link.step()
    assert talk.paths().count("report") == count


@pytest.mark.parametrize(
    ("where", "status", "code"),
    [("session", 409, "session-counter-stale"), ("session", 403, "agent-revoked")],
)
def test_a_locked_out_agent_keeps_quiet_and_its_site_serving(
    talk: Talk, where: str, status: int, code: str
) -> None:
    problem = {"type": "about:blank", "status": status, "code": code, "detail": "no"}
    talk.fake.sabotage[where] = answering((status, problem, {}))
    assert talk.link.step() >= 600.0


def test_after_a_restart_the_next_counter_and_a_new_seq_are_used(talk: Talk) -> None:
    talk.step()
    talk.link = talk.new_link()
    talk.step()
    assert talk.fake.counter == 2
    assert [report["seq"] for report in talk.fake.reports] == [1, 1]


def test_measurements_reach_the_centre_packed_and_once(talk: Talk) -> None:
    talk.measure(1, 2)
    talk.step()
    talk.step()
    assert [said["seq"] for said in talk.fake.measurements] == [1, 2]
    (_, _, headers) = next(r for r in talk.fake.requests if r[1] == "measurements")
    assert headers["Content-Encoding"] == "gzip"
    assert len(talk.waiting) == 0


def test_a_centre_that_knows_no_measurements_loses_neither_polls_nor_reports(talk: Talk) -> None:
    """As the one before this had it: a page of its framework that is not the protocol's."""
    talk.fake.sabotage["measurements"] = answering((404, {}, {}))
    generation = talk.fake.publish(make_version("1"))
    talk.measure(1)
    for _ in range(30):
        talk.step()
    assert talk.held().generation == generation
    asked = talk.paths().count("measurements")
    assert asked <= 4
    assert talk.paths().count("desired") == talk.paths().count("report") >= 30 - asked
    assert len(talk.waiting) == 1


def test_a_session_that_ended_does_not_cost_a_measurement(talk: Talk) -> None:
    talk.step()
    talk.fake.session = "wps_another"
    talk.measure(1)
    talk.clock.now -= 5.0  # before the next poll
    talk.link.step()
    assert [said["seq"] for said in talk.fake.measurements] == [1]
