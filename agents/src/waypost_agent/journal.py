"""Keeps, durably, what neither disk nor server can tell: verdicts, the last wish, its order.

One file per model. Decides nothing; a file that cannot be read is set aside and counts as empty,
which costs a new proof and never serves anything unproven.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from waypost_agent.durable import disk_errors, make_folder, write_durably
from waypost_agent.errors import AnswerError
from waypost_agent.probation import Counts
from waypost_agent.protocol import Desired, ModelWish, Pair, parse_desired, parse_json
from waypost_agent.situation import Attempts, Failure, Record, Room, Target, Trial

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Held:
    """The wishes in force. `spoken` are the models the newest answer named; the wishes for others
    stay as they were, and are not reported. `pair` is the highest (epoch, generation) seen."""

    desired: Desired
    absent: tuple[tuple[int, ModelWish], ...] = ()  # each with the epoch it was wished in

    @property
    def pair(self) -> Pair:
        return self.desired.pair

    def followed_by(self, newer: Desired) -> Held:
        """The same after a newer answer."""
        named = {wish.model for wish in newer.models}
        before = [(self.desired.epoch, wish) for wish in self.desired.models]
        kept = [(epoch, wish) for epoch, wish in [*self.absent, *before] if wish.model not in named]
        return Held(desired=newer, absent=tuple(kept))


class Journal:
    """`root` is a folder of the journal's own."""

    def __init__(self, root: Path) -> None:
        self._records = root / "models"
        self._desired = root / "desired.json"

    def prepare(self) -> None:
        make_folder(self._records)

    def load(self, model: str) -> Record:
        """The record of a model, an empty one when there is none or it cannot be read."""
        path = self._records / f"{model}.json"
        try:
            return _parse_record(json.loads(path.read_bytes()))
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            _set_aside(path, error)
            return Record()

    def save(self, model: str, record: Record) -> None:
        """Durable when this returns. Raises `Retryable` when the disk refuses."""
        document = {
            "committed": _target_document(record.committed),
            "previous": _target_document(record.previous),
            "proven": sorted(record.proven),
            "failed": None if record.failed is None else asdict(record.failed),
            "attempts": None if record.attempts is None else asdict(record.attempts),
            "room": None if record.room is None else asdict(record.room),
            "trial": None if record.trial is None else asdict(record.trial),
            "config_sha256": record.config_sha256,
        }
        with disk_errors(f"writing the journal of {model}"):
            write_durably(self._records / f"{model}.json", _encode(document))

    def models(self) -> frozenset[str]:
        return frozenset(path.stem for path in self._records.glob("*.json"))

    def faults(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Files that cannot be read now, and those set aside before. Changes nothing."""
        unreadable = [path for path in sorted(self._records.glob("*.json")) if not _is_record(path)]
        if self._desired.exists() and not _holds_wishes(self._desired):
            unreadable.append(self._desired)
        aside = [*self._records.glob("*.damaged"), *self._desired.parent.glob("*.damaged")]
        return (
            tuple(path.name for path in unreadable),
            tuple(sorted(path.name for path in aside)),
        )

    def load_held(self, belongs_to: str) -> Held | None:
        """The wishes in force, None before the first. `belongs_to` names centre and site."""
        try:
            document = parse_json(self._desired.read_bytes())
            if document["belongs_to"] != belongs_to:
                _log.warning("the kept wishes are of %s; starting anew", document["belongs_to"])
                return None
            absent = [
                (entry["epoch"], parse_desired(entry["document"]).models[0])
                for entry in document["absent"]
            ]
            return Held(desired=parse_desired(document["desired"]), absent=tuple(absent))
        except FileNotFoundError:
            return None
        except (OSError, AnswerError, KeyError, TypeError, IndexError) as error:
            _set_aside(self._desired, error)
            return None

    def save_held(self, held: Held, belongs_to: str) -> None:
        """Durable when this returns. Raises `Retryable` when the disk refuses."""
        document = {
            "belongs_to": belongs_to,
            "desired": dict(held.desired.document),
            "absent": [
                {"epoch": epoch, "document": _wish_document(epoch, wish, held.desired.site)}
                for epoch, wish in held.absent
            ],
        }
        with disk_errors("writing the wishes of the centre"):
            write_durably(self._desired, _encode(document))


def _encode(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, indent=1).encode()


def _set_aside(path: Path, error: Exception) -> None:
    aside = path.with_name(path.name + ".damaged")
    _log.error("%s cannot be read (%s); kept as %s", path, error, aside.name)
    if path.exists():
        path.replace(aside)


def _is_record(path: Path) -> bool:
    try:
        _parse_record(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return True


def _holds_wishes(path: Path) -> bool:
    try:
        parse_desired(parse_json(path.read_bytes())["desired"])
    except (OSError, AnswerError, KeyError, TypeError):
        return False
    return True


def _target_document(target: Target | None) -> dict[str, str] | None:
    return None if target is None else {"version": target.version, "digest": target.digest}


def _parse_target(document: Mapping[str, str] | None) -> Target | None:
    if document is None:
        return None
    return Target(version=document["version"], digest=document["digest"])


def _parse_record(document: Mapping[str, Any]) -> Record:
    failed, attempts = document["failed"], document["attempts"]
    # The journal of an agent that knew nothing of these has none.
    room, trial = document.get("room"), document.get("trial")
    return Record(
        committed=_parse_target(document["committed"]),
        previous=_parse_target(document["previous"]),
        proven=frozenset(document["proven"]),
        failed=None if failed is None else Failure(**{**failed, "target": _known(failed)}),
        attempts=None if attempts is None else Attempts(**{**attempts, "target": _known(attempts)}),
        room=None if room is None else Room(**{**room, "target": _known(room)}),
        trial=None if trial is None else _parse_trial(trial),
        config_sha256=document.get("config_sha256"),
    )


def _parse_trial(document: Mapping[str, Any]) -> Trial:
    before = document["before"]
    counts = None if before is None else Counts(**before)
    return Trial(**{**document, "target": _known(document), "before": counts})


def _known(document: Mapping[str, Any]) -> Target:
    target = _parse_target(document["target"])
    if target is None:
        raise ValueError("a verdict without its version")
    return target


def _wish_document(epoch: int, wish: ModelWish, site: str) -> dict[str, Any]:
    """The wish alone, as an answer that would hold only it."""
    manifest = wish.manifest
    entry = {
        "model": wish.model,
        "generation": wish.generation,
        "deployment": wish.deployment,
        "version": wish.version,
        "previous": wish.previous,
        "lease_required": wish.lease_required,
        "switch": wish.switch,
        "probation": None if wish.probation is None else wish.probation.document(),
        "manifest_digest": None if manifest is None else manifest.digest,
        "manifest": None if manifest is None else dict(manifest.document),
    }
    return {"epoch": epoch, "generation": wish.generation, "site": site, "models": [entry]}
