"""The question for a lease over real HTTP: what counts as an answer, and what never does."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fake_centre import GRANTED, FakeCentre, Handler, problem
from test_link import Talk
from versions import MODEL, Version, make_version
from waypost_agent.board import Board
from waypost_agent.centre import Centre
from waypost_agent.clock import SystemClock
from waypost_agent.errors import Retryable
from waypost_agent.lease_desk import LeaseDesk
from waypost_agent.protocol import LeaseGrant, LeaseQuestion, LeaseRefusal, Moment
from world import World

REFUSED = {
    "granted": False,
    "reason_code": "frozen",
    "reason": "the fleet is frozen until 18:00",
    "retry_seconds": 30,
}


class Desk:
    """A desk whose agent has a session."""

    def __init__(self, centre: FakeCentre) -> None:
        self.fake = centre
        self.board = Board()
        self.centre = Centre(
            centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=0.5
        )
        self.desk = LeaseDesk(
            self.centre,
            token=self.board.token,
            reject_token=self.board.reject_token,
            call_for_poll=self.board.call_for_poll,
        )
        centre.session = "wps_present"
        self.board.set_token("wps_present")
        generation = centre.publish(make_version("2"), lease_required=True)
        self.question = LeaseQuestion(
            model=MODEL,
            generation=generation,
            epoch=1,
            deployment=1,
            manifest_digest=make_version("2").digest,
            asked=Moment(boot_id="boot-1", uptime_seconds=60.0),
        )

    def ask(self) -> LeaseGrant | LeaseRefusal:
        return self.desk.ask_lease(self.question)

    def fault(self) -> Retryable:
        with pytest.raises(Retryable) as caught:
            self.ask()
        assert not self.board.is_poll_called() or caught.value.code == "wish-superseded"
        return caught.value


@pytest.fixture
def desk(centre: FakeCentre) -> Iterator[Desk]:
    desk = Desk(centre)
    yield desk
    desk.centre.close()


def test_a_grant_is_read_and_the_question_names_the_wish(desk: Desk) -> None:
    assert desk.ask() == LeaseGrant(lease=17, begin_within_seconds=60.0)
    assert desk.fake.lease_questions == [desk.question.document()]
    method, path, headers = desk.fake.requests[-1]
    assert (method, path) == ("POST", "lease")
    assert headers["Authorization"] == "Bearer wps_present"


def test_a_refusal_is_an_answer(desk: Desk) -> None:
    desk.fake.lease_answer = (200, REFUSED)
    assert desk.ask() == LeaseRefusal(
        reason_code="frozen", reason="the fleet is frozen until 18:00", retry_seconds=30.0
    )


def test_an_old_wish_calls_for_a_poll(desk: Desk) -> None:
    desk.fake.publish(make_version("3"), lease_required=True)
    assert desk.fault().code == "wish-superseded"
    assert desk.board.is_poll_called()


def test_a_session_that_is_no_more_is_handed_back_to_the_link(desk: Desk) -> None:
    desk.fake.session = "wps_another"
    assert desk.fault().code == "lease-unreachable"
    assert desk.board.is_rejected("wps_present")


def test_without_a_session_nothing_is_asked(desk: Desk) -> None:
    desk.board.set_token(None)
    assert desk.fault().code == "lease-unreachable"
    assert desk.fake.requests == []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, {}),
        problem(403, "agent-revoked"),
        problem(409, "generation-unknown"),
        problem(422, "invalid-request"),
        (200, {"granted": True}),
        (200, {"granted": "true", "lease": 1, "begin_within_seconds": 60}),
    ],
    ids=str,
)
def test_anything_else_is_no_lease(desk: Desk, status: int, body: dict[str, Any]) -> None:
    desk.fake.lease_answer = (status, body)
    fault = desk.fault()
    assert fault.code == "lease-unreachable"
    assert not desk.board.is_poll_called()
    assert not desk.board.is_rejected("wps_present")


def test_a_portal_of_a_hotel_grants_nothing(desk: Desk) -> None:
    def portal(handler: Handler) -> bool:
        handler.send(200, b"<html>granted: true</html>")
        return True

    desk.fake.sabotage["lease"] = portal
    assert desk.fault().code == "lease-unreachable"


def test_an_answer_that_does_not_come_is_no_lease(desk: Desk) -> None:
    def hang_up(handler: Handler) -> bool:
        handler.close_connection = True
        return True

    desk.fake.sabotage["lease"] = hang_up
    assert desk.fault().code == "lease-unreachable"
    desk.fake.close()
    desk.centre.close()
    assert desk.fault().code == "lease-unreachable"


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_handed_on(desk: Desk, status: int) -> None:
    def busy(handler: Handler) -> bool:
        handler.send_json(status, {}, {"Retry-After": "40"})
        return True

    desk.fake.sabotage["lease"] = busy
    assert desk.fault().after_seconds == 40.0


def test_the_time_to_begin_is_measured_by_the_clock_that_counts_sleep() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= SystemClock().boottime() <= time.clock_gettime(time.CLOCK_BOOTTIME)


def test_from_a_refusal_over_a_newer_wish_to_a_lease_that_the_reports_name(
    centre: FakeCentre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loop, link and desk together, step by step, against a centre over HTTP."""
    world = World(tmp_path)
    talk = Talk(centre, tmp_path / "identity")
    talk.board = world.board
    talk.link = talk.new_link()
    desk = LeaseDesk(
        talk.centre,
        token=world.board.token,
        reject_token=world.board.reject_token,
        call_for_poll=world.board.call_for_poll,
    )

    def ask(question: LeaseQuestion) -> LeaseGrant | LeaseRefusal:
        answer = desk.ask_lease(question)
        if isinstance(answer, LeaseGrant):
            key = (question.epoch, question.generation, question.manifest_digest)
            world.leases.leave[key] = world.clock.boottime() + answer.begin_within_seconds
        return answer

    def live_until(phase: str, code: str) -> dict[str, Any]:
        for _ in range(300):
            talk.link.step()
            world.cycles(1)
            entry = centre.report_of()
            if entry is not None and (entry["phase"], entry["reason_code"]) == (phase, code):
                return entry
        raise AssertionError(f"never {phase} ({code}): {centre.report_of()}")

    def wish(version: Version) -> None:
        for data in version.files.values():
            world.blobs.data[hashlib.sha256(data).hexdigest()] = data
        centre.publish(version, lease_required=True)

    monkeypatch.setattr(world.leases, "ask_lease", ask)
    centre.poll_seconds, centre.lease_answer = 1000.0, (200, REFUSED)
    wish(make_version("1"))
    assert live_until("staged", "frozen")["reason"] == REFUSED["reason"]

    polls = talk.paths().count("desired")
    centre.lease_answer = (200, GRANTED)
    wish(make_version("2"))
    world.clock.now += 60.0
    entry = live_until("succeeded", "ok")
    assert (entry["target"], entry["serving"], entry["lease"]) == ("2", "2", None)
    # The next poll was a quarter of an hour away: the answer to the question brought it forward.
    assert talk.paths().count("desired") == polls + 1
    assert [question["generation"] for question in centre.lease_questions] == [1, 1, 2]
    told = {entry["phase"] for each in centre.reports for entry in each["models"] if entry["lease"]}
    assert told >= {"proving", "verifying"}
