"""The ways on from a pause of the engine, each with what it does to how many sites."""

from dataclasses import dataclass

from controlplane.domain.rollout import DeploymentState, ResumeChoice, RolloutState
from controlplane.web.verbs import Situation, rollback_effect
from controlplane.web.words import sites_do


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One answer to a pause of the engine, with what it does."""

    value: str
    label: str
    icon: str
    danger: bool
    effect: list[str]


def choices(now: Situation) -> list[Choice]:
    """The ways on from a pause of the engine; none when a person paused it. Turning back is left
    out while a freeze forbids it."""
    if now.state is not RolloutState.PAUSED or not now.pause_code:
        return []
    found = [
        Choice(
            value=ResumeChoice.RETRY,
            label="Retry",
            icon="again",
            danger=False,
            effect=_retry_choice(now),
        ),
        Choice(
            value=ResumeChoice.ACCEPT,
            label="Accept and go on",
            icon="play",
            danger=False,
            effect=_accept_choice(now),
        ),
    ]
    if not now.frozen:
        back = Choice(
            value=ResumeChoice.ROLLBACK,
            label="Roll back",
            icon="undo",
            danger=True,
            effect=rollback_effect(now)[:-1],
        )
        found.append(back)
    return found


def _retry_choice(now: Situation) -> list[str]:
    if now.failed:
        lines = [f"{sites_do(now.failed, 'gets', 'get')} another attempt, at once."]
    else:
        lines = ["No site has failed: the rollout measures again."]
    return [*lines, *_withdrawn(now)]


def _accept_choice(now: Situation) -> list[str]:
    lines = []
    if now.failed:
        lines.append(
            f"{sites_do(now.failed, 'stays', 'stay')} without the new version, "
            "and the stage is no longer held to it."
        )
    if waiting := now.count(DeploymentState.PENDING):
        lines.append(f"{sites_do(waiting, 'is', 'are')} still to come.")
    return [*(lines or ["The rollout goes on as if the evidence were there."]), *_withdrawn(now)]


def _withdrawn(now: Situation) -> list[str]:
    if now.pause_code != "version-withdrawn":
        return []
    return ["It pauses again at once, unless the version was released before."]
