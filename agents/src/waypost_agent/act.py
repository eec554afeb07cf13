"""Carries out one decided step, each in an order that a crash at any line cannot make wrong.

Decides nothing about what comes next. `checkpoint` is called with a name at every change of the
journal, the disk or the server; tests die there, production passes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from waypost_agent import decide as d
from waypost_agent import situation as sit
from waypost_agent.bundles import Bundles
from waypost_agent.errors import Permanent, Retryable
from waypost_agent.files import Files
from waypost_agent.manifest import Manifest
from waypost_agent.parts import Parts
from waypost_agent.ports import Checkpoint
from waypost_agent.proving import Proving
from waypost_agent.steps import Steps
from waypost_agent.switching import Switching


class Actor:
    """Performs steps, one at a time. `verdicts` holds the golden replays on real models since this
    process started, with the moment of each (monotonic seconds)."""

    def __init__(
        self,
        parts: Parts,
        bundles: Bundles,
        *,
        should_pause: Callable[[], bool],
        is_stopping: Callable[[], bool],
        checkpoint: Checkpoint = lambda name: None,
        progress: Callable[[str, str], None] = lambda model, reason: None,
    ) -> None:
        files = Files(
            parts.store,
            parts.blobs,
            clock=parts.clock,
            limits=parts.limits,
            should_pause=should_pause,
            checkpoint=checkpoint,
            progress=progress,
            fetching=parts.fetching,
        )
        self._steps = Steps(parts, bundles, files, is_stopping=is_stopping, checkpoint=checkpoint)
        self._proving = Proving(self._steps, parts.machine, parts.learned)
        self._switching = Switching(self._steps, parts.scrape)
        self.verdicts = self._steps.verdicts

    def perform(self, action: d.Action, wish: sit.Wish, wished: Manifest | None) -> None:
        """Carry out one step. Raises `Retryable`, or `Paused` at a safe point of a download.

        `wished` is the manifest of the wish's target; any other is read from disk.
        """
        model, steps = action.model, self._steps
        match action:
            case d.Fetch():
                self._fetch(action, wish, steps.manifest(model, action.target, wished))
            case d.Mend():
                self._mend(action, steps.manifest(model, action.target, wished))
            case d.MakeRoom():
                manifest = steps.manifest(model, action.target, wished)
                self._switching.make_room(action, wish, manifest)
            case d.Prove():
                with steps.unless_stopped(model):
                    manifest = steps.manifest(model, action.target, wished)
                    self._proving.prove(action, wish, manifest)
            case d.Switch():
                with steps.unless_stopped(model):
                    manifest = steps.manifest(model, action.target, wished)
                    self._switching.switch(action, wish, manifest)
            case d.Verify():
                self._switching.verify(action, wish)
            case d.GiveUp():
                steps.fail(wish, action.target, Permanent(action.reason_code, action.reason))
            case d.UnloadCandidate():
                self._proving.clear_candidate(model)
            case d.Unload():
                self._switching.unload(model)
            case d.Retire():
                self._switching.retire(model)
            case d.Prune():
                self._prune(action)
            case _:
                raise TypeError(f"not a step to perform: {action}")

    def _fetch(self, action: d.Fetch, wish: sit.Wish, manifest: Manifest) -> None:
        model, version = action.model, action.target.version
        is_here = self._steps.store.installed(model).get(version) == manifest.digest
        try:
            if is_here:
                # It rotted on disk while it is loaded: the copy lies beside it for the next load.
                self._steps.files.mend(model, version, manifest, is_loaded=True)
                return
            self._steps.files.fetch(model, version, manifest, may_wait=wish.lease_required)
        except Permanent as error:
            self._steps.fail(wish, action.target, error)

    def _mend(self, action: d.Mend, manifest: Manifest) -> None:
        model, version = action.model, action.target.version
        try:
            self._steps.files.mend(model, version, manifest, is_loaded=action.is_loaded)
        except Permanent as error:
            # What serves has not failed: its copy is asked for again.
            raise Retryable(error.code, error.reason) from error

    def scrub(self) -> None:
        """Read a little of what is installed, when it is time."""
        self._steps.files.scrub()

    def _prune(self, action: d.Prune) -> None:
        for version in sorted(action.versions, key=int):
            self._steps.store.remove_version(action.model, version)
        self._steps.store.remove_leftovers(action.model)
        self._steps.checkpoint("pruned")
