"""What may be a version: hostile names, lying sizes, and a digest that never changes."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.errors import InvalidInput
from controlplane.domain.manifest import (
    CHUNK_BYTES,
    MAX_FILE_BYTES,
    MAX_FILES,
    SCHEMA,
    Manifest,
    parse_manifest,
    path_fault,
)

SHA = "0" * 64
REQUIRED = [
    {"path": "config.pbtxt", "size": 10, "sha256": "1" * 64},
    {"path": "golden.json", "size": 20, "sha256": "2" * 64},
]
MODEL = {"path": "model.onnx", "size": 30, "sha256": "3" * 64}
GOLDEN = Path(__file__).parents[2] / "docs" / "protocol" / "manifest.json"


def document(*files: object) -> dict[str, object]:
    return {"schema": SCHEMA, "files": [*REQUIRED, *files]}


def faults(manifest: object) -> list[tuple[str, str]]:
    with pytest.raises(InvalidInput) as caught:
        parse_manifest(manifest)
    assert caught.value.code == "manifest-invalid"
    return [(fault.field, fault.message) for fault in caught.value.errors]


@pytest.mark.parametrize("name", ["manifest.json", "manifest-chunks.json"])
def test_the_digest_of_the_golden_manifest_is_the_published_one(name: str) -> None:
    golden = json.loads(GOLDEN.with_name(name).read_text(encoding="utf-8"))

    manifest = parse_manifest(golden["manifest"])

    assert manifest.digest == golden["manifest_digest"]
    assert manifest.document() == golden["manifest"]


def test_the_digest_is_of_this_canonical_form() -> None:
    files = ",".join(
        f'{{"path":"{path}","sha256":"{str(digit) * 64}","size":{size}}}'
        for path, digit, size in (
            ("config.pbtxt", 1, 10),
            ("golden.json", 2, 20),
            ("model.onnx", 3, 30),
        )
    )
    canonical = f'{{"files":[{files}],"schema":"waypost.manifest/1"}}'.encode()

    digest = parse_manifest(document(MODEL)).digest
    assert digest == f"sha256:{hashlib.sha256(canonical).hexdigest()}"
    assert digest == "sha256:a52b41e397ac3acd7a1d1378e3e05f7142718df8b3e9b9e469d7ff6971e6877f"


def test_the_order_of_files_does_not_matter() -> None:
    one, other = document(MODEL), document(MODEL)
    files = other["files"]
    assert isinstance(files, list)
    files.reverse()

    assert parse_manifest(one) == parse_manifest(other)
    assert parse_manifest(one).size_bytes == 60


@pytest.mark.parametrize("change", [{"size": 31}, {"sha256": "4" * 64}, {"path": "model.plan"}])
def test_any_change_of_a_file_changes_the_digest(change: dict[str, object]) -> None:
    assert parse_manifest(document(MODEL)).digest != parse_manifest(document(MODEL | change)).digest


@pytest.mark.parametrize(
    "path",
    [
        "model.onnx",
        "1/model.py",
        "a/b/c/d",
        "_private",
        "weights-00001-of-00002.safetensors",
        "A.B_C-d",
        "x" * 128,
    ],
)
def test_an_ordinary_path_is_taken(path: str) -> None:
    assert path_fault(path) is None


HOSTILE = {
    "empty": "",
    "the parent folder": "..",
    "through the parent folder": "a/../b",
    "a trailing parent folder": "a/..",
    "this folder": "./model.onnx",
    "absolute": "/etc/passwd",
    "absolute twice": "//etc/passwd",
    "a backslash": "a\\..\\b",
    "a drive": "C:model.onnx",
    "NUL": "model.onnx\0.txt",
    "a newline at the end": "model.onnx\n",
    "a newline inside": "mo\ndel.onnx",
    "dots and a blank, which some trim": ".. /x",
    "a blank at the end": "model.onnx ",
    "percent-encoded dots": "%2e%2e/x",
    "right-to-left override": "model\u202exnno.py",
    "zero-width": "model\u200b.onnx",
    "a fullwidth dot": "\uff0e\uff0e/x",
    "a composed letter": "mod\u00e8le.onnx",
    "a combining letter": "mode\u0300le.onnx",
    "other digits": "model\u0661.onnx",
    "a lone surrogate": "model\ud800.onnx",
    "256 characters": "x" * 256,
    "129 characters": "x" * 129,
    "a dotfile": ".env",
    "a git folder": ".git/config",
    "a nested dotfile": "a/.hidden",
    "an option": "-rf",
    "an empty part": "a//b",
    "a folder": "a/",
    "five parts": "a/b/c/d/e",
    "a tilde": "~/x",
    "a dollar": "$HOME/x",
    "a star": "*.onnx",
    "not text": 7,
    "null": None,
    "a list": ["a"],
}


@pytest.mark.parametrize("path", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_path_is_refused_where_it_stands(path: object) -> None:
    found = faults(document(MODEL, {"path": path, "size": 1, "sha256": SHA}))

    assert [field for field, _ in found] == ["manifest.files[3].path"]
    assert all(len(message) < 400 for _, message in found)


@pytest.mark.parametrize(
    "size", [-1, True, 1.0, float("nan"), "1", None, MAX_FILE_BYTES + 1, 2**63, 10**400, [1]]
)
def test_a_size_that_is_no_number_of_bytes_is_refused(size: object) -> None:
    found = faults(document(MODEL | {"size": size}))
    assert [field for field, _ in found] == ["manifest.files[2].size"]


def test_an_empty_file_is_a_file() -> None:
    assert parse_manifest(document(MODEL, {"path": "empty", "size": 0, "sha256": SHA}))


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "3" * 63,
        "3" * 65,
        "A" * 64,
        "g" * 64,
        "3" * 64 + "\n",
        "sha256:" + "3" * 64,
        None,
        3,
        "\u0663" * 64,
    ],
)
def test_a_digest_of_another_form_is_refused(digest: object) -> None:
    found = faults(document(MODEL | {"sha256": digest}))
    assert [field for field, _ in found] == ["manifest.files[2].sha256"]


BIG = MODEL | {"size": CHUNK_BYTES + 1}


def test_digests_of_pieces_are_kept_and_belong_to_the_digest() -> None:
    pieces = ["4" * 64, "5" * 64]
    manifest = parse_manifest(document(BIG | {"chunks": pieces}))

    assert manifest.files[2].chunks == tuple(pieces)
    assert Manifest.of_document(manifest.document()) == manifest
    assert manifest.document()["files"][2]["chunks"] == pieces  # type: ignore[index]
    assert manifest.digest != parse_manifest(document(BIG)).digest
    assert manifest.digest != parse_manifest(document(BIG | {"chunks": pieces[::-1]})).digest


@pytest.mark.parametrize(
    ("size", "chunks"),
    [
        (CHUNK_BYTES + 1, ["4" * 64]),
        (CHUNK_BYTES + 1, ["4" * 64] * 3),
        (CHUNK_BYTES + 1, ["4" * 64, "x"]),
        (CHUNK_BYTES + 1, ["4" * 64, 5]),
        (CHUNK_BYTES + 1, "4" * 64),
        (CHUNK_BYTES + 1, {"0": "4" * 64}),
        (30, ["4" * 64]),  # the one piece is the file, whose digest is another
        (0, ["3" * 64]),
    ],
)
def test_digests_of_pieces_that_do_not_fit_the_file_are_refused(size: int, chunks: object) -> None:
    found = faults(document(MODEL | {"size": size, "chunks": chunks}))
    assert [field for field, _ in found] == ["manifest.files[2].chunks"]


def test_a_file_that_is_there_twice_is_refused() -> None:
    assert any("twice" in message for _, message in faults(document(MODEL, MODEL)))


def test_names_that_differ_only_in_case_are_refused() -> None:
    (fault,) = faults(document(MODEL, MODEL | {"path": "Model.ONNX"}))
    assert "'Model.ONNX' is there twice; names must differ by more than case" in fault[1]


@pytest.mark.parametrize("inner", ["model.onnx/weights", "MODEL.onnx/weights"])
def test_a_name_that_is_a_file_and_a_folder_is_refused(inner: str) -> None:
    found = faults(document(MODEL, MODEL | {"path": inner}))
    assert any("both a file and a folder" in message for _, message in found)


def test_the_same_bytes_under_two_names_are_allowed() -> None:
    assert len(parse_manifest(document(MODEL, MODEL | {"path": "copy.onnx"})).files) == 4


def test_one_digest_with_two_sizes_is_a_lie_and_refused() -> None:
    found = faults(document(MODEL, MODEL | {"path": "copy.onnx", "size": 31}))
    assert any("two sizes" in message for _, message in found)


def test_2000_files_are_taken_and_2001_are_not() -> None:
    many = [{"path": f"w/{n}", "size": n, "sha256": f"{n:064x}"} for n in range(MAX_FILES - 1)]
    assert len(parse_manifest(document(*many[:-1])).files) == MAX_FILES

    found = faults(document(*many))
    assert [field for field, _ in found] == ["manifest.files"]
    assert "2001 files" in found[0][1]


@pytest.mark.parametrize("missing", ["config.pbtxt", "golden.json"])
def test_a_version_without_its_config_or_golden_requests_is_refused(missing: str) -> None:
    files = [file for file in [*REQUIRED, MODEL] if file["path"] != missing]

    found = faults({"schema": SCHEMA, "files": files})

    assert [message.split(" ")[0] for _, message in found] == [missing]


def test_a_nested_config_is_not_the_config() -> None:
    files = [REQUIRED[1], MODEL, REQUIRED[0] | {"path": "1/config.pbtxt"}]
    assert any(
        "config.pbtxt is missing" in message
        for _, message in faults({"schema": SCHEMA, "files": files})
    )


def test_a_version_without_a_model_is_refused() -> None:
    assert any("no model file" in message for _, message in faults(document()))


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        [],
        "text",
        3,
        {},
        {"schema": SCHEMA},
        {"schema": SCHEMA, "files": {}},
        {"schema": SCHEMA, "files": []},
        {"schema": SCHEMA, "files": [None]},
        {"schema": "waypost.manifest/2", "files": [*REQUIRED, MODEL]},
        {"schema": SCHEMA, "files": [*REQUIRED, {**MODEL, "mode": "0777"}]},
        {"schema": SCHEMA, "files": [*REQUIRED, {**MODEL, "symlink": "/etc/passwd"}]},
    ],
)
def test_a_manifest_of_another_shape_is_refused(manifest: object) -> None:
    assert faults(manifest)


def test_every_fault_is_named_at_once() -> None:
    found = faults(
        {
            "schema": "x",
            "files": [
                {"path": "../a", "size": -1, "sha256": "no"},
                {"path": "ok", "size": 1, "sha256": SHA},
            ],
        }
    )
    fields = [field for field, _ in found]
    assert fields[:4] == [
        "manifest.schema",
        "manifest.files[0].path",
        "manifest.files[0].size",
        "manifest.files[0].sha256",
    ]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "size", "sha256", "x"]), inner, max_size=4)
    ),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(files=st.lists(json_values, max_size=4) | json_values)
def test_any_json_is_a_manifest_or_a_clear_refusal(files: object) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_manifest({"schema": SCHEMA, "files": files})
    assert caught.value.errors


@settings(max_examples=300, deadline=None)
@given(path=st.text(alphabet="ab./\\ -_~\0\u202e\u00e9", max_size=12))
def test_a_path_that_is_taken_can_only_name_a_file_below_the_folder(path: str) -> None:
    if path_fault(path) is None:
        parts = Path(path).parts
        assert "/".join(parts) == path
        assert ".." not in parts
        assert not Path(path).is_absolute()
        assert not any(part.startswith(".") for part in parts)
