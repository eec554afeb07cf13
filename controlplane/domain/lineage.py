"""Where a version comes from, as its pusher says: bounded texts and numbers, kept and shown, never
followed. Decides only whether it is well formed."""

import math
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

from controlplane.domain.errors import FieldError, InvalidInput

MAX_METRICS = 100
MAX_METRIC_NAME = 100
MAX_METRIC = 1e300  # beyond any measurement, and within what every JSON reader takes
# Longest text per key.
TEXTS: Mapping[str, int] = {
    "git_repository": 300,
    "git_commit": 64,
    "ci_run": 1000,
    "mlflow_run": 100,
    "dataset": 300,
}
KEYS = (*TEXTS, "metrics")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


def parse_lineage(document: object) -> dict[str, object]:
    """What was given, checked; nothing for None.

    Raises `InvalidInput` (`lineage-invalid`) with every fault.
    """
    if document is None:
        return {}
    if not isinstance(document, Mapping):
        raise _invalid([FieldError(field="lineage", message="must be a JSON object")])
    known = ", ".join(KEYS)
    faults = [
        FieldError(field=f"lineage.{str(key)[:80]}", message=f"is not known; known are {known}")
        for key in document
        if key not in KEYS
    ]
    found: dict[str, object] = {}
    for key, longest in TEXTS.items():
        if key not in document:
            continue
        if fault := _text_fault(key, document[key], longest):
            faults.append(FieldError(field=f"lineage.{key}", message=fault))
        else:
            found[key] = document[key]
    if "metrics" in document:
        metrics = document["metrics"]
        metric_faults = _metric_faults(metrics)
        faults += metric_faults
        if not metric_faults:
            found["metrics"] = dict(metrics)
    if faults:
        raise _invalid(faults)
    return found


def _text_fault(key: str, value: object, longest: int) -> str | None:
    if not isinstance(value, str) or not value.strip():
        return "must be a text; leave it out where there is none"
    if len(value) > longest:
        return f"has {len(value)} characters; at most {longest} are kept"
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        return "holds a control character"
    if key == "git_commit" and not _COMMIT.fullmatch(value):
        return "must be 7 to 64 lower-case hex digits"
    if key == "ci_run" and not _is_web_address(value):
        return "must be an http or https address"
    return None


def _is_web_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc) and " " not in value


def _metric_faults(metrics: object) -> list[FieldError]:
    where = "lineage.metrics"
    if not isinstance(metrics, Mapping):
        return [FieldError(field=where, message="must be names to numbers")]
    if len(metrics) > MAX_METRICS:
        return [FieldError(field=where, message=f"has {len(metrics)}; at most {MAX_METRICS}")]
    faults = []
    for name, value in metrics.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not isinstance(name, str) or not 0 < len(name) <= MAX_METRIC_NAME:
            message = f"names must have 1 to {MAX_METRIC_NAME} characters"
            faults.append(FieldError(field=where, message=message))
        elif not number or abs(value) >= MAX_METRIC or not math.isfinite(value):
            faults.append(FieldError(field=f"{where}.{name}", message="must be a number"))
    return faults


def _invalid(faults: list[FieldError]) -> InvalidInput:
    return InvalidInput("lineage-invalid", "The lineage cannot be kept as given.", errors=faults)
