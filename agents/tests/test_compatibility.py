"""This agent at the centre before this one, and at the one after: what it lacks, and what is new.

`docs/protocol/previous` has the documents of the release before; they never change with the code.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fake_centre import FakeCentre, Handler
from test_link import Talk
from versions import make_version
from waypost_agent import protocol as p
from waypost_agent.board import Snapshot, TritonStatus
from waypost_agent.inventory import reported_facts
from waypost_agent.report_body import report_body

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"
PREVIOUS = EXAMPLES / "previous"

PARSERS: dict[str, Callable[[Any], Any]] = {
    "enrol-answer": p.parse_enrolment,
    "challenge-answer": p.parse_challenge,
    "session-answer": p.parse_session,
    "rotate-key-answer": p.parse_rotation,
    "measurement-answer": lambda value: p.parse_measurement_answer(value, seq=86400250),
    "report-answer": p.parse_report_answer,
    "desired-answer": p.parse_desired,
    "desired-lease-answer": p.parse_desired,
    "desired-replace-answer": p.parse_desired,
    "desired-signed-answer": p.parse_desired,
    "lease-granted-answer": p.parse_lease_answer,
    "lease-refused-answer": p.parse_lease_answer,
}
BEFORE = [path.stem for path in sorted(PREVIOUS.glob("*-answer.json"))]


def read(folder: Path, name: str) -> Any:
    return p.parse_json((folder / f"{name}.json").read_bytes())


@pytest.mark.parametrize("name", BEFORE)
def test_every_answer_of_the_centre_before_is_read(name: str) -> None:
    assert PARSERS[name](read(PREVIOUS, name)) is not None


def test_every_answer_that_is_documented_is_tried_here() -> None:
    documented = {path.stem for path in EXAMPLES.glob("*-answer.json")} - {"chunks-answer"}
    assert documented == set(PARSERS)
    assert set(BEFORE) <= documented


def with_news(value: Any) -> Any:
    """The same with a key nobody knows in every object, but for what is told on as it came."""
    if isinstance(value, list):
        return [with_news(each) for each in value]
    if not isinstance(value, dict):
        return value
    inner = {
        key: copy.deepcopy(each) if key in ("manifest", "signatures") else with_news(each)
        for key, each in value.items()
    }
    return {**inner, "news": {"of": ["a", "later", "centre"]}}


def without_documents(parsed: Any) -> Any:
    return {**vars(parsed), "document": None} if isinstance(parsed, p.Desired) else parsed


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_keys_of_a_later_centre_change_nothing(name: str) -> None:
    plain = read(EXAMPLES, name)
    told = with_news(plain)
    assert told != plain
    assert without_documents(PARSERS[name](told)) == without_documents(PARSERS[name](plain))


def test_what_the_centre_before_wants_is_in_every_report(tmp_path: Path) -> None:
    """The centre before passes over keys that it does not know, and misses those it does."""
    for name in ("report-request", "report-lease-waiting-request"):
        documented = read(PREVIOUS, name)
        body = report_body(
            Snapshot(
                changes=1,
                observed=(1, 12),
                triton=TritonStatus(live=True, version="2.51.0", http_url="http://127.0.0.1:8000"),
                models=tuple(p.ModelReport(**entry) for entry in documented["models"]),
                refusal=None,
            ),
            seq=1,
            sent_at="2026-11-23T13:12:00Z",
            made=p.Moment(boot_id="b", uptime_seconds=1.0),
            inventory=reported_facts(
                [tmp_path], download_bytes_per_second=None, round_trip_seconds=None
            ),
        )
        assert missing(json.loads(json.dumps(body)), documented) == []


def missing(said: Any, documented: Any, at: str = "") -> list[str]:
    if isinstance(documented, dict):
        return [
            fault
            for key, inner in documented.items()
            for fault in (missing(said[key], inner, f"{at}.{key}") if key in said else [at + key])
        ]
    if isinstance(documented, list):
        return [
            fault
            for mine, theirs in zip(said, documented, strict=True)
            for fault in missing(mine, theirs, f"{at}[]")
        ]
    kinds = {type(said), type(documented)}
    return [] if len(kinds - {type(None)}) < 2 or kinds <= {int, float} else [at]


@pytest.fixture
def talk(centre: FakeCentre, tmp_path: Path) -> Talk:
    centre.poll_seconds = 10.0
    return Talk(centre, tmp_path)


def test_a_whole_talk_with_the_centre_before(talk: Talk) -> None:
    """Its sessions say nothing of keys, and it has neither measurements nor new keys."""

    def session_of_before(handler: Handler) -> bool:
        status, body = talk.fake.open_session(json.loads(handler.body))
        assert set(body) - {"rotate_by"} == set(read(PREVIOUS, "session-answer"))
        del body["rotate_by"]
        handler.send_json(status, body)
        return True

    def unknown(handler: Handler) -> bool:
        handler.send(404, b"<h1>Not Found</h1>", {"Content-Type": "text/html"})
        return True

    talk.fake.sabotage["session"] = session_of_before
    talk.fake.sabotage["measurements"] = talk.fake.sabotage["rotate-key"] = unknown
    generation = talk.fake.publish(make_version("1"))
    talk.measure(1)
    talk.show("succeeded", generation)
    for _ in range(5):
        talk.step()
    assert talk.held().generation == generation
    assert talk.fake.reports[-1]["models"][0]["phase"] == "succeeded"
    assert "rotate-key" not in talk.paths()
    assert len(talk.waiting) == 1


def test_a_rotation_left_half_done_does_not_lock_it_out_of_the_centre_before(talk: Talk) -> None:
    """As after the centre was put back to the release before."""
    talk.identity.next_public_key()
    talk.fake.sabotage["rotate-key"] = lambda handler: bool(
        handler.send(404, b"<h1>Not Found</h1>") or True
    )
    generation = talk.fake.publish(make_version("1"))
    talk.step()
    assert talk.held().generation == generation


def test_a_centre_that_speaks_another_protocol_is_told_and_asked_seldom(
    talk: Talk, caplog: pytest.LogCaptureFixture
) -> None:
    detail = "The agent (waypost-agent/0.1.0) speaks protocol '1', this centre speaks 2"
    problem = {"status": 422, "code": "protocol-unsupported", "detail": detail}

    def refuse(handler: Handler) -> bool:
        handler.send_json(422, problem)
        return True

    talk.fake.sabotage["challenge"] = refuse
    assert talk.link.step() >= 600.0
    assert detail in caplog.text
    assert "serving goes on" in caplog.text
