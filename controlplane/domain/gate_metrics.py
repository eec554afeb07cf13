"""What a stage's policy may measure: gates by name, with limits; read from a document and checked.

It must not know how a gate comes to its verdict (`sequential.py`), where figures are kept, nor
which server answers a Prometheus query: that is configuration, never a rollout's."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum

from controlplane.domain.errors import FieldError

MAX_REQUESTS = 1_000_000_000
MAX_AGE_SECONDS = 86_400
MAX_WEIGHT = 100
MAX_VALUE = 1e15
MAX_FACTOR = 100
MAX_QUERY = 2000
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_NUMBER = r"([0-9]{1,9}(?:\.[0-9]{1,9})?)"
_CHANGES = {
    "percent": re.compile(rf"\+{_NUMBER}%"),
    "factor": re.compile(rf"x{_NUMBER}"),
    "points": re.compile(rf"([+-]){_NUMBER}pp"),
}


class Metric(StrEnum):
    ERROR_RATE = "error_rate"
    LATENCY_QUANTILE = "latency_quantile"
    QUEUE_SHARE = "queue_share"
    GOLDEN_PASS_RATE = "golden_pass_rate"
    ENERGY_PER_INFERENCE = "energy_per_inference"
    PROMETHEUS = "prometheus"


class Baseline(StrEnum):
    """What a limit on change is measured against: the previous version at the same site where its
    figures are at hand, else control sites of the same tier in the same window; or always the one
    of them."""

    PREVIOUS_ELSE_CONTROLS = "previous_else_controls"
    PREVIOUS = "previous"
    CONTROLS = "controls"


_SHARES = frozenset({Metric.ERROR_RATE, Metric.QUEUE_SHARE})


@dataclass(frozen=True, kw_only=True)
class Change:
    """How far the new version may be from the baseline: times `factor`, or `points` more (a
    fraction: 0.5 percentage points are 0.005). One of them is set."""

    factor: float | None = None
    points: float | None = None


@dataclass(frozen=True, kw_only=True)
class MetricGate:
    """One gate. `maximum` is in the metric's unit: a share from 0 to 1, ms, J per inference, or
    whatever a query gives; a golden pass rate has `minimum` instead. `max_change` is as written:
    "+20%", "x1.2" or "+0.5pp" ("-1pp" for a golden pass rate). With both kinds of limit both must
    hold.

    `min_requests`: of the new version, and of the baseline where there is one, before anything is
    said. `max_age_seconds`: how old the newest figures of any judged site may be. `weight`: its
    share of the rollout's false alarms against other gates' (`sequential.alpha_shares`).
    `watch_only`: it says what it would have decided, and stops nothing.
    """

    name: str
    metric: Metric
    quantile: float | None = None
    query: str | None = None
    maximum: float | None = None
    minimum: float | None = None
    max_change: str | None = None
    min_requests: int = 100
    max_age_seconds: float = 300
    baseline: Baseline = Baseline.PREVIOUS_ELSE_CONTROLS
    weight: int = 1
    watch_only: bool = False

    @property
    def change(self) -> Change | None:
        return None if self.max_change is None else _read_change(self.max_change)

    @property
    def limits(self) -> int:
        """How many limits it has, 1 or 2; each is a test of its own."""
        return sum(limit is not None for limit in (self.maximum, self.minimum, self.max_change))

    def document(self) -> dict[str, object]:
        """As JSON: what differs from the defaults."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        defaults = {entry.name: entry.default for entry in fields(self)}
        return {key: value for key, value in values.items() if value != defaults[key]}


KEYS = tuple(entry.name for entry in fields(MetricGate))


def gate_of(document: Mapping[str, object]) -> MetricGate:
    """From a row: what `document()` gave. Raises on anything else."""
    values = dict(document)
    values["metric"] = Metric(str(values["metric"]))
    if "baseline" in values:
        values["baseline"] = Baseline(str(values["baseline"]))
    return MetricGate(**values)  # type: ignore[arg-type]  # checked when it was written


def parse_metric_gate(document: object, where: str, faults: list[FieldError]) -> MetricGate | None:
    """The gate, or None with every fault added to `faults`."""
    if not isinstance(document, Mapping):
        faults.append(FieldError(field=where, message=f"must be an object with {', '.join(KEYS)}"))
        return None
    before = len(faults)

    def fault(key: str, message: str) -> None:
        faults.append(FieldError(field=f"{where}.{key}" if key else where, message=message))

    for key in sorted(set(map(str, document)) - set(KEYS)):
        fault(key, f"is not known; a gate has {', '.join(KEYS)}")
    for key in ("name", "metric"):
        if key not in document:
            fault(key, f"is missing: {_CHECKS[key](None)}")
    for key, check in _CHECKS.items():
        if key in document and (message := check(document[key])):
            fault(key, message)
    if len(faults) == before:
        _refuse_what_cannot_be_judged(gate_of(document), fault)
    return gate_of(document) if len(faults) == before else None


