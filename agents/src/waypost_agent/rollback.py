"""Going back by hand: an operator's order to serve the last version but one, kept until obeyed.

Decides which version is gone back to and when an order no longer holds. It needs no rule of its
own in `decide`: the wish at hand is written down as failed and the earlier version as the one to
fall back on, which is what the agent does after any failure. A newer wish ends it.

One process obeys (the one that reconciles); the command only writes the order down.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from waypost_agent.decide import failure_for
from waypost_agent.durable import disk_errors, make_folder, sync_folder, write_durably
from waypost_agent.errors import ROLLED_BACK, Retryable
from waypost_agent.journal import Journal
from waypost_agent.ports import Checkpoint
from waypost_agent.situation import Failure, Record, Target, Wish
from waypost_agent.store import Store

_log = logging.getLogger(__name__)
_MODEL_FILE = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})\.json")
_MAX_REASON = 300


class Refused(Exception):
    """The order cannot be obeyed; the message says why, and that nothing changed."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Away from `target`, wished at (epoch, generation), back to `back_to`.

    It names both ends, so that obeying it twice (after a crash) goes back once."""

    number: str
    model: str
    epoch: int
    generation: int
    target: Target
    back_to: Target
    reason: str

    def failure(self) -> Failure:
        return Failure(
            epoch=self.epoch,
            generation=self.generation,
            target=self.target,
            reason_code=ROLLED_BACK,
            reason=f"rolled back to version {self.back_to.version} by hand at this site: "
            f"{self.reason}",
        )


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of an order: the agent follows it, or says why not."""

    number: str
    accepted: bool
    sentence: str


# Which version, and whether it still can be: pure


def make_order(wish: Wish | None, model: str, record: Record, reason: str) -> Order:
    """The order for what is wished and recorded now. Raises `Refused`."""
    if wish is None:
        raise Refused(f"the centre never wished anything of {model!r} here; nothing changed")
    if wish.target is None:
        raise Refused(f"nothing of {model} is wished here, so nothing serves; nothing changed")
    back_to = _earlier(wish, wish.target, record)
    if back_to is None:
        raise Refused(
            f"no verified version of {model} before "
            f"{(record.committed or wish.target).version} is on record; nothing changed"
        )
    words = " ".join(reason.split())[:_MAX_REASON]
    return Order(
        number=str(uuid.uuid4()),
        model=model,
        epoch=wish.epoch,
        generation=wish.generation,
        target=wish.target,
        back_to=back_to,
        reason=words or "no reason given",
    )


def _earlier(wish: Wish, target: Target, record: Record) -> Target | None:
    if record.committed != target and failure_for(wish, record) is None:
        return record.committed  # the wish is under way: it is given up, what served stays
    return None if record.previous == target else record.previous


def obey(order: Order, wish: Wish | None, record: Record, installed: Mapping[str, str]) -> Record:
    """The record that makes the agent go back. Raises `Refused`, and then nothing changes.

    The earlier version becomes the committed one before it serves: it was verified here, and a
    crash at any moment from now on must lead to it and not to the version that is left.
    """
    now = None if wish is None else (*wish.pair, wish.target)
    if now != (order.epoch, order.generation, order.target):
        raise Refused(f"the centre wishes something newer of {order.model}; nothing changed")
    if (record.committed, record.failed) == (order.back_to, order.failure()):
        return record
    if order.back_to not in (record.committed, record.previous):
        raise Refused(
            f"version {order.back_to.version} of {order.model} is no longer the verified one to "
            "go back to; nothing changed"
        )
    if installed.get(order.back_to.version) != order.back_to.digest:
        raise Refused(
            f"the files of version {order.back_to.version} of {order.model} are not complete on "
            "this server; nothing changed"
        )
    return replace(
        record,
        committed=order.back_to,
        # Nothing stands behind it now: a second order must not swing forward again.
        previous=record.previous if order.back_to == record.committed else None,
        proven=record.proven - {order.target.digest},
        failed=order.failure(),
        attempts=None,
    )


