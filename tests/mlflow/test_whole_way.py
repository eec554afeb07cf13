"""From a CI job's log_model to the tag that says how the rollout went, with a real MLflow server: a
webhook that it signs, a download that is cut, the state and the outcome written back."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.catalog.models import Channel, RegistryLink, Version
from controlplane.catalog.registry.conversion import Converter
from controlplane.catalog.registry.walls import Walls
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.telling import tell_outcomes
from tests.factories import approve, make_joined_site, make_rollout
from tests.mlflow.conftest import CONVERTER
from tests.mlflow.server import MlflowServer
from tests.mlflow.test_imports import Turn, asked, folder_of_triton, linked, outcome

HOOK = "/api/v1/registries/mlflow/webhook"


class Deliveries:
    """Takes MLflow's deliveries as they come, and keeps them."""

    def __init__(self) -> None:
        from http.server import BaseHTTPRequestHandler, HTTPServer

        taken: list[tuple[dict[str, str], bytes]] = []
        arrived = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.append((dict(self.headers.items()), body))
                arrived.set()
                self.send_response(202)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Keeps the tests' stderr clean."""

        self.taken, self.arrived = taken, arrived
        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def deliveries() -> Iterator[Deliveries]:
    receiver = Deliveries()
    yield receiver
    receiver.stop()


class CuttingProxy:
    """Passes bytes on to a server, and ends each of the first connections after so many bytes of
    its answer."""

    def __init__(self, port: int, *, cuts: int, after: int) -> None:
        self._port, self._left, self._after = port, cuts, after
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with client, socket.create_connection(("127.0.0.1", self._port)) as server:
                self._pass(client, server)
                # Another thread still reads there: closing alone would not end the connection.
                for end in (client, server):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        asked = client.recv(1 << 16)
        cut = self._left > 0 and b"weights.bin" in asked
        self._left -= cut
        # One answer per connection, so that its end is the connection's.
        server.sendall(asked.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
        threading.Thread(target=_pump, args=(client, server), daemon=True).start()
        sent = 0
        while chunk := server.recv(1 << 14):
            if cut and sent + len(chunk) > self._after:
                return
            try:
                client.sendall(chunk)
            except OSError:
                return
            sent += len(chunk)


def _pump(client: socket.socket, server: socket.socket) -> None:
    """The rest of a request: a body comes apart from its head."""
    with contextlib.suppress(OSError):
        while more := client.recv(1 << 14):
            server.sendall(more)


def test_a_download_that_is_cut_is_resumed(
    mlflow: MlflowServer, turn: Turn, now: datetime, tmp_path: Path, settings: Any
) -> None:
    folder = folder_of_triton(tmp_path / "f")
    data = bytes(range(256)) * 8192
    (folder / "1" / "weights.bin").write_bytes(data)
    mlflow.call("log_folder", name="cut", folder=str(folder))
    row = asked(linked("cut", now), now, version="1")
    proxy = CuttingProxy(mlflow.port, cuts=3, after=500_000)
    try:
        settings.WAYPOST_MLFLOW_URL = proxy.url
        turn()
    finally:
        proxy.stop()
    row = outcome(row)
    assert (row.state, row.reason) == ("imported", "")
    assert row.version is not None
    assert row.version.files.get(path="weights.bin").size_bytes == len(data)


def test_a_webhook_of_mlflow_is_believed_and_has_the_alias_looked_at(
    mlflow: MlflowServer,
    turn: Turn,
    now: datetime,
    tmp_path: Path,
    settings: Any,
    deliveries: Deliveries,
) -> None:
    settings.WAYPOST_MLFLOW_WEBHOOK_SECRET = "a-secret-for-tests"
    mlflow.call("log_folder", name="hooked", folder=str(folder_of_triton(tmp_path / "f")))
    link = linked("hooked", now, prod="stable")
    turn()
    assert not link.imports.exists()
    mlflow.call("add_webhook", name="waypost", url=deliveries.url, secret="a-secret-for-tests")
    mlflow.call("set_alias", name="hooked", alias="prod", version="1")
    assert deliveries.arrived.wait(30), "MLflow sent nothing"
    headers, body = deliveries.taken[0]
    kept = {key: value for key, value in headers.items() if key.lower().startswith("x-mlflow")}
    answer = Client().post(HOOK, body, content_type="application/json", headers=kept)
    assert answer.status_code == 202
    wanted = RegistryLink.objects.get(pk=link.pk).wanted_at
    assert wanted is not None
    assert abs(wanted - timezone.now()) < timedelta(minutes=1)
    turn()
    assert [row.remote_version for row in link.imports.all()] == ["1"]
    changed = body.replace(b"hooked", b"HOOKED")
    wrong = Client().post(HOOK, changed, content_type="application/json", headers=kept)
    assert wrong.status_code == 401


def test_a_trained_model_goes_the_whole_way(
    mlflow: MlflowServer, now: datetime, turn: Callable[..., None]
) -> None:
    """Trained and logged, brought in by its alias, converted, approved, moved to its channel,
    rolled out, and told."""
    agent = make_joined_site("edge-1", now=now)
    mlflow.call("log_iris", name="iris", flavor="sklearn")
    mlflow.call("set_alias", name="iris", alias="prod", version="1")
    linked("iris", now, prod="stable")
    turn()
    version = Version.objects.get(model__name="iris")
    approve(version, now=now)
    turn()
    assert Channel.objects.get(model__name="iris", name="stable").version == version
    make_rollout(RolloutState.SUCCEEDED, version=version, agents=[agent], now=now)
    tell_outcomes()
    turn()
    assert mlflow.call("tags", name="iris", version="1") == {
        "waypost.version": "1",
        "waypost.state": "approved",
        "waypost.rollout": "succeeded",
    }


def test_hostile_pickles_reach_nothing(tmp_path: Path, mlflow: MlflowServer) -> None:
    """The converter's process has no network and does not see what is hidden from it."""
    import pickle

    from controlplane.catalog.registry import Refused

    if fault := Walls().fault(str(CONVERTER)):
        pytest.skip(f"no user namespaces here: {fault}")
    secret = tmp_path / "data"
    secret.mkdir()
    (secret / "secret_key").write_text("only for tests")
    look = (
        "import os, socket\n"
        f"found = os.access({str(secret / 'secret_key')!r}, os.R_OK)\n"
        f"reached = socket.socket().connect_ex(('127.0.0.1', {mlflow.port})) == 0\n"
        "raise RuntimeError(f'found={found} reached={reached} env={len(os.environ)}')"
    )

    class Bomb:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return exec, (look,)

    bomb = tmp_path / "model.pkl"
    bomb.write_bytes(pickle.dumps(Bomb()))
    converter = Converter(python=str(CONVERTER), walls=Walls(hidden=(secret,)))
    asked_for = {"kind": "sklearn", "format": "pickle"}
    with pytest.raises(Refused) as raised:
        converter.run(asked_for, inputs={"model": bomb}, into=tmp_path)
    assert "found=False reached=False" in str(raised.value)
    assert (secret / "secret_key").read_text() == "only for tests"
