"""Versions of MLflow whose files lie in a bucket: read from a real S3-compatible server, by the
settings alone."""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from controlplane.catalog.models import ImportedVersion
from controlplane.catalog.registry import (
    Changed,
    Refused,
    RegistrySource,
    RemoteFile,
    RemoteVersion,
    Unavailable,
)
from controlplane.catalog.registry.conversion import Converter
from controlplane.catalog.registry.fetching import BLOCK_BYTES, Fetcher
from controlplane.catalog.registry.linking import import_version, link_model
from controlplane.catalog.registry.s3 import s3_client
from controlplane.catalog.registry.sources import mlflow_source
from controlplane.catalog.registry.turn import look_at_registries
from controlplane.catalog.s3_settings import S3Settings
from tests.factories import version_files
from tests.s3_server import S3Server, running_s3
from tests.unit.registry_server import Asked, RegistryServer, Reply

pytestmark = pytest.mark.django_db
FILES = version_files("from a bucket")
BIG = bytes(range(256)) * 4096 * 3  # three blocks
BIG_FILE = RemoteFile(path="weights.bin", size=len(BIG))


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3-registry")) as server:
        yield server


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """MLflow's, and where in it the version lies."""

    client: Any
    name: str
    prefix: str

    @property
    def address(self) -> str:
        return f"s3://{self.name}/{self.prefix}"

    def lay(self, files: dict[str, bytes], *, below: str = "") -> None:
        for path, data in files.items():
            key = f"{below or self.prefix}/{path}"
            self.client.put_object(Bucket=self.name, Key=key, Body=data)


@pytest.fixture(scope="module")
def storage(s3_server: S3Server) -> tuple[S3Settings, str, Any]:
    """The artifact store, MLflow's bucket beside it, and a client."""
    theirs = s3_server.bucket("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NO_PROXY", "127.0.0.1")
        return s3_server.bucket("artifacts"), theirs.bucket, s3_client(theirs)


@pytest.fixture
def bucket(
    storage: tuple[S3Settings, str, Any],
    settings: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Bucket:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    settings.WAYPOST_S3, name, client = storage
    settings.WAYPOST_MLFLOW_S3_BUCKETS = [name]
    return Bucket(client=client, name=name, prefix=f"{tmp_path.name}/1")


@pytest.fixture
def mlflow(bucket: Bucket, settings: Any, tmp_path: Path) -> Iterator[RegistryServer]:
    """Says that version 1 lies in the bucket, and takes every tag."""

    def answer(asked: Asked) -> Reply:
        if asked.path.endswith("/get-download-uri"):
            return Reply(body=json.dumps({"artifact_uri": bucket.address}).encode())
        version = {"name": "iris", "version": "1", "source": bucket.address, "status": "READY"}
        return Reply(body=json.dumps({"model_version": version}).encode())

    server = RegistryServer(answer)
    settings.WAYPOST_MLFLOW_URL, settings.DATA_DIR = server.url, tmp_path / "data"
    yield server
    server.stop()


@pytest.fixture
def source(mlflow: RegistryServer) -> RegistrySource:
    return mlflow_source()


@pytest.fixture
def remote(source: RegistrySource) -> RemoteVersion:
    return source.resolve("iris", version="1")


@pytest.fixture
def fetch(
    source: RegistrySource, remote: RemoteVersion, tmp_path: Path
) -> Callable[..., tuple[bool, Path]]:
    """One turn, of so many blocks at most; whether the file is whole, and where."""
    fetcher = Fetcher(
        source=source, remote=remote, folder=tmp_path / "fetched", still_mine=lambda: None
    )

    def run(*, blocks: int = 100, file: RemoteFile = BIG_FILE) -> tuple[bool, Path]:
        turns = iter([True] * blocks)
        return fetcher.fetch(file, lambda: next(turns, False)), fetcher.place(file.path)

    return run


def test_a_version_in_a_bucket_comes_in_byte_by_byte(
    bucket: Bucket, mlflow: RegistryServer, now: datetime
) -> None:
    bucket.lay(FILES)
    bucket.lay(below=f"{bucket.prefix}0", files={"model.py": b"the neighbour's"})
    link, _ = link_model(
        model_name="iris", remote_name="iris", aliases={}, stages={}, actor="a", person="ann",
        now=now,
    )  # fmt: skip
    import_version(link=link, version="1", source=mlflow_source(), actor="a", now=now)
    look_at_registries(now=now, keep_going=lambda: True, converting=Converter())
    row = ImportedVersion.objects.get()
    assert (row.state, row.reason) == ("imported", "")
    assert row.source_uri == bucket.address
    assert row.version is not None
    kept = {entry["path"]: entry["sha256"] for entry in row.version.manifest["files"]}
    assert kept == {path: hashlib.sha256(data).hexdigest() for path, data in FILES.items()}


def test_objects_are_listed_below_the_folder_alone_with_their_sizes(
    bucket: Bucket, source: RegistrySource, remote: RemoteVersion
) -> None:
    bucket.lay({"MLmodel": b"x", "data/model.onnx": b"abc"})
    bucket.lay(below=f"{bucket.prefix}0", files={"other": b"no"})
    assert source.files(remote) == [
        RemoteFile(path="MLmodel", size=1),
        RemoteFile(path="data/model.onnx", size=3),
    ]


def test_a_download_goes_on_in_the_next_turn_where_it_was(
    bucket: Bucket, fetch: Callable[..., tuple[bool, Path]]
) -> None:
    bucket.lay({BIG_FILE.path: BIG})
    done, place = fetch(blocks=2)
    assert not done
    assert place.with_name(f"{place.name}.part").stat().st_size == 2 * BLOCK_BYTES
    done, place = fetch()
    assert done
    assert place.read_bytes() == BIG


def test_an_object_that_was_written_anew_between_two_turns_is_read_anew(
    bucket: Bucket, fetch: Callable[..., tuple[bool, Path]]
) -> None:
    bucket.lay({BIG_FILE.path: BIG})
    assert not fetch(blocks=2)[0]
    bucket.lay({BIG_FILE.path: BIG[::-1]})
    done, place = fetch()
    assert done
    assert place.read_bytes() == BIG[::-1]


@pytest.mark.parametrize("size", [len(BIG) - 1, len(BIG) + 1, 0])
def test_an_object_of_another_length_than_was_listed_is_given_up(
    size: int, bucket: Bucket, fetch: Callable[..., tuple[bool, Path]]
) -> None:
    bucket.lay({BIG_FILE.path: (BIG + b"x")[:size]})
    with pytest.raises(Changed, match="as long as it was listed"):
        fetch()


def test_an_object_that_is_gone_is_refused_and_not_asked_for_again_and_again(
    bucket: Bucket, fetch: Callable[..., tuple[bool, Path]]
) -> None:
    bucket.lay({"another": b"x"})
    with pytest.raises(Refused, match=r"The bucket lists weights\.bin and does not have it"):
        fetch()


def test_a_folder_without_objects_is_refused(
    bucket: Bucket, source: RegistrySource, remote: RemoteVersion
) -> None:
    with pytest.raises(Refused, match="no files"):
        source.files(remote)


def test_a_bucket_that_does_not_let_us_in_may_later(
    source: RegistrySource, remote: RemoteVersion, settings: Any
) -> None:
    settings.WAYPOST_S3 = replace(settings.WAYPOST_S3, secret_key="another")
    with pytest.raises(Unavailable, match="cannot be read: SignatureDoesNotMatch"):
        mlflow_source().files(remote)
