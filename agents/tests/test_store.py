"""The folders on disk: what counts as installed, and that each change is whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from versions import MODEL, Version, make_version
from waypost_agent.errors import ConfigError, Retryable
from waypost_agent.manifest import Manifest, parse_manifest
from waypost_agent.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "repository").mkdir()
    store = Store(root=tmp_path / "state", repository=tmp_path / "repository", reserve_bytes=0)
    store.prepare()
    return store


def manifest_of(version: Version) -> Manifest:
    return parse_manifest(version.manifest, version.digest)


def stage(store: Store, version: Version) -> Manifest:
    manifest = manifest_of(version)
    store.prepare_staging(MODEL, version.number, manifest)
    for file in manifest.files:
        path = store.staged_path(MODEL, version.number, manifest, file)
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
        reserve_bytes=10,
        free_bytes=lambda _: free,
    )
    store.prepare()
    manifest = stage(store, NESTED)
    free = 10
    store.require_space(MODEL, "1", manifest)
    big = store.staged_path(MODEL, "1", manifest, manifest.files[0])
    big.unlink()
    with pytest.raises(Retryable) as caught:
        store.require_space(MODEL, "1", manifest)
    assert caught.value.code == "disk-full"


def test_a_repository_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    store = Store(root=tmp_path / "state", repository=tmp_path / "none", reserve_bytes=0)
    with pytest.raises(ConfigError, match=r"triton\.repository"):
        store.prepare()


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="needs a second file system")
def test_a_repository_on_another_file_system_is_a_clear_error(tmp_path: Path) -> None:
    other = Path("/dev/shm") / f"waypost-{os.getpid()}"
    other.mkdir()
    try:
        if other.stat().st_dev == tmp_path.stat().st_dev:
            pytest.skip("the same file system")
        store = Store(root=tmp_path / "state", repository=other, reserve_bytes=0)
        with pytest.raises(ConfigError, match="one file system"):
            store.prepare()
    finally:
        other.rmdir()
