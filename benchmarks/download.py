"""Measures the agent's downloads against curl and aria2c: same file, server and disk, in turn."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.agents import admit
from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.servers import run_python, server_environment, web_server
from benchmarks.transfers import (
    MIB,
    Blob,
    Source,
    Took,
    agent_fetch,
    make_blob,
    measured,
    nginx,
    run_command,
    summary,
    transfer_table,
)

NAME = "download"
PRODUCT = "controlplane.config.settings"
_LOCATIONS = """
location ~ ^/agent/v1/blobs/(?<digest>[0-9a-f]+)$ {{
  alias {files}/$digest; add_header ETag '"$digest"';
}}
"""

Client = Callable[[Source, Blob, Path], Took]


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The tables and the document."""
    clients, missing = _clients()
    texts, results = list(missing), dict[str, Any]()
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as home, ExitStack() as stack:
        folder = Path(home)
        files = folder / "files"
        files.mkdir(mode=0o755)
        folder.chmod(0o755)  # nginx may serve as another user
        blobs = [make_blob(files, mib, say) for mib in options.download_mib]
        sources = []
        if shutil.which("nginx"):
            sources.append(stack.enter_context(nginx(folder, _LOCATIONS.format(files=files))))
        else:
            texts.append("skipped: nginx is not installed; only the control plane serves")
        say("the control plane takes the files in")
        sources.append(stack.enter_context(_centre(folder, files)))
        for source in sources:
            for blob in blobs:
                key = f"{source.name}, {blob.size // MIB} MiB"
                results[key] = _measure(source, blob, folder, clients, options, say)
                texts.append(transfer_table(key, results[key]))
    return "\n\n".join(texts), {"sizes_mib": list(options.download_mib), "cases": results}


def _measure(
    source: Source,
    blob: Blob,
    folder: Path,
    clients: Mapping[str, Client],
    options: Options,
    say: Callable[[str], None],
) -> dict[str, dict[str, dict[str, float]]]:
    kept: dict[str, list[Took]] = {name: [] for name in clients}
    for number in range(1, options.rounds + 1):
        say(f"{source.name}, {blob.size // MIB} MiB: round {number}")
        names = list(clients)
        for name in names if number % 2 else reversed(names):
            kept[name].append(_one(clients[name], source, blob, folder))
    return {name: summary(blob.size, took) for name, took in kept.items()}


def _one(client: Client, source: Source, blob: Blob, folder: Path) -> Took:
    """One download into an empty folder, with nothing left to be written from the one before."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        took = measured(source.pid, lambda: client(source, blob, Path(place)))
        (found,) = Path(place).iterdir()
        if found.stat().st_size != blob.size:
            raise BenchmarkVoid(f"{found.stat().st_size} bytes came, of {blob.size}")
    return took


# Who downloads


def _clients() -> tuple[dict[str, Client], list[str]]:
    """By the name in the table; and what is not here to be compared with."""
    clients: dict[str, Client] = {
        "agent, 2 connections": _agent(2),
        "agent, 1 connection": _agent(1),
    }
    missing = []
    if shutil.which("curl"):
        clients["curl"] = _curl
        clients["curl, then sha256sum"] = _curl_checked
    else:
        missing.append("skipped: curl is not installed")
    if shutil.which("aria2c"):
        clients["aria2c -x16"] = _aria(checked=False)
        clients["aria2c -x16 --checksum"] = _aria(checked=True)
    else:
        missing.append("skipped: aria2c is not installed (package aria2)")
    return clients, missing


def _agent(connections: int) -> Client:
    return lambda source, blob, folder: agent_fetch(source, blob, folder, connections=connections)


def _curl(source: Source, blob: Blob, folder: Path) -> Took:
    command = ["curl", "--silent", "--fail", "--output", str(folder / "whole")]
    return run_command([*command, "--header", _header(source), source.url_of(blob)])


def _curl_checked(source: Source, blob: Blob, folder: Path) -> Took:
    fetched = _curl(source, blob, folder)
    listed = f"{blob.sha256}  {folder / 'whole'}\n"
    hashed = run_command(["sha256sum", "--check", "--status"], given=listed)
    return Took(
        seconds=fetched.seconds + hashed.seconds,
        cpu_seconds=fetched.cpu_seconds + hashed.cpu_seconds,
        peak_mib=max(fetched.peak_mib, hashed.peak_mib),
    )


def _aria(*, checked: bool) -> Client:
    def fetch(source: Source, blob: Blob, folder: Path) -> Took:
        command = ["aria2c", "--quiet", "--no-conf", "-x16", "-s16", "--file-allocation=none"]
        command += [f"--dir={folder}", "--out=whole", f"--header={_header(source)}"]
        if checked:
            command.append(f"--checksum=sha-256={blob.sha256}")
        return run_command([*command, source.url_of(blob)])

    return fetch


def _header(source: Source) -> str:
    return f"Authorization: Bearer {source.token}"


# Who serves


@contextmanager
def _centre(folder: Path, files: Path) -> Iterator[Source]:
    env = server_environment(
        data_dir=folder / "data", database_url=f"sqlite:///{folder}/bench.sqlite3"
    )
    run_python(["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=env)
    made = ["-m", "benchmarks.download_rows", str(files)]
    tokens = json.loads(run_python(made, settings=PRODUCT, env=env))
    with web_server(
        application="controlplane.config.asgi", settings=PRODUCT, env=env, log=folder / "web.log"
    ) as server:
        (member,) = admit(server.port, tokens)
        yield Source(
            name="the control plane",
            pid=server.pid,
            url=f"http://127.0.0.1:{server.port}",
            token=member.token,
        )
