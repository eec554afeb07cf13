"""Downloads by a chunk map: what is held is not fetched, a smaller patch is, and a map or
a patch that lies costs bytes and never correctness."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fake_centre import FakeCentre, problem
from fake_triton import FakeClock
from versions import make_version
from waypost_agent import chunk_map
from waypost_agent.centre import Blobs, Centre
from waypost_agent.chunk_maps import ChunkMaps, read_map
from waypost_agent.download import Downloader
from waypost_agent.errors import BlobUnknown, Paused, Retryable
from waypost_agent.files import Fetching
from waypost_agent.held import Held, Place
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest, ManifestFile
from waypost_agent.ports import BlobPart
from waypost_agent.windows import parse_windows
from world import World

DICE = random.Random(5)
# As a safetensors file: a header that grew, then tensors.
OLD = [DICE.randbytes(1000), *(DICE.randbytes(length) for length in (50_000, 70_000, 30_000))]
NEW = [DICE.randbytes(1400), OLD[1], DICE.randbytes(70_000), bytes(30_000), OLD[3]]


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_of(parts: list[bytes]) -> ManifestFile:
    data = b"".join(parts)
    return ManifestFile(path="model.safetensors", size=len(data), sha256=sha(data))


def map_of(parts: list[bytes], patches: dict[int, list[dict[str, Any]]] | None = None) -> Any:
    file = file_of(parts)
    return {
        "schema": "waypost.chunks/1",
        "file": file.sha256,
        "size": file.size,
        "chunks": [
            {"length": len(part), "sha256": sha(part), "patches": (patches or {}).get(index, [])}
            for index, part in enumerate(parts)
        ],
    }


def difference(new: bytes, old: bytes) -> bytes:
    """The codec planes-zstd with words of one byte, written from the protocol's page."""
    folded = bytes(
        ((d << 1) ^ (0xFF if d & 0x80 else 0)) & 0xFF
        for d in ((a - b) & 0xFF for a, b in zip(new, old, strict=True))
    )
    return b"\x01" + zstandard.ZstdCompressor().compress(folded)


class Source:
    """Blobs by digest; remembers what was asked for and how many bytes went out."""

    def __init__(self, *blobs: bytes) -> None:
        self.blobs = {sha(blob): blob for blob in blobs}
        self.asked: list[tuple[str, int, int | None]] = []
        self.sent = 0

    @contextmanager
    def open_blob(self, sha256: str, offset: int, end: int | None = None) -> Iterator[BlobPart]:
        self.asked.append((sha256, offset, end))
        if sha256 not in self.blobs:
            raise BlobUnknown("download-failed", "the centre does not give the file: 404")
        data = self.blobs[sha256]

        def pieces() -> Iterator[bytes]:
            for at in range(offset, len(data) if end is None else end, 9_000):
                piece = data[at : min(at + 9_000, len(data) if end is None else end)]
                self.sent += len(piece)
                yield piece

        yield BlobPart(offset=offset, total_bytes=len(data), chunks=pieces())


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.places: list[Place] = []
        self.downloader: Downloader | None = None

    def hold(self, parts: list[bytes], document: Any = None, name: str = "old") -> Path:
        path = self.folder / name
        path.write_bytes(b"".join(parts))
        file = file_of(parts)
        chunks = chunk_map.parse(map_of(parts) if document is None else document, file)
        self.places.append(
            Place(
                manifest=Manifest(files=(file,), document={}, digest=""),
                locate=lambda _: path,
                map_of=lambda _: chunks,
            )
        )
        return path

    def fetch(self, source: Source, document: Any, file: ManifestFile | None = None) -> bytes:
        file = file or file_of(NEW)
        if self.downloader is None:
            self.downloader = Downloader(
                source, clock=FakeClock(), limits=Limits(), should_pause=lambda: False
            )
        self.downloader.fetch(
            file,
            partial=self.folder / "partial",
            destination=self.folder / "done",
            held=Held(Manifest(files=(file,), document={}, digest=""), self.places),
            set_aside=lambda path, why: path.unlink(),
            chunk_map=chunk_map.parse(document, file),
        )
        return (self.folder / "done").read_bytes()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


WHOLE = b"".join(NEW)


