"""The process that has gRPC, numpy and Triton's protobuf in memory, for as long as they are needed.

`triton_remote` starts it, with a socket as its standard input, and it answers one question after
another there. Decides nothing, and ends when whoever started it is gone, also in the midst of a
load, which Triton finishes by itself.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from waypost_agent.errors import Retryable
from waypost_agent.ports import InferenceRefused, LoadRefused, LoadTimedOut
from waypost_agent.triton import PbtxtCodec, Triton

# What the callers know how to take; of anything else they get the words.
_TOLD = (Retryable, LoadTimedOut, LoadRefused, InferenceRefused, ValueError)


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # A service manager tells all its processes to stop, and the agent lets its step finish.
        signal.signal(number, signal.SIG_IGN)
    line = socket.socket(fileno=os.dup(0))
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()
    with line.makefile("rb") as questions:
        triton, codec = Triton(**pickle.load(questions)), PbtxtCodec()
        answers: dict[str, Callable[..., Any]] = {
            method.__name__: method
            for method in (
                *(triton.facts, triton.index, triton.load, triton.unload, triton.infer),
                *(triton.is_version_ready, codec.parse, codec.print),
            )
        }
        with suppress(EOFError, OSError):  # whoever asked is gone
            while True:
                name, args, options = pickle.load(questions)
                line.sendall(pickle.dumps(_answer(answers[name], args, options)))


def _answer(
    method: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[bool, Any]:
    """Whether it went well, and the answer or `(kind, arguments)` of the exception."""
    try:
        return True, method(*args, **options)
    except _TOLD as error:
        said = (error.code, error.reason) if isinstance(error, Retryable) else (str(error),)
        kind = next(kind for kind in _TOLD if isinstance(error, kind))
        return False, (kind, said)
    except Exception as error:
        return False, (RuntimeError, (f"{type(error).__name__}: {error}",))


def _end_with(line: socket.socket) -> None:
    """A read would tell too, but not while Triton is asked, which may take minutes."""
    hung_up = select.poll()
    hung_up.register(line, select.POLLRDHUP)
    hung_up.poll()
    os._exit(0)


if __name__ == "__main__":
    main()
