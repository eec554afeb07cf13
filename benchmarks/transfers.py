"""What benchmarks of transfers have in common: files of random bytes, clients and servers as
processes, what one transfer took at both ends, and the table. Knows no protocol."""

import hashlib
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.errors import BenchmarkVoid
from benchmarks.processes import (
    busy_cpu_seconds,
    forget_tree_peak,
    peak_mib,
    tree_cpu_seconds,
    tree_peak_mib,
)
from benchmarks.rounds import NOISY_SHARE
from benchmarks.servers import free_port
from benchmarks.tables import align

MIB = 1 << 20
PIECE_BYTES = 16 * MIB
# The agent's own environment, as at a site.
_AGENT_PYTHON = Path(".venv-agent/bin/python")
_LOOK_SECONDS = 0.005
_NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; etag off; client_max_body_size 0;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    {locations}
  }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class Took:
    """What one transfer took; `seconds`, CPU and memory are the client's own."""

    seconds: float
    cpu_seconds: float
    peak_mib: float
    server_cpu_seconds: float = 0.0
    server_peak_mib: float = 0.0
    foreign_share: float = 0.0


def measured(server_pid: int, work: Callable[[], Took]) -> Took:
    """One transfer, with nothing left to be written from the one before."""
    os.sync()
    forget_tree_peak(server_pid)
    at, busy, served = time.perf_counter(), busy_cpu_seconds(), tree_cpu_seconds(server_pid)
    took = work()
    served = tree_cpu_seconds(server_pid) - served
    foreign = busy_cpu_seconds() - busy - served - took.cpu_seconds
    wall = time.perf_counter() - at
    return replace(
        took,
        server_cpu_seconds=served,
        server_peak_mib=tree_peak_mib(server_pid),
        foreign_share=max(0.0, foreign / (wall * (os.cpu_count() or 1))),
    )


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A file of random bytes under its digest, and the digests of its pieces."""

    path: Path
    size: int
    sha256: str
    chunks: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A server that has the files. `token` is shown to it."""

    name: str
    pid: int
    url: str
    token: str

    def url_of(self, blob: Blob) -> str:
        return f"{self.url}/agent/v1/blobs/{blob.sha256}"


def agent_fetch(source: Source, blob: Blob, folder: Path, *, connections: int) -> Took:
    """By the agent's own downloader, in a process of its own."""
    plan = {
        "url": source.url,
        "token": source.token,
        "folder": str(folder),
        "size": blob.size,
        "sha256": blob.sha256,
        "chunks": blob.chunks,
        "connections": connections,
    }
    done = subprocess.run(
        [str(_AGENT_PYTHON.absolute()), "-m", "benchmarks.fetch"],
        input=json.dumps(plan),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchmarkVoid(f"the agent's download failed: {done.stderr[-1000:]}")
    return Took(**json.loads(done.stdout))


def run_command(
    command: Sequence[str], given: str = "", env: Mapping[str, str] | None = None
) -> Took:
    """The whole command, from its start to its end."""
    began, peak = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=env, text=True
    ) as process:
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.close()
        # What wait4 says of its memory would be this process's own, which it was forked from.
        while (ended := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            peak = max(peak, peak_mib(process.pid))
            time.sleep(_LOOK_SECONDS)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(ended[1])
    if process.returncode:
        raise BenchmarkVoid(f"{command[0]} ended with {process.returncode}")
    usage = ended[2]
    return Took(seconds=seconds, cpu_seconds=usage.ru_utime + usage.ru_stime, peak_mib=peak)


def make_blob(files: Path, mib: int, say: Callable[[str], None]) -> Blob:
    say(f"{mib} MiB of random bytes")
    whole, chunks, path = hashlib.sha256(), list[str](), files / "new"
    with path.open("wb") as file:
        left = mib * MIB
        while left:
            piece = os.urandom(min(PIECE_BYTES, left))
            file.write(piece)
            whole.update(piece)
            chunks.append(hashlib.sha256(piece).hexdigest())
            left -= len(piece)
    named = path.rename(files / whole.hexdigest())
    return Blob(path=named, size=mib * MIB, sha256=named.name, chunks=tuple(chunks))


@contextmanager
def nginx(folder: Path, locations: str, name: str = "nginx") -> Iterator[Source]:
    """`locations` is what stands inside its one `server`."""
    port, config = free_port(), folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, locations=locations, port=port))
    process = subprocess.Popen(
        ["nginx", "-c", str(config), "-p", str(folder)], stderr=subprocess.DEVNULL
    )
    try:
        # The workers are told apart from others' by their parent.
        yield Source(name=name, pid=process.pid, url=f"http://127.0.0.1:{port}", token="none")
    finally:
        process.terminate()
        process.wait(10)


def summary(size: int, took: Sequence[Took]) -> dict[str, dict[str, float]]:
    gigabytes = size / 1e9
    figures = {
        "mb_per_second": [size / 1e6 / one.seconds for one in took],
        "cpu_seconds_per_gb": [one.cpu_seconds / gigabytes for one in took],
        "server_cpu_seconds_per_gb": [one.server_cpu_seconds / gigabytes for one in took],
        "peak_mib": [one.peak_mib for one in took],
        "server_peak_mib": [one.server_peak_mib for one in took],
        "foreign_share": [one.foreign_share for one in took],
    }
    return {
        name: {
            "median": round(statistics.median(values), 3),
            "min": round(min(values), 3),
            "max": round(max(values), 3),
        }
        for name, values in figures.items()
    }


def transfer_table(title: str, cases: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    foreign = max(case["foreign_share"]["max"] for case in cases.values())
    noisy = "NOISY, " if foreign > NOISY_SHARE else ""
    rows = [
        (
            name,
            f"{case['mb_per_second']['median']:,.0f}",
            f"{case['mb_per_second']['min']:,.0f}-{case['mb_per_second']['max']:,.0f}",
            f"{case['cpu_seconds_per_gb']['median']:.2f}",
            f"{case['server_cpu_seconds_per_gb']['median']:.2f}",
            f"{case['peak_mib']['max']:.0f}",
            f"{case['server_peak_mib']['max']:.0f}",
        )
        for name, case in cases.items()
    ]
    headings = ("", "MB/s", "min-max", "cpu s/GB", "server s/GB", "peak MiB", "server MiB")
    return "\n".join(
        [
            f"{title}: {noisy}others used up to {foreign:.0%} of the machine",
            *align([headings, *rows]),
        ]
    )
