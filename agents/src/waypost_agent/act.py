"""Carries out one decided step, each in an order that a crash at any line cannot make wrong.

Decides nothing about what comes next. `checkpoint` is called with a name at every change of the
journal, the disk or the server; tests die there, production passes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from waypost_agent import decide as d
from waypost_agent import errors as e
from waypost_agent import situation as sit
from waypost_agent.clock import Clock
from waypost_agent.config import Timeouts
from waypost_agent.errors import Permanent, Retryable
from waypost_agent.files import Files
from waypost_agent.golden import GoldenRequest, parse_golden
from waypost_agent.journal import Journal
from waypost_agent.leases import LeaseSource
from waypost_agent.limits import Limits
from waypost_agent.manifest import CONFIG_FILE, GOLDEN_FILE, Manifest
from waypost_agent.model_config import check, overlay
from waypost_agent.model_control import ModelControl
from waypost_agent.ports import (
    BlobSource,
    Checkpoint,
    Config,
    ConfigCodec,
    ModelServer,
)
from waypost_agent.protocol import CANDIDATE_SUFFIX
from waypost_agent.store import Store

_log = logging.getLogger(__name__)

CHECKPOINTS = (
    "download-started",
    "file-verified",
    "staged",
    "recorded",
    "installed",
    "set-aside",
    "damage-noted",
    "mended",
    "attempt-journaled",
    "candidate-written",
    "candidate-loaded",
    "candidate-proven",
    "candidate-refused",
    "candidate-unloaded",
    "candidate-removed",
    "proven-journaled",
    "switched",
    "verified",
    "config-committed",
    "committed",
    "verification-failed",
    "failed-journaled",
    "restored",
    "unloaded",
    "config-removed",
    "retired",
    "pruned",
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the steps are carried out with."""

    triton: ModelServer
    codec: ConfigCodec
    store: Store
    journal: Journal
    blobs: BlobSource
    leases: LeaseSource
    clock: Clock
    timeouts: Timeouts
    limits: Limits = field(default_factory=Limits)


