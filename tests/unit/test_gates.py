"""Gates fail closed: only a pass on fresh evidence is a pass."""

from datetime import timedelta

import pytest

from controlplane.domain.gates import GateResult, Verdict, judge
from tests.unit.views import NOW

MINUTE = timedelta(minutes=1)


def said(
    verdict: Verdict,
    gate: str = "latency",
    *,
    ago: timedelta = MINUTE,
    fresh_for: timedelta | None = None,
) -> GateResult:
    return GateResult(
        gate=gate,
        verdict=verdict,
        reason="p99 of 80 ms",
        judged_at=NOW - ago,
        fresh_until=None if fresh_for is None else NOW - ago + fresh_for,
    )


@pytest.mark.parametrize(
    ("result", "verdict", "words"),
    [
        (said(Verdict.PASS), Verdict.PASS, ""),
        (said(Verdict.PASS, fresh_for=MINUTE), Verdict.PASS, ""),
        (said(Verdict.FAIL), Verdict.FAIL, "gate latency fails: p99 of 80 ms"),
        (
            said(Verdict.INCONCLUSIVE),
            Verdict.INCONCLUSIVE,
            "gate latency is inconclusive: p99 of 80 ms",
        ),
        (said(Verdict.ERROR), Verdict.INCONCLUSIVE, "gate latency is error: p99 of 80 ms"),
        (
            said(Verdict.PASS, ago=2 * MINUTE, fresh_for=MINUTE),
            Verdict.INCONCLUSIVE,
            "gate latency last spoke at 2026-11-23 11:58 UTC",
        ),
        (None, Verdict.INCONCLUSIVE, "gate latency has not said anything"),
    ],
)
def test_one_required_gate(result: GateResult | None, verdict: Verdict, words: str) -> None:
    gates = judge(["latency"], [result] if result else [], NOW)
    assert (gates.verdict, gates.sentence) == (verdict, words)


def test_no_gate_at_all_passes() -> None:
    assert judge([], [], NOW).verdict is Verdict.PASS


def test_a_failure_that_has_grown_old_is_a_failure_still() -> None:
    old = said(Verdict.FAIL, ago=9 * MINUTE, fresh_for=MINUTE)
    assert judge(["latency"], [old], NOW).verdict is Verdict.FAIL


def test_a_failure_beats_every_pass_and_every_wait() -> None:
    results = [said(Verdict.PASS, "a"), said(Verdict.ERROR, "b"), said(Verdict.FAIL, "c")]
    gates = judge(["a", "b"], results, NOW)
    assert (gates.verdict, gates.sentence) == (Verdict.FAIL, "gate c fails: p99 of 80 ms")


def test_a_gate_that_nobody_asked_for_is_listened_to() -> None:
    assert judge([], [said(Verdict.FAIL)], NOW).verdict is Verdict.FAIL
    assert judge([], [said(Verdict.INCONCLUSIVE)], NOW).verdict is Verdict.INCONCLUSIVE


def test_every_gate_that_holds_has_its_sentence() -> None:
    gates = judge(["a", "b"], [said(Verdict.ERROR, "a")], NOW)
    assert gates.sentence == "gate a is error: p99 of 80 ms; gate b has not said anything"


class TestWhatSomebodyAccepted:
    def test_is_held_against_the_stage_no_more(self) -> None:
        assert judge(["latency"], [said(Verdict.FAIL)], NOW, NOW).verdict is Verdict.PASS

    def test_does_not_cover_a_later_failure(self) -> None:
        accepted_at = NOW - 2 * MINUTE
        assert judge(["latency"], [said(Verdict.FAIL)], NOW, accepted_at).verdict is Verdict.FAIL

    @pytest.mark.parametrize("verdict", [Verdict.INCONCLUSIVE, Verdict.ERROR])
    def test_does_not_stand_for_a_verdict_that_is_missing(self, verdict: Verdict) -> None:
        assert judge(["a"], [said(verdict, "a")], NOW, NOW).verdict is Verdict.INCONCLUSIVE
        assert judge(["a"], [], NOW, NOW).verdict is Verdict.INCONCLUSIVE
