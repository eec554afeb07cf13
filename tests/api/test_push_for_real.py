"""`waypost push` as a process against a real web process, over wires that break: what was taken is
not sent again, no end holds a file in memory, and a stranger costs nothing."""

import hashlib
import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from controlplane.accounts.models import Scope
from controlplane.api.body_limit import PIECE_BYTES
from controlplane.catalog.models import Blob, MultipartUpload, Version, VersionState
from controlplane.catalog.multipart import PART_BYTES
from controlplane.catalog.s3_settings import S3Settings
from controlplane.catalog.store_s3 import S3Store
from controlplane.domain.rollout import RolloutState
from tests.api.centre import (
    Centre,
    Wire,
    forget_peak,
    held_on_disk,
    peak_mib,
    pushing,
    remove,
    running_centre,
)
from tests.factories import (
    approve,
    make_joined_site,
    make_rollout,
    make_token,
    make_version,
    version_files,
)
from tests.s3_server import S3Server, running_s3

pytestmark = pytest.mark.usefixtures("transactional_db")

MIB = 1 << 20
PIECE = 16 * MIB
SMALL = 64 * 1024  # what all else that is said amounts to, at most


@pytest.fixture
def token(now: datetime) -> str:
    return make_token(Scope.PUSH, now=now)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A version's folder whose `weights.bin` has so many bytes, most of them no zeros."""

    def make(size_bytes: int) -> Path:
        folder = tmp_path / "model"
        folder.mkdir()
        for name, data in version_files("for real").items():
            (folder / name).write_bytes(data)
        chance = random.Random(7)
        with (folder / "weights.bin").open("wb") as file:
            for left in range(size_bytes, 0, -MIB):
                file.write(chance.randbytes(min(left, MIB)))
        return folder

    yield make
    remove(tmp_path / "model")


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    with running_centre(tmp_path / "centre") as centre:
        yield centre
    remove(tmp_path / "centre")


def digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class TestDisk:
    def test_cut_anywhere_it_sends_at_most_a_piece_again(
        self, centre: Centre, token: str, folder: Callable[[int], Path]
    ) -> None:
        size = 3 * PIECE + 12_345
        model, chance = folder(size), random.Random(20)
        wire = Wire(centre.address)
        cuts = sorted(chance.randrange(SMALL, size) for _ in range(4))
        wire.cut_at(*cuts, mended=True)
        try:
            with pushing(wire.url, token, model, "--parallel", "1") as push:
                push.wait()
        finally:
            wire.close()

        assert wire.cuts_left == 0, cuts
        assert wire.carried_bytes <= size + len(cuts) * PIECE + SMALL
        assert Version.objects.get().state == VersionState.VALIDATED
        sha256 = digest_of(model / "weights.bin")
        kept = centre.artifacts / sha256[:2] / sha256[2:4] / sha256
        assert digest_of(kept) == sha256

    def test_a_job_that_was_killed_is_gone_on_with_by_the_next(
        self, centre: Centre, token: str, folder: Callable[[int], Path]
    ) -> None:
        size = 3 * PIECE
        model, wire = folder(size), Wire(centre.address)
        wire.cut_at(2 * PIECE + PIECE // 2)
        try:
            with pushing(wire.url, token, model) as push:
                push.kill_when(wire.broken)
            before = wire.carried_bytes
            wire.mend()
            with pushing(wire.url, token, model) as push:
                push.wait()
        finally:
            wire.close()
        assert wire.carried_bytes - before <= PIECE + SMALL
        assert Version.objects.get().state == VersionState.VALIDATED

    def test_neither_end_holds_the_file_in_memory(
        self, centre: Centre, token: str, folder: Callable[[int], Path]
    ) -> None:
        """Of 2 GiB they are about the same: docs/ci.md has the figures."""
        model = folder(256 * MIB)
        before = peak_mib(centre.pid)
        forget_peak(centre.pid)
        with pushing(centre.url, token, model) as push:
            push.wait()
        web = peak_mib(centre.pid)
        print(f"web {web:.0f} MiB (before {before:.0f}), waypost {push.peak_mib:.0f} MiB")
        assert 0 < push.peak_mib < 120
        assert 0 < web < 250
        assert held_on_disk(centre.incoming, centre.pid) == 0

    def test_who_may_not_push_costs_no_disk(self, centre: Centre, now: datetime) -> None:
        """Much of a body is sent, and the end of it never."""
        version = make_version(registered=False, now=now)
        path = f"/api/v1/models/vad/versions/{version.number}/blobs/{'0' * 64}"
        for secret, status in (("wpt_of-nobody", 401), (make_token(Scope.READ, now=now), 403)):
            for length in (PIECE_BYTES, 1 << 40, None):
                head = [
                    f"PUT {path} HTTP/1.1",
                    "Host: localhost",
                    f"Authorization: Bearer {secret}",
                ]
                head += [f"Content-Length: {length}" if length else "Transfer-Encoding: chunked"]
                with socket.create_connection(centre.address, timeout=30) as line:
                    line.sendall("\r\n".join([*head, "", ""]).encode())
                    answer = _answered(line, chunked=length is None)
                    assert held_on_disk(centre.incoming, centre.pid) == 0
                assert answer == (413 if length == 1 << 40 else status)


def _answered(line: socket.socket, *, chunked: bool) -> int:
    """The status; up to 32 MiB are sent before anybody listens for it."""
    data = bytes(MIB)
    if chunked:
        data = b"100000\r\n" + data + b"\r\n"
    try:
        for _ in range(32):
            line.sendall(data)
    except OSError:
        pass  # it was answered and closed already
    answer = b""
    while b"\r\n" not in answer:
        more = line.recv(4096)
        assert more, "closed without an answer"
        answer += more
    return int(answer.split()[1])


@pytest.fixture
def s3_server(tmp_path: Path) -> Iterator[S3Server]:
    (tmp_path / "s3").mkdir()
    with running_s3(tmp_path / "s3") as server:
        yield server
    remove(tmp_path / "s3")


class TestBucket:
    def test_parts_that_arrived_are_not_sent_again_and_agents_read_them(
        self,
        s3_server: S3Server,
        token: str,
        tmp_path: Path,
        folder: Callable[[int], Path],
        now: datetime,
    ) -> None:
        size = 5 * PART_BYTES + 777
        model, direct = folder(size), s3_server.bucket("push")
        where = urlsplit(direct.endpoint)
        wire = Wire((str(where.hostname), int(where.port or 0)))
        s3 = replace(direct, endpoint=wire.url)
        sha256 = digest_of(model / "weights.bin")
        with running_centre(tmp_path / "centre", s3) as centre:
            wire.cut_at(3 * PART_BYTES + PART_BYTES // 2)
            try:
                with pushing(centre.url, token, model, "--parallel", "2") as push:
                    push.kill_when(wire.broken)
                held = _parts_held(direct, sha256)
                assert held >= PART_BYTES
                assert not Blob.objects.filter(sha256=sha256).exists()
                before = wire.carried_bytes
                wire.mend()
                with pushing(centre.url, token, model, "--parallel", "2") as push:
                    push.wait()
            finally:
                wire.close()
            assert wire.carried_bytes - before <= size - held + SMALL
            assert not MultipartUpload.objects.exists()
        with running_centre(tmp_path / "again", direct) as centre:
            _agent_reads(centre, model / "weights.bin", sha256, now)


def _parts_held(s3: S3Settings, sha256: str) -> int:
    """Bytes of the parts that arrived whole, as the bucket itself lists them."""
    row, store = MultipartUpload.objects.get(sha256=sha256), S3Store(s3)
    nonce, _, upload_id = row.upload_id.partition(":")
    return sum(
        part.size_bytes for part in store.parts(store.incoming_key(sha256, nonce), upload_id)
    )


def _agent_reads(centre: Centre, file: Path, sha256: str, now: datetime) -> None:
    version = approve(Version.objects.get(), "bo", "cy", now=now)
    agent = make_joined_site("edge", now=now)
    make_rollout(RolloutState.RUNNING, version=version, agents=[agent], now=now)
    agent.open_session(now=now)
    size, data = file.stat().st_size, file.read_bytes()
    headers = {"Authorization": f"Bearer {agent.secret}", "Waypost-Protocol": "1"}
    with httpx2.Client(base_url=centre.url, headers=headers, trust_env=False) as client:
        path = f"/agent/v1/blobs/{sha256}"
        start = 3 * PART_BYTES - 5
        some = client.get(path, headers={"Range": f"bytes={start}-{start + 9}"})
        assert (some.status_code, some.content) == (206, data[start : start + 10])
        rest = client.get(path, headers={"Range": f"bytes={start}-"})
        assert rest.headers["Content-Range"] == f"bytes {start}-{size - 1}/{size}"
        assert rest.content == data[start:]
        whole = client.get(path)
        assert (whole.status_code, whole.content) == (200, data)
