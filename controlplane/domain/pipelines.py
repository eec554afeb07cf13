"""A pipeline as a graph of steps: read from a document, checked, and walked in order.

It must not know which models there are (they are told), what a step takes, nor where it runs."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from graphlib import CycleError, TopologicalSorter

from controlplane.domain.errors import FieldError

MAX_STEPS = 50
MAX_PAYLOAD_BYTES = 10**12
MAX_NAME = 200
_STEP = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_PIPELINE_KEYS = ("steps",)
_STEP_KEYS = ("name", "model", "service", "role", "request_bytes", "response_bytes", "after")


class Role(StrEnum):
    """What a step is for: all the time of one that prepares the input is preprocessing."""

    INFERENCE = "inference"
    PREPROCESS = "preprocess"


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step: a `model` of the catalog or an external `service`, never both.

    `request_bytes` go to it and `response_bytes` come back, by request; None: not stated.
    """

    name: str
    model: str = ""
    service: str = ""
    role: Role = Role.INFERENCE
    request_bytes: int | None = None
    response_bytes: int | None = None
    after: tuple[str, ...] = ()

    def document(self) -> dict[str, object]:
        """As JSON: what was said, and no defaults."""
        document: dict[str, object] = {"name": self.name}
        for key in ("model", "service", "request_bytes", "response_bytes"):
            if (value := getattr(self, key)) not in ("", None):
                document[key] = value
        if self.role is not Role.INFERENCE:
            document["role"] = self.role.value
        if self.after:
            document["after"] = list(self.after)
        return document


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Steps without a cycle, each after those that come before it."""

    steps: tuple[Step, ...]

    def document(self) -> dict[str, object]:
        return {"steps": [step.document() for step in self.steps]}

    def step(self, name: str) -> Step:
        """Raises `KeyError` for a step that is not there."""
        return {step.name: step for step in self.steps}[name]

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(step.model for step in self.steps if step.model))

    def critical_path(self, times: Mapping[str, float]) -> tuple[str, ...]:
        """The chain of steps that takes longest, from a first step to a last one; what is shortened
        elsewhere shortens no request. Of equal chains, the one through the steps named first. A
        step that `times` lacks takes no time."""
        ends: dict[str, tuple[float, tuple[str, ...]]] = {}
        for step in self.steps:
            before = [ends[name] for name in step.after]
            taken, path = max(before, key=lambda end: end[0], default=(0.0, ()))
            ends[step.name] = (taken + times.get(step.name, 0.0), (*path, step.name))
        followed = {name for step in self.steps for name in step.after}
        last = [end for name, end in ends.items() if name not in followed]
        return max(last, key=lambda end: end[0])[1]

    def end_to_end(self, times: Mapping[str, float]) -> float:
        """How long the longest chain takes, in the unit of `times`."""
        return sum(times.get(name, 0.0) for name in self.critical_path(times))


def pipeline_of(document: Mapping[str, object]) -> Pipeline:
    """From a row: what `document()` gave. Raises on anything else."""
    steps = document["steps"]
    assert isinstance(steps, list)
    return Pipeline(steps=tuple(_in_order([_step_of(entry) for entry in steps])))


def parse_pipeline(
    document: object,
    where: str,
    faults: list[FieldError],
    *,
    models: Collection[str] | None = None,
) -> Pipeline | None:
    """The pipeline, or None with every fault added to `faults`. With `models` None any name of a
    model is taken; else it must be one of them."""
    before = len(faults)

    def fault(key: str, message: str) -> None:
        faults.append(FieldError(field=f"{where}{key}", message=message))

    if not isinstance(document, Mapping):
        fault("", "must be an object with steps")
        return None
    _refuse_unknown(document, _PIPELINE_KEYS, "a pipeline", fault)
    entries = document.get("steps")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_STEPS:
        fault(".steps", f"must be a list of 1 to {MAX_STEPS} steps")
        return None
    for index, entry in enumerate(entries):
        _check_step(entry, f".steps[{index}]", models, fault)
    if len(faults) > before:
        return None
    steps = [_step_of(entry) for entry in entries]
    _check_graph(steps, fault)
    return Pipeline(steps=tuple(_in_order(steps))) if len(faults) == before else None


Fault = Callable[[str, str], None]


def _step_of(document: Mapping[str, object]) -> Step:
    values = dict(document)
    if "role" in values:
        values["role"] = Role(str(values["role"]))
    if "after" in values:
        after = values["after"]
        assert isinstance(after, list | tuple)
        values["after"] = tuple(after)
    return Step(**values)  # type: ignore[arg-type]  # checked when it was written


def _in_order(steps: Sequence[Step]) -> Iterator[Step]:
    """Each after those it follows, else as they were written."""
    left = list(steps)
    done: set[str] = set()
    while left:
        ready = next(step for step in left if done.issuperset(step.after))
        left.remove(ready)
        done.add(ready.name)
        yield ready


# What would be right


def _check_step(entry: object, where: str, models: Collection[str] | None, fault: Fault) -> None:
    if not isinstance(entry, Mapping):
        fault(where, f"must be an object with some of {', '.join(_STEP_KEYS)}")
        return
    _refuse_unknown(entry, _STEP_KEYS, "a step", lambda key, text: fault(f"{where}{key}", text))
    name = entry.get("name")
    if not isinstance(name, str) or not _STEP.fullmatch(name):
        fault(f"{where}.name", "must be 1 to 40 of a-z 0-9 -, such as embed")
    _check_target(entry, where, models, fault)
    if "role" in entry and entry["role"] not in list(Role):
        fault(f"{where}.role", f"must be one of {', '.join(Role)}")
    for key in ("request_bytes", "response_bytes"):
        size = entry.get(key)
        is_whole = isinstance(size, int) and not isinstance(size, bool)
        if size is not None and not (is_whole and 0 <= size <= MAX_PAYLOAD_BYTES):
            fault(
                f"{where}.{key}",
                f"must be a whole number of bytes from 0 to {MAX_PAYLOAD_BYTES}, or null",
            )
    after = entry.get("after", [])
    if not isinstance(after, list) or not all(isinstance(each, str) for each in after):
        fault(f"{where}.after", "must be a list of names of steps")
    elif len(set(after)) < len(after):
        fault(f"{where}.after", "has a name twice")


def _check_target(
    entry: Mapping[str, object], where: str, models: Collection[str] | None, fault: Fault
) -> None:
    said = [key for key in ("model", "service") if key in entry]
    if len(said) != 1:
        fault(where, "must have a model or a service, and not both")
        return
    key, value = said[0], entry[said[0]]
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME:
        fault(f"{where}.{key}", f"must be a name of 1 to {MAX_NAME} characters")
    elif key == "model" and models is not None and value not in models:
        fault(f"{where}.model", f"is {value!r}, which the catalog does not have")


def _refuse_unknown(
    document: Mapping[str, object], known: Sequence[str], what: str, fault: Fault
) -> None:
    for key in sorted(set(map(str, document)) - set(known)):
        fault(f".{key}", f"is not known; {what} has some of {', '.join(known)}")


def _check_graph(steps: Sequence[Step], fault: Fault) -> None:
    names = [step.name for step in steps]
    for name in sorted({name for name in names if names.count(name) > 1}):
        fault(".steps", f"the name {name!r} is there twice")
    for index, step in enumerate(steps):
        for each in sorted(set(step.after) - set(names)):
            fault(f".steps[{index}].after", f"names {each!r}, which is no step of this pipeline")
    try:
        TopologicalSorter({step.name: step.after for step in steps}).prepare()
    except CycleError as error:
        ring = " before ".join(map(str, error.args[1]))
        fault(".steps", f"go round in a circle: {ring}{_nowhere_to_begin(steps)}")


def _nowhere_to_begin(steps: Sequence[Step]) -> str:
    followed = {name for step in steps for name in step.after}
    said = [
        "; every step is after another, so none can begin" if all(s.after for s in steps) else "",
        "; every step is before another, so none is the last"
        if all(s.name in followed for s in steps)
        else "",
    ]
    return "".join(said)
