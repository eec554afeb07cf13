"""How long a new version answers users on trial at a site, and what it may get wrong meanwhile.

Read from a document and checked; the site judges, by its own server's counts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

MAX_SECONDS = 86_400
MAX_REQUESTS = 1_000_000_000
MAX_LATENCY_MS = 3_600_000


@dataclass(frozen=True, kw_only=True)
class Probation:
    """A bound that is None is not judged; none is judged before `min_requests` were answered."""

    seconds: float
    max_error_rate: float | None = None
    min_requests: int | None = None
    max_mean_latency_ms: float | None = None

    def document(self) -> dict[str, object]:
        """As JSON and as an agent gets it: what is not asked for is left out."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {key: value for key, value in values.items() if value is not None}

    def sentence(self, span: str) -> str:
        bounds = []
        if self.max_error_rate is not None:
            bounds.append(f"more than {self.max_error_rate:.3g} of its requests fail")
        if self.max_mean_latency_ms is not None:
            bounds.append(f"they take over {self.max_mean_latency_ms:g} ms on average")
        if not bounds:
            return f"on probation for {span} at each site"
        judged = "" if self.min_requests is None else f" (from {self.min_requests} requests on)"
        return (
            f"on probation for {span} at each site, which goes back by itself when "
            f"{' or '.join(bounds)}{judged}"
        )


KEYS = tuple(entry.name for entry in fields(Probation))


def probation_of(document: object) -> Probation:
    """From a document that `check_probation` found no fault with."""
    assert isinstance(document, Mapping)
    return Probation(**document)


def check_probation(document: object, fault: Callable[[str, str], None]) -> None:
    """Tells every fault by the key under `probation` (empty: the whole) and what would be right."""
    if document is None:
        return
    if not isinstance(document, Mapping):
        fault("", f"must be null or an object with {', '.join(KEYS)}")
        return
    for key in sorted(set(map(str, document)) - set(KEYS)):
        fault(f".{key}", f"is not known; a probation has {', '.join(KEYS)}")
    _check_number(document, "seconds", 0, MAX_SECONDS, fault, is_required=True)
    _check_number(document, "max_error_rate", 0, 1, fault)
    _check_number(document, "max_mean_latency_ms", 0, MAX_LATENCY_MS, fault)
    count = document.get("min_requests")
    is_whole = isinstance(count, int) and not isinstance(count, bool)
    if count is not None and not (is_whole and 1 <= count <= MAX_REQUESTS):
        fault(".min_requests", f"must be a whole number from 1 to {MAX_REQUESTS}")


def _check_number(
    document: Mapping[str, object],
    key: str,
    least: float,
    most: float,
    fault: Callable[[str, str], None],
    *,
    is_required: bool = False,
) -> None:
    value = document.get(key)
    if value is None and not is_required:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and least <= value <= most):  # type: ignore[operator]
        fault(f".{key}", f"must be a number from {least} to {most}")
