"""Where a version of MLflow comes from, in the words of `Version.lineage`: its run, the commit that
the run was made from, and the figures it logged. Values in, values out."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from controlplane.domain.errors import InvalidInput
from controlplane.domain.lineage import parse_lineage

_MAX_METRICS = 50
_MAX_TEXT = 300
_LOGGED_MODEL = re.compile(r"models:/(m-[A-Za-z0-9]{1,64})", re.ASCII)


def lineage_of(*, found: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, object]:
    """`found` is the version's tags, run and source, `run` the answer of `runs/get` or nothing.
    What the catalogue would refuse is left out: it is told, not asked for."""
    data = _mapping(_mapping(run.get("run")).get("data"))
    tags = dict(_pairs(data.get("tags")))
    tags |= {key: str(value) for key, value in _mapping(found.get("tags")).items()}
    lineage: dict[str, object] = {}
    logged = _LOGGED_MODEL.fullmatch(str(found.get("source", "")))
    if origin := found.get("run_id") or (logged and logged[1]):
        lineage["mlflow_run"] = _short(origin)
    for key, names in (
        ("git_commit", ("git_commit", "mlflow.source.git.commit")),
        ("git_repository", ("git_repository", "mlflow.source.git.repoURL")),
        ("ci_run", ("ci_run",)),
        ("dataset", ("dataset",)),
    ):
        value = next((tags[n] for n in names if tags.get(n)), "")
        if value:
            lineage[key] = _short(value)
    if metrics := dict(_metrics(data.get("metrics"))):
        lineage["metrics"] = metrics
    return {key: value for key, value in lineage.items() if _keepable(key, value)}


def _keepable(key: str, value: object) -> bool:
    try:
        parse_lineage({key: value})
    except InvalidInput:
        return False
    return True


def _pairs(entries: object) -> Iterable[tuple[str, str]]:
    for entry in entries[:500] if isinstance(entries, list) else ():
        key, value = _mapping(entry).get("key"), _mapping(entry).get("value")
        if isinstance(key, str) and isinstance(value, str):
            yield key, value


def _metrics(entries: object) -> Iterable[tuple[str, float]]:
    for entry in entries[:_MAX_METRICS] if isinstance(entries, list) else ():
        key, value = _mapping(entry).get("key"), _mapping(entry).get("value")
        if not isinstance(value, int | float) or isinstance(value, bool):
            continue
        if isinstance(key, str) and math.isfinite(value):
            yield _short(key)[:100], value


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _short(value: object) -> str:
    text = str(value)[:_MAX_TEXT].replace("\0", "")
    return text.encode("utf-8", "replace").decode()
