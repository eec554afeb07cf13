"""Talks to one Triton without gRPC in this process: an agent at peace looks over HTTP, and for all
else has a process beside it, which it starts when it is needed and ends when it no longer is.

Decides which of the two is asked. All control goes over gRPC, and a look over HTTP is believed only
from a moment on at which it said the same as one over gRPC: `http_url` may be another server's. One
thread owns an instance.
"""

from __future__ import annotations

import logging
import pickle
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, BinaryIO

from waypost_agent.clock import Clock
from waypost_agent.config import Timeouts
from waypost_agent.errors import TRITON_UNREACHABLE, Retryable
from waypost_agent.ports import Answer, Config, Index, LoadTimedOut, ServerFacts, Tensor
from waypost_agent.triton_look import HttpLook, NoLook

_log = logging.getLogger(__name__)

LINGER_SECONDS = 15.0  # the next model, or the next step, is likely to follow sooner
# Beside the time that a call to Triton may take: the process has to start and import on a busy
# machine. One that takes longer hangs.
_GRACE_SECONDS = 30.0
_COMMAND = [sys.executable, "-P", "-m", "waypost_agent.triton_process"]


class ProcessLost(OSError):
    """The process beside this one ended or hung; the next question starts another.

    `was_asked`: the question had gone to it.
    """

    def __init__(self, reason: str, *, was_asked: bool) -> None:
        super().__init__(f"the process that talks to Triton is lost: {reason}")
        self.was_asked = was_asked


class TritonProcess:
    """`options` are those of `triton.Triton`; calls take as long as they say."""

    def __init__(self, **options: Any) -> None:
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket
        self._answers: BinaryIO

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def ask(self, name: str, *args: Any, seconds: float, **options: Any) -> Any:
        """What the method of this name gives or raises. Raises `ProcessLost`."""
        was_asked = False
        try:
            if self._process is None:
                self._start()
            self._line.settimeout(seconds + _GRACE_SECONDS)
            self._line.sendall(pickle.dumps((name, args, options)))
            was_asked = True
            is_well, said = pickle.load(self._answers)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self.close()
            raise ProcessLost(str(error) or "it ended", was_asked=was_asked) from error
        if is_well:
            return said
        kind, words = said
        raise kind(*words)

    def close(self) -> None:
        """It holds nothing that could be lost; what it asked of Triton goes on there."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None
        self._answers.close()
        self._line.close()

    def __del__(self) -> None:
        self.close()  # a command that asks once forgets it

    def _start(self) -> None:
        self._line, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                _COMMAND, stdin=its.fileno(), stdout=subprocess.DEVNULL
            )
        self._answers = self._line.makefile("rb")
        self._line.settimeout(_GRACE_SECONDS)
        self._line.sendall(pickle.dumps(self._options))


class RemoteTriton:
    """A `ModelServer` and its `ConfigCodec` (`parse`, `print`)."""

    def __init__(
        self, process: TritonProcess, look: HttpLook, *, clock: Clock, timeouts: Timeouts
    ) -> None:
        self._process = process
        self._look = look
        self._clock = clock
        self._timeouts = timeouts
        self.is_at_peace = False  # the process has ended, since HTTP says as much
        self._needed_at = clock.monotonic()
        self._was_told = False

    def close(self) -> None:
        self._process.close()

    def facts(self) -> ServerFacts:
        if self.is_at_peace:
            try:
                return self._look.facts()
            except NoLook as error:
                self._end_peace(error)
        facts: ServerFacts = self._ask("facts")
        return facts

    def index(self) -> Index:
        if self.is_at_peace:
            try:
                return self._look.index()
            except NoLook as error:
                self._end_peace(error)
        index: Index = self._ask("index")
        if self._clock.monotonic() - self._needed_at > LINGER_SECONDS:
            self._make_peace(index)
        return index

    def load(self, model: str, config: Config, *, timeout_seconds: float) -> None:
        self._need()
        try:
            self._process.ask(
                "load", model, config, timeout_seconds=timeout_seconds, seconds=timeout_seconds
            )
        except ProcessLost as error:
            if not error.was_asked:
                raise Retryable(TRITON_UNREACHABLE, str(error)) from error
            # Triton has heard of it and goes on: only its index can tell how that ends.
            raise LoadTimedOut(str(error)) from error

    def unload(self, model: str) -> None:
        self._need()
        self._ask("unload", model)

    def is_version_ready(self, model: str, version: str) -> bool:
        self._need()
        return bool(self._ask("is_version_ready", model, version))

    def infer(
        self, model: str, version: str | None, inputs: Sequence[Tensor], outputs: Sequence[str]
    ) -> Answer:
        self._need()
        answer: Answer = self._ask(
            "infer", model, version, inputs, outputs, seconds=self._timeouts.infer_timeout_seconds
        )
        return answer

    def parse(self, text: str) -> Config:
        """As `ConfigCodec`; raises `ProcessLost` too, which is an `OSError`."""
        self._need()
        config: Config = self._process.ask(
            "parse", text, seconds=self._timeouts.call_timeout_seconds
        )
        return config

    def print(self, config: Config) -> str:
        """As `parse`."""
        self._need()
        return str(self._process.ask("print", config, seconds=self._timeouts.call_timeout_seconds))

    def _ask(self, name: str, *args: Any, seconds: float | None = None) -> Any:
        seconds = self._timeouts.call_timeout_seconds if seconds is None else seconds
        try:
            return self._process.ask(name, *args, seconds=seconds)
        except ProcessLost as error:
            raise Retryable(TRITON_UNREACHABLE, str(error)) from error

    def _need(self) -> None:
        self.is_at_peace = False
        self._needed_at = self._clock.monotonic()

    def _make_peace(self, index: Index) -> None:
        """End the process if HTTP says the same; else it is asked for another while."""
        try:
            is_same = self._look.index() == index
            reason = "" if is_same else "it says something else"
        except NoLook as error:
            is_same, reason = False, str(error)
        if is_same:
            self._process.close()
            self.is_at_peace, self._was_told = True, False
            return
        self._needed_at = self._clock.monotonic()
        if not self._was_told:
            _log.info("%s cannot stand for gRPC: %s", self._look.url, reason)
        self._was_told = True

    def _end_peace(self, error: NoLook) -> None:
        _log.info("%s says nothing that can be used: %s; gRPC is asked", self._look.url, error)
        self._need()
