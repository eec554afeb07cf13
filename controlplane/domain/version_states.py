"""The life of a version: which state follows which, whose yes counts, and what is still missing.

Pure: it must not know rows, the clock or who asks. Approvals bind to bytes; the caller passes only
those of the version's own manifest digest."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """The same words as the catalogue's rows have."""

    UPLOADING = "uploading"
    REGISTERED = "registered"
    VALIDATED = "validated"
    APPROVED = "approved"
    QUARANTINED = "quarantined"
    RETIRED = "retired"


# What a step of people or of the catalogue itself may lead to. Release and unretire lead to where
# the version was; a withdrawn approval or a revoked signature leads back.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    State.UPLOADING: frozenset({State.REGISTERED}),
    State.REGISTERED: frozenset({State.VALIDATED, State.QUARANTINED, State.RETIRED}),
    State.VALIDATED: frozenset(
        {State.REGISTERED, State.APPROVED, State.QUARANTINED, State.RETIRED}
    ),
    State.APPROVED: frozenset({State.VALIDATED, State.QUARANTINED, State.RETIRED}),
    State.QUARANTINED: frozenset(
        {State.REGISTERED, State.VALIDATED, State.APPROVED, State.RETIRED}
    ),
    State.RETIRED: frozenset(
        {State.REGISTERED, State.VALIDATED, State.APPROVED, State.QUARANTINED}
    ),
}
# On its way to be approved: a yes counts, and what is missing is looked at again.
PENDING = frozenset({State.REGISTERED, State.VALIDATED})
APPROVABLE = frozenset({*PENDING, State.APPROVED})
# Every byte is held, and nobody called them bad.
SOUND = frozenset({*APPROVABLE, State.RETIRED})

DATA, OPAQUE = "data", "opaque"
_EXECUTABLE_NEEDS = 2


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How many different people must say yes, and whether the author's own is one of them."""

    needed: int
    by_others: bool


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where a version stands between the people. `counted` and `passed_over` in the order given."""

    rule: Rule
    counted: tuple[str, ...]
    # The author, where their own yes does not count.
    passed_over: tuple[str, ...]
    sentence: str

    @property
    def missing(self) -> int:
        return max(0, self.rule.needed - len(self.counted))

    @property
    def met(self) -> bool:
        return not self.missing


def approval_rule(content_class: str, *, signed: bool, approvals_needed: int) -> Rule:
    """What a version of this class asks for, under a model that asks for `approvals_needed` people.

    Loading an executable version runs its author's code: two people at least, none of them the
    author. Opaque bytes (a TensorRT plan) that nobody signed are taken for that, and so is a class
    that nobody looked at. Of data the author's own yes counts where one is enough.
    """
    harmless = content_class == DATA or (content_class == OPAQUE and signed)
    if not harmless:
        return Rule(needed=max(_EXECUTABLE_NEEDS, approvals_needed), by_others=True)
    return Rule(needed=approvals_needed, by_others=approvals_needed >= _EXECUTABLE_NEEDS)


def standing(rule: Rule, people: Iterable[str], *, author: str) -> Standing:
    """Counts each person once. An unknown author (empty) is nobody."""
    named = list(dict.fromkeys(people))
    over = [person for person in named if rule.by_others and author and person == author]
    counted = [person for person in named if person not in over]
    return Standing(
        rule=rule,
        counted=tuple(counted),
        passed_over=tuple(over),
        sentence=_sentence(rule, counted, author),
    )


def _sentence(rule: Rule, counted: list[str], author: str) -> str:
    who = f" by others than {author}" if rule.by_others and author else ""
    has = f"{len(counted)} ({', '.join(counted)})" if counted else "none"
    if rule.needed == 0:
        return "the model's policy asks for no approval"
    times = "approval" if rule.needed == 1 else "approvals"
    return f"needs {rule.needed} {times}{who}; has {has}"


def next_state(state: State, *, signature_met: bool, people: Standing) -> State:
    """Where the catalogue itself takes a version that is not withheld by a person. What is approved
    stays so when a rule changes: it was approved by the rule of its time."""
    if state not in PENDING:
        return state
    if not signature_met:
        return State.REGISTERED
    return State.APPROVED if people.met else State.VALIDATED


def after_withdrawal(state: State, people: Standing) -> State:
    """Where a version stands when a yes was taken back: one too few is not approved any more."""
    return State.VALIDATED if state is State.APPROVED and not people.met else state
