"""The benchmark runs, refuses wrong answers, and writes what it says it writes."""

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from benchmarks.costs import Meter
from benchmarks.load import Caller, Load, WrongAnswer, percentile, split
from benchmarks.processes import (
    forget_tree_peak,
    memory_of,
    tree_cpu_seconds,
    tree_peak_mib,
)
from benchmarks.relay import CountingRelay
from tests.deploy.compose_file import ROOT

BENCH = [sys.executable, "-m", "benchmarks"]
SHORT = ["--rounds=1", "--seconds=0.3", "--agents=9"]


@pytest.mark.stack
def test_a_short_run_on_sqlite_writes_figures_of_every_case(tmp_path: Path) -> None:
    done = subprocess.run(
        [*BENCH, "--only=agent_protocol", "--database=sqlite", f"--results={tmp_path}", *SHORT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "agent_protocol.json").read_text())
    assert document["benchmark"] == "agent_protocol"
    result = document["databases"]["sqlite"]
    assert set(result["peers"]) == set(result["cases"])
    for name, case in result["cases"].items():
        assert name in done.stdout
        assert case["requests"]["min"] > 0
        assert 0 < case["p50_ms"]["median"] <= case["p99_ms"]["median"]
        assert case["requests_per_second"]["min"] <= case["requests_per_second"]["max"]
        assert ("against_peer" in case) == (result["peers"][name] is not None)
    assert result["cases"]["poll 304"]["against_peer"]["requests_per_second"] > 0