def test_tensors_that_are_held_are_not_fetched_wherever_they_lie(site: Site) -> None:
    site.hold(OLD)
    source = Source(WHOLE)
    assert site.fetch(source, map_of(NEW)) == WHOLE
    assert source.asked == [(sha(WHOLE), 0, 1400), (sha(WHOLE), 51_400, 151_400)]
    assert source.sent == 1400 + 70_000 + 30_000


def test_a_patch_that_is_smaller_and_whose_base_is_held_is_fetched_in_the_chunks_place(
    site: Site,
) -> None:
    site.hold(OLD)
    near = bytes((byte + 1) & 0xFF for byte in OLD[2])
    parts = [NEW[0], OLD[1], near, NEW[3], OLD[3]]
    patch, packed = difference(near, OLD[2]), zstandard.ZstdCompressor().compress(NEW[3])
    document = map_of(
        parts,
        {
            2: [
                {
                    "base": sha(OLD[2]),
                    "codec": "planes-zstd",
                    "blob": sha(patch),
                    "size": len(patch),
                },
            ],
            3: [{"base": None, "codec": "zstd", "blob": sha(packed), "size": len(packed)}],
        },
    )
    source = Source(b"".join(parts), patch, packed)
    assert site.fetch(source, document, file_of(parts)) == b"".join(parts)
    assert [asked[0] for asked in source.asked] == [
        sha(b"".join(parts)), sha(patch), sha(packed),
    ]  # fmt: skip
    assert source.sent == 1400 + len(patch) + len(packed)


def test_a_patch_whose_base_is_not_held_is_not_asked_for(site: Site) -> None:
    patch = difference(NEW[2], OLD[2])
    entry = {"base": sha(OLD[2]), "codec": "planes-zstd", "blob": sha(patch), "size": 10}
    source = Source(WHOLE, patch)
    assert site.fetch(source, map_of(NEW, {2: [entry]})) == WHOLE
    assert {asked[0] for asked in source.asked} == {sha(WHOLE)}


WRONG = difference(bytes((byte + 3) & 0xFF for byte in OLD[2]), OLD[2])
GARBAGE = b"\x01garbage"


@pytest.mark.parametrize(
    "blob",
    [WRONG, GARBAGE, b"\x07" + WRONG[1:], WRONG[:-1]],
    ids=["another chunk", "no frame", "a width of seven", "cut"],
)
def test_a_patch_that_is_wrong_falls_back_to_the_chunk(site: Site, blob: bytes) -> None:
    site.hold(OLD)
    entry = {"base": sha(OLD[2]), "codec": "planes-zstd", "blob": sha(blob), "size": len(blob)}
    source = Source(WHOLE, blob)
    assert site.fetch(source, map_of(NEW, {2: [entry]})) == WHOLE
    assert sum(asked[0] == sha(blob) for asked in source.asked) == 1


@pytest.mark.parametrize("fault", ["lost", "other bytes", "another size"])
def test_a_patch_that_the_centre_has_not_as_it_says_falls_back_to_the_chunk(
    site: Site, fault: str
) -> None:
    site.hold(OLD)
    patch = difference(NEW[2], OLD[2])[:60_000]
    entry = {"base": sha(OLD[2]), "codec": "planes-zstd", "blob": sha(patch), "size": len(patch)}
    source = Source(WHOLE)
    if fault == "other bytes":
        source.blobs[sha(patch)] = bytes(len(patch))
    if fault == "another size":
        source.blobs[sha(patch)] = patch + b"!"
        # That may be a portal; it is no proof against the patch, and asked again later.
        with pytest.raises(Retryable, match="a patch has"):
            site.fetch(source, map_of(NEW, {2: [entry]}))
        return
    assert site.fetch(source, map_of(NEW, {2: [entry]})) == WHOLE


def test_a_base_that_rotted_falls_back_to_the_chunk(site: Site) -> None:
    path = site.hold(OLD)
    near = bytes((byte + 1) & 0xFF for byte in OLD[2])
    parts = [NEW[0], OLD[1], near]
    patch = difference(near, OLD[2])
    entry = {"base": sha(OLD[2]), "codec": "planes-zstd", "blob": sha(patch), "size": len(patch)}
    data = bytearray(path.read_bytes())
    data[60_000] ^= 1
    path.write_bytes(data)
    source = Source(b"".join(parts), patch)
    document = map_of(parts, {2: [entry]})
    assert site.fetch(source, document, file_of(parts)) == b"".join(parts)
    assert source.sent > 70_000


