"""A rollout as the API shows it, read into values, and the exit code it means.

It must not know how the document came or how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from waypost_cli.api import Document
from waypost_cli.errors import CliError, ExitCode

_GOOD = ("succeeded", "succeeded_with_exceptions")
_TURNED_BACK = ("cancelling", "rolling_back")
_FINAL = (*_GOOD, "cancelled", "rolled_back", "rollback_incomplete", "superseded")


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """One site's part of a stage. `why` is the sentence to show, `since` when that began, None once
    it is over. `seconds` is how long it took, None while it runs."""

    site: str
    state: str
    phase: str
    kind: str
    attempt: int
    from_version: str
    to_version: str
    reason_code: str
    reason: str
    why: str
    since: datetime | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """An ordered group of sites; `site_count` also counts sites that have no deployment yet."""

    name: str
    state: str
    reason: str
    why: str
    soak_seconds: float
    soaked_seconds: float
    site_names: tuple[str, ...]
    site_count: int
    deployments: tuple[Deployment, ...]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """`document` is the API's own, for `--output json`. `excluded` holds (site, reason).

    `waits_for` is who or what ends the wait; `choices` what a resume has to choose from, if it has.
    """

    id: str
    model: str
    version: str
    state: str
    reason_code: str
    reason: str
    since: datetime | None
    waits_for: str
    choices: tuple[str, ...]
    plan_digest: str
    superseded_by: str
    final: bool
    stages: tuple[Stage, ...]
    excluded: tuple[tuple[str, str], ...]
    allowed_verbs: tuple[str, ...]
    document: Document

    @property
    def exit_code(self) -> ExitCode:
        """What the state means to a job: 2 from the moment the rollout turns back."""
        if self.state in _TURNED_BACK or (self.final and self.state not in _GOOD):
            return ExitCode.ROLLOUT_FAILED
        return ExitCode.WAITS_FOR_PERSON if self.needs_person else ExitCode.OK

    @property
    def needs_person(self) -> bool:
        """It is paused, by whomever, or waits for an approval. Every pause counts: nothing but a
        person ends it."""
        return not self.final and (self.state == "paused" or self.waits_for == "person")

    @property
    def settled(self) -> bool:
        """Nothing more happens by itself: the end, or a wait that only a person ends."""
        return self.final or self.needs_person


def read_rollout(document: Document) -> Rollout:
    """Unknown keys are ignored, so that an older CLI reads a newer control plane."""
    state = _text(document, "state")
    if not state or document.get("id") is None:
        raise CliError(
            "the control plane's answer is not a rollout",
            cure="check that this waypost and the control plane are of the same time",
        )
    final = document.get("final")
    return Rollout(
        id=_text(document, "id"),
        model=_text(document, "model"),
        version=_text(document, "version"),
        state=state,
        reason_code=_text(document, "reason_code"),
        reason=_text(document, "reason"),
        since=_time(document, "waiting_since"),
        waits_for=_text(document, "waits_for"),
        choices=_texts(document, "choices"),
        plan_digest=_text(document, "plan_digest"),
        superseded_by=_text(document, "superseded_by"),
        final=final if isinstance(final, bool) else state in _FINAL,
        stages=tuple(_read_stage(stage) for stage in _mappings(document, "stages")),
        excluded=tuple(
            (_text(entry, "site"), _text(entry, "reason"))
            for entry in _mappings(document, "excluded")
        ),
        allowed_verbs=_texts(document, "allowed_verbs"),
        document=document,
    )


def _read_stage(document: Document) -> Stage:
    deployments = tuple(_read_deployment(d) for d in _mappings(document, "deployments"))
    sites = document.get("sites")
    names = list(map(str, sites)) if isinstance(sites, list) else []
    names = list(dict.fromkeys([*names, *(deployment.site for deployment in deployments)]))
    return Stage(
        name=_text(document, "name"),
        state=_text(document, "state"),
        reason=_text(document, "reason"),
        why=_text(document, "why") or _text(document, "reason"),
        soak_seconds=_number(document, "soak_seconds"),
        soaked_seconds=_number(document, "soaked_seconds"),
        site_names=tuple(names),
        site_count=sites if isinstance(sites, int) else len(names),
        deployments=deployments,
    )


def _read_deployment(document: Document) -> Deployment:
    started, finished = _time(document, "started_at"), _time(document, "finished_at")
    return Deployment(
        site=_text(document, "site"),
        state=_text(document, "state"),
        phase=_text(document, "phase"),
        kind=_text(document, "kind"),
        attempt=max(1, int(_number(document, "attempt"))),
        from_version=_text(document, "from_version"),
        to_version=_text(document, "to_version"),
        reason_code=_text(document, "reason_code"),
        reason=_text(document, "reason"),
        why=_text(document, "why") or _text(document, "reason"),
        since=_time(document, "waiting_since"),
        seconds=(finished - started).total_seconds() if started and finished else None,
    )


def _mappings(document: Document, key: str) -> list[Document]:
    value = document.get(key)
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _texts(document: Document, key: str) -> tuple[str, ...]:
    value = document.get(key)
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _text(document: Document, key: str) -> str:
    value = document.get(key)
    return "" if value is None else str(value)


def _number(document: Document, key: str) -> float:
    value = document.get(key)
    return float(value) if isinstance(value, int | float) else 0.0


def _time(document: Document, key: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_text(document, key))
    except ValueError:
        return None
    return moment if moment.tzinfo else None