class Actor:
    """Performs steps, one at a time. `verdicts` holds the golden replays on real models since this
    process started, with the moment of each (monotonic seconds)."""

    def __init__(
        self,
        parts: Parts,
        *,
        should_pause: Callable[[], bool],
        is_stopping: Callable[[], bool],
        checkpoint: Checkpoint = lambda name: None,
        progress: Callable[[str, str], None] = lambda model, reason: None,
    ) -> None:
        self._triton = parts.triton
        self._codec = parts.codec
        self._store = parts.store
        self._journal = parts.journal
        self._clock = parts.clock
        self._control = ModelControl(
            parts.triton, clock=parts.clock, timeouts=parts.timeouts, is_stopping=is_stopping
        )
        self._checkpoint = checkpoint
        self._files = Files(
            parts.store,
            parts.blobs,
            clock=parts.clock,
            limits=parts.limits,
            should_pause=should_pause,
            checkpoint=checkpoint,
            progress=progress,
        )
        self.verdicts: dict[str, tuple[sit.Verdict, float]] = {}

    def perform(self, action: d.Action, wish: sit.Wish, wished: Manifest | None) -> None:
        """Carry out one step. Raises `Retryable`, or `Paused` at a safe point of a download.

        `wished` is the manifest of the wish's target; any other is read from disk.
        """
        match action:
            case d.Fetch():
                self._fetch(action, wish, self._manifest(action.model, action.target, wished))
            case d.Mend():
                self._mend(action, self._manifest(action.model, action.target, wished))
            case d.Prove():
                with self._unless_stopped(action.model):
                    self._prove(action, wish, self._manifest(action.model, action.target, wished))
            case d.Switch():
                with self._unless_stopped(action.model):
                    self._switch(action, wish, self._manifest(action.model, action.target, wished))
            case d.Verify():
                self._verify(action, wish)
            case d.GiveUp():
                self._fail(wish, action.target, Permanent(action.reason_code, action.reason))
            case d.UnloadCandidate():
                self._clear_candidate(action.model)
            case d.Unload():
                self._unload(action.model)
            case d.Retire():
                self._retire(action.model)
            case d.Prune():
                self._prune(action)
            case _:
                raise TypeError(f"not a step to perform: {action}")

    def _manifest(self, model: str, target: sit.Target, wished: Manifest | None) -> Manifest:
        if wished is not None and wished.digest == target.digest:
            return wished
        known = self._store.manifest(model, target.version)
        if known is None or known.digest != target.digest:
            raise Retryable(
                e.STORE_FAILED,
                f"the manifest of version {target.version} of {model} is lost and the centre does "
                "not wish that version now",
            )
        return known

    # Files

    def _fetch(self, action: d.Fetch, wish: sit.Wish, manifest: Manifest) -> None:
        model, version = action.model, action.target.version
        try:
            self._files.fetch(model, version, manifest)
        except Permanent as error:
            self._fail(wish, action.target, error)

    def _mend(self, action: d.Mend, manifest: Manifest) -> None:
        model, version = action.model, action.target.version
        try:
            self._files.mend(model, version, manifest, is_loaded=action.is_loaded)
        except Permanent as error:
            # What serves has not failed: its copy is asked for again.
            raise Retryable(error.code, error.reason) from error

    def scrub(self) -> None:
        """Read a little of what is installed, when it is time."""
        self._files.scrub()

    def _prune(self, action: d.Prune) -> None:
        for version in sorted(action.versions, key=int):
            self._store.remove_version(action.model, version)
        self._store.remove_leftovers(action.model)
        self._checkpoint("pruned")

    # Proof

    def _prove(self, action: d.Prove, wish: sit.Wish, manifest: Manifest) -> None:
        model, target = action.model, action.target
        try:
            if not self._files.is_sound(model, target.version, manifest):
                return
        except Permanent as error:
            self._fail(wish, target, error)
            return
        try:
            config, golden = self._read_record(model, target)
            self._begin_attempt(wish, target)
            self._try_candidate(model, target, config, golden)
        except Permanent as error:
            self._checkpoint("candidate-refused")
            # Written down first: the verdict stands, the cleaning may have to wait.
            self._fail(wish, target, error)
            if error.code != e.LOAD_TIMEOUT:
                self._clear_candidate(model)
            return
        self._checkpoint("candidate-proven")
        self._clear_candidate(model)
        record = self._journal.load(model)
        proven = record.proven | {target.digest}
        self._journal.save(model, replace(record, proven=proven, attempts=None))
        self._checkpoint("proven-journaled")

    def _try_candidate(
        self,
        model: str,
        target: sit.Target,
        config: Config,
        golden: tuple[GoldenRequest, ...],
    ) -> None:
        name = model + CANDIDATE_SUFFIX
        changed = overlay(config, name=name, version=target.version)
        self._store.write_candidate(model, target.version, self._codec.print(changed))
        self._checkpoint("candidate-written")
        self._control.load(name, target.version, changed)
        self._checkpoint("candidate-loaded")
        for request in golden:
            self._control.replay(request, name, target.version, e.CANDIDATE_FAILED)

    def _clear_candidate(self, model: str) -> None:
        name = model + CANDIDATE_SUFFIX
        self._triton.unload(name)
        self._control.await_gone(name)
        self._checkpoint("candidate-unloaded")
        self._store.remove_candidate(model)
        self._checkpoint("candidate-removed")

    def _begin_attempt(self, wish: sit.Wish, target: sit.Target) -> None:
        record = self._journal.load(wish.model)
        begun = record.attempts
        same = begun is not None and (begun.epoch, begun.generation, begun.target) == (
            wish.epoch,
            wish.generation,
            target,
        )
        attempts = sit.Attempts(
            epoch=wish.epoch,
            generation=wish.generation,
            target=target,
            count=begun.count + 1 if same and begun is not None else 1,
        )
        self._journal.save(wish.model, replace(record, attempts=attempts))
        self._checkpoint("attempt-journaled")

    @contextmanager
    def _unless_stopped(self, model: str) -> Iterator[None]:
        """An attempt that ended because the agent was asked to stop says nothing of the version."""
        try:
            yield
        except Retryable as error:
            record = self._journal.load(model)
            if error.code == e.STOPPING and record.attempts is not None:
                fewer = replace(record.attempts, count=record.attempts.count - 1)
                self._journal.save(model, replace(record, attempts=fewer))
            raise

    # The real model

    def _switch(self, action: d.Switch, wish: sit.Wish, manifest: Manifest) -> None:
        model, target = action.model, action.target
        try:
            if not self._files.is_sound(model, target.version, manifest):
                return
            self.verdicts.pop(model, None)
            config, _ = self._read_record(model, target)
            if target != self._journal.load(model).committed:
                self._begin_attempt(wish, target)
            # The whole configuration goes along with the call: config.pbtxt on disk goes on naming
            # the last verified version until this one is verified too.
            self._control.load(
                model, target.version, overlay(config, name=model, version=target.version)
            )
        except Permanent as error:
            self._fail(wish, target, error)
            return
        self._checkpoint("restored" if action.restoring else "switched")

    def _verify(self, action: d.Verify, wish: sit.Wish) -> None:
        model, target = action.model, action.target
        try:
            config, golden = self._read_record(model, target)
            if not self._triton.is_version_ready(model, target.version):
                raise Retryable(e.WORKING, f"version {target.version} is not ready any more")
            for request in golden:
                # Without a version, as users ask: what they get is what is judged.
                self._control.replay(
                    request, model, None, e.GOLDEN_MISMATCH, expected=target.version
                )
        except Permanent as error:
            self._checkpoint("verification-failed")
            self._refuse_served(wish, target, error)
            return
        self._checkpoint("verified")
        self._commit(
            model, target, self._codec.print(overlay(config, name=model, version=target.version))
        )
        self._note(
            model,
            sit.Verdict(
                version=target.version,
                passed=True,
                reason_code=e.OK,
                reason=f"version {target.version} serves and passed {len(golden)} golden requests",
            ),
        )

    def _commit(self, model: str, target: sit.Target, config_text: str) -> None:
        self._store.write_config(model, config_text)
        self._checkpoint("config-committed")
        record = self._journal.load(model)
        if record.committed != target:
            previous = record.committed or record.previous
            record = replace(record, committed=target, previous=previous, attempts=None)
            self._journal.save(model, replace(record, proven=record.proven | {target.digest}))
        self._checkpoint("committed")

    def _refuse_served(self, wish: sit.Wish, target: sit.Target, error: Permanent) -> None:
        if target == self._journal.load(wish.model).committed:
            # There is nothing better to serve: it stays, and the report says it is not healthy.
            self._note(
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
            self._fail(wish, target, error)
            return
        # A newer wish came before this one was verified, and there is none to go back to. Unloaded
        # before it is forgotten: a crash in between asks for the same again.
        self._unload(wish.model)
        record = self._journal.load(wish.model)
        self._journal.save(wish.model, replace(record, proven=record.proven - {target.digest}))

    def _unload(self, model: str) -> None:
        self.verdicts.pop(model, None)
        self._triton.unload(model)
        self._control.await_gone(model)
        self._checkpoint("unloaded")

    def _retire(self, model: str) -> None:
        self._store.remove_config(model)
        self._checkpoint("config-removed")
        record = self._journal.load(model)
        self._journal.save(model, replace(record, committed=None, previous=record.committed))
        self._checkpoint("retired")

    # What the steps share

    def _read_record(
        self, model: str, target: sit.Target
    ) -> tuple[Config, tuple[GoldenRequest, ...]]:
        """The version's configuration and golden requests. Raises `Permanent` for bad ones."""
        try:
            text = self._store.read_record(model, target.version, CONFIG_FILE).decode()
            config = self._codec.parse(text)
        except ValueError as error:
            raise Permanent(e.CONFIG_INVALID, f"config.pbtxt cannot be read: {error}") from error
        manifest = self._store.manifest(model, target.version)
        check(config, model, () if manifest is None else [file.path for file in manifest.files])
        return config, parse_golden(self._store.read_record(model, target.version, GOLDEN_FILE))

    def _fail(self, wish: sit.Wish, target: sit.Target, error: Permanent) -> None:
        """Write down that the wished version failed. Anything else is tried again instead."""
        record = self._journal.load(wish.model)
        if target in (record.committed,) or target != wish.target:
            raise Retryable(error.code, error.reason) from error
        failure = sit.Failure(
            epoch=wish.epoch,
            generation=wish.generation,
            target=target,
            reason_code=error.code,
            reason=error.reason,
        )
        _log.error("version %s of %s failed: %s", target.version, wish.model, error.reason)
        proven = record.proven - {target.digest}
        self._journal.save(
            wish.model, replace(record, failed=failure, proven=proven, attempts=None)
        )
        self._checkpoint("failed-journaled")

    def _note(self, model: str, verdict: sit.Verdict) -> None:
        self.verdicts[model] = (verdict, self._clock.monotonic())
