"""The four signals: each on its own, and what is old is stale, never bad."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from controlplane.domain.signals import ModelState, SignalName, SignalState, site_signals

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
LIMIT = timedelta(seconds=50)
GOOD, BAD, STALE, UNKNOWN = SignalState


def model(**changes: Any) -> ModelState:
    facts: dict[str, Any] = {
        "model": "vad", "wished": 2, "reported": True, "serving": 2, "healthy": True,
        "settled": True,
    }  # fmt: skip
    return ModelState(**{**facts, **changes})


def signals(
    *models: ModelState, live: bool | None = True, silent: float | None = 10.0
) -> dict[str, tuple[SignalState, str]]:
    found = site_signals(
        last_seen_at=None if silent is None else NOW - timedelta(seconds=silent),
        triton_live=live,
        models=models,
        now=NOW,
        fresh_within=LIMIT,
    )
    assert [signal.name for signal in found] == list(SignalName)
    return {signal.name.value: (signal.state, signal.reason) for signal in found}


def test_all_is_well() -> None:
    assert signals(model()) == {
        "process": (GOOD, "Triton answers"),
        "versions": (GOOD, "1 version ready"),
        "golden": (GOOD, "1 version answering as recorded"),
        "freshness": (GOOD, "heard within the last 50 s"),
    }


@pytest.mark.parametrize(("live", "state"), [(None, UNKNOWN), (True, GOOD), (False, BAD)])
def test_the_process_is_what_was_reported(live: bool | None, state: SignalState) -> None:
    assert signals(live=live)["process"][0] is state


@pytest.mark.parametrize(
    ("changes", "state", "words"),
    [
        ({"serving": None}, BAD, "vad: version 2 is wished, nothing is ready"),
        ({"serving": 1}, BAD, "vad: version 2 is wished, version 1 is ready"),
        ({"serving": 1, "settled": False}, GOOD, "1 version ready"),
        ({"serving": None, "settled": False}, BAD, "nothing is ready"),
        ({"reported": False, "serving": None, "healthy": None}, UNKNOWN, "not reported: vad"),
        ({"wished": None, "serving": None, "healthy": None}, GOOD, "nothing is wished here"),
    ],
)
def test_a_version_is_ready_or_not(changes: dict[str, Any], state: SignalState, words: str) -> None:
    found = signals(model(**changes))["versions"]
    assert found[0] is state
    assert words in found[1]


@pytest.mark.parametrize(("healthy", "state"), [(True, GOOD), (False, BAD), (None, UNKNOWN)])
def test_golden_answers_are_a_signal_of_their_own(healthy: bool | None, state: SignalState) -> None:
    found = signals(model(healthy=healthy))
    assert found["golden"][0] is state
    assert found["versions"][0] is found["process"][0] is GOOD


def test_one_bad_model_among_good_ones_is_named() -> None:
    found = signals(model(), model(model="asr", healthy=False))
    assert found["golden"] == (BAD, "asr: version 2 did not answer its golden requests")


def test_silence_makes_all_that_was_known_stale_and_nothing_bad() -> None:
    for live, healthy in ((True, True), (False, False)):
        found = signals(model(healthy=healthy), live=live, silent=51.0)
        assert {state for state, _ in found.values()} == {STALE}
        assert found["process"][1].startswith("when last heard: Triton ")
        assert found["freshness"][1] == "silent for 51 s (limit 50 s)"


def test_what_was_never_known_stays_unknown() -> None:
    found = signals(live=None, silent=None)
    assert found["process"][0] is found["freshness"][0] is UNKNOWN
    assert signals(live=None, silent=51.0)["process"] == (UNKNOWN, "not reported")