@pytest.mark.parametrize("wrong", [0, 2, 4])
def test_a_map_with_a_wrong_digest_leads_to_the_file_all_the_same(site: Site, wrong: int) -> None:
    document = map_of(NEW)
    document["chunks"][wrong]["sha256"] = "0" * 64
    source = Source(WHOLE)
    assert site.fetch(source, document) == WHOLE


def test_a_map_of_another_file_that_adds_up_leads_to_the_file_all_the_same(site: Site) -> None:
    """Every chunk is right by the map, and the whole is not the manifest's."""
    other = [part[::-1] for part in NEW]
    site.hold(other, name="other")
    document = map_of(other) | {"file": sha(WHOLE)}
    source = Source(WHOLE)
    assert site.fetch(source, document) == WHOLE
    assert source.asked == [(sha(WHOLE), 0, None)]


def test_with_pieces_in_the_manifest_a_lying_map_costs_no_piece_that_was_right(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost_agent.pieces.CHUNK_BYTES", 20_000)
    pieces = tuple(sha(WHOLE[at : at + 20_000]) for at in range(0, len(WHOLE), 20_000))
    file = replace(file_of(NEW), chunks=pieces)
    document = map_of(NEW)
    document["chunks"][4]["sha256"] = "0" * 64
    source = Source(WHOLE)
    assert site.fetch(source, document, file) == WHOLE
    assert source.sent <= len(WHOLE) + 2 * 30_000 + 20_000


def test_a_cut_download_by_map_goes_on_after_a_restart(site: Site) -> None:
    (site.folder / "partial").write_bytes(WHOLE[:60_000])
    source = Source(WHOLE)
    assert site.fetch(source, map_of(NEW)) == WHOLE
    assert source.asked == [(sha(WHOLE), 60_000, None)]


# Asking for maps and keeping them


class Maps:
    def __init__(self, *documents: Any) -> None:
        self.documents = {document["file"]: document for document in documents}
        self.asked: list[str] = []
        self.is_silent = False

    def chunk_map(self, sha256: str) -> object | None:
        self.asked.append(sha256)
        if self.is_silent:
            raise Retryable("download-failed", "the centre does not answer")
        return self.documents.get(sha256)


BIG = [DICE.randbytes(600_000), DICE.randbytes(700_000)]


def test_a_map_is_asked_for_once_and_kept(tmp_path: Path) -> None:
    source = Maps(map_of(BIG))
    maps = ChunkMaps(source, FakeClock())
    file = file_of(BIG)
    chunks = maps.of(file, tmp_path)
    assert [chunk.length for chunk in chunks] == [600_000, 700_000]
    assert maps.of(file, tmp_path) == chunks == read_map(tmp_path, file)
    assert source.asked == [file.sha256]


@pytest.mark.parametrize(
    "document",
    [{}, [], map_of(BIG) | {"size": 1}, map_of(BIG) | {"chunks": [{"length": -1}]}],
)
def test_a_map_that_does_not_add_up_is_as_good_as_none(tmp_path: Path, document: Any) -> None:
    file, source = file_of(BIG), Maps()
    source.documents[file.sha256] = document
    assert ChunkMaps(source, FakeClock()).of(file, tmp_path) == ()
    assert list(tmp_path.iterdir()) == []


def test_of_a_map_only_what_this_agent_reads_is_kept(tmp_path: Path) -> None:
    file, source = file_of(BIG), Maps()
    entry = {"base": None, "codec": "zstd", "blob": "1" * 64, "size": 10}
    document = map_of(BIG, {0: [entry | {"x": "y" * 999}, {"codec": "brotli", "x": "y" * 999}]})
    source.documents[file.sha256] = document | {"filler": "x" * 1_000_000}
    chunks = ChunkMaps(source, FakeClock()).of(file, tmp_path)
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_bytes()) == map_of(BIG, {0: [entry]})
    assert read_map(tmp_path, file) == chunks


def test_a_map_that_the_disk_does_not_take_is_used_all_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "a file where the folder would be"
    folder.write_bytes(b"")
    chunks = ChunkMaps(Maps(map_of(BIG)), FakeClock()).of(file_of(BIG), folder)
    assert [chunk.length for chunk in chunks] == [600_000, 700_000]


