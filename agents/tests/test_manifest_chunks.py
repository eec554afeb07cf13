"""The digests of a file's pieces in a manifest: used when they fit, refused whole when not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from versions import make_version
from waypost_agent.errors import Permanent
from waypost_agent.manifest import CHUNK_BYTES, digest_of, parse_manifest
from waypost_agent.pieces import pieces_of

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol"
A, B = "a" * 64, "b" * 64


def document_with(size: int, chunks: Any, sha256: str = A) -> dict[str, Any]:
    document = make_version("1").manifest
    document["files"].append({"path": "big", "size": size, "sha256": sha256, "chunks": chunks})
    return document


def test_the_golden_manifest_with_pieces_is_read_as_the_page_has_it() -> None:
    golden = json.loads((PROTOCOL / "manifest-chunks.json").read_text())
    manifest = parse_manifest(golden["manifest"], golden["manifest_digest"])
    (big,) = (file for file in manifest.files if file.chunks)
    assert [chunk.length for chunk in pieces_of(big)] == [CHUNK_BYTES, CHUNK_BYTES, 1000]
    assert [chunk.sha256 for chunk in pieces_of(big)] == golden["manifest"]["files"][2]["chunks"]


@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        (0, []),
        (1, [A]),
        (CHUNK_BYTES, [A]),
        (CHUNK_BYTES + 1, [B, A]),
        (2 * CHUNK_BYTES, [B, B]),
        (5 * CHUNK_BYTES, None),
    ],
)
def test_chunks_that_fit_the_size_are_taken(size: int, chunks: list[str] | None) -> None:
    document = document_with(size, chunks)
    manifest = parse_manifest(document, digest_of(document))
    (big,) = (file for file in manifest.files if file.path == "big")
    assert big.chunks == tuple(chunks or ())


@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        (0, [A]),
        (1, []),
        (1, [B]),
        (CHUNK_BYTES + 1, [A]),
        (CHUNK_BYTES, [A, A]),
        (CHUNK_BYTES + 1, [A, "A" * 64]),
        (CHUNK_BYTES + 1, [A, A + "\n"]),
        (CHUNK_BYTES + 1, [A, None]),
        (CHUNK_BYTES + 1, [A, 7]),
        (CHUNK_BYTES + 1, [[A], [A]]),
        (CHUNK_BYTES + 1, A),
        (CHUNK_BYTES + 1, {A: A, B: B}),
        (CHUNK_BYTES + 1, False),
        (1 << 40, [A] * 3),
    ],
    ids=str,
)
def test_chunks_that_do_not_fit_refuse_the_manifest(size: int, chunks: Any) -> None:
    document = document_with(size, chunks)
    with pytest.raises(Permanent, match="big") as caught:
        parse_manifest(document, digest_of(document))
    assert caught.value.code == "manifest-invalid"
