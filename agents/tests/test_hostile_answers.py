"""Every field of every answer, spoiled in every way: the site goes on serving what it serves.

Nothing is loaded or unloaded, nothing is written outside the agent's folders, nobody is asked
without end, and no thread dies of it.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fake_centre import GRANTED
from fake_triton import FakeClock
from waypost_agent import protocol as p
from waypost_agent.centre import CentreAnswer
from waypost_agent.errors import Retryable
from waypost_agent.identity import Identity
from waypost_agent.lease_desk import LeaseDesk
from waypost_agent.manifest import digest_of
from waypost_agent.protocol import LeaseGrant, LeaseQuestion, LeaseRefusal
from whole_site import NONCE, REFUSED, Centre, Site, desired

GONE = object()  # the field is left out
SPOILED: list[Any] = [
    GONE, None, True, False, "", "x", -1, 0, 1.5, 1e-9, 10**30, 1e308, float("nan"), [], {}, [None],
    {"a": 1}, "x" * 70_000, "../../../etc/cron.d/x", "a\x00b", "\u202egnp.py",
]  # fmt: skip
NAMES = [
    "..", "a/../../b", "/etc/passwd", "a\\b", ".. ", "%2e%2e/x", "a\u200bb", "CON", "caf\u00e9",
    "cafe\u0301", ".git/config", ".hidden", "model.py/x", "__pycache__/m.pyc", "-rf", "a\nb", "-1",
    "libtriton_onnxruntime.so", "batchstrategy.so", "echo--candidate", "ECHO", "1" * 19, "01",
]  # fmt: skip
NAMED = {"site", "model", "version", "previous", "path", "switch", "sha256"}


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The whole, and every field within it."""
    yield at
    inner = value.items() if isinstance(value, dict) else ()
    for key, each in enumerate(value) if isinstance(value, list) else inner:
        yield from places(each, (*at, key))


def spoiled(answer: Any, at: tuple[Any, ...], by: Any) -> Any:
    if not at:
        return {} if by is GONE else by
    answer = copy.deepcopy(answer)
    place = answer
    for key in at[:-1]:
        place = place[key]
    if by is GONE:
        del place[at[-1]]
    else:
        place[at[-1]] = by
    return answer


def spoiling(path: str, at: tuple[Any, ...], by: Any) -> Callable[[str, Any], Any]:
    return lambda asked, answer: (
        signed_anew(spoiled(answer, at, by), at) if asked == path else answer
    )


def signed_anew(answer: Any, at: tuple[Any, ...]) -> Any:
    """A manifest whose digest fits, whatever it holds: else that alone would have it refused."""
    if at[:3] == ("models", 0, "manifest") and len(at) > 3:
        entry = answer["models"][0]
        with contextlib.suppress(ValueError, UnicodeEncodeError):
            entry["manifest_digest"] = digest_of(entry["manifest"])
    return answer


def cases(path: str, answer: Any) -> list[Any]:
    return [
        pytest.param(path, at, id=f"{path} {'.'.join(map(str, at)) or 'whole'}")
        for at in places(answer)
    ]


ANSWERS = {
    "challenge": {"nonce": NONCE, "expires_seconds": 60},
    "session": {"token": "", "expires_seconds": 0, "session_counter": 0, "rotate_by": ""},
    "rotate-key": {"agent": "", "public_key": ""},
    "report": {"epoch": 0, "generation": 0, "poll_seconds": 0, "duplicate": 0, "superseded": [""]},
    "measurements": {"accepted_seq": 0},
    "desired": desired(2),
}


@pytest.mark.parametrize(
    ("path", "at"), [case for path in ANSWERS for case in cases(path, ANSWERS[path])]
)
def test_a_spoiled_field_changes_nothing_that_serves(
    path: str, at: tuple[Any, ...], tmp_path: Path
) -> None:
    site = Site(tmp_path / "0")
    named = at and at[-1] in NAMED
    for number, by in enumerate([*SPOILED, *NAMES] if named else SPOILED):
        site.start_link()
        site.centre.generation = 2 if path == "desired" else 1
        site.centre.on_the_way = spoiling(path, at, by)
        site.pass_minutes(1)
        try:
            site.check()
            assert path in {asked for _, asked in site.centre.asked}
        except AssertionError as error:
            raise AssertionError(f"{path} at {at} as {by!r:.100}: {error}") from error
        if site.world.board.desired() is not site.held:
            site = Site(tmp_path / str(number + 1))  # it was taken: the next begins anew


@pytest.mark.parametrize(
    "header", [None, "", "x", "-1", "0", "1e-9", "1e309", "nan", "NaN", "inf", "9" * 400, "1,2"]
)
def test_a_spoiled_interval_makes_nobody_ask_without_end(
    header: str | None, tmp_path: Path
) -> None:
    site = Site(tmp_path)
    site.start_link()
    site.centre.headers = {} if header is None else {"Waypost-Poll-Seconds": header}
    site.pass_minutes(3)
    site.check()


class Leave:
    """The desk that asks for leases, as the loop has it; the answer is spoiled on the way."""

    def __init__(self, centre: Centre, kind: str) -> None:
        self.leave: dict[Any, Any] = {}
        self.centre = centre
        self.kind = kind
        self.desk = LeaseDesk(
            self,  # type: ignore[arg-type]  # answers as a centre
            token=lambda: "wps_x",
            reject_token=lambda token: None,
            call_for_poll=lambda: None,
        )

    def post(self, path: str, document: Mapping[str, Any], *, token: str) -> CentreAnswer:
        return self.centre.post(self.kind, document, token=token)

    def ask_lease(self, question: LeaseQuestion) -> LeaseGrant | LeaseRefusal:
        return self.desk.ask_lease(question)


@pytest.mark.parametrize(
    ("path", "at"),
    [
        case
        for path, answer in (("lease-granted", GRANTED), ("lease-refused", REFUSED))
        for case in cases(path, answer)
    ],
)
def test_a_spoiled_answer_about_a_lease_is_no_lease_or_a_bounded_one(
    path: str, at: tuple[Any, ...], tmp_path: Path
) -> None:
    clock = FakeClock()
    centre = Centre(clock, Identity(tmp_path))
    leave = Leave(centre, path)
    question = LeaseQuestion(
        model="echo", generation=1, epoch=1, deployment=1, manifest_digest="",
        asked=p.Moment(boot_id="b", uptime_seconds=1.0),
    )  # fmt: skip
    for by in SPOILED:
        centre.on_the_way = spoiling(path, at, by)
        answer = _asked(leave, question)
        if answer is None:
            continue
        if isinstance(answer, LeaseGrant):
            assert path == "lease-granted"
            assert 0 < answer.begin_within_seconds <= 86_400
        else:
            assert path == "lease-refused" or by is False
            assert 0 < answer.retry_seconds <= 86_400
            assert len(answer.reason) <= 500


def _asked(leave: Leave, question: LeaseQuestion) -> LeaseGrant | LeaseRefusal | None:
    try:
        return leave.ask_lease(question)
    except Retryable:
        return None
