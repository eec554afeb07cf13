"""Manifests of several builds: which are refused, and what one stands for."""

from typing import Any

import pytest

from controlplane.domain.errors import InvalidInput
from controlplane.domain.manifest import SCHEMA, SCHEMA_OF_VARIANTS, Manifest, parse_manifest


def files(letter: str, model: str = "model.onnx", size: int = 1) -> list[dict[str, Any]]:
    paths = ("config.pbtxt", "golden.json", model)
    digits = [f"{letter}{n}" for n in range(3)]
    return [
        {"path": path, "size": size, "sha256": digit * 32}
        for path, digit in zip(paths, digits, strict=True)
    ]


def document(*variants: dict[str, Any]) -> dict[str, Any]:
    chosen = list(variants) or [
        {
            "name": "trt-8.9",
            "priority": 10,
            "requires": {"compute_capability_exact": "8.9", "tensorrt": "10.3", "driver": "550.54"},
            "files": files("a", "model.plan"),
        },
        {"name": "onnx", "files": files("b")},
    ]
    return {"schema": SCHEMA_OF_VARIANTS, "variants": chosen}


def faults(asked: object) -> dict[str, str]:
    with pytest.raises(InvalidInput) as refused:
        parse_manifest(asked)
    assert refused.value.code == "manifest-invalid"
    return {error.field: error.message for error in refused.value.errors}


def test_each_build_is_a_manifest_of_its_own() -> None:
    manifest = parse_manifest(document())
    onnx, trt = manifest.all_builds()
    assert (onnx.name, onnx.priority, trt.name, trt.priority) == ("onnx", 0, "trt-8.9", 10)
    alone = parse_manifest({"schema": SCHEMA, "files": files("b")})
    assert onnx.manifest == alone
    assert onnx.manifest.digest == alone.digest
    assert trt.manifest.document()["schema"] == SCHEMA


def test_the_files_of_all_begin_with_the_name_of_their_build() -> None:
    manifest = parse_manifest(document())
    assert [file.path for file in manifest.files][:2] == ["onnx/config.pbtxt", "onnx/golden.json"]
    assert manifest.size_bytes == 6
    assert len(manifest.digests) == 6


def test_it_is_the_same_however_it_was_written_and_read_again() -> None:
    manifest = parse_manifest(document())
    backwards = document()
    backwards["variants"].reverse()
    assert parse_manifest(backwards).digest == manifest.digest
    assert Manifest.of_document(manifest.document()) == manifest
    assert Manifest.of_document(manifest.document()).digest == manifest.digest


def test_a_manifest_of_one_build_is_that_build() -> None:
    manifest = parse_manifest({"schema": SCHEMA, "files": files("b")})
    (only,) = manifest.all_builds()
    assert (only.name, only.manifest) == ("default", manifest)


ONNX = {"name": "onnx", "files": files("b")}


@pytest.mark.parametrize(
    ("variants", "field"),
    [
        ([ONNX], "manifest.variants"),
        ([ONNX] * 17, "manifest.variants"),
        ([ONNX, ONNX], "manifest.variants"),
        ([ONNX, {**ONNX, "name": "twin"}], "manifest.variants"),
        ([ONNX, {**ONNX, "name": "../x"}], "manifest.variants[1].name"),
        ([ONNX, {**ONNX, "name": "X" * 41}], "manifest.variants[1].name"),
        ([ONNX, {**ONNX, "name": 3}], "manifest.variants[1].name"),
        ([ONNX, {"name": "a", "files": []}], "manifest.variants[1].files"),
        (
            [ONNX, {"name": "a", "files": files("c"), "priority": "1"}],
            "manifest.variants[1].priority",
        ),
        (
            [ONNX, {"name": "a", "files": files("c"), "priority": True}],
            "manifest.variants[1].priority",
        ),
        ([ONNX, {"name": "a", "files": files("c"), "best": 1}], "manifest.variants[1].best"),
        (
            [ONNX, {"name": "a", "files": files("c"), "requires": {"driver": "x"}}],
            "manifest.variants[1].requires.driver",
        ),
        ([ONNX, "a"], "manifest.variants[1]"),
        ([ONNX, {"name": "a", "files": files("c")[:1]}], "manifest.variants[1].files"),
        ([ONNX, {"name": "a", "files": files("b", size=2)}], "manifest.variants"),
        (
            [ONNX, {"name": "a" * 40, "files": files("c", "/".join(["x" * 128] * 4))}],
            "manifest.variants[1].files",
        ),
        ([ONNX, {"name": "a", "files": files("c") * 700}], "manifest.variants"),
    ],
)
def test_what_cannot_stand_is_named_with_its_place(variants: list[Any], field: str) -> None:
    assert field in faults(document(*variants))


def test_all_faults_of_all_builds_come_at_once() -> None:
    bad = {"name": "!", "files": files("c"), "requires": {"tensorrt": 10}}
    worse = {"name": "b", "priority": 5000, "files": files("d")}
    assert set(faults(document(bad, worse))) == {
        "manifest.variants[0].name",
        "manifest.variants[0].requires.tensorrt",
        "manifest.variants[1].priority",
    }


def test_files_and_requires_belong_to_a_build() -> None:
    assert set(faults({**document(), "files": files("e"), "requires": {}})) == {
        "manifest.files",
        "manifest.requires",
    }


@pytest.mark.parametrize("variants", [None, {}, 3, "x"])
def test_variants_must_be_a_list(variants: object) -> None:
    assert set(faults({"schema": SCHEMA_OF_VARIANTS, "variants": variants})) == {
        "manifest.variants"
    }
