"""What an adversary wrote to bring a finalise down, or to make it work for hours."""

import pytest

from controlplane.catalog.config_text import parse_config
from controlplane.catalog.validation import MAX_GRAPHS, check_bundle, check_texts
from controlplane.domain.findings import faults_of
from controlplane.domain.manifest import Manifest, ManifestFile

HEAD = 'backend: "onnxruntime"\n'
TENSORS = (
    'input [ { name: "x" data_type: TYPE_FP32 dims: [1] } ]\n'
    'output [ { name: "y" data_type: TYPE_FP32 dims: [1] } ]\n'
)


def messages(config: str | bytes) -> list[str]:
    checked = check_texts(
        files={"model.onnx": 10, "golden.json": 10}, config=config, golden=None, model_name="m"
    )
    return [each.message for each in faults_of(checked.findings)]


def test_a_warm_up_without_end_is_a_fault_and_no_long_number() -> None:
    dims = ", ".join(["9223372036854775807"] * 300)
    warmup = (
        'model_warmup [ { name: "w" batch_size: 1 inputs { key: "x" value { '
        f"data_type: TYPE_FP32 dims: [{dims}] zero_data: true }} }} }} ]\n"
    )

    (said,) = [each for each in messages(HEAD + TENSORS + warmup) if "values for a request" in each]

    assert len(said) < 200


def test_a_type_that_triton_does_not_know_is_none() -> None:
    config = HEAD + TENSORS.replace("TYPE_FP32", "99")

    assert any("has no data_type" in each for each in messages(config))


@pytest.mark.parametrize("config", ["\0", 'name: "a\0b" nonsense', "backend: \0 x"])
def test_no_finding_holds_what_no_database_can_keep(config: str) -> None:
    findings = parse_config(config.encode()).findings

    assert findings
    assert not any("\0" in each.message + each.cure + each.field for each in findings)


def test_so_many_models_are_not_all_walked() -> None:
    paths = [f"model{number}.onnx" for number in range(50)]
    files = tuple(ManifestFile(path=path, size=4, sha256="a" * 64) for path in paths)
    config = ManifestFile(path="config.pbtxt", size=1, sha256="b" * 64)
    walked: list[str] = []

    def read(file: ManifestFile) -> bytes:
        if file.path == "config.pbtxt":
            return (HEAD + TENSORS).encode()
        walked.append(file.path)
        return b"onnx"

    checked = check_bundle(Manifest(files=(config, *files)), read, model_name="m")

    assert len(walked) == MAX_GRAPHS
    assert sum("one of more than" in each.message for each in checked.findings) == 50 - MAX_GRAPHS