# The folder in which orders wait


class RollbackDesk:
    """Orders and answers under `state_dir`. The command submits and reads, the loop obeys."""

    def __init__(
        self,
        state_dir: Path,
        journal: Journal,
        store: Store,
        checkpoint: Checkpoint = lambda name: None,
    ) -> None:
        self._folder = state_dir / "rollback"
        self._journal = journal
        self._store = store
        self._checkpoint = checkpoint
        self._stuck: set[str] = set()

    def prepare(self) -> None:
        make_folder(self._folder, mode=0o700)

    def submit(self, order: Order) -> None:
        """Durable when this returns; a later order for the model replaces an earlier one."""
        with disk_errors(f"writing the order to roll back {order.model}"):
            self.prepare()
            text = json.dumps(asdict(order), ensure_ascii=False, indent=1)
            # Readable by the service's user where an administrator gave the order.
            write_durably(self._folder / f"{order.model}.json", text.encode(), mode=0o644)

    def answer_to(self, order: Order) -> Answer | None:
        """What became of the order, None while it waits."""
        try:
            answer = Answer(**json.loads((self._folder / f"{order.model}.answer").read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return answer if answer.number == order.number else None

    def waiting(self) -> bool:
        """Whether an order waits to be obeyed; asked several times a second."""
        return bool(self._names())

    def obey(self, wishes: Sequence[Wish]) -> None:
        """Obey every order that waits, or answer why not."""
        by_model = {wish.model: wish for wish in wishes}
        for name in self._names():
            path = self._folder / name
            try:
                order = _parse_order(json.loads(path.read_bytes()), name)
            except (OSError, ValueError, KeyError, TypeError) as error:
                _log.error("an order to roll back cannot be read: %s: %s", path, error)
            else:
                self._give_answer(order, self._obey(order, by_model.get(order.model)))
            self._take_away(path)

    def _obey(self, order: Order, wish: Wish | None) -> Answer:
        record = self._journal.load(order.model)
        try:
            changed = obey(order, wish, record, self._store.installed(order.model))
            if changed != record:
                self._journal.save(order.model, changed)
        except Refused as error:
            accepted, sentence = False, str(error)
        except Retryable as error:
            accepted, sentence = False, f"{error.reason}; nothing changed"
        except OSError as error:
            accepted, sentence = False, f"the disk failed: {error.strerror}; nothing changed"
        else:
            accepted, sentence = True, f"going back to version {order.back_to.version}"
        self._checkpoint("rollback-journaled")
        _log.warning("order to roll back %s: %s", order.model, sentence)
        return Answer(number=order.number, accepted=accepted, sentence=sentence)

    def _give_answer(self, order: Order, answer: Answer) -> None:
        path = self._folder / f"{order.model}.answer"
        try:
            write_durably(path, json.dumps(asdict(answer), ensure_ascii=False).encode())
        except OSError as error:
            _log.error("the answer to an order cannot be written: %s", error)
        self._checkpoint("rollback-answered")

    def _take_away(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            # It would wait for ever: this process heeds it no more, the next one obeys it again,
            # which changes nothing that is not changed already.
            _log.error("an order that was answered cannot be removed: %s", error)
            self._stuck.add(path.name)
        self._checkpoint("rollback-taken")

    def _names(self) -> list[str]:
        try:
            names = {entry.name for entry in self._folder.iterdir()}
        except OSError:
            return []
        return sorted(name for name in names - self._stuck if _MODEL_FILE.fullmatch(name))


def _parse_order(document: Mapping[str, Any], name: str) -> Order:
    order = Order(
        **{
            **document,
            "target": Target(**document["target"]),
            "back_to": Target(**document["back_to"]),
        }
    )
    match = _MODEL_FILE.fullmatch(name)
    if match is None or match[1] != order.model:
        raise ValueError(f"it speaks of the model {order.model!r}")
    return order
