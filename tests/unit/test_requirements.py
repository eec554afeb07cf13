"""What a manifest may ask of machines: kept as written, part of the digest, every fault named."""

import pytest

from controlplane.domain.errors import InvalidInput
from controlplane.domain.manifest import Manifest, parse_manifest

FILES = [
    {"path": path, "size": 1, "sha256": digit * 64}
    for path, digit in (("config.pbtxt", "1"), ("golden.json", "2"), ("model.onnx", "3"))
]
ALL = {
    "accelerator_memory_bytes": 6_000_000_000,
    "memory_bytes": 1_000_000_000,
    "compute_capability": "8.0",
    "triton": "2.51.0",
    "backends": ["onnxruntime"],
}


def document(**more: object) -> dict[str, object]:
    return {"schema": "waypost.manifest/1", "files": FILES, **more}


def test_they_are_kept_and_part_of_the_digest() -> None:
    plain, asking = parse_manifest(document()), parse_manifest(document(requires=ALL))

    assert asking.document()["requires"] == ALL
    assert asking.digest != plain.digest
    assert Manifest.of_document(asking.document()) == asking


@pytest.mark.parametrize("nothing", [None, {}])
def test_asking_for_nothing_leaves_the_manifest_as_it_always_was(nothing: object) -> None:
    plain = parse_manifest(document())

    assert parse_manifest(document(requires=nothing)).digest == plain.digest
    assert "requires" not in plain.document()


@pytest.mark.parametrize(
    ("requires", "field"),
    [
        ([], "manifest.requires"),
        ({"gpu": 1}, "manifest.requires.gpu"),
        ({"memory_bytes": -1}, "manifest.requires.memory_bytes"),
        ({"memory_bytes": True}, "manifest.requires.memory_bytes"),
        ({"memory_bytes": 1.5}, "manifest.requires.memory_bytes"),
        ({"accelerator_memory_bytes": "6 GB"}, "manifest.requires.accelerator_memory_bytes"),
        ({"accelerator_memory_bytes": 1 << 51}, "manifest.requires.accelerator_memory_bytes"),
        ({"compute_capability": 8.0}, "manifest.requires.compute_capability"),
        ({"compute_capability": "8"}, "manifest.requires.compute_capability"),
        ({"triton": "24.10"}, None),
        ({"triton": "newest"}, "manifest.requires.triton"),
        ({"backends": "python"}, "manifest.requires.backends"),
        ({"backends": ["../python"]}, "manifest.requires.backends"),
        ({"backends": ["a"] * 33}, "manifest.requires.backends"),
    ],
)
def test_a_fault_is_named(requires: object, field: str | None) -> None:
    if field is None:
        parse_manifest(document(requires=requires))
        return
    with pytest.raises(InvalidInput) as refused:
        parse_manifest(document(requires=requires))
    ((found),) = refused.value.errors
    assert found.field == field
    assert found.message.startswith(("must be", "is not known"))
