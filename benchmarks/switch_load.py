"""Switches versions of one real Triton under requests and prints what the requests saw, as JSON.

Runs under the agent's interpreter, with the agent's own client for control over gRPC; control over
HTTP is the peer. The users are processes of their own, so that they wait for Triton alone.
"""

import http.client
import json
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as client
from tritonclient.utils import InferenceServerException
from waypost_agent.triton import Triton

from deploy.triton.wheel_server import Ports, WheelTriton

ROOT = Path(__file__).resolve().parent.parent
MODEL = "switched"
CONNECTIONS = 2
TIMEOUT_SECONDS = 10.0
SECRET_KEY = "x-waypost-triton"
SOURCE = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        time.sleep({load_seconds})

    def execute(self, requests):
        value = np.zeros(1, dtype=np.float32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]) for _ in requests]
"""
TENSOR = {"data_type": "TYPE_FP32", "dims": ["1"]}
_spawn = multiprocessing.get_context("spawn")

# When each answer came and what it took, both in seconds; and how many were none.
Seen = tuple[list[tuple[float, float]], int]


def main() -> None:
    switches, load_seconds, quiet_seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as name:
        folder = Path(name)
        _write_repository(folder / "repository", load_seconds)
        ports = Ports.free()
        server = WheelTriton(
            environment=ROOT / ".triton",
            repository=folder / "repository",
            ports=ports,
            log_file=folder / "triton.log",
            secret_file=folder / "secret",
        )
        with server:
            rows = []
            for control in ("grpc", "http"):
                rows += _round(control, folder, ports, switches, quiet_seconds)
    json.dump(rows, sys.stdout)


def _write_repository(repository: Path, load_seconds: float) -> None:
    for version in ("1", "2"):
        folder = repository / MODEL / version
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(SOURCE.format(load_seconds=load_seconds))


def _config(version: str) -> dict[str, Any]:
    return {
        "name": MODEL,
        "backend": "python",
        "input": [{"name": "x", **TENSOR}],
        "output": [{"name": "y", **TENSOR}],
        "instance_group": [{"count": 1, "kind": "KIND_CPU"}],
        "version_policy": {"specific": {"versions": [version]}},
    }


def _round(
    control: str, folder: Path, ports: Ports, switches: int, quiet_seconds: float
) -> list[dict[str, Any]]:
    load = _load_over_grpc(folder, ports) if control == "grpc" else _load_over_http(folder, ports)
    load("1")
    users = {kind: _Users(kind, ports) for kind in ("http", "grpc")}
    time.sleep(1.0)  # connected and warm
    began = time.monotonic()
    time.sleep(quiet_seconds)
    switching = time.monotonic()
    versions = cycle(("2", "1"))
    for _ in range(switches):
        load(next(versions))
    ended = time.monotonic()
    return [
        {
            "control": control,
            "users": kind,
            "switches": switches,
            "failures": sum(failures for _, failures in seen),
            "before": _figures(seen, began, switching),
            "during": _figures(seen, switching, ended),
        }
        for kind, each in users.items()
        if (seen := each.stop())
    ]


def _load_over_grpc(folder: Path, ports: Ports) -> Callable[[str], None]:
    triton = Triton(
        url=f"127.0.0.1:{ports.grpc}",
        secret_key=SECRET_KEY,
        secret_file=folder / "secret",
        call_timeout_seconds=TIMEOUT_SECONDS,
        infer_timeout_seconds=TIMEOUT_SECONDS,
    )
    return lambda version: triton.load(MODEL, _config(version), timeout_seconds=60.0)


def _load_over_http(folder: Path, ports: Ports) -> Callable[[str], None]:
    secret = (folder / "secret").read_text().strip()

    def load(version: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", ports.http, timeout=60.0)
        body = json.dumps({"parameters": {"config": json.dumps(_config(version))}})
        path = f"/v2/repository/models/{MODEL}/load"
        connection.request("POST", path, body, {SECRET_KEY: secret})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} {text!r}")

    return load


def _figures(seen: list[Seen], start: float, end: float) -> dict[str, float]:
    """In milliseconds; the gap is the longest time in which a connection got no answer."""
    inside = [[each for each in answers if start <= each[0] <= end] for answers, _ in seen]
    took = sorted(seconds for answers in inside for _, seconds in answers)
    gaps = [
        later[0] - earlier[0]
        for answers, _ in seen
        for earlier, later in pairwise(answers)
        if earlier[0] <= end and later[0] >= start
    ]
    return {
        "answers": len(took),
        "p50_ms": 1000 * took[len(took) // 2] if took else float("nan"),
        "p99_ms": 1000 * took[int(len(took) * 0.99)] if took else float("nan"),
        "longest_gap_ms": 1000 * max(gaps, default=0.0),
    }


class _Users:
    """A process with `CONNECTIONS` users of one protocol."""

    def __init__(self, kind: str, ports: Ports) -> None:
        self._here, there = _spawn.Pipe()
        port = ports.http if kind == "http" else ports.grpc
        self._process = _spawn.Process(target=_ask_until_told, args=(kind, port, there))
        self._process.start()
        self._here.recv()  # it has begun

    def stop(self) -> list[Seen]:
        self._here.send("stop")
        seen: list[Seen] = self._here.recv()
        self._process.join()
        return seen


def _ask_until_told(kind: str, port: int, pipe: Any) -> None:
    stop = threading.Event()
    seen: list[Seen] = []

    def ask_on() -> None:
        ask = _http_asker(port) if kind == "http" else _grpc_asker(port)
        answers: list[tuple[float, float]] = []
        failures = 0
        while not stop.is_set():
            began = time.monotonic()
            if ask():
                now = time.monotonic()
                answers.append((now, now - began))
            else:
                failures += 1
        seen.append((answers, failures))

    threads = [threading.Thread(target=ask_on) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    pipe.send("begun")
    pipe.recv()
    stop.set()
    for thread in threads:
        thread.join()
    pipe.send(seen)


def _http_asker(port: int) -> Callable[[], bool]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    tensor = {"name": "x", "datatype": "FP32", "shape": [1], "data": [0.0]}
    body = json.dumps({"inputs": [tensor]})

    def ask() -> bool:
        try:
            connection.request("POST", f"/v2/models/{MODEL}/infer", body)
            answer = connection.getresponse()
            answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return False
        return answer.status == 200

    return ask


def _grpc_asker(port: int) -> Callable[[], bool]:
    own = [("grpc.use_local_subchannel_pool", 1)]
    connection = client.InferenceServerClient(f"127.0.0.1:{port}", channel_args=own)
    asked = client.InferInput("x", [1], "FP32")
    asked.set_data_from_numpy(np.zeros(1, dtype=np.float32))

    def ask() -> bool:
        try:
            connection.infer(MODEL, [asked], client_timeout=TIMEOUT_SECONDS)
        except InferenceServerException:
            return False
        return True

    return ask


if __name__ == "__main__":
    main()