def test_a_map_is_used_and_not_kept_where_it_would_cost_the_reserve(tmp_path: Path) -> None:
    asked: list[int] = []

    def has_room(size: int) -> bool:
        asked.append(size)
        return False

    maps = ChunkMaps(Maps(map_of(BIG)), FakeClock(), has_room)
    assert len(maps.of(file_of(BIG), tmp_path / "maps")) == len(BIG)
    assert not (tmp_path / "maps").exists()
    assert len(asked) == 1
    assert asked[0] > 2 * 64 * len(BIG)


def test_a_map_that_is_not_there_yet_is_asked_for_again_a_minute_later(tmp_path: Path) -> None:
    clock, source, file = FakeClock(), Maps(), file_of(BIG)
    maps = ChunkMaps(source, clock)
    assert maps.of(file, tmp_path) == maps.of(file, tmp_path) == ()
    assert len(source.asked) == 1
    clock.now += 61.0
    source.documents[file.sha256] = map_of(BIG)
    assert len(maps.of(file, tmp_path)) == 2


def test_patches_that_are_made_later_are_asked_for(tmp_path: Path) -> None:
    clock, source, file = FakeClock(), Maps(map_of(BIG)), file_of(BIG)
    maps = ChunkMaps(source, clock)
    assert not any(chunk.patches for chunk in maps.of(file, tmp_path))
    entry = {"base": None, "codec": "zstd", "blob": "1" * 64, "size": 10}
    source.documents[file.sha256] = map_of(BIG, {0: [entry]})
    assert not any(chunk.patches for chunk in maps.of(file, tmp_path))
    clock.now += 61.0
    assert maps.of(file, tmp_path)[0].patches
    clock.now += 61.0
    assert maps.of(file, tmp_path)[0].patches
    assert len(source.asked) == 2


def test_the_first_silence_ends_the_asking_for_a_minute(tmp_path: Path) -> None:
    clock, source = FakeClock(), Maps()
    maps = ChunkMaps(source, clock)
    files = [file_of([*BIG, bytes([number])]) for number in range(4)]
    source.is_silent = True
    for _ in range(3):
        maps.complete(files, tmp_path, lambda: False)
        assert maps.of(files[3], tmp_path) == ()
    assert source.asked == [files[0].sha256]
    source.is_silent = False
    clock.now += 61.0
    maps.complete(files, tmp_path, lambda: False)
    assert source.asked[1:] == [file.sha256 for file in files]


def test_asking_for_maps_makes_way_between_two_files(tmp_path: Path) -> None:
    source = Maps()
    files = [file_of([*BIG, bytes([number])]) for number in range(4)]
    with pytest.raises(Paused):
        ChunkMaps(source, FakeClock()).complete(files, tmp_path, lambda: len(source.asked) == 2)
    assert len(source.asked) == 2


def test_no_map_is_asked_for_while_the_window_is_closed(tmp_path: Path) -> None:
    maps, hour = Maps(), 12
    world = World(tmp_path)
    world.fetching = Fetching(
        maps=maps,
        windows=parse_windows([{"from": "12:00", "to": "13:30"}]),
        wall_clock=lambda: datetime(2026, 11, 23, hour, tzinfo=UTC),
    )
    world.start()
    world.publish(make_version("1", extra={"big": b"".join(BIG)}), lease_required=True)
    world.converge()
    assert maps.asked
    asked, hour = len(maps.asked), 9
    newer = make_version("2", extra={"big": b"".join(reversed(BIG))})
    world.publish(newer, previous="1", lease_required=True)
    for _ in range(5):
        world.cycles(5)
        world.clock.now += 61.0
    report = world.report()
    assert report is not None
    assert report.reason_code == "window-closed"
    assert len(maps.asked) == asked


def test_no_map_is_asked_for_of_a_small_file(tmp_path: Path) -> None:
    source = Maps()
    assert ChunkMaps(source, FakeClock()).of(file_of(NEW), tmp_path) == ()
    assert source.asked == []


