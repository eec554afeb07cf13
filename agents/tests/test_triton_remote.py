"""Who is asked about Triton when: HTTP at peace, else the process beside the agent; and what its
end costs."""

from __future__ import annotations

import os
import pickle
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fake_triton import FakeClock
from waypost_agent import triton_remote
from waypost_agent.config import Timeouts
from waypost_agent.errors import Permanent, Retryable
from waypost_agent.model_control import ModelControl
from waypost_agent.ports import (
    Index,
    InferenceRefused,
    LoadRefused,
    LoadTimedOut,
    ServerFacts,
    VersionState,
)
from waypost_agent.triton_look import NoLook
from waypost_agent.triton_process import _answer
from waypost_agent.triton_remote import LINGER_SECONDS, ProcessLost, RemoteTriton, TritonProcess

READY = {"vad": {"1": VersionState(state="READY")}}
LOADING = {"vad": {"1": VersionState(state="LOADING")}}


class FakeProcess:
    """`lost` befalls the next question of that name."""

    def __init__(self) -> None:
        self.runs = False
        self.index: Index = READY
        self.asked: list[str] = []
        self.lost: dict[str, ProcessLost] = {}

    def ask(self, name: str, *args: Any, seconds: float, **options: Any) -> Any:
        self.runs = True
        self.asked.append(name)
        if (lost := self.lost.pop(name, None)) is not None:
            self.runs = False
            raise lost
        said = {"index": self.index, "facts": ServerFacts(version="by gRPC"), "parse": {}}
        return said.get(name)

    def close(self) -> None:
        self.runs = False


class FakeLook:
    url = "http://127.0.0.1:8000"

    def __init__(self) -> None:
        self.answers: Index | None = READY

    def facts(self) -> ServerFacts:
        if self.answers is None:
            raise NoLook("nobody there")
        return ServerFacts(version="by HTTP")

    def index(self) -> Index:
        if self.answers is None:
            raise NoLook("nobody there")
        return self.answers


class Bench:
    def __init__(self) -> None:
        self.process, self.look, self.clock = FakeProcess(), FakeLook(), FakeClock()
        self.triton = RemoteTriton(
            self.process,  # type: ignore[arg-type]
            self.look,  # type: ignore[arg-type]
            clock=self.clock,
            timeouts=Timeouts(),
        )

    def look_later(self, seconds: float = LINGER_SECONDS + 1) -> tuple[str, Index]:
        self.clock.now += seconds
        return self.triton.facts().version, self.triton.index()


def test_an_agent_at_peace_looks_over_http_and_the_process_is_gone() -> None:
    bench = Bench()
    assert bench.look_later(0) == ("by gRPC", READY)
    assert bench.process.runs
    bench.look_later()
    assert bench.triton.is_at_peace
    assert bench.look_later() == ("by HTTP", READY)
    assert not bench.process.runs


@pytest.mark.parametrize("answers", [None, {}, LOADING], ids=["nothing", "no model", "other state"])
def test_http_is_not_believed_before_it_says_the_same_as_grpc(answers: Index | None) -> None:
    """It may be closed, a proxy's, or another server's by a slip in agent.toml."""
    bench = Bench()
    bench.look.answers = answers
    for _ in range(3):
        assert bench.look_later() == ("by gRPC", READY)
    assert bench.process.runs
    bench.look.answers = READY
    bench.look_later()
    assert bench.look_later() == ("by HTTP", READY)


def test_where_http_falls_silent_grpc_is_asked_until_they_agree_again() -> None:
    bench = Bench()
    bench.look_later()
    bench.look.answers, bench.process.index = None, LOADING
    assert bench.look_later() == ("by gRPC", LOADING)
    bench.look.answers = READY
    assert bench.look_later() == ("by gRPC", LOADING)
    bench.process.index = READY
    bench.look_later()
    assert bench.look_later() == ("by HTTP", READY)


@pytest.mark.parametrize("what", ["load", "unload", "is_version_ready", "infer", "parse"])
def test_whatever_is_more_than_a_look_goes_over_grpc_and_ends_the_peace(what: str) -> None:
    bench = Bench()
    bench.look_later()
    given: dict[str, Any] = {
        "load": lambda: bench.triton.load("vad", {}, timeout_seconds=1.0),
        "unload": lambda: bench.triton.unload("vad"),
        "is_version_ready": lambda: bench.triton.is_version_ready("vad", "1"),
        "infer": lambda: bench.triton.infer("vad", None, [], []),
        "parse": lambda: bench.triton.parse(""),
    }
    given[what]()
    assert bench.process.asked[-1] == what
    assert bench.look_later(LINGER_SECONDS) == ("by gRPC", READY)
    assert not bench.triton.is_at_peace  # more may follow


def test_a_load_whose_process_died_is_waited_for_and_not_asked_again() -> None:
    bench = Bench()
    bench.process.lost["load"] = ProcessLost("it ended", was_asked=True)
    bench.process.index = LOADING
    bench.clock.while_asleep = lambda: setattr(bench.process, "index", READY)
    control = ModelControl(
        bench.triton, clock=bench.clock, timeouts=Timeouts(), is_stopping=lambda: False
    )
    control.load("vad", "1", {})
    assert bench.process.asked.count("load") == 1


