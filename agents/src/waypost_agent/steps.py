"""What all steps at one server share: the records of versions, of attempts, failures and verdicts.

Decides what a failure leaves in the journal. Knows no step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from waypost_agent import errors as e
from waypost_agent import situation as sit
from waypost_agent.bundles import Bundles
from waypost_agent.errors import Permanent, Retryable
from waypost_agent.files import Files
from waypost_agent.golden import GoldenRequest, parse_golden
from waypost_agent.manifest import CONFIG_FILE, GOLDEN_FILE, Manifest
from waypost_agent.model_config import check
from waypost_agent.model_control import ModelControl
from waypost_agent.parts import Parts
from waypost_agent.ports import Checkpoint, Config

_log = logging.getLogger(__name__)


class Steps:
    """`verdicts` holds the golden replays on real models since this process started, with the
    moment of each (monotonic seconds)."""

    def __init__(
        self,
        parts: Parts,
        bundles: Bundles,
        files: Files,
        *,
        is_stopping: Callable[[], bool],
        checkpoint: Checkpoint,
    ) -> None:
        self.triton = parts.triton
        self.codec = parts.codec
        self.store = parts.store
        self.journal = parts.journal
        self.clock = parts.clock
        self.bundles = bundles
        self.files = files
        self.control = ModelControl(
            parts.triton, clock=parts.clock, timeouts=parts.timeouts, is_stopping=is_stopping
        )
        self.checkpoint = checkpoint
        self.verdicts: dict[str, tuple[sit.Verdict, float]] = {}

    def manifest(self, model: str, target: sit.Target, wished: Manifest | None) -> Manifest:
        if wished is not None and wished.digest == target.digest:
            return wished
        known = self.store.manifest(model, target.version)
        if known is None or known.digest != target.digest:
            raise Retryable(
                e.STORE_FAILED,
                f"the manifest of version {target.version} of {model} is lost and the centre does "
                "not wish that version now",
            )
        return known

    def read_record(
        self, model: str, target: sit.Target
    ) -> tuple[Config, tuple[GoldenRequest, ...]]:
        """The version's configuration and golden requests. Raises `Permanent` for bad ones."""
        try:
            text = self.store.read_record(model, target.version, CONFIG_FILE).decode()
            config = self.codec.parse(text)
        except ValueError as error:
            raise Permanent(e.CONFIG_INVALID, f"config.pbtxt cannot be read: {error}") from error
        manifest = self.store.manifest(model, target.version)
        check(config, model, () if manifest is None else [file.path for file in manifest.files])
        return config, parse_golden(self.store.read_record(model, target.version, GOLDEN_FILE))

    def begin_attempt(self, wish: sit.Wish, target: sit.Target) -> None:
        record = self.journal.load(wish.model)
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
        # A trial that was under way ended with the server: the next one counts from the start.
        self.journal.save(wish.model, replace(record, attempts=attempts, trial=None))
        self.checkpoint("attempt-journaled")

    @contextmanager
    def unless_stopped(self, model: str) -> Iterator[None]:
        """An attempt that ended because the agent was asked to stop says nothing of the version."""
        try:
            yield
        except Retryable as error:
            record = self.journal.load(model)
            if error.code == e.STOPPING and record.attempts is not None:
                fewer = replace(record.attempts, count=record.attempts.count - 1)
                self.journal.save(model, replace(record, attempts=fewer))
            raise

    def fail(self, wish: sit.Wish, target: sit.Target, error: Permanent) -> None:
        """Write down that the wished version failed. Anything else is tried again instead."""
        record = self.journal.load(wish.model)
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
        self.journal.save(
            wish.model, replace(record, failed=failure, proven=proven, attempts=None, trial=None)
        )
        self.checkpoint("failed-journaled")
        # Whatever was tried, the version before must show that it still answers.
        self.verdicts.pop(wish.model, None)

    def note(self, model: str, verdict: sit.Verdict) -> None:
        self.verdicts[model] = (verdict, self.clock.monotonic())
