"""What a stage bears and when it stops: read from a document, resolved to whole sites.

It must not know the stage's sites, only how many there are; nor rows, nor the clock."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from controlplane.domain.errors import FieldError
from controlplane.domain.probation import Probation, check_probation, probation_of

# A whole number of sites, or a share of the stage such as "25%".
Amount = int | str

MAX_SECONDS = 30 * 24 * 3600
MAX_RETRIES = 10
MAX_GATES = 20
MAX_AMOUNT = 1_000_000
_PERCENT = re.compile(r"([0-9]{1,3})%")
_GATE = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


class OnFailure(StrEnum):
    """What happens when more sites failed than are tolerated."""

    ROLLBACK = "rollback"
    PAUSE = "pause"


class OnSilent(StrEnum):
    """What a silent site is at its deadline: waited for, counted as failed, or put off."""

    WAIT = "wait"
    COUNT = "count"
    DEFER = "defer"


class Switch(StrEnum):
    """How a version takes over at a site: beside the one before it, in its place with a declared
    downtime, or whichever the site's memory allows."""

    SURGE = "surge"
    REPLACE = "replace"
    AUTO = "auto"


@dataclass(frozen=True, kw_only=True)
class StagePolicy:
    """What one stage bears. Amounts are whole numbers of sites or shares of the stage.

    `max_concurrent` None: all at once. `successes_required` None: all but the tolerated failures.
    `progress_deadline_seconds` None: no site is ever too late. `probation` None: each site's own
    rule holds.
    """

    max_concurrent: Amount | None = None
    max_unavailable: Amount = "25%"
    failures_tolerated: Amount = 0
    successes_required: Amount | None = None
    stale_tolerated: Amount = "10%"
    on_failure: OnFailure = OnFailure.ROLLBACK
    progress_deadline_seconds: float | None = None
    on_silent: OnSilent = OnSilent.WAIT
    retries: int = 0
    retry_after_seconds: float = 300
    approval: bool = False
    gates: tuple[str, ...] = ()
    inconclusive_seconds: float = 3600
    switch: Switch = Switch.SURGE
    probation: Probation | None = None

    def document(self) -> dict[str, object]:
        """As JSON: what differs from the defaults."""
        document: dict[str, object] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value != entry.default:
                document[entry.name] = _plain(value)
        return document


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A policy in whole sites. `failures_tolerated` and `successes_required` never add up to more
    than `sites`, so a stage that stays within the one can reach the other."""

    sites: int
    max_concurrent: int
    max_unavailable: int
    failures_tolerated: int
    successes_required: int
    stale_tolerated: int


KEYS = tuple(entry.name for entry in fields(StagePolicy))


def _plain(value: object) -> object:
    if isinstance(value, Probation):
        return value.document()
    return list(value) if isinstance(value, tuple) else value


def policy_of(document: Mapping[str, object]) -> StagePolicy:
    """From a row: what `document()` gave. Raises on anything else."""
    values = dict(document)
    if "on_failure" in values:
        values["on_failure"] = OnFailure(str(values["on_failure"]))
    if "on_silent" in values:
        values["on_silent"] = OnSilent(str(values["on_silent"]))
    if "switch" in values:
        values["switch"] = Switch(str(values["switch"]))
    if values.get("probation") is not None:
        values["probation"] = probation_of(values["probation"])
    if "gates" in values:
        gates = values["gates"]
        assert isinstance(gates, list | tuple)
        values["gates"] = tuple(gates)
    return StagePolicy(**values)  # type: ignore[arg-type]  # checked when it was written


def parse_policy(document: object, where: str, faults: list[FieldError]) -> StagePolicy | None:
    """The policy, or None with every fault added to `faults`. No document asks for the defaults."""
    if document is None:
        return StagePolicy()
    if not isinstance(document, Mapping):
        faults.append(FieldError(field=where, message=f"must be an object with {_some(KEYS)}"))
        return None
    before = len(faults)

    def fault(key: str, message: str) -> None:
        faults.append(FieldError(field=f"{where}.{key}", message=message))

    for key in sorted(set(map(str, document)) - set(KEYS)):
        fault(key, f"is not known; a policy has {_some(KEYS)}")
    for key, check in _CHECKS.items():
        if key in document and (message := check(document[key])):
            fault(key, message)
    check_probation(document.get("probation"), lambda key, text: fault(f"probation{key}", text))
    if len(faults) > before:
        return None
    _refuse_contradictions(document, fault)
    return policy_of(document) if len(faults) == before else None


def resolve(policy: StagePolicy, sites: int) -> Limits:
    """The policy for a stage of so many sites, as whole numbers.

    What is tolerated, and how many may be under way or unavailable, is rounded down (the latter two
    to at least 1, else nothing could ever move); what is required is rounded up. A number that is
    larger than the stage is cut to it; failures and stale reports of *all* sites are never
    tolerated, since such a limit could not trip.
    """
    if sites <= 0:
        return Limits(
            sites=0,
            max_concurrent=0,
            max_unavailable=0,
            failures_tolerated=0,
            successes_required=0,
            stale_tolerated=0,
        )
    concurrent = sites if policy.max_concurrent is None else _down(policy.max_concurrent, sites)
    tolerated = min(_down(policy.failures_tolerated, sites), sites - 1)
    if policy.successes_required is None:
        required = sites - tolerated
    else:
        required = max(1, min(_up(policy.successes_required, sites), sites))
    return Limits(
        sites=sites,
        max_concurrent=max(1, min(concurrent, sites)),
        max_unavailable=max(1, min(_down(policy.max_unavailable, sites), sites)),
        failures_tolerated=min(tolerated, sites - required),
        successes_required=required,
        stale_tolerated=min(_down(policy.stale_tolerated, sites), sites - 1),
    )


def warnings(policy: StagePolicy, sites: int) -> list[str]:
    """Where the whole numbers are not those that were asked for, as sentences for the plan."""
    if sites <= 0:
        return []
    found = []
    for key in ("max_concurrent", "max_unavailable", "successes_required"):
        asked = getattr(policy, key)
        if isinstance(asked, int) and asked > sites:
            found.append(f"{key} is {asked}, but the stage has {_sites(sites)}; {sites} holds")
    for key in ("failures_tolerated", "stale_tolerated"):
        asked = getattr(policy, key)
        if isinstance(asked, int) and asked >= sites:
            found.append(
                f"{key} is {asked} of {_sites(sites)} and could never trip; {sites - 1} holds"
            )
    limits = resolve(policy, sites)
    tolerated = min(_down(policy.failures_tolerated, sites), sites - 1)
    if limits.failures_tolerated < tolerated:
        found.append(
            f"successes_required asks for {limits.successes_required} of {sites}, which leaves "
            f"room for {limits.failures_tolerated} failed, not for the {tolerated} tolerated"
        )
    return found


def limit_sentences(policy: StagePolicy, sites: int) -> list[str]:
    """What holds in a stage of so many sites, one sentence a limit; nothing for an empty one."""
    if sites <= 0:
        return []
    limits = resolve(policy, sites)
    then = "rolls back" if policy.on_failure is OnFailure.ROLLBACK else "pauses"
    said = [
        f"stops at {limits.failures_tolerated + 1} failed of {sites} and {then}",
        f"at most {limits.max_unavailable} of {sites} unavailable",
    ]
    if policy.max_concurrent is not None:
        said.append(f"at most {limits.max_concurrent} of {sites} under way at once")
    said.append(f"needs {limits.successes_required} of {sites} verified")
    silent = f"at most {limits.stale_tolerated} of {sites} are"
    said.append(f"soaks while {silent if limits.stale_tolerated else 'no site is'} silent")
    if policy.progress_deadline_seconds is not None and policy.on_silent is not OnSilent.WAIT:
        late = f"a site silent {span(policy.progress_deadline_seconds)} after its offer"
        said.append(f"{late} {_SILENT[policy.on_silent]}")
    if policy.retries:
        times = "once" if policy.retries == 1 else f"up to {policy.retries} times"
        said.append(f"tries a failed site again {times}, {span(policy.retry_after_seconds)} later")
    if policy.approval:
        said.append("waits for a person's approval when it has soaked")
    if policy.gates:
        given_up = f"pauses when there is none after {span(policy.inconclusive_seconds)}"
        said.append(f"waits for the verdict of {', '.join(policy.gates)}; {given_up}")
    if policy.switch is not Switch.SURGE:
        said.append(_SWITCH[policy.switch])
    if policy.probation is not None:
        said.append(policy.probation.sentence(span(policy.probation.seconds)))
    return said


_SWITCH = {
    Switch.REPLACE: "a site unloads its version first and answers nobody until the next one serves",
    Switch.AUTO: "a site whose memory cannot hold both versions unloads its own first and answers "
    "nobody until the next one serves",
}


_SILENT = {
    OnSilent.COUNT: "counts as failed",
    OnSilent.DEFER: "is put off to the trailing stage; one that had begun counts as failed",
}


def span(seconds: float) -> str:
    """A duration for people: in the largest unit that it has two of."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _down(amount: Amount, sites: int) -> int:
    return amount if isinstance(amount, int) else sites * int(amount[:-1]) // 100


