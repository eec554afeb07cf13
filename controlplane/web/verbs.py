"""What an operator may do to a rollout: the words, what it will do to how many sites, and the
service behind it. Whether a verb is possible is the domain's to say."""

from collections.abc import Callable
from dataclasses import dataclass, field

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    FINAL_ROLLOUT,
    STAGE_FAILURES,
    VERBS,
    DeploymentState,
    RolloutState,
)
from controlplane.rollouts import verbs
from controlplane.rollouts.approvals import approve_rollout
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.turning_back import roll_back_rollout, stop_waiting
from controlplane.web.facts import Totals
from controlplane.web.look import look_of
from controlplane.web.stages import REACHED
from controlplane.web.words import sites_do

D = DeploymentState


@dataclass(frozen=True, kw_only=True)
class Situation:
    """What decides which verb is possible and what it does. `totals` counts sites by state on the
    way forward, of the whole rollout or of the part that is meant; `under_way` those on their way
    there or back, of the whole.

    `frozen` is why this person may not roll back now, `not_approver` why not approve; `missing`
    names the approvals asked for and not given ("" is the plan's).
    """

    state: RolloutState
    totals: Totals = field(default_factory=dict)
    under_way: int = 0
    pause_code: str = ""
    soaking: str = ""
    missing: tuple[str, ...] = ()
    not_approver: str = ""
    frozen: str = ""

    def count(self, *states: DeploymentState) -> int:
        return sum(self.totals.get(state, 0) for state in states)

    @property
    def failed(self) -> int:
        return self.count(*STAGE_FAILURES)

    @property
    def reached(self) -> int:
        return self.count(*REACHED)


