"""Changes what the real model serves: makes room, switches, verifies, commits, unloads.

Each step in an order that a crash at any line cannot make wrong.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import replace

from waypost_agent import decide as d
from waypost_agent import downtime
from waypost_agent import errors as e
from waypost_agent import situation as sit
from waypost_agent.errors import Permanent, Retryable
from waypost_agent.manifest import Manifest
from waypost_agent.model_config import overlay
from waypost_agent.steps import Steps
from waypost_agent.trial import begin_trial, trial_of
from waypost_agent.triton_metrics import Scrape

_log = logging.getLogger(__name__)


class Switching:
    """`scrape` reads what the server has counted, None when nobody can."""

    def __init__(self, steps: Steps, scrape: Callable[[], Scrape | None]) -> None:
        self._steps = steps
        self._scrape = scrape

    def make_room(self, action: d.MakeRoom, wish: sit.Wish, manifest: Manifest) -> None:
        model, target = action.model, action.target
        record = self._steps.journal.load(model)
        try:
            # Found out now, while somebody still answers: what is to be loaded, and the way back.
            if not self._steps.files.is_sound(model, target.version, manifest):
                return
            if not record.has_served(target):
                self._steps.read_record(model, target)
                self._steps.bundles.require(model, target, manifest, record)
        except Permanent as error:
            self._steps.fail(wish, target, error)
            return
        committed = record.committed
        if committed not in (None, target) and not self._can_come_back(model, committed):
            return
        room = downtime.begin(record.room, wish, action.target, self._steps.clock)
        # Written down first: whoever finds nothing loaded must know that it was this agent.
        self._steps.journal.save(model, replace(record, room=room))
        self._steps.checkpoint("room-journaled")
        self._steps.verdicts.pop(model, None)
        self._steps.triton.unload(model)
        self._steps.control.await_gone(model)
        self._steps.checkpoint("room-made")

    def _can_come_back(self, model: str, target: sit.Target) -> bool:
        """Whether what serves has sound files for its next load. Damage is written down and the
        files stay where they are: they are loaded."""
        version = target.version
        if version in self._steps.store.damaged(
            model
        ) and version not in self._steps.store.unmended(model):
            return True  # its sound copy lies beside it
        damage = self._steps.store.find_damage(
            model, version, self._steps.manifest(model, target, None)
        )
        if damage is None:
            return True
        _log.error("version %s of %s is damaged on disk: %s", version, model, damage)
        self._steps.store.note_damage(model, version, damage)
        self._steps.checkpoint("damage-noted")
        return False

    def switch(self, action: d.Switch, wish: sit.Wish, manifest: Manifest) -> None:
        model, target = action.model, action.target
        try:
            if not self._steps.files.is_sound(model, target.version, manifest):
                return
            record = self._steps.journal.load(model)
            config, _ = self._steps.read_record(model, target)
            self._steps.bundles.require(model, target, manifest, record)
            self._let_go(model)
            self._steps.verdicts.pop(model, None)
            if target != record.committed:
                self._steps.begin_attempt(wish, target)
            # The whole configuration goes along with the call: config.pbtxt on disk goes on naming
            # the last verified version until this one is verified too.
            self._steps.control.load(
                model, target.version, overlay(config, name=model, version=target.version)
            )
        except Permanent as error:
            self._steps.fail(wish, target, error)
            return
        self._steps.checkpoint("restored" if action.restoring else "switched")
        self._note_answering(model)

    def _let_go(self, model: str) -> None:
        """Where nothing serves, Triton gets its time to finish an unload, which may never end:
        measured on 2.51, one whose python process died is unloading for ever."""
        states = {entry.state for entry in self._steps.triton.index().get(model, {}).values()}
        if sit.UNLOADING not in states or sit.READY in states:
            return
        try:
            self._steps.control.await_gone(model)
        except Retryable as error:
            if error.code != e.UNLOAD_TIMEOUT:
                raise
            _log.warning("%s: what is to serve is loaded all the same", error.reason)

    def _note_answering(self, model: str) -> None:
        """From here on somebody answers: what was declared as downtime is over."""
        record = self._steps.journal.load(model)
        if record.room is None or record.room.since is None:
            return
        room = downtime.end(record.room, self._steps.clock)
        self._steps.journal.save(model, replace(record, room=room))
        self._steps.checkpoint("answer-journaled")

    def verify(self, action: d.Verify, wish: sit.Wish) -> None:
        model, target = action.model, action.target
        try:
            config, golden = self._steps.read_record(model, target)
            if not self._steps.triton.is_version_ready(model, target.version):
                raise Retryable(e.WORKING, f"version {target.version} is not ready any more")
            for request in golden:
                # Without a version, as users ask: what they get is what is judged.
                self._steps.control.replay(
                    request, model, None, e.GOLDEN_MISMATCH, expected=target.version
                )
        except Permanent as error:
            self._steps.checkpoint("verification-failed")
            self._refuse_served(wish, target, error)
            return
        record = self._steps.journal.load(model)
        room = record.room
        is_old = room is None or (
            (room.epoch, room.generation) != wish.pair and room.is_over(target)
        )
        note = "" if room is None or is_old else downtime.sentence(room, self._steps.clock)
        if not action.commits:
            self._begin_trial(wish, target, record)
        else:
            self._steps.checkpoint("verified")
            overlaid = overlay(config, name=model, version=target.version)
            self._commit(wish, target, self._steps.codec.print(overlaid))
        self._steps.note(
            model,
            sit.Verdict(
                version=target.version,
                passed=True,
                reason_code=e.OK,
                reason=f"version {target.version} serves and passed {len(golden)} golden requests",
                note=note,
            ),
        )

    def _begin_trial(self, wish: sit.Wish, target: sit.Target, record: sit.Record) -> None:
        """Answering well once is not enough: its requests are counted from here on."""
        before = trial_of(wish, record, self._steps.clock)
        if before is None or before.before is None:
            trial = begin_trial(wish, target, self._scrape(), self._steps.clock)
            if before is None or trial.before is not None:
                self._steps.journal.save(wish.model, replace(record, trial=trial))
        self._steps.checkpoint("probation-begun")

    def _commit(self, wish: sit.Wish, target: sit.Target, config_text: str) -> None:
        model = wish.model
        digest = hashlib.sha256(config_text.encode()).hexdigest()
        if self._steps.store.config_sha256(model) != digest:
            self._steps.store.write_config(model, config_text)
        self._steps.checkpoint("config-committed")
        record = self._steps.journal.load(model)
        before = record
        if record.committed != target:
            previous = record.committed or record.previous
            record = replace(record, committed=target, previous=previous, attempts=None)
            record = replace(record, proven=record.proven | {target.digest})
        room = self._room_to_remember(wish, target, record)
        record = replace(record, room=room, trial=None, config_sha256=digest)
        if record != before:
            self._steps.journal.save(model, record)
        self._steps.checkpoint("committed")

    def _room_to_remember(
        self, wish: sit.Wish, target: sit.Target, record: sit.Record
    ) -> sit.Room | None:
        """Where the agent chose to replace it goes back the same way, should this wish be undone:
        the two do not fit together whichever of them comes first."""
        room = record.room
        if wish.switch != sit.AUTO or room is None or target != wish.target:
            return None
        same = (room.epoch, room.generation, room.target) == (*wish.pair, target)
        return downtime.end(room, self._steps.clock) if same else None

    def _refuse_served(self, wish: sit.Wish, target: sit.Target, error: Permanent) -> None:
        if target == self._steps.journal.load(wish.model).committed:
            # There is nothing better to serve: it stays, and the report says it is not healthy.
            self._steps.note(
                wish.model,
                sit.Verdict(
                    version=target.version,
                    passed=False,
                    reason_code=error.code,
                    reason=error.reason,
                ),
            )
            return
        if target == wish.target:
            self._steps.fail(wish, target, error)
            return
        # A newer wish came before this one was verified, and there is none to go back to. Unloaded
        # before it is forgotten: a crash in between asks for the same again.
        self.unload(wish.model)
        record = self._steps.journal.load(wish.model)
        self._steps.journal.save(
            wish.model, replace(record, proven=record.proven - {target.digest})
        )

    def unload(self, model: str) -> None:
        self._steps.verdicts.pop(model, None)
        self._steps.triton.unload(model)
        self._steps.control.await_gone(model)
        self._steps.checkpoint("unloaded")

    def retire(self, model: str) -> None:
        self._steps.store.remove_config(model)
        self._steps.checkpoint("config-removed")
        record = self._steps.journal.load(model)
        kept = sit.Record(previous=record.committed, proven=record.proven, failed=record.failed)
        self._steps.journal.save(model, replace(kept, attempts=record.attempts))
        self._steps.checkpoint("retired")
