"""The folders on disk: what counts as installed, and that each change is whole."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from versions import MODEL, Version, make_version
from waypost_agent.config import Config, ServerConfig, TritonConfig
from waypost_agent.errors import ConfigError, Retryable
from waypost_agent.limits import Limits
from waypost_agent.manifest import Manifest, parse_manifest
from waypost_agent.quarantine import MAX_ENTRIES, Quarantine
from waypost_agent.server import make_store
from waypost_agent.store import Store

NO_RESERVE = Limits(reserve_bytes=0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "repository").mkdir()
    store = Store(root=tmp_path / "state", repository=tmp_path / "repository", limits=NO_RESERVE)
    store.prepare()
    return store


def manifest_of(version: Version) -> Manifest:
    return parse_manifest(version.manifest, version.digest)


def stage(store: Store, version: Version) -> Manifest:
    manifest = manifest_of(version)
    store.staging.begin(MODEL, version.number, manifest)
    for file in manifest.files:
        path = store.staging.staged_path(MODEL, version.number, manifest, file)
        path.write_bytes(version.files[file.path])
    return manifest


def install(store: Store, version: Version) -> Manifest:
    manifest = stage(store, version)
    store.record(MODEL, version.number, manifest)
    store.install(MODEL, version.number, manifest)
    return manifest


NESTED = make_version("1", extra={"weights/deep/a.bin": b"abc", "weights/b.bin": b""})


def test_an_installed_version_has_its_payload_and_nothing_else(store: Store) -> None:
    install(store, NESTED)
    folder = store.version_folder(MODEL, "1")
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {"model.py", "weights/deep/a.bin", "weights/b.bin"}
    assert store.installed(MODEL) == {"1": NESTED.digest}
    assert store.leftovers(MODEL) == frozenset()


def test_files_are_read_only_and_not_linked_to_any_other_place(store: Store) -> None:
    install(store, NESTED)
    folder = store.version_folder(MODEL, "1")
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        assert status.st_mode & 0o222 == 0, path
        assert not path.is_symlink()
        if path.is_file():
            assert status.st_nlink == 1


def test_nothing_but_models_is_ever_put_into_the_repository(store: Store) -> None:
    manifest = install(store, NESTED)
    store.write_candidate(MODEL, "1", 'name: "echo--candidate"')
    store.write_config(MODEL, 'name: "echo"')
    assert {entry.name for entry in store.repository.iterdir()} == {MODEL, f"{MODEL}--candidate"}
    assert {entry.name for entry in (store.repository / MODEL).iterdir()} == {"1", "config.pbtxt"}
    assert os.readlink(store.candidate_folder(MODEL) / "1") == "../echo/1"
    assert store.find_damage(MODEL, "1", manifest) is None


@pytest.mark.parametrize(
    "damage",
    ["missing", "longer", "extra", "symlink", "fifo", "folder", "manifest gone", "config gone"],
)
def test_a_version_that_is_not_whole_is_not_installed(
    store: Store, tmp_path: Path, damage: str
) -> None:
    install(store, NESTED)
    folder = store.version_folder(MODEL, "1")
    file = folder / "model.py"
    folder.chmod(0o755)
    record = tmp_path / "state/versions" / MODEL / "1"
    if damage in ("missing", "symlink", "fifo", "folder"):
        size = file.stat().st_size
        file.unlink()
        if damage == "symlink":
            (tmp_path / "elsewhere").write_bytes(bytes(size))
            file.symlink_to(tmp_path / "elsewhere")
        elif damage == "fifo":
            os.mkfifo(file)
        elif damage == "folder":
            file.mkdir()
    elif damage == "longer":
        file.chmod(0o644)
        file.write_bytes(file.read_bytes() + b"\n")
    elif damage == "extra":
        (folder / "more.py").write_text("")
    else:
        (record / ("manifest.json" if damage == "manifest gone" else "config.pbtxt")).unlink()
    assert store.installed(MODEL) == {}
    assert store.recorded(MODEL) == {"1"}


def test_changed_bytes_of_the_same_length_are_found_by_hashing(store: Store) -> None:
    manifest = install(store, NESTED)
    file = store.version_folder(MODEL, "1") / "weights/deep/a.bin"
    file.chmod(0o644)
    file.write_bytes(b"abd")
    assert store.installed(MODEL) == {"1": NESTED.digest}
    assert "weights/deep/a.bin" in (store.find_damage(MODEL, "1", manifest) or "")


def test_a_damaged_record_makes_the_version_count_as_not_installed(
    store: Store, tmp_path: Path
) -> None:
    install(store, NESTED)
    golden = tmp_path / "state/versions" / MODEL / "1" / "golden.json"
    golden.write_bytes(golden.read_bytes().replace(b"1.0", b"9.0"))
    with pytest.raises(Retryable, match=r"golden\.json"):
        store.read_record(MODEL, "1", "golden.json")
    assert store.installed(MODEL) == {}


def test_installing_over_something_sets_it_aside(store: Store, tmp_path: Path) -> None:
    strange = store.version_folder(MODEL, "1")
    strange.mkdir(parents=True)
    (strange / "theirs.txt").write_text("kept")
    install(store, NESTED)
    assert (tmp_path / "state/quarantine/echo/1/theirs.txt").read_text() == "kept"
    assert store.installed(MODEL) == {"1": NESTED.digest}


def test_removing_a_version_removes_sealed_folders(store: Store) -> None:
    install(store, NESTED)
    store.remove_version(MODEL, "1")
    assert store.recorded(MODEL) == frozenset()
    assert not store.version_folder(MODEL, "1").exists()


def test_space_is_counted_without_what_is_already_here(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    free = 0
    store = Store(
        root=tmp_path / "state",
        repository=tmp_path / "repository",
        limits=Limits(reserve_bytes=10),
        free_bytes=lambda _: free,
    )
    store.prepare()
    manifest = stage(store, NESTED)
    free = 10
    store.require_space(MODEL, "1", manifest)
    big = store.staging.staged_path(MODEL, "1", manifest, manifest.files[0])
    big.unlink()
    with pytest.raises(Retryable) as caught:
        store.require_space(MODEL, "1", manifest)
    assert caught.value.code == "disk-full"


def test_chunk_maps_count_once_more_as_they_go_with_the_version(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    free = 110
    store = Store(
        root=tmp_path / "state",
        repository=tmp_path / "repository",
        limits=Limits(reserve_bytes=10),
        free_bytes=lambda _: free,
    )
    store.prepare()
    manifest = stage(store, NESTED)
    assert store.has_room(100)
    assert not store.has_room(101)
    maps = store.staging.maps(MODEL, "1", manifest)
    maps.mkdir(parents=True)
    (maps / "one.json").write_bytes(b"x" * 100)
    store.require_space(MODEL, "1", manifest)
    free = 109
    with pytest.raises(Retryable, match="needs 100 bytes and a reserve of 10"):
        store.require_space(MODEL, "1", manifest)


def test_a_repository_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    store = Store(root=tmp_path / "state", repository=tmp_path / "none", limits=NO_RESERVE)
    with pytest.raises(ConfigError, match=r"triton\.repository"):
        store.prepare()


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a second file system")
def test_a_repository_on_another_file_system_is_a_clear_error(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"waypost-{os.getpid()}"
    other.mkdir()
    try:
        if other.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("the same file system")
        store = Store(root=tmp_path / "state", repository=other, limits=NO_RESERVE)
        with pytest.raises(ConfigError, match="one file system"):
            store.prepare()
    finally:
        other.rmdir()


def test_a_damaged_version_is_set_aside_with_the_reason_and_counted_in_a_row(
    store: Store, tmp_path: Path
) -> None:
    for times in (1, 2):
        install(store, NESTED)
        assert store.quarantine(MODEL, "1", "model.py rotted") == times
        assert not store.version_folder(MODEL, "1").exists()
        note = json.loads((tmp_path / "state/quarantine/echo/1.reason.json").read_bytes())
        assert note == {"reason": "model.py rotted", "times": times}
    install(store, NESTED)
    store.note_sound(MODEL, "1")
    assert store.quarantine(MODEL, "1", "again") == 1


def test_what_is_set_aside_stays_within_its_bounds_the_newest_first(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path / "quarantine", limit_bytes=250)
    quarantine.prepare()
    for number in range(1, MAX_ENTRIES + 3):
        file = tmp_path / "file"
        file.write_bytes(bytes(100))
        quarantine.take(file, "echo", str(number), "rotten")
        note = tmp_path / f"quarantine/echo/{number}.reason.json"
        os.utime(note, ns=(number, number))
    quarantine.trim()
    names = {path.name for path in (tmp_path / "quarantine/echo").iterdir()}
    files = {name for name in names if not name.endswith(".json")}
    assert files == {str(MAX_ENTRIES + 1), str(MAX_ENTRIES + 2)}
    assert len(names - files) == MAX_ENTRIES


def test_a_count_that_cannot_be_read_starts_anew(tmp_path: Path) -> None:
    quarantine = Quarantine(tmp_path, limit_bytes=0)
    (tmp_path / "echo").mkdir()
    for text in ("", "[]", '{"times": "many"}', "{"):
        (tmp_path / "echo/1.reason.json").write_text(text)
        (tmp_path / "file").write_bytes(b"")
        assert quarantine.take(tmp_path / "file", "echo", "1", "rotten") == 1


def test_what_rotted_stays_noted_until_the_version_is_sound_or_installed_anew(
    store: Store,
) -> None:
    manifest = install(store, NESTED)
    store.note_damage(MODEL, "1", "model.py rotted")
    assert store.damaged(MODEL) == {"1": "model.py rotted"}
    assert store.unmended(MODEL) == {"1"}
    stage(store, NESTED)
    assert store.unmended(MODEL) == frozenset()
    # The sound copy is no leftover, whatever else is.
    stage(store, make_version("2"))
    assert len(store.leftovers(MODEL)) == 1
    store.remove_leftovers(MODEL)
    assert store.leftovers(MODEL) == frozenset()
    assert store.staging.is_whole(MODEL, "1", manifest)
    store.install(MODEL, "1", manifest)
    assert store.damaged(MODEL) == {}
    store.note_damage(MODEL, "1", "again")
    store.note_sound(MODEL, "1")
    assert store.damaged(MODEL) == {}


def test_everything_on_this_disk_is_offered_whatever_version_or_model_it_is_of(
    store: Store,
) -> None:
    big = {"weights.bin": b"the same in all"}
    install(store, make_version("1", extra=big))
    other = make_version("2", extra=big)
    stage(store, other)
    third = manifest_of(make_version("3", extra=big))
    (wanted,) = (file for file in third.files if file.path == "weights.bin")
    held = store.held(third)
    places = set()
    while (path := held.take_file(wanted)) is not None:
        places.add(path.parent.name)
    assert places == {"1", "payload"}
    store.quarantine(MODEL, "1", "model.py rotted")
    assert store.held(third).take_file(wanted) is not None


def test_the_reserve_is_a_tenth_of_the_disk_and_at_least_two_gib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repository").mkdir()
    free = 0
    store = Store(
        root=tmp_path / "state", repository=tmp_path / "repository", free_bytes=lambda _: free
    )
    store.prepare()
    manifest = stage(store, NESTED)
    for blocks, reserve in ((1 << 20, 2 << 30), (100 << 20, 10 * 4096 << 20)):
        disk = SimpleNamespace(f_blocks=blocks, f_frsize=4096)
        monkeypatch.setattr(os, "statvfs", lambda _, disk=disk: disk)
        free = reserve
        store.require_space(MODEL, "1", manifest)
        free = reserve - 1
        with pytest.raises(Retryable, match=f"a reserve of {reserve}, the disk has {free} free"):
            store.require_space(MODEL, "1", manifest)


def test_the_agents_store_keeps_to_the_limits_of_its_configuration(tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    server = ServerConfig(
        state_dir=tmp_path / "state", triton=TritonConfig(repository=tmp_path / "repository")
    )
    config = Config(
        state_dir=tmp_path / "state",
        servers=(server,),
        limits=Limits(keep_versions=4, reserve_bytes=1 << 60),
    )
    store = make_store(config, server)
    store.prepare()
    assert store.keep_versions == 4
    with pytest.raises(Retryable, match=f"a reserve of {1 << 60}"):
        store.require_space(MODEL, "1", stage(store, NESTED))


def test_before_a_disk_counts_as_full_what_nobody_needs_is_given_up(
    store: Store, tmp_path: Path
) -> None:
    install(store, NESTED)
    store.quarantine(MODEL, "1", "rotten")
    install(store, NESTED)
    store.note_damage(MODEL, "1", "rotten")
    mended = stage(store, NESTED)
    stage(store, make_version("2"))
    wanted = stage(store, make_version("3"))
    short = Store(
        root=tmp_path / "state",
        repository=store.repository,
        limits=Limits(reserve_bytes=1 << 30),
        free_bytes=lambda _: 0,
    )
    with pytest.raises(Retryable):
        short.require_space(MODEL, "3", wanted)
    assert short.staging.is_whole(MODEL, "3", wanted)
    assert short.staging.is_whole(MODEL, "1", mended)
    assert len(short.staging.names(MODEL)) == 2
    assert not (tmp_path / "state/quarantine/echo/1").exists()
    assert store.installed(MODEL) == {"1": NESTED.digest}


def test_a_version_becomes_durable_from_the_inside_out(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes before the name that says they are there, and the manifest last of the record."""
    manifest = stage(store, NESTED)
    order: list[str] = []

    def note(name: str) -> None:
        real = getattr(os, name)

        def call(first: object, *rest: object, **named: object) -> object:
            target = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else first
            order.append(f"{name} {Path(str(rest[0] if name == 'rename' else target)).name}")
            return real(first, *rest, **named)

        monkeypatch.setattr(os, name, call)

    note("fsync")
    note("rename")
    store.record(MODEL, "1", manifest)
    names = ("config.pbtxt", "golden.json", "manifest.json")
    assert [step for step in order if "rename" in step] == [f"rename {name}" for name in names]
    for name in names:
        at = order.index(f"rename {name}")
        assert order[at - 1 : at + 2] == [f"fsync .1.{name}.new", f"rename {name}", "fsync 1"]
    order.clear()
    store.install(MODEL, "1", manifest)
    named, whole = order.index("rename 1"), order.index("fsync payload")
    inside = {"fsync model.py", "fsync a.bin", "fsync b.bin", "fsync deep", "fsync weights"}
    assert inside == set(order[:whole])
    assert whole < named
    assert order[named + 1] == "fsync echo"
