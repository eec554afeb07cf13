"""What rsync, zsync and casync move for the same step between two folders, and what it costs them.

Each must rebuild the new folder byte for byte, or the run is void."""

import filecmp
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.errors import BenchmarkVoid
from benchmarks.ranges import range_server


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Bytes that a site would fetch, and CPU seconds of the publisher and of the site. rsync works
    at both ends at once: all of its time is the site's."""

    bytes: int
    publish_cpu: float
    fetch_cpu: float


Peer = Callable[[Path, Path, Path], Moved]


def rsync(old: Path, new: Path, scratch: Path) -> Moved:
    """With its own compression, which helps it."""
    site = scratch / "rsync"
    shutil.copytree(old, site)
    command = ["rsync", "-r", "-z", "--no-whole-file", "--ignore-times", "--stats"]
    text, cpu = _run([*command, f"{new}/", f"{site}/"])
    _check("rsync", new, site)
    sent, received = (
        int(re.search(rf"Total bytes {way}: ([\d,]+)", text)[1].replace(",", ""))  # type: ignore[index]  # always there
        for way in ("sent", "received")
    )
    return Moved(bytes=sent + received, publish_cpu=0.0, fetch_cpu=cpu)


def zsync(old: Path, new: Path, scratch: Path) -> Moved:
    """Its index and what it asks for, file by file."""
    web, site = scratch / "zsync-web", scratch / "zsync"
    shutil.copytree(new, web)
    site.mkdir()
    publish = fetch = 0.0
    index_bytes = 0
    with range_server(web) as server:
        for path in sorted(new.iterdir()):
            index = scratch / f"{path.name}.zsync"
            made = ["zsyncmake", "-u", f"{server.url}/{path.name}", "-o", str(index)]
            publish += _run([*made, str(web / path.name)])[1]
            index_bytes += index.stat().st_size
            got = ["zsync", "-q", "-i", str(old / path.name), "-o", str(site / path.name)]
            fetch += _run([*got, str(index)], cwd=scratch)[1]
        sent = server.sent_bytes
    for left in site.glob("*.zs-old"):
        left.unlink()
    _check("zsync", new, site)
    return Moved(bytes=index_bytes + sent, publish_cpu=publish, fetch_cpu=fetch)


def casync(old: Path, new: Path, scratch: Path) -> Moved:
    """Its index and the compressed chunks that the old version's store has not, file by file."""
    store, site = scratch / "casync.castr", scratch / "casync"
    site.mkdir()
    publish = fetch = 0.0
    moved = 0
    for path in sorted(new.iterdir()):
        index = scratch / f"{path.name}.caibx"
        make = ["casync", "make", f"--store={store}", str(index)]
        _run([*make, str(old / path.name)])
        held = set(store.rglob("*.cacnk"))
        publish += _run([*make, str(path)])[1]
        new_chunks = set(store.rglob("*.cacnk")) - held
        moved += index.stat().st_size + sum(chunk.stat().st_size for chunk in new_chunks)
        rebuild = ["casync", "extract", f"--store={store}", str(index), str(site / path.name)]
        fetch += _run(rebuild)[1]
    _check("casync", new, site)
    return Moved(bytes=moved, publish_cpu=publish, fetch_cpu=fetch)


PEERS: dict[str, Peer] = {"rsync": rsync, "zsync": zsync, "casync": casync}


def missing_peers() -> dict[str, str]:
    """Why a peer is left out of the run."""
    needed = {"rsync": ("rsync",), "zsync": ("zsync", "zsyncmake"), "casync": ("casync",)}
    return {
        name: f"skipped: no {program} on the PATH (Debian and Ubuntu: apt install {name})"
        for name, programs in needed.items()
        for program in programs
        if shutil.which(program) is None
    }


def _run(command: list[str], cwd: Path | None = None) -> tuple[str, float]:
    """What it prints, and its CPU seconds with those of its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise BenchmarkVoid(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, spent


def _check(name: str, new: Path, site: Path) -> None:
    names = sorted(path.name for path in new.iterdir())
    _, wrong, lost = filecmp.cmpfiles(new, site, names, shallow=False)
    if wrong or lost:
        raise BenchmarkVoid(f"{name} rebuilt {wrong + lost} wrongly")
