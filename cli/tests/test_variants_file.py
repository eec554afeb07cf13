"""A folder of several builds: read as one version, or refused with every fault of all of them."""

import hashlib
from pathlib import Path

import pytest
from waypost_cli.bundle import read_bundle
from waypost_cli.errors import CliError

TWO = """
[[variant]]
name = "trt-8.9"
dir = "trt"
priority = 10
requires = {compute_capability_exact = "8.9", tensorrt = "10.3"}

[[variant]]
name = "onnx"
"""


@pytest.fixture
def builds(tmp_path: Path) -> Path:
    """Two builds and the file that names them."""
    for name, model in (("trt", "model.plan"), ("onnx", "model.onnx")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(f"# {name}\n")
        (tmp_path / name / "golden.json").write_text("{}\n")
        (tmp_path / name / model).write_bytes(name.encode())
    (tmp_path / "variants.toml").write_text(TWO)
    return tmp_path


def refused(folder: Path) -> list[str]:
    with pytest.raises(CliError) as error:
        read_bundle(folder)
    return [*error.value.details, str(error.value)]


def test_each_build_asks_for_itself(builds: Path) -> None:
    bundle = read_bundle(builds)
    manifest = bundle.manifest()
    assert manifest["schema"] == "waypost.manifest/2"
    variants = manifest["variants"]
    assert isinstance(variants, list)
    onnx, trt = variants
    assert (onnx["name"], onnx["priority"]) == ("onnx", 0)
    assert (trt["name"], trt["priority"]) == ("trt-8.9", 10)
    assert trt["requires"] == {"compute_capability_exact": "8.9", "tensorrt": "10.3"}
    assert "requires" not in onnx
    assert [file["path"] for file in trt["files"]] == ["config.pbtxt", "golden.json", "model.plan"]


def test_the_files_of_all_are_sent_under_the_name_of_their_build(builds: Path) -> None:
    by_path = {file.path: file for file in read_bundle(builds).files}
    assert by_path["trt-8.9/model.plan"].sha256 == hashlib.sha256(b"trt").hexdigest()
    assert by_path["trt-8.9/model.plan"].source == builds / "trt" / "model.plan"
    assert len(by_path) == 6


def test_every_fault_of_every_build_is_told_at_once(builds: Path) -> None:
    (builds / "trt" / "golden.json").unlink()
    (builds / "onnx" / ".hidden").write_text("")
    said = refused(builds)
    assert any("trt/golden.json: is missing" in line for line in said)
    assert any("onnx/.hidden: is hidden" in line for line in said)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[variant]\n", "cannot be read"),
        ("", "must hold [[variant]] entries"),
        ("[models]\n", "must hold [[variant]] entries"),
        ('[[variant]]\nname = "onnx"\n', "fewer than two variants"),
        ('[[variant]]\nname = "onnx"\n' * 2, "onnx is there twice"),
        (TWO.replace('dir = "trt"', 'dir = "../trt"'), "must be a folder inside"),
        (TWO.replace('dir = "trt"', 'dir = "/trt"'), "must be a folder inside"),
        (TWO.replace('dir = "trt"', 'dir = "gone"'), "there is no folder gone"),
        (TWO.replace("priority = 10", 'priority = "high"'), "priority must be a whole number"),
        (TWO.replace("priority = 10", "best = 10"), "best is not known"),
        (TWO.replace('name = "trt-8.9"', ""), "name is missing"),
        (TWO.replace("requires = {", "requires = 3 # {"), "requires must be a table"),
    ],
)
def test_a_file_that_says_something_else_is_refused(builds: Path, text: str, fault: str) -> None:
    (builds / "variants.toml").write_text(text)
    assert any(fault in line for line in refused(builds)), refused(builds)


def test_a_linked_folder_is_no_build(builds: Path) -> None:
    (builds / "elsewhere").symlink_to(builds / "trt")
    (builds / "variants.toml").write_text(TWO.replace('dir = "trt"', 'dir = "elsewhere"'))
    assert any("there is no folder elsewhere" in line for line in refused(builds))
