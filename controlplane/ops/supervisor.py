"""Keeps a few processes alive and takes them all down together. Knows nothing of what they do."""

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_RESTART_DELAYS_SECONDS = (0.2, 1.0, 3.0, 10.0)
_CALM_SECONDS = 60.0
_STOP_SECONDS = 10.0


def _die_with_parent() -> None:
    """Runs in the child: the kernel ends it when the supervisor is gone, however that went."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass(kw_only=True)
class _Child:
    name: str
    command: Sequence[str]
    env: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    due_at: float = 0.0


@dataclass(kw_only=True)
class Supervisor:
    """Start children with `add`, then call `watch` until it returns."""

    say: Callable[[str], None]
    log_dir: Path
    _children: list[_Child] = field(default_factory=list)
    _stopping: bool = False

    def add(self, name: str, command: Sequence[str], env: Mapping[str, str]) -> None:
        self.log_dir.mkdir(parents=True, exist_ok=True)
        child = _Child(name=name, command=command, env=env, log=self.log_dir / f"{name}.log")
        self._children.append(child)
        self._start(child)

    def request_stop(self, *_: object) -> None:
        """A signal handler: `watch` returns at its next look."""
        self._stopping = True

    @property
    def stopping(self) -> bool:
        return self._stopping

    def look(self) -> None:
        """Restarts what has died: at once at first, later with longer pauses."""
        now = time.monotonic()
        for child in self._children:
            if child.process is None:
                if now >= child.due_at:
                    self._start(child)
            elif (status := child.process.poll()) is not None:
                self._note_death(child, status, now)

    def watch(self) -> None:
        """Looks after the children until a stop is asked for."""
        while not self._stopping:
            self.look()
            time.sleep(0.2)

    def stop(self) -> None:
        """Ends every child, the last started first, and its whole process group with it."""
        for child in reversed(self._children):
            self._signal(child, signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for child in reversed(self._children):
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self.say(f"{child.name} did not stop in time; killed")
            self._signal(child, signal.SIGKILL)
            child.process.wait()

    def pids(self) -> dict[str, int]:
        return {c.name: c.process.pid for c in self._children if c.process is not None}

    def _start(self, child: _Child) -> None:
        with child.log.open("ab") as log:
            child.process = subprocess.Popen(
                child.command,
                env=dict(child.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        child.started_at = time.monotonic()

    def _note_death(self, child: _Child, status: int, now: float) -> None:
        self._signal(child, signal.SIGKILL)  # its own children must not outlive it
        if now - child.started_at > _CALM_SECONDS:
            child.failures = 0
        delay = _RESTART_DELAYS_SECONDS[min(child.failures, len(_RESTART_DELAYS_SECONDS) - 1)]
        child.failures += 1
        child.process, child.due_at = None, now + delay
        self.say(f"{child.name} ended ({_how(status)}); again in {delay:g} s. Log: {child.log}")

    def _signal(self, child: _Child, number: signal.Signals) -> None:
        if child.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.process.pid, number)


def _how(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
