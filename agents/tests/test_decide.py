"""The decision for one model, as a table: what is wished, recorded and seen, and the next step."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from waypost_agent import decide as d
from waypost_agent import situation as sit

SOURCE = str(Path(d.__file__).parents[1])
ONE = sit.Target(version="1", digest="sha256:" + "1" * 64)
TWO = sit.Target(version="2", digest="sha256:" + "2" * 64)
OTHER_TWO = sit.Target(version="2", digest="sha256:" + "3" * 64)
PASSED_ONE = sit.Verdict(version="1", passed=True, reason_code="ok", reason="fine")
PASSED_TWO = sit.Verdict(version="2", passed=True, reason_code="ok", reason="fine")
FAILED_ONE = sit.Verdict(version="1", passed=False, reason_code="golden-mismatch", reason="bad")


def wish(target: sit.Target | None, generation: int = 5, previous: str | None = None) -> sit.Wish:
    return sit.Wish(model="m", epoch=1, generation=generation, target=target, previous=previous)


def leased(target: sit.Target | None, generation: int = 5) -> sit.Wish:
    """A wish that may begin only under a lease."""
    return replace(wish(target, generation), lease_required=True)


def lease(target: sit.Target, generation: int = 5, epoch: int = 1) -> sit.Lease:
    return sit.Lease(number=17, epoch=epoch, generation=generation, target=target)


def failed(target: sit.Target, generation: int = 5) -> sit.Failure:
    return sit.Failure(
        epoch=1, generation=generation, target=target, reason_code="load-failed", reason="it broke"
    )


def attempts(count: int, generation: int = 5) -> sit.Attempts:
    return sit.Attempts(epoch=1, generation=generation, target=TWO, count=count)


@dataclass(frozen=True)
class Seen:
    """The few things that differ from a quiet server."""

    states: dict[str, str] = field(default_factory=dict)
    disk: tuple[sit.Target, ...] = ()
    candidate: dict[str, str] = field(default_factory=dict)
    candidate_on_disk: bool = False
    live: bool = True
    verdict: sit.Verdict | None = None
    leftovers: frozenset[str] = frozenset()
    recorded: frozenset[str] | None = None
    lease: sit.Lease | None = None
    damaged: dict[str, str] = field(default_factory=dict)
    unmended: frozenset[str] = frozenset()

    def observed(self) -> sit.Observed:
        return sit.Observed(
            triton_live=self.live,
            triton_reason="" if self.live else "nobody answers",
            states=self.states,
            candidate_states=self.candidate,
            candidate_on_disk=self.candidate_on_disk,
            installed={target.version: target.digest for target in self.disk},
            recorded=self.recorded
            if self.recorded is not None
            else frozenset(target.version for target in self.disk),
            leftovers=self.leftovers,
            verdict=self.verdict,
            lease=self.lease,
            damaged=self.damaged,
            unmended=self.unmended,
        )


SERVES_ONE = sit.Record(committed=ONE, proven=frozenset({ONE.digest}))
PROVED_TWO = sit.Record(committed=ONE, proven=frozenset({ONE.digest, TWO.digest}))
SERVES_TWO = sit.Record(committed=TWO, previous=ONE, proven=frozenset({ONE.digest, TWO.digest}))
FAILED_TWO = sit.Record(committed=ONE, proven=frozenset({ONE.digest}), failed=failed(TWO))
READY_ONE = {"1": "READY"}
READY_TWO = {"2": "READY"}

TABLE = [
    ("server gone", wish(TWO), SERVES_ONE, Seen(live=False), d.Wait),
    ("server gone, nothing wished", wish(None), SERVES_ONE, Seen(live=False), d.Wait),
    ("loading", wish(TWO), PROVED_TWO, Seen({"1": "READY", "2": "LOADING"}, (ONE, TWO)), d.Wait),
    ("unloading", wish(TWO), SERVES_TWO, Seen({"1": "UNLOADING", "2": "READY"}, (TWO,)), d.Wait),
    (
        "candidate loading",
        wish(TWO),
        SERVES_ONE,
        Seen(READY_ONE, (ONE, TWO), candidate={"2": "LOADING"}, candidate_on_disk=True),
        d.Wait,
    ),
    (
        "candidate hangs, the new one is not on disk",
        wish(TWO),
        SERVES_ONE,
        Seen(READY_ONE, (ONE,), candidate={"3": "LOADING"}, candidate_on_disk=True),
        d.Wait,
    ),
    (
        "candidate hangs, the server came back to the old wish",
        wish(ONE, 6),
        SERVES_ONE,
        Seen(
            READY_ONE,
            (ONE, TWO),
            candidate={"2": "LOADING"},
            candidate_on_disk=True,
            verdict=PASSED_ONE,
        ),
        d.Settled,
    ),
    (
        "candidate hangs, the way back is one switch",
        wish(ONE, 6),
        SERVES_TWO,
        Seen(READY_TWO, (ONE, TWO), candidate={"3": "LOADING"}, candidate_on_disk=True),
        d.Switch,
    ),
    (
        "candidate left loaded",
        wish(TWO),
        SERVES_ONE,
        Seen(READY_ONE, (ONE, TWO), candidate={"2": "READY"}, candidate_on_disk=True),
        d.UnloadCandidate,
    ),
    (
        "candidate folder left",
        wish(ONE),
        SERVES_ONE,
        Seen(READY_ONE, (ONE,), candidate_on_disk=True, verdict=PASSED_ONE),
        d.UnloadCandidate,
    ),
    ("nothing wished, one serves", wish(None), SERVES_ONE, Seen(READY_ONE, (ONE,)), d.Unload),
    ("nothing wished, unloaded", wish(None), SERVES_ONE, Seen({}, (ONE,)), d.Retire),
    ("nothing wished, old files", wish(None), sit.Record(), Seen({}, (ONE,)), d.Prune),
    (
        "nothing wished, last one kept",
        wish(None),
        sit.Record(previous=ONE),
        Seen({}, (ONE,)),
        d.Settled,
    ),
    ("not on disk", wish(TWO), SERVES_ONE, Seen(READY_ONE, (ONE,)), d.Fetch),
    ("first version, nothing there", wish(ONE), sit.Record(), Seen(), d.Fetch),
    ("on disk, unproven", wish(TWO), SERVES_ONE, Seen(READY_ONE, (ONE, TWO)), d.Prove),
    ("proven, not serving", wish(TWO), PROVED_TWO, Seen(READY_ONE, (ONE, TWO)), d.Switch),
    ("both serve", wish(TWO), PROVED_TWO, Seen({**READY_ONE, **READY_TWO}, (ONE, TWO)), d.Switch),
    ("served, not committed", wish(TWO), PROVED_TWO, Seen(READY_TWO, (ONE, TWO)), d.Verify),
    ("committed, not yet seen right", wish(TWO), SERVES_TWO, Seen(READY_TWO, (TWO,)), d.Verify),
    (
        "as wished",
        wish(TWO),
        SERVES_TWO,
        Seen(READY_TWO, (ONE, TWO), verdict=PASSED_TWO),
        d.Settled,
    ),
    (
        "unfinished download left",
        wish(TWO),
        SERVES_TWO,
        Seen(READY_TWO, (TWO,), verdict=PASSED_TWO, leftovers=frozenset({"3-abc"})),
        d.Prune,
    ),
    ("failed, old one serves unseen", wish(TWO), FAILED_TWO, Seen(READY_ONE, (ONE, TWO)), d.Verify),
    ("failed while serving", wish(TWO), FAILED_TWO, Seen(READY_TWO, (ONE, TWO)), d.Switch),
    ("failed, wished anew", wish(TWO, 6), FAILED_TWO, Seen(READY_ONE, (ONE, TWO)), d.Prove),
    (
        "failed and restored",
        wish(TWO),
        FAILED_TWO,
        Seen(READY_ONE, (ONE, TWO), verdict=PASSED_ONE),
        d.Settled,
    ),
    (
        "first one failed while serving",
        wish(TWO),
        sit.Record(failed=failed(TWO)),
        Seen(READY_TWO, (TWO,)),
        d.Unload,
    ),
    (
        "first one failed, nothing serves",
        wish(TWO),
        sit.Record(failed=failed(TWO)),
        Seen({}, (TWO,)),
        d.Settled,
    ),
    (
        "first one failed, someone else's version serves",
        wish(TWO),
        sit.Record(failed=failed(TWO)),
        Seen({"9": "READY"}, (TWO,)),
        d.Settled,
    ),
    ("roll back to the previous one", wish(ONE), SERVES_TWO, Seen(READY_TWO, (ONE, TWO)), d.Switch),
    ("server came back empty", wish(TWO), SERVES_ONE, Seen({}, (ONE, TWO)), d.Switch),
    ("server came back empty, not fetched", wish(TWO), SERVES_ONE, Seen({}, (ONE,)), d.Switch),
    ("files of the serving one damaged", wish(ONE), SERVES_ONE, Seen(READY_ONE, ()), d.Fetch),
    (
        "number in use with other bytes",
        wish(OTHER_TWO),
        SERVES_TWO,
        Seen(READY_TWO, (TWO,)),
        d.GiveUp,
    ),
    ("number served by a stranger", wish(TWO), sit.Record(), Seen(READY_TWO), d.GiveUp),
    (
        "attempts left",
        wish(TWO),
        sit.Record(committed=ONE, attempts=attempts(4)),
        Seen(READY_ONE, (ONE, TWO)),
        d.Prove,
    ),
    (
        "no attempts left",
        wish(TWO),
        sit.Record(committed=ONE, attempts=attempts(5)),
        Seen(READY_ONE, (ONE, TWO)),
        d.GiveUp,
    ),
    (
        "attempts of an older wish",
        wish(TWO, 6),
        sit.Record(committed=ONE, attempts=attempts(5)),
        Seen(READY_ONE, (ONE, TWO)),
        d.Prove,
    ),
    (
        "a switch cut short by a newer wish, with nothing before it",
        wish(TWO),
        sit.Record(proven=frozenset({ONE.digest})),
        Seen(READY_ONE, (ONE,)),
        d.Verify,
    ),
    (
        "a switch cut short by a newer wish",
        wish(ONE, 6),
        PROVED_TWO,
        Seen(READY_TWO, (ONE, TWO)),
        d.Switch,
    ),
    (
        "old versions to remove",
        wish(TWO),
        SERVES_TWO,
        Seen(READY_TWO, (TWO,), verdict=PASSED_TWO, recorded=frozenset({"1", "2", "7"})),
        d.Prune,
    ),
]


@pytest.mark.parametrize(
    ("wished", "record", "seen", "expected"),
    [case[1:] for case in TABLE],
    ids=[case[0] for case in TABLE],
)
def test_the_next_step_is(
    wished: sit.Wish, record: sit.Record, seen: Seen, expected: type[d.Action]
) -> None:
    action = d.decide(wished, record, seen.observed())
    assert type(action) is expected
    assert action.model == "m"
    assert action.reason


BOTH = (ONE, TWO)
EXHAUSTED = sit.Record(committed=ONE, attempts=attempts(5))
LEASE_TABLE = [
    ("not on disk", leased(TWO), SERVES_ONE, Seen(READY_ONE, (ONE,)), d.Fetch),
    ("what serves unheard of", leased(TWO), SERVES_ONE, Seen(READY_ONE, BOTH), d.Verify),
    ("unproven", leased(TWO), SERVES_ONE, Seen(READY_ONE, BOTH, verdict=PASSED_ONE), d.AskLease),
    ("unproven, held", leased(TWO), SERVES_ONE, Seen(READY_ONE, BOTH, lease=lease(TWO)), d.Prove),
    (
        "held for an older wish",
        leased(TWO),
        SERVES_ONE,
        Seen(READY_ONE, BOTH, verdict=PASSED_ONE, lease=lease(TWO, 4)),
        d.AskLease,
    ),
    (
        "held for another epoch",
        leased(TWO),
        SERVES_ONE,
        Seen(READY_ONE, BOTH, verdict=PASSED_ONE, lease=lease(TWO, epoch=2)),
        d.AskLease,
    ),
    (
        "held for other bytes",
        leased(TWO),
        SERVES_ONE,
        Seen(READY_ONE, BOTH, verdict=PASSED_ONE, lease=lease(OTHER_TWO)),
        d.AskLease,
    ),
    (
        "proven, not switched",
        leased(TWO),
        PROVED_TWO,
        Seen(READY_ONE, BOTH, verdict=PASSED_ONE),
        d.AskLease,
    ),
    (
        "proven, not switched, held",
        leased(TWO),
        PROVED_TWO,
        Seen(READY_ONE, BOTH, lease=lease(TWO)),
        d.Switch,
    ),
    ("the very first version", leased(ONE), sit.Record(), Seen({}, (ONE,)), d.AskLease),
    (
        "the very first version, proven",
        leased(ONE),
        sit.Record(proven=frozenset({ONE.digest})),
        Seen({}, (ONE,)),
        d.AskLease,
    ),
    (
        "a previous one wished forward",
        leased(ONE),
        SERVES_TWO,
        Seen(READY_TWO, BOTH, verdict=PASSED_TWO),
        d.AskLease,
    ),
    ("rolled back by the centre", wish(ONE), SERVES_TWO, Seen(READY_TWO, BOTH), d.Switch),
    ("the committed one is restored", leased(TWO), SERVES_TWO, Seen({}, (TWO,)), d.Switch),
    ("empty server, unproven", leased(TWO), SERVES_ONE, Seen({}, BOTH), d.Switch),
    ("empty server, proven", leased(TWO), PROVED_TWO, Seen({}, BOTH), d.Switch),
    (
        "empty server, the old one's files lost",
        leased(TWO),
        PROVED_TWO,
        Seen({}, (TWO,)),
        d.AskLease,
    ),
    (
        "a switch under way",
        leased(TWO),
        PROVED_TWO,
        Seen({**READY_ONE, **READY_TWO}, BOTH),
        d.Switch,
    ),
    ("switched, not verified", leased(TWO), PROVED_TWO, Seen(READY_TWO, BOTH), d.Verify),
    ("failed while serving", leased(TWO), FAILED_TWO, Seen(READY_TWO, BOTH), d.Switch),
    (
        "a switch cut short by a newer wish",
        leased(ONE, 6),
        PROVED_TWO,
        Seen(READY_TWO, BOTH),
        d.Switch,
    ),
    ("no attempts left", leased(TWO), EXHAUSTED, Seen(READY_ONE, BOTH), d.GiveUp),
    ("server gone", leased(TWO), SERVES_ONE, Seen(live=False), d.Wait),
    (
        "candidate hangs: the proof could not begin",
        leased(TWO),
        SERVES_ONE,
        Seen(READY_ONE, BOTH, candidate={"3": "LOADING"}, candidate_on_disk=True),
        d.Wait,
    ),
    (
        "candidate left of an earlier life",
        leased(TWO),
        SERVES_ONE,
        Seen(READY_ONE, BOTH, candidate_on_disk=True),
        d.UnloadCandidate,
    ),
    ("nothing wished", leased(None), SERVES_ONE, Seen(READY_ONE, (ONE,)), d.Unload),
    ("as wished", leased(TWO), SERVES_TWO, Seen(READY_TWO, BOTH, verdict=PASSED_TWO), d.Settled),
]


@pytest.mark.parametrize(
    ("wished", "record", "seen", "expected"),
    [case[1:] for case in LEASE_TABLE],
    ids=[case[0] for case in LEASE_TABLE],
)
def test_where_a_lease_is_required_the_next_step_is(
    wished: sit.Wish, record: sit.Record, seen: Seen, expected: type[d.Action]
) -> None:
    action = d.decide(wished, record, seen.observed())
    assert type(action) is expected
    assert action.reason
    if isinstance(action, d.AskLease):
        assert action.target == wished.target


@pytest.mark.parametrize("case", TABLE, ids=[case[0] for case in TABLE])
def test_with_its_lease_every_step_is_the_one_without_leases(
    case: tuple[str, sit.Wish, sit.Record, Seen, type[d.Action]],
) -> None:
    _, wished, record, seen, _ = case
    without = d.decide(wished, record, seen.observed())
    required = replace(wished, lease_required=True)
    held = None if wished.target is None else lease(wished.target, wished.generation)
    assert d.decide(required, record, replace(seen.observed(), lease=held)) == without


@pytest.mark.parametrize("case", TABLE, ids=[case[0] for case in TABLE])
def test_without_its_lease_nothing_new_begins(
    case: tuple[str, sit.Wish, sit.Record, Seen, type[d.Action]],
) -> None:
    _, wished, record, seen, _ = case
    observed = seen.observed()
    action = d.decide(replace(wished, lease_required=True), record, observed)
    assert not isinstance(action, d.Prove)
    if isinstance(action, d.Switch):
        assert action.target == record.committed or action.target.version in observed.ready


def test_a_switch_that_triton_shows_as_under_way_is_not_taken_back_for_want_of_a_lease() -> None:
    """The agent that held the lease died; the version answers users already."""
    seen = Seen({**READY_ONE, **READY_TWO}, BOTH).observed()
    action = d.decide(leased(TWO), PROVED_TWO, seen)
    assert isinstance(action, d.Switch)
    assert (action.target, action.restoring) == (TWO, False)


def test_an_empty_server_is_restored_to_the_committed_version_while_the_lease_is_out() -> None:
    action = d.decide(leased(TWO), PROVED_TWO, Seen({}, BOTH).observed())
    assert isinstance(action, d.Switch)
    assert (action.target, action.restoring) == (ONE, True)


def test_a_failed_version_goes_back_to_the_committed_one_and_says_why() -> None:
    action = d.decide(wish(TWO), FAILED_TWO, Seen(READY_TWO, (ONE, TWO)).observed())
    assert isinstance(action, d.Switch)
    assert (action.target, action.restoring) == (ONE, True)
    assert "it broke" in action.reason


def test_a_server_that_came_back_empty_serves_the_committed_version_first() -> None:
    action = d.decide(wish(TWO), SERVES_ONE, Seen({}, (ONE, TWO)).observed())
    assert isinstance(action, d.Switch)
    assert (action.target, action.restoring) == (ONE, True)


def test_a_restored_version_that_answers_wrongly_is_a_failed_restore() -> None:
    seen = Seen(READY_ONE, (ONE, TWO), verdict=FAILED_ONE).observed()
    action = d.decide(wish(TWO), FAILED_TWO, seen)
    assert isinstance(action, d.Settled)
    assert (action.succeeded, action.reason_code) == (False, "restore-failed")


def test_a_serving_version_that_answers_wrongly_is_not_a_success() -> None:
    action = d.decide(wish(ONE), SERVES_ONE, Seen(READY_ONE, (ONE,), verdict=FAILED_ONE).observed())
    assert isinstance(action, d.Settled)
    assert (action.succeeded, action.reason_code) == (False, "golden-mismatch")


def test_pruning_spares_what_is_wished_committed_previous_or_loaded() -> None:
    record = sit.Record(committed=TWO, previous=ONE, proven=frozenset({TWO.digest}))
    seen = Seen(
        READY_TWO,
        (TWO,),
        verdict=PASSED_TWO,
        recorded=frozenset({"1", "2", "3", "4", "5"}),
    )
    action = d.decide(wish(TWO, previous="3"), record, seen.observed())
    assert isinstance(action, d.Prune)
    assert action.versions == {"4", "5"}


def test_the_decision_needs_the_standard_library_alone() -> None:
    code = (
        "import sys, waypost_agent.decide; "
        "print([m for m in ('numpy', 'grpc', 'urllib3', 'tritonclient', 'random', 'time', 'socket')"
        " if m in sys.modules and m not in sys.builtin_module_names])"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {SOURCE!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
