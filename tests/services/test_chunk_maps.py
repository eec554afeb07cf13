"""Chunk maps and patches are made in the background, in turns, and each site may read its own."""

import gzip
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.catalog import chunk_maps, chunk_patches
from controlplane.catalog.chunk_maps import CLAIM, make_chunk_maps
from controlplane.catalog.models import ChunkMap, ChunkMapState, Patch, Version, VersionState
from controlplane.catalog.queries import blob_store, chunk_map_document, patch_store
from controlplane.catalog.services import create_version, finalise_version, store_blob
from controlplane.domain.patches import PLANES_ZSTD, decode_planes
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.queries import site_may_read, site_may_read_patch
from tests.factories import (
    ACTOR,
    approve,
    make_joined_site,
    make_rollout,
    manifest_of,
    version_files,
)
from tests.services.threads import at_once, failures
from tests.unit.model_files import inner, onnx, outer, safetensors

LAYERS = 6
LAYER_BYTES = 512 << 10
FILE = "model.safetensors"


def weights(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    chance = np.random.default_rng(seed)
    return {
        f"layer.{n}": chance.standard_normal(LAYER_BYTES // 2, dtype=np.float32).astype(np.float16)
        for n in range(LAYERS)
    }


def tuned(layers: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """The same weights with those of some layers one per cent up or down."""
    chance = np.random.default_rng(99)
    return {
        name: (layer * chance.uniform(0.99, 1.01, layer.size)).astype(np.float16)
        if name in names
        else layer
        for name, layer in layers.items()
    }


def model_file(layers: Mapping[str, Any], **metadata: str) -> bytes:
    tensors = {name: ("F16", layer.tobytes()) for name, layer in layers.items()}
    return safetensors(tensors, metadata=metadata)


def register(
    files: Mapping[str, bytes], *, label: str, model: str = "vad", now: datetime
) -> Version:
    whole = {**version_files(label), **files}
    version, _ = create_version(
        model_name=model, number=None, manifest=manifest_of(whole), actor=ACTOR, now=now
    )
    for data in whole.values():
        digest = hashlib.sha256(data).hexdigest()
        store_blob(version=version, sha256=digest, stream=io.BytesIO(data), now=now)
    return finalise_version(version=version, actor=ACTOR, now=now)


def work(now: datetime) -> None:
    make_chunk_maps(now=now, keep_going=lambda: True)


def digest_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def map_of(data: bytes) -> dict[str, Any]:
    found = chunk_map_document(digest_of(data))
    assert found is not None
    plain = gzip.decompress(found[0])
    assert hashlib.sha256(plain).hexdigest() == found[1]
    document: dict[str, Any] = json.loads(plain)
    return document


def pieces(data: bytes, document: Mapping[str, Any]) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """Each chunk's bytes and its entry; checks that the map adds up."""
    at = 0
    for entry in document["chunks"]:
        piece = data[at : at + entry["length"]]
        assert digest_of(piece) == entry["sha256"]
        at += entry["length"]
        yield piece, entry
    assert at == len(data) == document["size"]


BEFORE = weights(1)
OLD = model_file(BEFORE)
NEW = model_file(tuned(BEFORE, "layer.2", "layer.4"), made="with another, longer header")


@pytest.fixture
def two_versions(now: datetime) -> tuple[Version, Version]:
    old = register({FILE: OLD}, label="old", now=now)
    return old, register({FILE: NEW}, label="new", now=now + timedelta(minutes=1))


class TestMaps:
    def test_a_registered_file_is_cut_along_its_tensors(self, now: datetime) -> None:
        register({FILE: OLD}, label="old", now=now)
        work(now)
        entries = [entry for _, entry in pieces(OLD, map_of(OLD))]
        assert [entry["length"] for entry in entries[1:]] == [LAYER_BYTES] * LAYERS

    def test_layers_that_did_not_change_are_the_same_chunks_behind_another_header(
        self, two_versions: Any, now: datetime
    ) -> None:
        work(now)
        old, new = (
            [entry["sha256"] for entry in map_of(data)["chunks"][1:]] for data in (OLD, NEW)
        )
        assert [a == b for a, b in zip(old, new, strict=True)] == [
            name not in ("layer.2", "layer.4") for name in BEFORE
        ]

    def test_an_opaque_file_is_cut_by_its_content(self, now: datetime) -> None:
        plan = np.random.default_rng(5).bytes(6 << 20)
        register({"model.plan": plan}, label="plan", now=now)
        work(now)
        entries = [entry for _, entry in pieces(plan, map_of(plan))]
        assert 3 <= len(entries) <= 12

    def test_a_file_whose_header_lies_is_cut_by_its_content(self, now: datetime) -> None:
        broken = (1 << 60).to_bytes(8, "little") + OLD[8:]
        register({FILE: broken}, label="broken", now=now)
        work(now)
        assert sum(1 for _ in pieces(broken, map_of(broken))) >= 2

    def test_onnx_is_cut_along_its_initialisers_also_in_a_file_beside_it(
        self, now: datetime
    ) -> None:
        layers = [layer.tobytes() for layer in weights(3).values()]
        data = b"".join(layers[1:])
        first = b"".join(layers[:3])
        external = [
            outer(f"w{n}", "model.data", data_type=10, offset=n * LAYER_BYTES, length=LAYER_BYTES)
            for n in range(LAYERS - 1)
        ]
        model = onnx([inner("w", first, data_type=10), *external])
        register({"model.onnx": model, "model.data": data}, label="onnx", now=now)
        work(now)
        beside = [entry["length"] for _, entry in pieces(data, map_of(data))]
        assert beside == [LAYER_BYTES] * (LAYERS - 1)
        own = [piece for piece, _ in pieces(model, map_of(model))]
        assert any(piece.startswith(first) for piece in own)

    def test_a_small_file_and_an_upload_that_is_not_registered_have_none(
        self, now: datetime
    ) -> None:
        create_version(
            model_name="vad",
            number=None,
            manifest=manifest_of({**version_files("x"), FILE: OLD}),
            actor=ACTOR,
            now=now,
        )
        register({}, label="small", now=now)
        work(now)
        assert not ChunkMap.objects.exists()

    def test_a_file_of_too_many_chunks_has_none_and_says_why(
        self, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chunk_maps, "MAX_CHUNKS", LAYERS)
        register({FILE: OLD}, label="old", now=now)
        work(now)
        row = ChunkMap.objects.get()
        assert (row.state, row.reason) == (ChunkMapState.NONE, f"it has more than {LAYERS} chunks")
        assert chunk_map_document(digest_of(OLD)) is None

    def test_a_file_that_the_store_has_lost_has_none_and_says_why(self, now: datetime) -> None:
        register({FILE: OLD}, label="old", now=now)
        blob_store().path(digest_of(OLD)).unlink()
        work(now)
        row = ChunkMap.objects.get()
        assert row.state == ChunkMapState.NONE
        assert "lost its bytes" in row.reason

    def test_when_all_is_done_a_turn_costs_a_few_queries(
        self, two_versions: Any, now: datetime
    ) -> None:
        work(now)
        with CaptureQueriesContext(connection) as captured:
            work(now)
        assert len(captured) <= 6


class TestPatches:
    def test_a_changed_layer_can_be_had_as_its_difference_to_the_old_one(
        self, two_versions: Any, now: datetime
    ) -> None:
        work(now)
        old = {entry["sha256"]: piece for piece, entry in pieces(OLD, map_of(OLD))}
        seen = 0
        for piece, entry in pieces(NEW, map_of(NEW)):
            for patch in entry["patches"]:
                encoded = patch_store().path(patch["blob"]).read_bytes()
                assert (digest_of(encoded), len(encoded)) == (patch["blob"], patch["size"])
                if patch["codec"] == PLANES_ZSTD:
                    assert decode_planes(encoded, old[patch["base"]]) == piece
                    assert patch["size"] < 0.45 * entry["length"]
                    seen += 1
        assert seen == 2

    def test_the_two_newest_other_versions_are_the_bases(self, now: datetime) -> None:
        each = [model_file(tuned(BEFORE, *(["layer.1"] if n else [])), n=str(n)) for n in range(2)]
        chance = np.random.default_rng(8)
        for n in range(2, 4):
            layers = tuned(BEFORE, "layer.1")
            layers["layer.1"] = layers["layer.1"] + chance.normal(0, 1e-3, LAYER_BYTES // 2)
            layers["layer.1"] = layers["layer.1"].astype(np.float16)
            each.append(model_file(layers, n=str(n)))
        for n, data in enumerate(each):
            register({FILE: data}, label=str(n), now=now + timedelta(minutes=n))
        work(now)
        layer_1 = [list(pieces(data, map_of(data)))[2][1] for data in each]
        bases = {p["base"] for p in layer_1[3]["patches"] if p["codec"] == PLANES_ZSTD}
        assert bases == {layer_1[2]["sha256"], layer_1[1]["sha256"]}

    def test_another_model_is_no_base(self, now: datetime) -> None:
        register({FILE: OLD}, label="old", now=now)
        register({FILE: NEW}, label="new", model="other", now=now)
        work(now)
        assert not Patch.objects.filter(codec=PLANES_ZSTD).exists()

    def test_a_quarantined_version_is_no_base(self, two_versions: Any, now: datetime) -> None:
        Version.objects.filter(pk=two_versions[0].pk).update(state=VersionState.QUARANTINED)
        work(now)
        assert not Patch.objects.filter(codec=PLANES_ZSTD).exists()

    def test_a_chunk_that_stays_keeps_its_patches_in_the_next_version(
        self, two_versions: Any, now: datetime
    ) -> None:
        work(now)
        third = model_file(tuned(BEFORE, "layer.2", "layer.4"), made="third")
        register({FILE: third}, label="third", now=now + timedelta(minutes=2))
        work(now)
        blobs = [
            [patch["blob"] for entry in map_of(data)["chunks"][1:] for patch in entry["patches"]]
            for data in (NEW, third)
        ]
        assert blobs[0] == blobs[1] != []

    def test_a_file_over_the_limit_gets_a_map_without_patches(
        self, two_versions: Any, now: datetime, settings: Any
    ) -> None:
        settings.WAYPOST_PATCH_MAX_FILE_BYTES = len(OLD) - 1
        work(now)
        assert map_of(NEW)["chunks"]
        assert not Patch.objects.exists()
        assert set(ChunkMap.objects.values_list("state", flat=True)) == {ChunkMapState.READY}

    def test_bytes_that_do_not_shrink_get_none(self, now: datetime) -> None:
        noise = np.random.default_rng(6).bytes(2 << 20)
        register({FILE: safetensors({"w": ("F16", noise)})}, label="noise", now=now)
        work(now)
        assert not Patch.objects.exists()

    def test_a_full_disk_is_left_to_pushes(
        self, two_versions: Any, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(chunk_maps, "RESERVE_BYTES", 1 << 62)
        work(now)
        assert map_of(NEW)["chunks"]
        assert not Patch.objects.exists()
        monkeypatch.undo()
        work(now + CLAIM + timedelta(seconds=1))
        assert Patch.objects.exists()

    def test_the_header_is_too_small_to_be_worth_a_request(
        self, two_versions: Any, now: datetime
    ) -> None:
        work(now)
        header = map_of(NEW)["chunks"][0]
        assert header["length"] < chunk_patches.MIN_CHUNK_BYTES
        assert header["patches"] == []


class Turns:
    """`keep_going` for a number of questions."""

    def __init__(self, questions: int) -> None:
        self.left = questions

    def __call__(self) -> bool:
        self.left -= 1
        return self.left >= 0


class TestTurns:
    def test_a_turn_that_ends_early_is_gone_on_with(self, two_versions: Any, now: datetime) -> None:
        work(now)
        at_once = [map_of(data) for data in (OLD, NEW)]
        ChunkMap.objects.all().delete()
        turns = 0
        while ChunkMap.objects.exclude(state=ChunkMapState.READY).exists() or not turns:
            make_chunk_maps(now=now, keep_going=Turns(4))
            turns += 1
            assert turns < 50
        assert turns > 8
        assert [map_of(data) for data in (OLD, NEW)] == at_once

    def test_a_worker_that_died_leaves_the_file_to_the_next(
        self, two_versions: Any, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def killed(*_: Any) -> None:
            raise SystemExit

        with monkeypatch.context() as patched:
            patched.setattr(chunk_maps, "add_patches", killed)
            with pytest.raises(SystemExit):
                work(now)
        work(now)
        assert ChunkMap.objects.filter(state=ChunkMapState.PATCHING).count() == 1
        work(now + CLAIM + timedelta(seconds=1))
        assert not ChunkMap.objects.exclude(state=ChunkMapState.READY).exists()
        assert Patch.objects.filter(codec=PLANES_ZSTD).exists()

    def test_a_file_that_cannot_be_worked_on_does_not_hold_up_the_others(
        self, two_versions: Any, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real = chunk_maps.find_regions

        def bad_for_new(store: Any, file: Any, siblings: Any) -> Any:
            if file.sha256 == digest_of(NEW):
                raise RuntimeError("a fault of ours")
            return real(store, file, siblings)

        monkeypatch.setattr(chunk_maps, "find_regions", bad_for_new)
        work(now)
        assert map_of(OLD)["chunks"]
        assert chunk_map_document(digest_of(NEW)) is None


@pytest.mark.django_db(transaction=True)
def test_workers_that_look_at_once_never_take_the_same_file(now: datetime) -> None:
    ChunkMap.objects.bulk_create(
        ChunkMap(sha256=f"{n:064x}", size_bytes=1, registered_at=now) for n in range(3)
    )
    for _ in range(20):
        ChunkMap.objects.update(claimed_until=None)
        taken = at_once(lambda _: chunk_maps._claim(now), range(4))
        assert not failures(taken)
        names = [row.sha256 for row in taken if isinstance(row, ChunkMap)]
        assert len(names) == len(set(names)) == 3


class TestRetention:
    def test_a_map_and_its_patches_go_when_no_version_has_the_file(
        self, two_versions: Any, now: datetime
    ) -> None:
        work(now)
        alive = set(Patch.objects.filter(chunk_map=digest_of(OLD)).values_list("sha256", flat=True))
        gone = set(Patch.objects.values_list("sha256", flat=True)) - alive
        assert gone
        two_versions[1].delete()
        work(now)
        assert chunk_map_document(digest_of(NEW)) is None
        assert not any(patch_store().path(digest).exists() for digest in gone)
        assert blob_store().path(digest_of(OLD)).exists()

    def test_a_patch_that_another_map_names_stays(self, two_versions: Any, now: datetime) -> None:
        work(now)
        third = model_file(tuned(BEFORE, "layer.2", "layer.4"), made="third")
        register({FILE: third}, label="third", now=now + timedelta(minutes=2))
        work(now)
        two_versions[1].delete()
        work(now)
        kept = Patch.objects.filter(chunk_map=digest_of(third), codec=PLANES_ZSTD)
        assert kept
        assert all(patch_store().holds(row.sha256, row.size_bytes) for row in kept)


class TestWhoMayRead:
    def test_a_patch_is_for_sites_that_may_read_its_file(
        self, two_versions: Any, now: datetime
    ) -> None:
        work(now)
        mine = make_joined_site("mine", now=now)
        new = approve(two_versions[1], now=now)
        make_rollout(RolloutState.RUNNING, version=new, agents=[mine], now=now)
        other = make_joined_site("other", now=now)
        patch = Patch.objects.filter(codec=PLANES_ZSTD, chunk_map=digest_of(NEW))[0]
        sizes = [
            site_may_read_patch(site_id=agent.site.pk, sha256=patch.sha256)
            for agent in (mine, other)
        ]
        assert sizes == [patch.size_bytes, None]
        assert site_may_read(site_id=mine.site.pk, sha256=patch.sha256) is None

    def test_patches_lie_apart_from_the_artifacts(
        self, two_versions: Any, now: datetime, artifacts: Path
    ) -> None:
        work(now)
        patch = Patch.objects.all()[0]
        assert patch_store().root == artifacts / "patches"
        assert not blob_store().holds(patch.sha256, patch.size_bytes)
