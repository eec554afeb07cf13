"""A real tritonserver starts fenced off, answers as the demo's models should, and leaves nothing.

Runs in the agent's environment too, where tritonclient is; the tests that need it skip elsewhere.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from waypost_agent.triton_flags import GRPC_SECRET_HEADER, SECRET_HEADER

from deploy.demo.models import MODEL_NAME
from deploy.triton.testing import ROOT, MakeTriton, install_version, write_config
from deploy.triton.wheel_server import Ports, TritonFailed, WheelTriton

pytestmark = pytest.mark.triton

_PARENT = """
import sys, time
from pathlib import Path
from deploy.triton.wheel_server import Ports, WheelTriton
folder = Path(sys.argv[1])
triton = WheelTriton(
    environment=Path(sys.argv[2]), repository=folder / "repository", ports=Ports.free(),
    log_file=folder / "triton.log", secret_file=folder / "triton.secret", load_models=["vad"],
)
triton.start()
triton.wait_live()
print(triton.pid, flush=True)
time.sleep(600)
"""


def ask(
    triton: WheelTriton,
    method: str,
    path: str,
    body: Any = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", triton.ports.http, timeout=10)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, headers or {})
        answer = connection.getresponse()
        raw = answer.read()
        return answer.status, json.loads(raw) if raw else None
    finally:
        connection.close()


def secret_of(triton: WheelTriton) -> str:
    return triton.secret_file.read_text().strip()


def processes_naming(text: Path | str) -> dict[int, str]:
    """The live processes whose command line holds the text; zombies have none."""
    found = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(text) in command and int(folder.name) != os.getpid():
                found[int(folder.name)] = command
    return found


def wait_until_none_names(text: Path | str, seconds: float = 10.0) -> dict[int, str]:
    deadline = time.monotonic() + seconds
    while (left := processes_naming(text)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def serve_version_1(triton: WheelTriton, versions: dict[str, Path]) -> None:
    install_version(triton.repository, versions["1"], model=MODEL_NAME, version="1")
    write_config(triton.repository, versions["1"], model=MODEL_NAME, versions=[1])


def test_it_serves_the_model_it_was_told_to_load_from_the_start(triton_session: WheelTriton):
    status, _ = ask(triton_session, "GET", f"/v2/models/{MODEL_NAME}/versions/1/ready")
    assert status == 200
    status, _ = ask(triton_session, "GET", f"/v2/models/{MODEL_NAME}/versions/2/ready")
    assert status == 400


def test_the_served_version_answers_its_golden_requests_and_no_other_versions(
    triton_session: WheelTriton, demo_versions: dict[str, Path]
):
    def largest_error(expected_of: str) -> float:
        golden = json.loads((demo_versions[expected_of] / "golden.json").read_text())
        errors = []
        for request in golden["requests"]:
            path = f"/v2/models/{MODEL_NAME}/infer"
            status, answer = ask(triton_session, "POST", path, {"inputs": request["inputs"]})
            assert status == 200, answer
            got = {output["name"]: output["data"] for output in answer["outputs"]}
            for output in request["outputs"]:
                pairs = zip(got[output["name"]], output["data"], strict=True)
                errors.append(max(abs(one - other) for one, other in pairs))
        return max(errors)

    assert largest_error("1") <= 1e-4
    assert largest_error("2") > 1e-2


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/repository/index"),
        ("POST", f"/v2/repository/models/{MODEL_NAME}/load"),
        ("POST", f"/v2/repository/models/{MODEL_NAME}/unload"),
        ("GET", f"/v2/models/{MODEL_NAME}/config"),
        ("GET", f"/v2/models/{MODEL_NAME}/stats"),
        ("GET", "/v2/logging"),
        ("GET", "/v2/trace/setting"),
        ("GET", "/v2/systemsharedmemory/status"),
    ],
)
def test_control_over_http_is_refused_without_the_secret_and_with_a_wrong_one(
    triton_session: WheelTriton, method: str, path: str
):
    assert ask(triton_session, method, path, body={})[0] == 403
    wrong = {SECRET_HEADER: "x" * len(secret_of(triton_session))}
    assert ask(triton_session, method, path, body={}, headers=wrong)[0] == 403


def test_the_secret_opens_the_repository_interface(triton_session: WheelTriton):
    headers = {SECRET_HEADER: secret_of(triton_session)}
    status, index = ask(triton_session, "POST", "/v2/repository/index", {}, headers)
    assert status == 200
    assert {"name": MODEL_NAME, "version": "1", "state": "READY"} in index


def test_only_the_owner_may_read_the_secret(triton_session: WheelTriton):
    assert stat.S_IMODE(triton_session.secret_file.stat().st_mode) == 0o600
    assert len(secret_of(triton_session)) >= 32


def test_the_secret_stands_neither_in_the_log_nor_in_the_notes(triton_session: WheelTriton):
    log = triton_session.log_file.read_text(errors="replace")
    assert "Started HTTPService" in log
    assert secret_of(triton_session) not in log + " ".join(triton_session.notes)


def test_an_option_this_version_does_not_know_is_left_out_with_a_note(triton_session: WheelTriton):
    # The wheel's Triton is older than this option, and exits on options it does not know.
    assert triton_session.notes == (
        "left out --allow-client-shm: this tritonserver does not know it",
    )


def test_grpc_control_works_with_the_secret_and_is_refused_without(triton_session: WheelTriton):
    grpc = pytest.importorskip("tritonclient.grpc", reason="tritonclient is the agent's")
    with grpc.InferenceServerClient(f"127.0.0.1:{triton_session.ports.grpc}") as client:
        with pytest.raises(Exception, match="protocol is restricted"):
            client.load_model(MODEL_NAME, client_timeout=30)
        headers = {GRPC_SECRET_HEADER: secret_of(triton_session)}
        client.load_model(MODEL_NAME, headers=headers, client_timeout=30)
        index = client.get_model_repository_index(headers=headers, client_timeout=30)
    assert ("1", "READY") in [(model.version, model.state) for model in index.models]


def test_a_restart_has_another_secret_and_serves_again(
    make_triton: MakeTriton, demo_versions: dict[str, Path], tmp_path: Path
):
    triton = make_triton(tmp_path)
    serve_version_1(triton, demo_versions)
    with triton:
        before, first = secret_of(triton), triton.pid
        triton.restart()
        assert secret_of(triton) != before
        assert triton.pid != first
        assert ask(triton, "GET", f"/v2/models/{MODEL_NAME}/versions/1/ready")[0] == 200
        old = {SECRET_HEADER: before}
        assert ask(triton, "POST", "/v2/repository/index", {}, old)[0] == 403


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_ending_it_leaves_no_process_and_no_shared_memory(
    make_triton: MakeTriton, demo_versions: dict[str, Path], tmp_path: Path, end: str
):
    triton = make_triton(tmp_path)
    serve_version_1(triton, demo_versions)
    triton.start()
    triton.wait_live()
    running = processes_naming(tmp_path)
    assert len(running) == 3, "the server, its stub and the watcher"
    [prefix] = {
        part.decode().split("shm-region-prefix-name=")[1]
        for part in Path(f"/proc/{triton.pid}/cmdline").read_bytes().split(b"\0")
        if b"shm-region-prefix-name=" in part
    }
    assert list(Path("/dev/shm").glob(f"{prefix}*"))

    getattr(triton, end)()

    assert triton.pid is None
    assert wait_until_none_names(tmp_path) == {}
    assert list(Path("/dev/shm").glob(f"{prefix}*")) == []
    getattr(triton, end)()  # once more is no error


def test_killing_the_process_that_started_it_leaves_no_process(
    make_triton: MakeTriton, demo_versions: dict[str, Path], tmp_path: Path
):
    serve_version_1(make_triton(tmp_path), demo_versions)
    paths = os.pathsep.join([str(ROOT), str(ROOT / "agents" / "src")])
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(tmp_path), str(ROOT / ".triton")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    with parent:
        assert parent.stdout is not None
        server = int(parent.stdout.readline())
        assert server in processes_naming(tmp_path)
        parent.send_signal(signal.SIGKILL)
    assert wait_until_none_names(tmp_path) == {}


def test_a_server_that_crashes_takes_its_stubs_with_it(
    make_triton: MakeTriton, demo_versions: dict[str, Path], tmp_path: Path
):
    triton = make_triton(tmp_path)
    serve_version_1(triton, demo_versions)
    triton.start()
    triton.wait_live()
    assert triton.pid is not None
    os.kill(triton.pid, signal.SIGKILL)
    assert wait_until_none_names(tmp_path) == {}
    assert not triton.running
    triton.start()
    triton.wait_live()
    triton.stop()


def test_a_taken_port_ends_the_wait_with_the_reason(
    make_triton: MakeTriton, triton_session: WheelTriton, tmp_path: Path
):
    triton = make_triton(tmp_path)
    triton.ports = Ports(
        http=triton.ports.http, grpc=triton_session.ports.grpc, metrics=triton.ports.metrics
    )
    triton.start()
    with pytest.raises(TritonFailed, match="failed to start GRPC service"):
        triton.wait_live(timeout_seconds=20)


def test_a_missing_repository_is_refused_before_anything_starts(
    make_triton: MakeTriton, tmp_path: Path
):
    triton = make_triton(tmp_path)
    triton.repository.rmdir()
    with pytest.raises(TritonFailed, match="there is no model repository"):
        triton.start()
    assert triton.pid is None


def test_a_broken_model_does_not_keep_the_server_down(
    make_triton: MakeTriton, demo_versions: dict[str, Path], tmp_path: Path
):
    triton = make_triton(tmp_path)
    serve_version_1(triton, demo_versions)
    (triton.repository / MODEL_NAME / "1" / "model.py").write_text("raise RuntimeError('broken')\n")
    with triton:
        assert ask(triton, "GET", "/v2/health/ready")[0] == 200
        assert ask(triton, "GET", f"/v2/models/{MODEL_NAME}/versions/1/ready")[0] == 400