@dataclass(frozen=True, kw_only=True)
class Verb:
    """`effect` tells what it will do as things are; `blocked` what else than the state forbids it.

    `reason_required` is asked besides of every resume that needs a choice.
    """

    name: str
    label: str
    done: str
    icon: str
    danger: bool
    reason_required: bool
    service: Callable[..., Rollout]
    effect: Callable[[Situation], list[str]]
    blocked: Callable[[Situation], str] = lambda _: ""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A verb as a button: `why_not` is empty when it is possible now."""

    verb: Verb
    why_not: str


def _approve_effect(now: Situation) -> list[str]:
    lines = ["It counts for the plan with this digest alone, and for a limited time."]
    return [*lines, "The rollout goes on as soon as nothing else holds it."]


def _pause_effect(now: Situation) -> list[str]:
    lines = ["No further site starts until somebody resumes it: no offer, no activation."]
    if busy := now.count(*ACTIVE_DEPLOYMENT):
        lines.append(
            f"{sites_do(busy, 'is', 'are')} under way: downloads go on, and who switches finishes."
        )
    lines.append("A site that fails is still dealt with as its stage says.")
    return lines


def _resume_effect(now: Situation) -> list[str]:
    if now.pause_code:
        return ["The engine paused it and has to be told what is to become of the cause."]
    lines = ["The rollout goes on from the stage where it stood; the pause does not count as soak."]
    if waiting := now.count(D.PENDING):
        lines.append(f"{sites_do(waiting, 'is', 'are')} still to come.")
    return lines


def _promote_effect(now: Situation) -> list[str]:
    lines = [f"The soak of stage {now.soaking} ends now, and the next stage may start."]
    if waiting := now.count(D.PENDING):
        lines.append(f"{sites_do(waiting, 'is', 'are')} still to come.")
    lines.append("It stands for missing evidence, never for an approval or against a failure.")
    return lines


def _retry_effect(now: Situation) -> list[str]:
    lines = [f"{sites_do(now.failed, 'gets', 'get')} another attempt, at once."]
    if now.pause_code:
        lines.append("The rollout stays paused until it is resumed.")
    return lines


def _abort_effect(now: Situation) -> list[str]:
    keep, called_back = now.count(D.SUCCEEDED), now.count(*BEFORE_SWITCH)
    switching = now.count(*(ACTIVE_DEPLOYMENT - BEFORE_SWITCH))
    lines = [f"{sites_do(keep, 'keeps', 'keep')} the new version."]
    if switching:
        lines.append(f"{sites_do(switching, 'is', 'are')} switching now and will finish.")
    if called_back:
        lines.append(f"{sites_do(called_back, 'is', 'are')} called back before switching.")
    if waiting := now.count(D.PENDING):
        lines.append(f"{sites_do(waiting, 'does', 'do')} not get it.")
    lines.append("This cannot be undone; start a new rollout to go on.")
    return lines


def _stop_waiting_effect(now: Situation) -> list[str]:
    lines = [
        f"The rollout ends without {sites_do(now.under_way, 'that is', 'that are')} under way."
    ]
    lines.append("What is wished of them stands: each returns to the version it had when it can.")
    lines.append("Until then it counts as changing wherever others ask to activate.")
    lines.append("This cannot be undone.")
    return lines


def _returns(now: Situation) -> str:
    words = ("returns to the version it", "return to the version they")
    return f"{sites_do(now.reached, *words)} had."


def rollback_effect(now: Situation) -> list[str]:
    lines = [_returns(now)]
    if waiting := now.count(D.PENDING):
        lines.append(f"{sites_do(waiting, 'does', 'do')} not get the new version.")
    lines.append("This cannot be undone; start a new rollout to try again.")
    return lines


def part_effect(now: Situation) -> list[str]:
    """Of rolling back a stage or a site."""
    lines = [_returns(now)] if now.reached else []
    if waiting := now.count(D.PENDING):
        lines.append(f"{sites_do(waiting, 'does', 'do')} not get the new version.")
    lines.append("They leave the rollout, and the rest of it goes on without them.")
    lines.append("This cannot be undone; start a new rollout to try again.")
    return lines


def _approval_blocked(now: Situation) -> str:
    if not now.missing:
        return "Nothing waits for an approval."
    return now.not_approver


def _promotion_blocked(now: Situation) -> str:
    return "" if now.soaking else "Possible only while a stage soaks; none does."


def _waiting_blocked(now: Situation) -> str:
    return "" if now.under_way else "It waits for no site."


def _retry_blocked(now: Situation) -> str:
    return "" if now.failed else "No site has failed."


CONSOLE_VERBS = (
    Verb(
        name="approve",
        label="Approve",
        done="approved",
        icon="thumb",
        danger=False,
        reason_required=False,
        service=approve_rollout,
        effect=_approve_effect,
        blocked=_approval_blocked,
    ),
    Verb(
        name="pause",
        label="Pause",
        done="paused",
        icon="pause",
        danger=False,
        reason_required=False,
        service=verbs.pause_rollout,
        effect=_pause_effect,
    ),
    Verb(
        name="resume",
        label="Resume",
        done="resumed",
        icon="play",
        danger=False,
        reason_required=False,
        service=verbs.resume_rollout,
        effect=_resume_effect,
    ),
    Verb(
        name="promote",
        label="Promote",
        done="promoted",
        icon="forward",
        danger=False,
        reason_required=True,
        service=verbs.promote_rollout,
        effect=_promote_effect,
        blocked=_promotion_blocked,
    ),
    Verb(
        name="retry-failed",
        label="Retry failed",
        done="trying its failed sites again",
        icon="again",
        danger=False,
        reason_required=False,
        service=verbs.retry_failed,
        effect=_retry_effect,
        blocked=_retry_blocked,
    ),
    Verb(
        name="abort",
        label="Abort",
        done="being aborted",
        icon="stop",
        danger=True,
        reason_required=True,
        service=verbs.abort_rollout,
        effect=_abort_effect,
    ),
    Verb(
        name="stop-waiting",
        label="Stop waiting",
        done="ending without the sites it waited for",
        icon="forward",
        danger=True,
        reason_required=True,
        service=stop_waiting,
        effect=_stop_waiting_effect,
        blocked=_waiting_blocked,
    ),
    Verb(
        name="rollback",
        label="Roll back",
        done="being rolled back",
        icon="undo",
        danger=True,
        reason_required=True,
        service=roll_back_rollout,
        effect=rollback_effect,
        blocked=lambda now: now.frozen,
    ),
)
VERB_BY_NAME = {verb.name: verb for verb in CONSOLE_VERBS}


def offers(now: Situation, refusal: str) -> list[Offer]:
    """Every verb, each possible or with the reason why not. None at all once it is final."""
    if now.state in FINAL_ROLLOUT:
        return []
    return [Offer(verb=verb, why_not=refusal or why_not(verb, now)) for verb in CONSOLE_VERBS]


def why_not(verb: Verb, now: Situation) -> str:
    """Empty when the verb is possible."""
    if now.state in VERBS[verb.name]:
        return verb.blocked(now)
    words = [look_of("rollout", s).word for s in RolloutState if s in VERBS[verb.name]]
    listed = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"Possible only while {listed}; the rollout is {look_of('rollout', now.state).word}."
