"""A simulated worker that is killed before the first commit of a turn, or between two decisions."""

from controlplane.domain.rollout import RolloutState
from controlplane.ops.simulation.centre import Centre, PlannedStage
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.turns import step_not_committed
from controlplane.ops.simulation.versions import Version
from controlplane.ops.simulation.world import simulate


def test_workers_die_at_both_places_and_no_promise_breaks() -> None:
    outcome = simulate(Options(sites=20, hours=12, seed=1, turn_crash_share=0.3))

    assert outcome.broken is None, outcome.failure()
    assert outcome.faults["turns cut before the first commit"]
    assert outcome.faults["turns cut between two decisions"]


def test_a_decision_that_was_not_committed_leaves_the_rows_of_the_one_before() -> None:
    centre = Centre(sites=3, fresh_seconds=60, patience=10)
    version = Version(model="vad", number=1)
    rollout = centre.plan(version, [PlannedStage(sites=range(3))])
    assert not centre.step(rollout, 1.0), "the stage is still to start, and to be offered"
    centre.notes.clear()
    before = repr((rollout, centre.rows, centre.generations))

    step_not_committed(centre, rollout, 2.0)

    assert rollout.state is RolloutState.RUNNING
    assert repr((rollout, centre.rows, centre.generations)) == before
    assert centre.notes == []
