"""What the centre says and what a report looks like, as docs/agent-protocol.md has it.

Every field of every answer is checked here; an answer with a fault is refused whole and nothing
of it is used. Pure: no network, no clock, no disk.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from waypost_agent.errors import AnswerError, Permanent
from waypost_agent.manifest import Manifest, is_digest, parse_manifest
from waypost_agent.probation import Probation, parse_probation

VERSION = "1"
CANDIDATE_SUFFIX = "--candidate"
MAX_REASON = 500
MAX_MODELS = 1000
MAX_SIGNATURES = 16
MAX_POLL_SECONDS = 86_400.0

PENDING = "pending"
DOWNLOADING = "downloading"
STAGED = "staged"
PROVING = "proving"
ACTIVATING = "activating"
VERIFYING = "verifying"
SUCCEEDED = "succeeded"
FAILED = "failed"

SWITCHES = ("surge", "replace", "auto")

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")  # Triton reads it as a signed 64-bit number
_SITE = re.compile(r"[^\x00-\x1f\x7f]{1,200}")
_CODE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_TOKEN = re.compile(r"[\x21-\x7e]{1,512}")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z")
_KEY = re.compile(r"[A-Za-z0-9+/]{43}=")
_MAX_COUNT = (1 << 63) - 1

Pair = tuple[int, int]  # (epoch, generation)


@dataclass(frozen=True, kw_only=True)
class Enrolment:
    """Who the agent is, as the centre answered it."""

    agent: str
    site: str
    poll_seconds: float


@dataclass(frozen=True, kw_only=True)
class Challenge:
    nonce: str


@dataclass(frozen=True, kw_only=True)
class Session:
    """An opaque token; it lives for `expires_seconds` from now. `rotate_by` is until when the
    centre wants a new key, for display only; None when it wants none."""

    token: str
    expires_seconds: float
    session_counter: int
    rotate_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelWish:
    """What the centre wishes for one model; `version` None means: serve nothing. `signatures` are
    as they came: what they are worth, `trust` says."""

    model: str
    generation: int
    deployment: int | None
    version: str | None
    previous: str | None
    manifest: Manifest | None
    lease_required: bool = False
    switch: str = "surge"
    probation: Probation | None = None
    signatures: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, kw_only=True)
class Desired:
    """One whole answer; `document` is the JSON it came from, to be kept on disk."""

    epoch: int
    generation: int
    site: str
    models: tuple[ModelWish, ...]
    document: Mapping[str, Any]

    @property
    def pair(self) -> Pair:
        return (self.epoch, self.generation)

    @property
    def etag(self) -> str:
        return f'"{self.epoch}.{self.generation}"'


@dataclass(frozen=True, kw_only=True)
class ReportAnswer:
    epoch: int
    generation: int
    poll_seconds: float
    duplicate: bool
    superseded: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A point of time by this machine's own clock (CLOCK_BOOTTIME), which no delay changes."""

    boot_id: str
    uptime_seconds: float

    def document(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass(frozen=True, kw_only=True)
class LeaseQuestion:
    """May this site begin with this version now? The fields name the very wish behind it."""

    model: str
    generation: int
    epoch: int
    deployment: int | None
    manifest_digest: str
    asked: Moment

    def document(self) -> dict[str, Any]:
        return {**vars(self), "asked": self.asked.document()}


@dataclass(frozen=True, kw_only=True)
class LeaseGrant:
    """Yes; the seconds count from before the question was sent."""

    lease: int
    begin_within_seconds: float


@dataclass(frozen=True, kw_only=True)
class LeaseRefusal:
    """Not yet; `reason` is the centre's sentence for an operator."""

    reason_code: str
    reason: str
    retry_seconds: float


@dataclass(frozen=True, kw_only=True)
class ModelReport:
    """The state of one model; None means unknown, never false. `server` is the one of several
    Tritons at the site that the model belongs to, `learned` what loading its target took here."""

    model: str
    generation: int
    deployment: int | None
    target: str | None
    phase: str
    serving: str | None
    healthy: bool | None
    reason_code: str
    reason: str
    lease: int | None = None
    server: str | None = None
    learned: Mapping[str, float | None] | None = None

    def document(self) -> dict[str, Any]:
        document = {**vars(self), "reason": self.reason[:MAX_REASON]}
        for key in ("server", "learned"):
            if document[key] is None:
                del document[key]
        return document


def parse_json(body: bytes) -> Any:
    """The value of a JSON text; refuses duplicate keys, NaN and nesting that exhausts the stack."""
    try:
        return json.loads(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"the answer is not valid JSON: {error}") from error


def parse_enrolment(value: object) -> Enrolment:
    answer = _object(value, "the enrolment answer")
    return Enrolment(
        agent=_uuid(answer, "agent"),
        site=_text(answer, "site", _SITE),
        poll_seconds=_seconds(answer, "poll_seconds"),
    )


def parse_challenge(value: object) -> Challenge:
    answer = _object(value, "the challenge")
    nonce = _text(answer, "nonce", _TOKEN)
    try:
        raw = base64.b64decode(nonce, validate=True)
    except (binascii.Error, ValueError) as error:
        raise AnswerError("nonce must be base64") from error
    if not raw:
        raise AnswerError("nonce must not be empty")
    return Challenge(nonce=nonce)


def parse_session(value: object) -> Session:
    answer = _object(value, "the session")
    return Session(
        token=_text(answer, "token", _TOKEN),
        expires_seconds=_seconds(answer, "expires_seconds"),
        session_counter=_count(answer, "session_counter"),
        rotate_by=None if answer.get("rotate_by") is None else _text(answer, "rotate_by", _MOMENT),
    )


def parse_rotation(value: object) -> str:
    """The public key that the centre knows of this agent from now on, in base64."""
    return _text(_object(value, "the answer to the new key"), "public_key", _KEY)


def parse_measurement_answer(value: object, *, seq: int) -> None:
    """Raises `AnswerError` unless it says that this very measurement was taken."""
    accepted = _count(_object(value, "the answer to the measurement"), "accepted_seq")
    if accepted != seq:
        raise AnswerError(f"measurement {accepted} is said to be taken, sent was {seq}")


def parse_report_answer(value: object) -> ReportAnswer:
    answer = _object(value, "the answer to the report")
    superseded = answer.get("superseded")
    if not isinstance(superseded, list) or not all(isinstance(name, str) for name in superseded):
        raise AnswerError("superseded must be a list of model names")
    return ReportAnswer(
        epoch=_count(answer, "epoch"),
        generation=_count(answer, "generation"),
        poll_seconds=_seconds(answer, "poll_seconds"),
        duplicate=_flag(answer, "duplicate"),
        superseded=tuple(superseded),
    )


def parse_lease_answer(value: object) -> LeaseGrant | LeaseRefusal:
    answer = _object(value, "the answer about a lease")
    if _flag(answer, "granted"):
        return LeaseGrant(
            lease=_count(answer, "lease"),
            begin_within_seconds=_seconds(answer, "begin_within_seconds"),
        )
    reason = answer.get("reason")
    if not isinstance(reason, str) or not reason:
        raise AnswerError("reason must be a sentence that says why there is no lease yet")
    return LeaseRefusal(
        reason_code=_text(answer, "reason_code", _CODE),
        reason=reason[:MAX_REASON],
        retry_seconds=_seconds(answer, "retry_seconds"),
    )


def parse_poll_seconds(header: str | None) -> float:
    """The value of `Waypost-Poll-Seconds`. Raises `AnswerError`."""
    try:
        seconds = float(header or "")
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_POLL_SECONDS:
        raise AnswerError(f"Waypost-Poll-Seconds must be a number of seconds, it is {header!r:.40}")
    return seconds


def parse_desired(value: object) -> Desired:
    """A whole desired state. Raises `AnswerError`, with its `wish` for a bad manifest."""
    answer = _object(value, "the desired state")
    epoch, generation = _count(answer, "epoch"), _count(answer, "generation")
    entries = answer.get("models")
    if not isinstance(entries, list) or len(entries) > MAX_MODELS:
        raise AnswerError(f"models must be a list of at most {MAX_MODELS}")
    models = tuple(_parse_wish(entry, epoch) for entry in entries)
    names = [wish.model.casefold() for wish in models]
    if len(set(names)) != len(names):
        raise AnswerError("models names a model twice (names must differ by more than case)")
    return Desired(
        epoch=epoch,
        generation=generation,
        site=_text(answer, "site", _SITE),
        models=models,
        document=answer,
    )


def _parse_wish(value: object, epoch: int) -> ModelWish:
    entry = _object(value, "an entry of models")
    model = _text(entry, "model", _MODEL)
    if model.casefold().endswith(CANDIDATE_SUFFIX):
        raise AnswerError(f"the model name {model!r} ends in {CANDIDATE_SUFFIX!r}, which is ours")
    wished_at = _count(entry, "generation")
    deployment = None if entry.get("deployment") is None else _count(entry, "deployment")
    version, previous = _version(entry, "version"), _version(entry, "previous")
    manifest = None
    if version is not None:
        wish = (model, epoch, wished_at, deployment, version)
        manifest = _parse_manifest(entry, wish)
    else:
        _check_nothing_is_wished(entry, model)
    return ModelWish(
        model=model,
        generation=wished_at,
        deployment=deployment,
        version=version,
        previous=previous,
        manifest=manifest,
        lease_required="lease_required" in entry and _flag(entry, "lease_required"),
        switch=_switch(entry),
        probation=_probation(entry, model),
        signatures=_signatures(entry, model),
    )


def _signatures(entry: Mapping[str, Any], model: str) -> tuple[Mapping[str, Any], ...]:
    signatures = entry.get("signatures")
    if signatures is None:
        return ()
    if not isinstance(signatures, list) or len(signatures) > MAX_SIGNATURES:
        raise AnswerError(f"signatures of {model} must be a list of at most {MAX_SIGNATURES}")
    return tuple(_object(each, f"a signature of {model}") for each in signatures)


def _switch(entry: Mapping[str, Any]) -> str:
    switch = entry.get("switch", SWITCHES[0])
    if switch not in SWITCHES:
        raise AnswerError(f"switch is {switch!r:.80}; it must be one of {', '.join(SWITCHES)}")
    return str(switch)


def _probation(entry: Mapping[str, Any], model: str) -> Probation | None:
    if entry.get("probation") is None:
        return None
    try:
        return parse_probation(entry["probation"])
    except ValueError as error:
        raise AnswerError(f"the probation of {model} is refused: {error}") from error


def _check_nothing_is_wished(entry: Mapping[str, Any], model: str) -> None:
    """What takes a model out of service must be said whole: a key that was lost on the way, or one
    that speaks of a version still, is an error and no order."""
    for key in ("version", "manifest", "manifest_digest", "previous"):
        if key not in entry or entry[key] is not None:
            raise AnswerError(f"version of {model} is null or missing, and {key} is not null")


def _parse_manifest(
    entry: Mapping[str, Any], wish: tuple[str, int, int, int | None, str | None]
) -> Manifest:
    digest = entry.get("manifest_digest")
    if not isinstance(digest, str) or not is_digest(digest):
        raise AnswerError(f"manifest_digest of {wish[0]} must be sha256: and 64 hex digits")
    try:
        return parse_manifest(entry.get("manifest"), digest)
    except Permanent as error:
        raise AnswerError(error.reason, code=error.code, wish=wish) from error


def is_model_name(name: str) -> bool:
    return _MODEL.fullmatch(name) is not None


def is_version(name: str) -> bool:
    """Whether `name` is a version number as Triton takes it: positive, no leading zero."""
    return _VERSION.fullmatch(name) is not None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _object(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise AnswerError(f"{what} must be a JSON object")
    return value


def _text(answer: Mapping[str, Any], key: str, pattern: re.Pattern[str]) -> str:
    value = answer.get(key)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise AnswerError(f"{key} is {value!r:.80}, which is not a valid one")
    return value


def _uuid(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    try:
        valid = isinstance(value, str) and str(uuid.UUID(value)) == value.lower()
    except ValueError:
        valid = False
    if not valid:
        raise AnswerError(f"{key} is {value!r:.80}, which is not a UUID")
    return str(value)


def _count(answer: Mapping[str, Any], key: str) -> int:
    value = answer.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _MAX_COUNT:
        raise AnswerError(f"{key} is {value!r:.80}, which is not a whole number from 0")
    return value


def _flag(answer: Mapping[str, Any], key: str) -> bool:
    value = answer.get(key)
    if not isinstance(value, bool):
        raise AnswerError(f"{key} is {value!r:.80}; it must be true or false")
    return value


def _seconds(answer: Mapping[str, Any], key: str) -> float:
    value = answer.get(key)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise AnswerError(f"{key} is {value!r:.80}, which is not a number of seconds")
    if not 0 < value <= MAX_POLL_SECONDS:
        raise AnswerError(f"{key} is {value!r:.80}; it must be over 0 and at most a day")
    return float(value)


def _version(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return None if value is None else _text(entry, key, _VERSION)