def test_a_load_that_never_reached_its_process_is_tried_again_and_blames_no_version() -> None:
    bench = Bench()
    bench.process.lost["load"] = ProcessLost("no memory to start it", was_asked=False)
    with pytest.raises(Retryable, match="no memory to start it"):
        bench.triton.load("vad", {}, timeout_seconds=1.0)


@pytest.mark.parametrize("what", ["facts", "index"])
def test_a_look_whose_process_died_is_an_error_that_passes(what: str) -> None:
    bench = Bench()
    bench.process.lost[what] = ProcessLost("it ended", was_asked=True)
    with pytest.raises(Retryable, match="the process that talks to Triton is lost: it ended"):
        bench.look_later(0)
    assert bench.look_later(0) == ("by gRPC", READY)


def test_a_configuration_whose_reader_died_is_not_called_wrong() -> None:
    bench = Bench()
    bench.process.lost["parse"] = ProcessLost("it ended", was_asked=True)
    with pytest.raises(OSError, match="it ended"):
        bench.triton.parse("")


@pytest.mark.parametrize(
    "error",
    [
        Retryable("triton-unreachable", "nobody there"),
        LoadTimedOut("late"),
        LoadRefused("no"),
        InferenceRefused("never"),
        ValueError("line 1"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_comes_through_as_what_it_was(error: Exception) -> None:
    def fail() -> None:
        raise error

    is_well, (kind, words) = pickle.loads(pickle.dumps(_answer(fail, (), {})))
    assert not is_well
    assert (kind, str(kind(*words))) == (type(error), str(error))


def test_an_error_that_nobody_foresaw_ends_the_agent_as_any_would() -> None:
    def fail() -> None:
        raise Permanent("digest-mismatch", "what has this to do with Triton?")

    is_well, (kind, words) = _answer(fail, (), {})
    assert (is_well, kind, words) == (
        False,
        RuntimeError,
        ("Permanent: what has this to do with Triton?",),
    )


# The process itself, with no Triton: nobody answers it.


@pytest.fixture(scope="module")
def process() -> Iterator[TritonProcess]:
    process = TritonProcess(
        url="127.0.0.1:1",
        secret_key="x",
        secret_file=None,
        call_timeout_seconds=5.0,
        infer_timeout_seconds=5.0,
    )
    yield process
    process.close()


def test_the_process_reads_and_writes_configurations(process: TritonProcess) -> None:
    config = process.ask("parse", 'name: "vad"\nmax_batch_size: 8', seconds=1.0)
    assert config == {"name": "vad", "max_batch_size": 8}
    assert process.ask("print", config, seconds=1.0).splitlines()[0] == 'name: "vad"'
    with pytest.raises(ValueError, match=r"1:1 : .*no field named"):
        process.ask("parse", "nonsense: 1", seconds=1.0)


def test_what_the_process_cannot_reach_is_an_error_that_passes(process: TritonProcess) -> None:
    with pytest.raises(Retryable, match=r"Triton does not answer at 127\.0\.0\.1:1"):
        process.ask("index", seconds=5.0)


def test_a_killed_process_is_replaced_by_the_next_question(process: TritonProcess) -> None:
    process.ask("parse", "", seconds=1.0)
    before = process.pid
    assert before is not None
    os.kill(before, signal.SIGKILL)
    with pytest.raises(ProcessLost):
        process.ask("parse", "", seconds=1.0)
    assert process.ask("parse", "", seconds=1.0) == {}
    assert process.pid not in (None, before)


def test_a_process_that_hangs_is_killed(
    process: TritonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    process.ask("parse", "", seconds=1.0)
    before = process.pid
    assert before is not None
    monkeypatch.setattr(triton_remote, "_GRACE_SECONDS", 0.0)
    os.kill(before, signal.SIGSTOP)
    with pytest.raises(ProcessLost, match="timed out") as caught:
        process.ask("parse", "", seconds=0.05)
    assert caught.value.was_asked
    assert process.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(before, 0)


def test_the_process_is_deaf_to_signals_and_ends_with_its_agent_in_the_midst_of_a_question() -> (
    None
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        agent = (
            "import os, signal\n"
            "from waypost_agent.triton_remote import TritonProcess\n"
            f"process = TritonProcess(url='127.0.0.1:{silent.getsockname()[1]}', secret_key='x',"
            " secret_file=None, call_timeout_seconds=60.0, infer_timeout_seconds=60.0)\n"
            "process.ask('parse', '', seconds=30.0)\n"
            "for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):\n"
            "    os.kill(process.pid, number)\n"
            "process.ask('parse', '', seconds=30.0)\n"
            "print(process.pid, flush=True)\n"
            "process.ask('index', seconds=60.0)\n"
        )
        with subprocess.Popen([sys.executable, "-c", agent], stdout=subprocess.PIPE) as parent:
            assert parent.stdout is not None
            process = os.pidfd_open(int(parent.stdout.readline()))
            with silent.accept()[0]:  # gRPC is there, and waits for a word
                parent.kill()
                assert select.select([process], [], [], 10.0)[0], "it outlived the agent"
            os.close(process)


def test_an_agent_that_starts_has_neither_grpc_nor_numpy_in_memory() -> None:
    heavy = "('numpy', 'grpc', 'google.protobuf', 'tritonclient', 'asyncio')"
    code = f"import sys, waypost_agent.agent; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
