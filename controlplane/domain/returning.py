"""When a rollout that was called off or turns back is over, and without whom."""

from controlplane.domain.decisions import CallBack, Decision, Finish, Wait
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, BEFORE_SWITCH
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.sentences import count_sites, name_sites
from controlplane.domain.views import RolloutView, StageView


def decide_cancelling(view: RolloutView) -> Decision:
    if early := sum(stage.count(*BEFORE_SWITCH) for stage in view.stages):
        return CallBack(reason=f"{view.cause}; {count_sites(early)} had not switched after all")
    busy = sum(stage.count(*ACTIVE_DEPLOYMENT) + returning(stage) for stage in view.stages)
    silent = sum(stage.silent for stage in view.stages)
    if busy > silent:
        notes = [note for stage in view.stages for note in stage.unfinished]
        return Wait(
            reason_code="switching",
            reason=f"{view.cause}; sites already switching finish: {name_sites(notes, busy)}; "
            "stop-waiting ends it without them",
        )
    end = R.CANCELLED if view.superseded_by is None else R.SUPERSEDED
    return Finish(state=end, reason=view.cause + _not_waited_for(silent))


def decide_rolling_back(view: RolloutView) -> Decision:
    totals = {state: sum(s.rollback.get(state, 0) for s in view.stages) for state in D}
    open_count = totals[D.PENDING] + sum(totals[state] for state in ACTIVE_DEPLOYMENT)
    silent = sum(stage.silent for stage in view.stages)
    if open_count > silent:
        notes = [note for stage in view.stages for note in stage.unfinished]
        return Wait(
            reason_code="rollback-unfinished",
            reason=f"{view.cause}; waiting for {name_sites(notes, open_count)} to return; "
            "stop-waiting ends it without them",
        )
    if totals[D.ROLLBACK_FAILED] or silent:
        left = _left_where_they_are(view, totals[D.ROLLBACK_FAILED])
        reason = f"{view.cause}{left}{_not_waited_for(silent)}"
        return Finish(state=R.ROLLBACK_INCOMPLETE, reason=reason)
    returned = count_sites(totals[D.ROLLED_BACK])
    return Finish(state=R.ROLLED_BACK, reason=f"{view.cause}; {returned} returned")


def _left_where_they_are(view: RolloutView, failed: int) -> str:
    """Those given up by a person are named in the cause already."""
    unsound = sum(stage.unsound for stage in view.stages)
    failed -= unsound + sum(stage.unwaited for stage in view.stages)
    could_not = f"; {count_sites(failed)} could not return" if failed else ""
    if not unsound:
        return could_not
    named = name_sites([note for stage in view.stages for note in stage.unsound_notes], unsound)
    return (
        f"{could_not}; nothing sound to return to, so it keeps what it serves: {named}; release "
        "that version with a reason, or roll out another"
    )


def _not_waited_for(silent: int) -> str:
    """Their wish stands without this rollout: an agent that comes back follows it."""
    return (
        f"; not waited for {count_sites(silent)} long silent: called back when heard of"
        if silent
        else ""
    )


def returning(stage: StageView) -> int:
    """Sites on their way back."""
    return sum(stage.rollback.get(state, 0) for state in ACTIVE_DEPLOYMENT)