def _refuse_what_cannot_be_judged(gate: MetricGate, fault: Callable[[str, str], None]) -> None:
    """Of values that are right by themselves."""
    metric = gate.metric
    is_golden = metric is Metric.GOLDEN_PASS_RATE
    for key, needs in (("quantile", Metric.LATENCY_QUANTILE), ("query", Metric.PROMETHEUS)):
        if (getattr(gate, key) is not None) != (metric is needs):
            fault(key, f"is for {needs}, which needs it; this gate is of {metric}")
    if not gate.limits:
        least = "minimum" if is_golden else "maximum"
        fault("", f"has no limit and could never trip; give it {least}, max_change, or both")
    if is_golden and gate.maximum is not None:
        fault("maximum", "could never trip: a pass rate is good when high; give minimum")
    if not is_golden and gate.minimum is not None:
        fault("minimum", f"is for {Metric.GOLDEN_PASS_RATE}; {metric} is good when low")
    if metric in _SHARES and gate.maximum is not None and gate.maximum >= 1:
        fault("maximum", f"could never trip: {metric} is a share; give one over 0 and under 1")
    if gate.maximum is not None and gate.maximum <= 0 and metric is not Metric.PROMETHEUS:
        fault("maximum", f"is {gate.maximum:g}, which no version could be shown to keep; over 0")
    if gate.change is not None:
        _refuse_change(gate, gate.change, fault)


def _refuse_change(gate: MetricGate, change: Change, fault: Callable[[str, str], None]) -> None:
    metric, text = gate.metric, gate.max_change or ""
    if metric is Metric.GOLDEN_PASS_RATE:
        if not text.startswith("-"):
            fault("max_change", 'is for a pass rate the drop that is borne, such as "-1pp"')
    elif text.startswith("-"):
        fault("max_change", f'{metric} is good when low: give the rise that is borne, as "+20%"')
    elif change.points is not None and metric not in _SHARES:
        fault("max_change", f'{metric} is no share; give "+20%" or "x1.2"')


def _read_change(text: str) -> Change:
    """From a text that `_change` found no fault with."""
    if match := _CHANGES["percent"].fullmatch(text):
        return Change(factor=1 + float(match[1]) / 100)
    if match := _CHANGES["factor"].fullmatch(text):
        return Change(factor=float(match[1]))
    match = _CHANGES["points"].fullmatch(text)
    assert match is not None
    return Change(points=float(match[2]) / 100)


def _change(value: object) -> str:
    right = 'must be such as "+20%", "x1.2", "+0.5pp", or "-1pp" for a pass rate'
    if value is None:
        return ""
    if not isinstance(value, str) or not any(form.fullmatch(value) for form in _CHANGES.values()):
        return right
    change = _read_change(value)
    if change.factor is not None and change.factor <= 1:
        return f"{right}; with {value} a version just as good could never be shown to keep it"
    if change.factor is not None and change.factor > MAX_FACTOR:
        return f"{right}; more than {MAX_FACTOR} times the baseline is no limit"
    if change.points is not None and not 0 < change.points < 1:
        return f"{right}; over 0 and under 100 percentage points"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _number(least: float, most: float, *, is_open: bool, may_be_null: bool) -> Callable[..., str]:
    """A check for a finite number; `is_open`: strictly between."""

    def check(value: object) -> str:
        if value is None and may_be_null:
            return ""
        right = f"must be a number {'between' if is_open else 'from'} {least:g} "
        right += f"{'and' if is_open else 'to'} {most:g}"
        if not _is_number(value):
            return right
        number = float(value)  # type: ignore[arg-type]
        return "" if (least < number < most if is_open else least <= number <= most) else right

    return check


def _whole(most: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
            return f"must be a whole number from 1 to {most}"
        return ""

    return check


def _one_of(words: type[StrEnum]) -> Callable[[object], str]:
    known = [word.value for word in words]
    return lambda value: "" if value in known else f"must be one of {', '.join(known)}"


def _name(value: object) -> str:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return ""
    return "must be a name of a-z 0-9 -, such as latency, of at most 40"


def _query(value: object) -> str:
    if value is None or (isinstance(value, str) and 0 < len(value.strip()) <= len(value)):
        return "" if value is None or len(str(value)) <= MAX_QUERY else f"is over {MAX_QUERY} long"
    return "must be a PromQL expression that gives one number"


def _flag(value: object) -> str:
    return "" if isinstance(value, bool) else "must be true or false"


# By field, in the order in which faults are told: what would be right, or nothing.
_CHECKS: dict[str, Callable[[object], str]] = {
    "name": _name,
    "metric": _one_of(Metric),
    "quantile": _number(0, 1, is_open=True, may_be_null=True),
    "query": _query,
    "maximum": _number(-MAX_VALUE, MAX_VALUE, is_open=False, may_be_null=True),
    "minimum": _number(0, 1, is_open=True, may_be_null=True),
    "max_change": _change,
    "min_requests": _whole(MAX_REQUESTS),
    "max_age_seconds": _number(1, MAX_AGE_SECONDS, is_open=False, may_be_null=False),
    "baseline": _one_of(Baseline),
    "weight": _whole(MAX_WEIGHT),
    "watch_only": _flag,
}