def _up(amount: Amount, sites: int) -> int:
    return amount if isinstance(amount, int) else -(-sites * int(amount[:-1]) // 100)


def _sites(count: int) -> str:
    return "1 site" if count == 1 else f"{count} sites"


def _some(keys: tuple[str, ...]) -> str:
    return f"some of {', '.join(keys)}"


def _amount(*, least: int, most_percent: int) -> Callable[[object], str]:
    """A check for a whole number from `least` or a share from `least` to `most_percent` percent."""
    right = (
        f"must be a whole number from {least} to {MAX_AMOUNT}, "
        f'or a share from "{least}%" to "{most_percent}%"'
    )

    def check(value: object) -> str:
        if isinstance(value, str) and (match := _PERCENT.fullmatch(value)):
            if int(match[1]) == 100 and most_percent == 99:
                return f"{right}; a limit of 100% could never trip"
            return "" if least <= int(match[1]) <= most_percent else right
        if isinstance(value, bool) or not isinstance(value, int):
            return right
        return "" if least <= value <= MAX_AMOUNT else right

    return check


def _seconds(*, least: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not least <= value <= MAX_SECONDS
        ):
            return f"must be a number of seconds from {least} to {MAX_SECONDS}"
        return ""

    return check


def _or_null(check: Callable[[object], str]) -> Callable[[object], str]:
    return lambda value: "" if value is None else check(value)


def _one_of(words: type[StrEnum]) -> Callable[[object], str]:
    known = [word.value for word in words]
    return lambda value: "" if value in known else f"must be one of {', '.join(known)}"


def _retries(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_RETRIES:
        return f"must be a whole number from 0 to {MAX_RETRIES}"
    return ""


def _approval(value: object) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


def _gates(value: object) -> str:
    if (
        not isinstance(value, list)
        or len(value) > MAX_GATES
        or not all(isinstance(name, str) and _GATE.fullmatch(name) for name in value)
    ):
        return f"must be a list of at most {MAX_GATES} names of a-z 0-9 -, such as latency"
    return "" if len(set(value)) == len(value) else "has a name twice"


# By field, in the order in which faults are told: what would be right, or nothing.
_CHECKS: dict[str, Callable[[object], str]] = {
    "max_concurrent": _or_null(_amount(least=1, most_percent=100)),
    "max_unavailable": _amount(least=1, most_percent=100),
    "failures_tolerated": _amount(least=0, most_percent=99),
    "successes_required": _or_null(_amount(least=1, most_percent=100)),
    "stale_tolerated": _amount(least=0, most_percent=99),
    "on_failure": _one_of(OnFailure),
    "progress_deadline_seconds": _or_null(_seconds(least=1)),
    "on_silent": _one_of(OnSilent),
    "retries": _retries,
    "retry_after_seconds": _seconds(least=0),
    "approval": _approval,
    "gates": _gates,
    "inconclusive_seconds": _seconds(least=0),
    "switch": _one_of(Switch),
}


def _refuse_contradictions(
    document: Mapping[str, object], fault: Callable[[str, str], None]
) -> None:
    """Of values that are right by themselves. Shares are compared here, numbers by `warnings` when
    the stage's size is known."""
    required, tolerated = document.get("successes_required"), document.get("failures_tolerated")
    if isinstance(required, str) and isinstance(tolerated, str):
        room = 100 - int(required[:-1])
        if int(tolerated[:-1]) > room:
            fault(
                "successes_required",
                f"leaves room for {room}% failed, but failures_tolerated is {tolerated}",
            )
    silent = document.get("on_silent", OnSilent.WAIT)
    if silent != OnSilent.WAIT and document.get("progress_deadline_seconds") is None:
        fault("on_silent", f"is {silent}, which needs progress_deadline_seconds: silent since when")