def _run(tmp_path: Path, name: str, *arguments: str) -> tuple[str, dict[str, Any]]:
    """What a run on SQLite prints, and the document it writes."""
    done = subprocess.run(
        [*BENCH, f"--only={name}", "--database=sqlite", f"--results={tmp_path}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((tmp_path / f"{name}.json").read_text())


@pytest.mark.stack
def test_ticks_over_more_sites_take_longer_but_no_more_queries(tmp_path: Path) -> None:
    sizes = ("--rounds=1", "--tick-sites=100", "--tick-rollouts=4")
    text, document = _run(tmp_path, "tick", *sizes)
    few, many = document["results"]["sqlite"]["by_sites"].values()
    assert few["queries"] == many["queries"]
    assert many["queries_per_rollout"] < 30
    for name, case in many["cases"].items():
        assert name in text
        assert 0 < case["ms"]["min"] <= case["ms"]["median"] <= case["ms"]["max"]


@pytest.mark.stack
def test_a_rollout_is_timed_from_its_start_to_its_last_verified_site(tmp_path: Path) -> None:
    text, document = _run(tmp_path, "rollout_time", "--size=4", "--size=8")
    for sites, figures in zip((4, 8), document["results"]["sqlite"]["by_sites"], strict=True):
        requests = figures["requests"]
        assert figures["sites"] == requests["poll"] == sites
        assert requests["report"] == 2 * sites <= 2 * requests["lease"]
        # Three stages, in each of which a site is offered, asks, and reports at its next poll.
        assert figures["virtual_seconds"] >= 3 * document["poll_seconds"]
        assert figures["cpu_seconds"] >= sum(figures["cpu_by_part"].values()) * 0.9 > 0
    assert "growth" in text


@pytest.mark.stack
def test_a_new_version_moves_few_bytes_and_every_peer_rebuilds_it(tmp_path: Path) -> None:
    text, document = _run(tmp_path, "delta", "--delta-megabytes=14")
    moved = {name: case["moved"] for name, case in document["cases"].items()}
    size = document["cases"]["config only"]["bytes"]
    assert {*document["skipped"], *moved["config only"]} == {"waypost", "rsync", "zsync", "casync"}
    ours = {name: peers["waypost"]["bytes"] / size for name, peers in moved.items()}
    assert ours["config only"] < 0.001
    assert ours["5 kB more in the header"] < 0.01
    assert ours["one layer of ten, +-1 %"] < 0.04
    assert ours["light fine-tune, bf16"] < 0.2
    assert ours["full fine-tune, fp16, +-1 %"] < 0.4
    assert all(name in text for name in moved)


@pytest.mark.stack
def test_a_version_is_pushed_and_pulled_beside_its_peers(tmp_path: Path) -> None:
    text, document = _run(tmp_path, "push", "--push-mib=4", "--rounds=1")
    for kind, ours in (("push", "waypost push"), ("pull", "agent, 2 connections")):
        cases = document["cases"][kind]
        assert {ours, "MLflow client"} <= set(cases)
        assert set(document["ratios"][kind]) == set(cases) - {ours}
        for name, case in cases.items():
            assert name in text
            assert case["mb_per_second"]["min"] > 0
            assert 0 < case["peak_mib"]["max"] < 1000
            assert 0 < case["server_peak_mib"]["max"] < 2000


def test_a_named_postgresql_that_does_not_answer_stops_the_run(tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        url = f"postgres://nobody@127.0.0.1:{taken.getsockname()[1]}/"
        done = subprocess.run(
            [*BENCH, "--database=postgresql", f"--results={tmp_path}"],
            cwd=ROOT,
            env={**os.environ, "WAYPOST_BENCH_DATABASE_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "WAYPOST_BENCH_DATABASE_URL names a PostgreSQL" in done.stderr
    assert list(tmp_path.iterdir()) == []


def _answering(answer: bytes) -> int:
    """A port where one connection is answered with `answer` to whatever it asks."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            while connection.recv(65536):
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    port: int = listener.getsockname()[1]
    return port


def _caller() -> Caller:
    return Caller(etag=b'"1.1"', head=b"GET / HTTP/1.1\r\n", body="}", epoch=1, generation=1, seq=0)


def _answer(status: str, body: dict[str, Any]) -> bytes:
    text = json.dumps(body).encode()
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(text), text)


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        ("poll", b'HTTP/1.1 304 Not Modified\r\nETag: "1.2"\r\n\r\n'),
        ("poll", b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"),
        ("report", _answer("200 OK", {"epoch": 1, "generation": 1, "duplicate": True})),
        ("report", _answer("200 OK", {"epoch": 1, "generation": 2, "duplicate": False})),
        ("report", _answer("500 Oops", {})),
    ],
)
def test_one_wrong_answer_makes_the_run_void(kind: str, answer: bytes) -> None:
    load = Load(_answering(answer), [_caller()], 1, kind)
    try:
        with pytest.raises(WrongAnswer):
            load.run(5.0)
    finally:
        load.close()


def test_right_answers_are_counted_and_every_question_is_answered() -> None:
    right = b'HTTP/1.1 304 Not Modified\r\nETag: "1.1"\r\n\r\n'
    load = Load(_answering(right), [_caller()], 1, "poll")
    try:
        wall_seconds = load.run(0.05)
    finally:
        load.close()
    assert load.latencies
    assert sum(load.latencies) <= wall_seconds


def test_an_answer_is_whole_only_with_its_last_byte() -> None:
    whole = _answer("200 OK", {"epoch": 1})
    assert [split(whole[:length]) for length in range(len(whole))] == [None] * len(whole)
    answer = split(whole)
    assert answer is not None
    assert (answer[0], json.loads(answer[2])) == (200, {"epoch": 1})


def test_percentiles_are_values_that_were_seen() -> None:
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert percentile([1.0], 0.99) == 1.0


def test_the_cpu_of_a_process_holds_that_of_its_children() -> None:
    """A shell whose child burns CPU: in the tree while it runs and after it was waited for."""
    burn = f"{sys.executable} -c 'for n in range(4_000_000): pass'; echo done; read line"
    with subprocess.Popen(
        ["sh", "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "done\n"
        spent = tree_cpu_seconds(shell.pid)
        shell.communicate("\n", timeout=10)
    assert spent >= 0.02


def test_a_meter_adds_up_only_what_runs_inside_it() -> None:
    meter = Meter(title="")
    with meter.running():
        for _ in range(200_000):
            pass
    spent = meter.total
    for _ in range(200_000):
        pass
    assert meter.total == spent
    with meter.running():
        pass
    assert meter.total.wall > spent.wall > 0
    assert spent.cpu > 0 == spent.database
    assert [meter.each[0]] == meter.each[:-1]


def test_a_relay_carries_everything_and_counts_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        with CountingRelay(server.getsockname()[1]) as relay:
            near = socket.create_connection(("127.0.0.1", relay.port), timeout=10)
            far, _ = server.accept()
            far.settimeout(10)
            with near, far:
                near.sendall(b"question")
                assert far.recv(100) == b"question"
                far.sendall(b"a longer answer")
                assert near.recv(100) == b"a longer answer"
                near.shutdown(socket.SHUT_WR)
                assert far.recv(100) == b""  # the end of one side reaches the other
        assert (relay.sent, relay.received) == (8, 15)


def test_the_peak_of_a_tree_is_counted_anew_when_it_is_asked_for() -> None:
    """A process that holds much, lets go of it, and is asked again."""
    hold = "held = bytearray(64 << 20); del held; print(flush=True); input(); print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", f"{hold}; input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        held = tree_peak_mib(child.pid)
        forget_tree_peak(child.pid)
        child.stdin.write("\n")
        child.stdin.flush()
        child.stdout.readline()
        after = tree_peak_mib(child.pid)
        child.communicate("\n", timeout=10)
    assert held > 64 > after > 1


def test_the_memory_of_a_process_is_read_in_bytes() -> None:
    memory = memory_of(os.getpid())
    assert 1 << 20 < memory.anonymous <= memory.rss
    assert memory.pss <= memory.rss
