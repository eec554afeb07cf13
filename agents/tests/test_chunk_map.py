"""A chunk map is used when it adds up and refused whole when not; the cheapest way is chosen."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_agent.chunk_map import MAX_CHUNKS, Chunk, Patch, cheapest, parse
from waypost_agent.manifest import ManifestFile

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"
A, B, C = "a" * 64, "b" * 64, "c" * 64


def example() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((EXAMPLES / "chunks-answer.json").read_text())
    return document


def file_of(document: dict[str, Any]) -> ManifestFile:
    return ManifestFile(path="model", size=document["size"], sha256=document["file"])


def one_chunk(**changes: Any) -> dict[str, Any]:
    chunk = {"length": 100, "sha256": A, "patches": [], **changes}
    other = {"length": 1, "sha256": B, "patches": []}
    size = (chunk["length"] if isinstance(chunk["length"], int) else 100) + 1
    return {"schema": "waypost.chunks/1", "file": C, "size": size, "chunks": [chunk, other]}


def patch(**changes: Any) -> dict[str, Any]:
    return {"base": B, "codec": "planes-zstd", "blob": C, "size": 40, **changes}


def test_the_documented_map_is_read() -> None:
    document = example()
    chunks = parse(document, file_of(document))
    assert [chunk.offset for chunk in chunks] == [0, 1024, 8389632]
    assert sum(chunk.length for chunk in chunks) == document["size"]
    assert [(p.codec, p.base is None, p.size) for p in chunks[1].patches] == [
        ("planes-zstd", False, 1290240),
        ("zstd", True, 6543210),
    ]


def test_an_empty_file_has_no_chunks() -> None:
    document = {"schema": "waypost.chunks/1", "file": A, "size": 0, "chunks": []}
    assert parse(document, file_of(document)) == ()


def test_unknown_keys_are_passed_over_and_patches_may_be_absent() -> None:
    document = one_chunk(dtype="BF16")
    document["made_at"] = 7
    del document["chunks"][0]["patches"]
    assert [chunk.patches for chunk in parse(document, file_of(document))] == [(), ()]


def test_a_patch_of_an_unknown_codec_is_passed_over_whatever_it_says() -> None:
    document = one_chunk(patches=[{"codec": "brotli", "base": 7}, patch()])
    (first, _) = parse(document, file_of(document))
    assert first.patches == (Patch(base=B, codec="planes-zstd", blob=C, size=40),)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda d: d.update(schema="waypost.chunks/2"), "its schema is 'waypost.chunks/2'"),
        (lambda d: d.pop("schema"), "its schema is None"),
        (lambda d: d.update(file=A), "not the map of"),
        (lambda d: d.update(size=d["size"] + 1), "not the map of"),
        (lambda d: d.update(chunks={}), "not a list"),
        (lambda d: d.update(chunks=[{}] * (MAX_CHUNKS + 1)), "not a list of at most"),
        (lambda d: d["chunks"].append(dict(d["chunks"][0])), "the file has"),
        (lambda d: d["chunks"].pop(), "the file has"),
        (lambda d: d.update(chunks=[]), "together, the file has"),
        (lambda d: d["chunks"].__setitem__(0, 7), "chunk 0 is not an object"),
    ],
)
def test_a_map_that_does_not_add_up_is_refused(
    change: Callable[[dict[str, Any]], object], fault: str
) -> None:
    document = one_chunk()
    file = file_of(document)
    change(document)
    with pytest.raises(ValueError, match=fault):
        parse(document, file)


@pytest.mark.parametrize("document", [None, [], "x", 7])
def test_what_is_no_object_is_refused(document: object) -> None:
    with pytest.raises(ValueError, match="not a JSON object"):
        parse(document, ManifestFile(path="model", size=1, sha256=A))


def test_the_one_chunk_of_a_file_has_the_digest_of_the_file() -> None:
    document = one_chunk()
    document["chunks"].pop()
    document["size"] = 100
    with pytest.raises(ValueError, match="another sha256 than the file"):
        parse(document, file_of(document))
    document["file"] = A
    assert len(parse(document, file_of(document))) == 1


@pytest.mark.parametrize(
    "entry",
    [
        {"length": 0},
        {"length": -1},
        {"length": True},
        {"length": 1.5},
        {"length": "100"},
        {"length": None},
        {"length": (16 << 20) + 1},
        {"sha256": None},
        {"sha256": "A" * 64},
        {"sha256": "a" * 63},
        {"patches": {}},
        {"patches": None},
        {"patches": ["zstd"]},
        {"patches": [patch()] * 9},
        {"patches": [patch(codec=None)]},
        {"patches": [patch(base=None)]},
        {"patches": [patch(codec="zstd")]},
        {"patches": [patch(base="")]},
        {"patches": [patch(base="../../etc/passwd")]},
        {"patches": [patch(blob=None)]},
        {"patches": [patch(blob="c" * 65)]},
        {"patches": [patch(size=0)]},
        {"patches": [patch(size=101)]},
        {"patches": [patch(size=10**30)]},
        {"patches": [patch(size=float("nan"))]},
    ],
    ids=str,
)
def test_a_chunk_with_a_wrong_field_refuses_the_map(entry: dict[str, Any]) -> None:
    document = one_chunk(**entry)
    with pytest.raises(ValueError, match=r"chunk 0"):
        parse(document, file_of(document))


@given(st.data())
def test_whatever_one_value_becomes_the_map_is_refused_or_adds_up(data: st.DataObject) -> None:
    document = example()
    file = file_of(document)
    bent = copy.deepcopy(document)
    holder: Any = bent
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(holder[key], dict | list) and holder[key] and data.draw(st.booleans()):
            holder = holder[key]
            continue
        break
    holder[key] = data.draw(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70)
        | st.just([]) | st.just({}) | st.just([None])
    )  # fmt: skip
    try:
        chunks = parse(bent, file)
    except ValueError:
        return
    assert sum(chunk.length for chunk in chunks) == file.size
    assert all(0 < p.size <= chunk.length for chunk in chunks for p in chunk.patches)


def made(*patches: Patch) -> Chunk:
    return Chunk(offset=0, length=100, sha256=C, patches=patches)


NEAR = Patch(base=A, codec="planes-zstd", blob=C, size=20)
FAR = Patch(base=B, codec="planes-zstd", blob=C, size=40)
ALONE = Patch(base=None, codec="zstd", blob=C, size=80)


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        ({A, B}, NEAR),
        ({B}, FAR),
        (set(), ALONE),
    ],
)
def test_the_smallest_patch_with_a_held_base_is_chosen(held: set[str], expected: Patch) -> None:
    assert cheapest(made(FAR, ALONE, NEAR), held.__contains__) == expected


def test_a_chunk_without_a_smaller_patch_is_fetched_as_it_is() -> None:
    useless = Patch(base=None, codec="zstd", blob=C, size=100)
    assert cheapest(made(useless, NEAR), lambda base: False) is None
    assert cheapest(made(), lambda base: True) is None