def test_the_next_version_fetches_only_the_tensors_that_changed(tmp_path: Path) -> None:
    """Through the whole agent: the map is kept with the installed version and used by the next."""
    world = World(tmp_path)
    newer = [BIG[0], DICE.randbytes(500_000)]
    world.fetching = Fetching(maps=Maps(map_of(BIG), map_of(newer)))
    world.start()
    world.publish(make_version("1", extra={"weights.safetensors": b"".join(BIG)}))
    world.converge()
    (kept,) = (tmp_path / "state/versions/echo/1/chunks").iterdir()
    assert json.loads(kept.read_bytes()) == map_of(BIG)
    before = len(world.blobs.opened)
    world.publish(make_version("2", extra={"weights.safetensors": b"".join(newer)}), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")
    assert (sha(b"".join(newer)), 600_000) in world.blobs.opened[before:]
    assert (sha(b"".join(newer)), 0) not in world.blobs.opened[before:]


def test_a_version_that_came_before_its_map_gets_it_when_the_next_one_is_wished_for(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    newer = [BIG[0], bytes((byte + 1) % 256 for byte in BIG[1])]
    patch = difference(newer[1], BIG[1])
    entry = {"base": sha(BIG[1]), "codec": "planes-zstd", "blob": sha(patch), "size": len(patch)}
    maps = Maps()
    world.fetching = Fetching(maps=maps)
    world.start()
    world.publish(make_version("1", extra={"weights.safetensors": b"".join(BIG)}))
    world.converge()
    assert not (tmp_path / "state/versions/echo/1/chunks").exists()
    for document in (map_of(BIG), map_of(newer, {1: [entry]})):
        maps.documents[document["file"]] = document
    world.clock.now += 61.0
    world.blobs.data[sha(patch)] = patch
    before = len(world.blobs.opened)
    world.publish(make_version("2", extra={"weights.safetensors": b"".join(newer)}), previous="1")
    report = world.converge()
    assert report is not None
    assert (report.phase, report.serving) == ("succeeded", "2")
    opened = [sha256 for sha256, _ in world.blobs.opened[before:]]
    assert sha(patch) in opened
    assert sha(b"".join(newer)) not in opened


# Over HTTP


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (200, {"schema": "waypost.chunks/1"}, {"schema": "waypost.chunks/1"}),
        (*problem(404, "chunks-unknown"), None),
    ],
)
def test_the_centre_is_asked_for_a_map_by_its_digest(
    centre: FakeCentre, status: int, answer: Any, expected: Any
) -> None:
    centre.session = "wps_test"
    centre.sabotage["blobs"] = lambda handler: handler.send_json(status, answer) is None
    line = Centre(centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=2.0)
    blobs = Blobs(line, token=lambda: "wps_test", reject_token=lambda token: None)
    assert blobs.chunk_map("0" * 64) == expected
    assert centre.requests[-1][1] == f"blobs/{'0' * 64}/chunks"
    line.close()


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_a_centre_that_refuses_to_speak_is_told_from_one_without_a_map(
    centre: FakeCentre, status: int
) -> None:
    centre.session = "wps_test"
    answer = problem(status, "no")[1]
    centre.sabotage["blobs"] = lambda handler: handler.send_json(status, answer) is None
    line = Centre(centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=2.0)
    rejected: list[str] = []
    blobs = Blobs(line, token=lambda: "wps_test", reject_token=rejected.append)
    with pytest.raises(Retryable):
        blobs.chunk_map("0" * 64)
    assert rejected == (["wps_test"] if status == 401 else [])
    line.close()


def test_a_map_over_the_bound_is_no_map_and_not_read_to_its_end(
    centre: FakeCentre, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("waypost_agent.chunk_map.MAX_DOCUMENT_BYTES", 1000)
    centre.session = "wps_test"
    answer = {"filler": "x" * 1000}
    centre.sabotage["blobs"] = lambda handler: handler.send_json(200, answer) is None
    line = Centre(centre.url, ca_file=None, connect_timeout_seconds=2.0, read_timeout_seconds=2.0)
    blobs = Blobs(line, token=lambda: "wps_test", reject_token=lambda token: None)
    assert blobs.chunk_map("0" * 64) is None
    answer["filler"] = "x"
    assert blobs.chunk_map("0" * 64) == answer
    line.close()


def test_without_a_session_or_an_answer_nobody_can_be_asked_for_a_map() -> None:
    line = Centre(
        "http://127.0.0.1:9", ca_file=None, connect_timeout_seconds=1.0, read_timeout_seconds=1.0
    )
    for token in (None, "wps_test"):
        blobs = Blobs(line, token=lambda token=token: token, reject_token=lambda token: None)  # type: ignore[misc]
        with pytest.raises(Retryable):
            blobs.chunk_map("0" * 64)
