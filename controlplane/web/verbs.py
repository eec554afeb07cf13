"""What an operator may do to a rollout: the words, what it will do to how many sites, and the
service behind it. Whether a verb is possible is the domain's to say."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    BEFORE_SWITCH,
    FINAL_ROLLOUT,
    VERBS,
    DeploymentState,
    RolloutState,
)
from controlplane.rollouts import services
from controlplane.rollouts.models import Rollout
from controlplane.web.look import look_of

Totals = Mapping[DeploymentState, int]
D = DeploymentState


@dataclass(frozen=True, kw_only=True)
class Verb:
    """`effect` tells what it will do, from how many deployments are in which state now."""

    name: str
    label: str
    done: str
    icon: str
    danger: bool
    reason_required: bool
    service: Callable[..., Rollout]
    effect: Callable[[Totals], list[str]]


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A verb as a button: `why_not` is empty when it is possible now."""

    verb: Verb
    why_not: str


def _count(totals: Totals, *states: DeploymentState) -> int:
    return sum(totals.get(state, 0) for state in states)


def sites(count: int, singular: str, plural: str) -> str:
    """`1 site returns`, `3 sites return`."""
    return f"1 site {singular}" if count == 1 else f"{count} sites {plural}"


def _pause_effect(totals: Totals) -> list[str]:
    lines = ["No further stage starts until somebody resumes it."]
    if busy := _count(totals, *ACTIVE_DEPLOYMENT):
        lines.append(f"{sites(busy, 'goes on', 'go on')} with the version already offered.")
    lines.append("A site that fails still turns the whole rollout back.")
    return lines


def _resume_effect(totals: Totals) -> list[str]:
    waiting = _count(totals, D.PENDING)
    lines = ["The rollout goes on from the stage where it stood; the pause does not count as soak."]
    if waiting:
        lines.append(f"{sites(waiting, 'is', 'are')} still to come.")
    return lines


def _abort_effect(totals: Totals) -> list[str]:
    keep, called_back = _count(totals, D.SUCCEEDED), _count(totals, *BEFORE_SWITCH)
    switching = _count(totals, *(ACTIVE_DEPLOYMENT - BEFORE_SWITCH))
    lines = [f"{sites(keep, 'keeps', 'keep')} the new version."]
    if switching:
        lines.append(f"{sites(switching, 'is', 'are')} switching now and will finish.")
    if called_back:
        lines.append(f"{sites(called_back, 'is', 'are')} called back before switching.")
    if waiting := _count(totals, D.PENDING):
        lines.append(f"{sites(waiting, 'does', 'do')} not get it.")
    lines.append("This cannot be undone; start a new rollout to go on.")
    return lines


def _rollback_effect(totals: Totals) -> list[str]:
    reached = _count(totals, D.SUCCEEDED, D.FAILED, *ACTIVE_DEPLOYMENT)
    lines = [f"{sites(reached, 'returns to the version it', 'return to the version they')} had."]
    if waiting := _count(totals, D.PENDING):
        lines.append(f"{sites(waiting, 'does', 'do')} not get the new version.")
    lines.append("This cannot be undone; start a new rollout to try again.")
    return lines


CONSOLE_VERBS = (
    Verb(
        name="pause",
        label="Pause",
        done="paused",
        icon="pause",
        danger=False,
        reason_required=False,
        service=services.pause_rollout,
        effect=_pause_effect,
    ),
    Verb(
        name="resume",
        label="Resume",
        done="resumed",
        icon="play",
        danger=False,
        reason_required=False,
        service=services.resume_rollout,
        effect=_resume_effect,
    ),
    Verb(
        name="abort",
        label="Abort",
        done="being aborted",
        icon="stop",
        danger=True,
        reason_required=True,
        service=services.abort_rollout,
        effect=_abort_effect,
    ),
    Verb(
        name="rollback",
        label="Roll back",
        done="being rolled back",
        icon="undo",
        danger=True,
        reason_required=True,
        service=services.roll_back_rollout,
        effect=_rollback_effect,
    ),
)
VERB_BY_NAME = {verb.name: verb for verb in CONSOLE_VERBS}


def offers(state: RolloutState, refusal: str) -> list[Offer]:
    """Every verb, each possible or with the reason why not. None at all once it is final."""
    if state in FINAL_ROLLOUT:
        return []
    return [Offer(verb=verb, why_not=refusal or why_not(verb, state)) for verb in CONSOLE_VERBS]


def why_not(verb: Verb, state: RolloutState) -> str:
    """Empty when the state allows the verb."""
    if state in VERBS[verb.name]:
        return ""
    words = [look_of("rollout", s).word for s in RolloutState if s in VERBS[verb.name]]
    listed = " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
    return f"Possible only while {listed}; the rollout is {look_of('rollout', state).word}."
