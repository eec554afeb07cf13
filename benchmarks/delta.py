"""Measures the bytes that a site fetches for a new version, beside rsync, zsync and casync.

python -m benchmarks.delta FOLDER        two versions there, on the configured database; figures
"""

import gzip
import hashlib
import io
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from waypost_agent import chunk_map, patches
from waypost_agent.chunk_map import Chunk, cheapest
from waypost_agent.manifest import ManifestFile

from benchmarks import fleet_rows
from benchmarks.delta_models import CASES, Case, write_pair
from benchmarks.delta_peers import PEERS, Moved, missing_peers
from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.servers import run_python, server_environment
from benchmarks.tables import align

NAME = "delta"
PRODUCT = "controlplane.config.settings"
OURS = "waypost"
GOLDEN = {"golden.json": b"{}"}


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The tables and the document."""
    missing = missing_peers()
    for reason in missing.values():
        say(reason)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="waypost-bench-") as home:
        empty = Path(home) / "empty.sqlite3"
        run_python(
            ["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=_environment(empty)
        )
        for case in CASES:
            say(f"{case.name}: two versions of {options.delta_megabytes} MB")
            with tempfile.TemporaryDirectory(dir=home) as folder:
                shutil.copy(empty, Path(folder) / "bench.sqlite3")
                results[case.name] = _measure(case, Path(folder), options, missing)
    return _text(results, missing), {
        "megabytes": options.delta_megabytes,
        "skipped": missing,
        "cases": results,
    }


def _measure(
    case: Case, folder: Path, options: Options, missing: Mapping[str, str]
) -> dict[str, Any]:
    pair = write_pair(case, folder / "versions", options.delta_megabytes)
    env = _environment(folder / "bench.sqlite3")
    command = ["-m", "benchmarks.delta", str(folder / "versions")]
    moved = {OURS: json.loads(run_python(command, settings=PRODUCT, env=env))}
    for name, peer in PEERS.items():
        if name not in missing:
            moved[name] = asdict(peer(pair.old, pair.new, folder))
    size = sum(path.stat().st_size for path in pair.new.iterdir())
    return {"bytes": size, "words_differing": round(pair.differing, 4), "moved": moved}


def _environment(database: Path) -> dict[str, str]:
    return server_environment(
        data_dir=database.parent / "data", database_url=f"sqlite:///{database}"
    )


def _with_rows(folder: Path) -> dict[str, Any]:
    """In a process of its own: the two versions are pushed, the worker's turns are played, and the
    new one is rebuilt from the old one by what the agent chooses."""
    import django

    django.setup()

    from django.utils import timezone

    from controlplane.catalog.chunk_maps import make_chunk_maps

    now = timezone.now()
    old, new = (
        {path.name: path for path in sorted((folder / name).iterdir())} for name in ("old", "new")
    )
    _register(old, now)
    make_chunk_maps(now=now, keep_going=lambda: True)
    _register(new, now + timedelta(seconds=1))
    started = time.process_time()
    make_chunk_maps(now=now + timedelta(seconds=1), keep_going=lambda: True)
    published = time.process_time() - started
    site = _Site(old)
    for path in new.values():
        site.fetch(path)
    return asdict(Moved(bytes=site.moved, publish_cpu=published, fetch_cpu=site.cpu))


def _register(files: Mapping[str, Path], now: datetime) -> None:
    from controlplane.catalog.services import create_version, store_blob

    known = {name: path.stat().st_size for name, path in files.items()}
    digests = {name: _digest(path.read_bytes()) for name, path in files.items()}
    entries = [{"path": name, "size": known[name], "sha256": digests[name]} for name in files] + [
        {"path": name, "size": len(data), "sha256": _digest(data)} for name, data in GOLDEN.items()
    ]
    manifest = {"schema": "waypost.manifest/1", "files": entries}
    version, _ = create_version(
        model_name="bench", number=None, manifest=manifest, actor="bench", now=now
    )
    for name, path in files.items():
        with path.open("rb") as stream:
            store_blob(version=version, sha256=digests[name], stream=stream, now=now)
    for data in GOLDEN.values():
        store_blob(version=version, sha256=_digest(data), stream=io.BytesIO(data), now=now)
    fleet_rows.let_in(version, now)


class _Site:
    """A site that holds one version. Bytes count as the bodies of the answers it would get."""

    def __init__(self, held: Mapping[str, Path]) -> None:
        self.moved = 0
        self.cpu = 0.0
        self._files = {_digest(path.read_bytes()) for path in held.values()}
        self._chunks: dict[str, tuple[Path, int, int]] = {}
        for path in held.values():
            for chunk in self._map_of(path) or ():
                self._chunks[chunk.sha256] = (path, chunk.offset, chunk.length)
        self.moved = 0

    def fetch(self, path: Path) -> None:
        """Rebuilds the file at `path`, of which only its digest and size are known to a site."""
        if _digest(path.read_bytes()) in self._files:
            return
        chunks = self._map_of(path)
        if chunks is None:
            self.moved += path.stat().st_size
            return
        with path.open("rb") as published:
            for chunk in chunks:
                right = published.read(chunk.length)
                started = time.process_time()
                got = self._chunk(chunk, right)
                self.cpu += time.process_time() - started
                if got != right:
                    raise BenchmarkVoid(f"a chunk of {path.name} was rebuilt wrongly")

    def _chunk(self, chunk: Chunk, raw: bytes) -> bytes:
        """As the agent does: from this disk, else by the cheapest patch, else as it is."""
        from controlplane.catalog.queries import patch_store

        if chunk.sha256 in self._chunks:
            data = self._held(chunk.sha256)
        elif (patch := cheapest(chunk, self._chunks.__contains__)) is None:
            self.moved += chunk.length
            data = raw
        else:
            self.moved += patch.size
            with patch_store().open(patch.blob) as stream:
                encoded = stream.read()
            if len(encoded) != patch.size:
                raise BenchmarkVoid(f"a patch has {len(encoded)} bytes, its map says {patch.size}")
            base = None if patch.base is None else self._held(patch.base)
            data = patches.apply(patch.codec, encoded, base, chunk.length)
        if _digest(data) != chunk.sha256:
            raise BenchmarkVoid(f"a chunk at {chunk.offset} has another digest")
        return data

    def _held(self, sha256: str) -> bytes:
        path, offset, length = self._chunks[sha256]
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def _map_of(self, path: Path) -> tuple[Chunk, ...] | None:
        from controlplane.catalog.queries import chunk_map_document

        digest = _digest(path.read_bytes())
        found = chunk_map_document(digest)
        if found is None:
            return None
        self.moved += len(found[0])
        file = ManifestFile(path=path.name, size=path.stat().st_size, sha256=digest)
        return chunk_map.parse(json.loads(gzip.decompress(found[0])), file)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _text(results: Mapping[str, Any], missing: Mapping[str, str]) -> str:
    names = [name for name in (OURS, *PEERS) if name not in missing]
    rows: list[tuple[str, ...]] = [("MB moved", "file", "differ", *names)]
    cpu: list[tuple[str, ...]] = [("CPU s to publish + fetch", *names)]
    for case, result in results.items():
        moved = result["moved"]
        cells = [f"{moved[name]['bytes'] / 1e6:,.3f}" for name in names]
        share = f"{result['words_differing']:.0%}"
        rows.append((case, f"{result['bytes'] / 1e6:,.0f}", share, *cells))
        spent = [f"{moved[n]['publish_cpu']:.1f} + {moved[n]['fetch_cpu']:.1f}" for n in names]
        cpu.append((case, *spent))
    return "\n".join([*missing.values(), *align(rows), "", *align(cpu)])


def main() -> None:
    json.dump(_with_rows(Path(sys.argv[1])), sys.stdout)


if __name__ == "__main__":
    main()
