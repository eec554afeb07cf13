"""Proves a version under its candidate name, and clears that away again.

Each step in an order that a crash at any line cannot make wrong.
"""

from __future__ import annotations

from dataclasses import replace

from waypost_agent import decide as d
from waypost_agent import errors as e
from waypost_agent import situation as sit
from waypost_agent.errors import Permanent
from waypost_agent.golden import GoldenRequest
from waypost_agent.learned import LearnedBook
from waypost_agent.manifest import Manifest
from waypost_agent.model_config import overlay
from waypost_agent.ports import Config
from waypost_agent.preflight import Learned, MachineLook, missing_backends
from waypost_agent.protocol import CANDIDATE_SUFFIX
from waypost_agent.steps import Steps


class Proving:
    def __init__(self, steps: Steps, machine: MachineLook, learned: LearnedBook) -> None:
        self._steps = steps
        self._machine = machine
        self._learned = learned

    def prove(self, action: d.Prove, wish: sit.Wish, manifest: Manifest) -> None:
        model, target = action.model, action.target
        try:
            if not self._steps.files.is_sound(model, target.version, manifest):
                return
        except Permanent as error:
            self._steps.fail(wish, target, error)
            return
        try:
            config, golden = self._steps.read_record(model, target)
            self._steps.bundles.require(model, target, manifest, self._steps.journal.load(model))
            self._require_backend(target, config)
            self._steps.begin_attempt(wish, target)
            self._try_candidate(model, target, config, golden)
        except Permanent as error:
            self._steps.checkpoint("candidate-refused")
            # Written down first: the verdict stands, the cleaning may have to wait.
            self._steps.fail(wish, target, error)
            if error.code != e.LOAD_TIMEOUT:
                self.clear_candidate(model)
            return
        self._steps.checkpoint("candidate-proven")
        self.clear_candidate(model)
        record = self._steps.journal.load(model)
        proven = record.proven | {target.digest}
        self._steps.journal.save(model, replace(record, proven=proven, attempts=None))
        self._steps.checkpoint("proven-journaled")

    def _require_backend(self, target: sit.Target, config: Config) -> None:
        """Known only now that the configuration is here. Raises `Permanent`."""
        backend = config.get("backend")
        if backend and (fault := missing_backends([backend], self._machine.look())):
            raise Permanent(e.BACKEND_MISSING, f"version {target.version}: {fault}")

    def _try_candidate(
        self,
        model: str,
        target: sit.Target,
        config: Config,
        golden: tuple[GoldenRequest, ...],
    ) -> None:
        name = model + CANDIDATE_SUFFIX
        changed = overlay(config, name=name, version=target.version)
        self._steps.store.write_candidate(model, target.version, self._steps.codec.print(changed))
        self._steps.checkpoint("candidate-written")
        self._load_measured(name, target, changed)
        self._steps.checkpoint("candidate-loaded")
        for request in golden:
            self._steps.control.replay(request, name, target.version, e.CANDIDATE_FAILED)

    def _load_measured(self, name: str, target: sit.Target, config: Config) -> None:
        """What it took is told to the centre, and to whoever asks whether it fits next time."""
        host, gpus = self._machine.used_bytes()
        began = self._steps.clock.monotonic()
        self._steps.control.load(name, target.version, config)
        seconds = self._steps.clock.monotonic() - began
        host_after, gpus_after = self._machine.used_bytes()
        measured = Learned(
            load_seconds=round(seconds, 3),
            memory_bytes=_grown(host, host_after),
            accelerator_memory_bytes=_grown(gpus, gpus_after),
        )
        self._learned.note(target.digest, measured)

    def clear_candidate(self, model: str) -> None:
        name = model + CANDIDATE_SUFFIX
        self._steps.triton.unload(name)
        self._steps.control.await_gone(name)
        self._steps.checkpoint("candidate-unloaded")
        self._steps.store.remove_candidate(model)
        self._steps.checkpoint("candidate-removed")


def _grown(before: int | None, after: int | None) -> int | None:
    """By how much; None where nobody could look, or something else shrank meanwhile."""
    if before is None or after is None or after <= before:
        return None
    return after - before
