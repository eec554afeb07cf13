"""A centre's effects and leases, and agents, each spoilt in one way."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from waypost_agent import decide as d
from waypost_agent import situation as sit

from controlplane.domain.admission import (
    BEGIN_WITHIN_SECONDS,
    Granted,
    LeaseFacts,
    Refused,
    admit,
)
from controlplane.domain.rollout import BEGUN, FINAL_DEPLOYMENT
from controlplane.domain.rollout import DeploymentState as D
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.rollout import StageState as S
from controlplane.ops.simulation.agent import Agent
from controlplane.ops.simulation.book import in_transition
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.rows import (
    Answer,
    Deployment,
    Report,
    Rollout,
    Said,
    SiteModel,
    Stage,
)
from controlplane.ops.simulation.versions import Version

LONG_SILENCE = 5  # failed contacts in a row

# The effects, spoilt


class ForgetsToCancelForward(Centre):
    def end_forward(self, leaving: Sequence[Deployment]) -> None:
        pass


class ReturnsAllToOneVersion(Centre):
    """Takes what one site had for what every site had."""

    def way_back(self, deployment: Deployment) -> Version | None:
        rows = deployment.rollout.forward
        return next((row.from_version for row in rows if row.generation is not None), None)


class ReturnsToNothing(Centre):
    def way_back(self, deployment: Deployment) -> Version | None:
        return None


class TakesReportsOfThePast(Centre):
    def is_current(self, row: SiteModel, said: Said) -> bool:
        return True


class TakesReportsInAnyOrder(Centre):
    def in_order(self, report: Report) -> bool:
        return True


class BelievesTheClockOfTheSite(Centre):
    def time_of(self, report: Report, now: float) -> float:
        return report.sent_at


class ReusesAGeneration(Centre):
    """Gives a wish that calls back the generation of the one before."""

    def next_generation(self, site: int, is_offer: bool) -> int:
        return self.generations[site] + (1 if is_offer else 0)


class LeavesTheWish(Centre):
    """Aborted, it lets go of its sites without calling them back."""

    def call_back(self, rollout: Rollout, rows: Iterable[Deployment]) -> None:
        pass


class FreesByTime(Centre):
    """Gives the slot of a site that is silent since its lease ended to another one."""

    def unavailable(self, asking: Deployment, stage: Stage, limit: int, now: float) -> int:
        held = [d for d in stage.deployments if d is not asking and in_transition(d)]
        return sum(now - (d.leased_at or 0.0) < BEGIN_WITHIN_SECONDS for d in held)


class FreesByAnyReport(Centre):
    """Takes a report that was made before the lease for one that was made after it."""

    def frees_slot(self, deployment: Deployment, state: D, said: Said, report: Report) -> bool:
        if state in FINAL_DEPLOYMENT:
            return True
        return state not in BEGUN and said.lease != deployment.lease


class OffersTheFrozen(Centre):
    def is_frozen(self, site: int) -> bool:
        return False


class OffersThePinned(Centre):
    def is_held(self, site: int, model: str) -> bool:
        return self.is_frozen(site)


class Lenient(Centre):
    """Grants by facts that are not so."""

    def is_hopeless(self, deployment: Deployment) -> bool:
        return False

    def admit(self, facts: LeaseFacts) -> Granted | Refused:
        return admit(self.prettified(facts))

    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        raise NotImplementedError


class CountsNobody(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, unavailable=0)


class GrantsOneTooMany(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, max_unavailable=facts.max_unavailable + 1)


class GrantsInAFreeze(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, frozen="")


class GrantsOutsideTheWindow(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, closed=False)


class GrantsInAPause(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, rollout_state=R.RUNNING)


class GrantsBeforeTheStage(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, stage_state=S.RUNNING)


class GrantsTheWithdrawn(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        if not facts.withdrawn:
            return facts
        return replace(facts, withdrawn="", rollout_state=R.RUNNING)


class LooksPastFailures(Lenient):
    """Forgets a failure once the site is to be tried again, or the engine has not looked yet."""

    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, untried=False)


class SpendsWithoutLimit(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, changing_limit=None)


class ForgetsTheGroup(Lenient):
    def prettified(self, facts: LeaseFacts) -> LeaseFacts:
        return replace(facts, peer_unavailable="")


class AsksNobody(Agent):
    def may_begin(self, action: d.Action, wish: sit.Wish) -> bool:
        return True


class TellsOnlyOnce(Agent):
    """Reports a change once, and trusts that it arrived."""

    repeats_reports = False


class FollowsTheLastAnswer(Agent):
    """Takes whichever answer came last for the newest."""

    def is_newer(self, answer: Answer) -> bool:
        return True

    def has_news(self) -> bool:
        held = self.disk.held
        return self.offered_generation > 0 and (
            held is None or held.generation != self.offered_generation
        )


class StaysAlone(Agent):
    """After a long silence it takes the centre for dead, and goes on by itself."""

    was_alone = False

    def is_newer(self, answer: Answer) -> bool:
        self.was_alone = self.was_alone or self.failures > LONG_SILENCE
        return not self.was_alone and super().is_newer(answer)
