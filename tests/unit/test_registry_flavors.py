"""What is made of a version of MLflow, by its file names and its `MLmodel` alone."""

import io
import json
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog.registry import Refused, RemoteFile
from controlplane.catalog.registry.bundles import manifest_document, require_torchscript
from controlplane.catalog.registry.flavors import Kind, Recipe, choose
from controlplane.catalog.registry.lineage import lineage_of
from controlplane.catalog.registry.mlmodel import (
    Mlmodel,
    Signature,
    TensorSpec,
    parse_mlmodel,
)
from controlplane.catalog.registry.triton_config import pyfunc_config, torchscript_config
from controlplane.domain.manifest import CHUNK_BYTES, parse_manifest
from tests.factories import manifest_of

TENSORS = '[{"type": "tensor", "name": "x", "tensor-spec": {"dtype": "float32", "shape": [-1, 4]}}]'
SPEC = TensorSpec(name="x", dtype="float32", shape=(-1, 4))


def chosen(*paths: str, wanted: str = "", **flavors: dict[str, object]) -> Recipe:
    files = [RemoteFile(path=path, size=1) for path in paths]
    mlmodel = Mlmodel(flavors=flavors, example="input_example.json") if flavors else None
    return choose(files, mlmodel, wanted=wanted)


def test_a_folder_of_triton_is_taken_flat_or_numbered() -> None:
    numbered = chosen("config.pbtxt", "golden.json", "1/model.onnx", "1/weights/a.bin", "MLmodel")
    assert numbered.kind is Kind.TRITON
    assert numbered.placed == {
        "config.pbtxt": "config.pbtxt",
        "golden.json": "golden.json",
        "model.onnx": "1/model.onnx",
        "weights/a.bin": "1/weights/a.bin",
    }
    flat = chosen("config.pbtxt", "golden.json", "model.onnx", "weights/a.bin")
    assert set(flat.placed) == set(numbered.placed)


def test_a_configuration_wins_over_flavors_unless_a_tag_asks_for_one() -> None:
    paths = ("config.pbtxt", "golden.json", "model.onnx", "MLmodel")
    assert chosen(*paths, onnx={"data": "model.onnx"}).kind is Kind.TRITON
    assert chosen(*paths, onnx={"data": "model.onnx"}, wanted="onnx").kind is Kind.ONNX


@pytest.mark.parametrize(
    ("paths", "said"),
    [
        (("model.onnx",), "neither MLmodel nor config.pbtxt"),
        (("config.pbtxt", "golden.json", "1/a", "2/a"), "the versions 1, 2"),
        (("config.pbtxt", "golden.json", "1/a", "labels.txt"), "labels.txt would have no place"),
        (("config.pbtxt", "1/model.onnx"), "no golden requests"),
        (("config.pbtxt", "golden.json", "a b.onnx"), "Names that a version cannot have"),
        (("config.pbtxt", "golden.json", "a/b/c/d/e.bin"), "at most 4"),
        (("config.pbtxt", "golden.json", ".git/config"), ".git"),
    ],
)
def test_a_folder_that_cannot_be_taken(paths: tuple[str, ...], said: str) -> None:
    with pytest.raises(Refused, match=said):
        chosen(*paths)


def test_onnx_takes_its_weights_and_leaves_what_is_mlflows() -> None:
    recipe = chosen(
        "MLmodel", "conda.yaml", "requirements.txt", "input_example.json", "model.onnx",
        "weights.data", "extra_files/golden.json", onnx={"data": "model.onnx"},
    )  # fmt: skip
    assert recipe.placed == {
        "model.onnx": "model.onnx",
        "weights.data": "weights.data",
        "golden.json": "extra_files/golden.json",
    }
    assert recipe.example == "input_example.json"
    assert recipe.needed == {*recipe.placed.values(), "input_example.json"}


def test_sklearn_and_xgboost_are_converted_from_their_one_file() -> None:
    sklearn = chosen("MLmodel", "model.skops", sklearn={"pickled_model": "model.skops"})
    assert (sklearn.kind, sklearn.source, sklearn.placed) == (Kind.SKLEARN, "model.skops", {})
    xgboost = chosen("MLmodel", "model.ubj", xgboost={"data": "model.ubj"})
    assert (xgboost.kind, xgboost.source) == (Kind.XGBOOST, "model.ubj")
    with pytest.raises(Refused, match="model_format"):
        chosen("MLmodel", "model.xgb", xgboost={"data": "model.xgb"})


def test_what_mlmodel_names_must_be_a_file_of_the_version() -> None:
    for path in ("../../etc/passwd", "/etc/passwd", "other", ""):
        with pytest.raises(Refused, match="not in the version"):
            chosen("MLmodel", "model.onnx", onnx={"data": path})


def test_python_models_come_wrapped_and_only_with_golden_requests() -> None:
    flavor = {"loader_module": "mlflow.sklearn"}
    recipe = chosen("MLmodel", "code/a.py", "golden.json", python_function=flavor)
    assert recipe.kind is Kind.PYFUNC
    assert recipe.placed == {
        "mlflow/MLmodel": "MLmodel",
        "mlflow/code/a.py": "code/a.py",
        "golden.json": "golden.json",
    }
    with pytest.raises(Refused, match=r'artifacts=\{"golden": "golden\.json"\}'):
        chosen("MLmodel", "code/a.py", python_function=flavor)


def test_an_artifact_of_a_python_model_may_be_its_golden_requests_and_stays_its_own() -> None:
    recipe = chosen("MLmodel", "artifacts/golden.json", "artifacts/w.bin", python_function={})
    assert recipe.placed == {
        "mlflow/MLmodel": "MLmodel",
        "mlflow/artifacts/golden.json": "artifacts/golden.json",
        "mlflow/artifacts/w.bin": "artifacts/w.bin",
        "golden.json": "artifacts/golden.json",
    }


def test_a_tag_chooses_among_flavors() -> None:
    flavors: dict[str, dict[str, object]] = {
        "sklearn": {"pickled_model": "m"},
        "python_function": {},
    }
    assert chosen("MLmodel", "m", "golden.json", **flavors).kind is Kind.SKLEARN
    paths = ("MLmodel", "m", "golden.json")
    assert chosen(*paths, wanted="pyfunc", **flavors).kind is Kind.PYFUNC
    with pytest.raises(Refused, match=r"waypost\.flavor"):
        chosen(*paths, wanted="onnx", **flavors)


def test_pytorch_asks_for_torchscript() -> None:
    with pytest.raises(Refused, match=r"torch\.jit"):
        chosen("MLmodel", "data/model.pt2", pytorch={"model_data": "data"})
    with pytest.raises(Refused, match="golden"):
        chosen("MLmodel", "data/model.pth", pytorch={"model_data": "data"})
    recipe = chosen("MLmodel", "data/model.pth", "golden.json", pytorch={"model_data": "data"})
    assert recipe.placed["model.pt"] == "data/model.pth"


def archive(*names: str) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as made:
        for name in names:
            made.writestr(name, b"x")
    return raw.getvalue()


@pytest.mark.parametrize(
    ("data", "good"),
    [
        (archive("m/data.pkl", "m/constants.pkl", "m/code/__torch__.py"), True),
        (archive("m/data.pkl", "m/version", "m/data/0"), False),
        (archive("m/data.pkl", "m/code/x.py"), False),
        (b"\x80\x02}q\x00.", False),
        (b"", False),
    ],
)
def test_a_pickled_module_is_told_from_torchscript(data: bytes, good: bool, tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    path.write_bytes(data)
    if good:
        require_torchscript(path)
        return
    with pytest.raises(Refused, match="TorchScript"):
        require_torchscript(path)


def mlmodel(**changes: object) -> bytes:
    document = {
        "flavors": {"onnx": {"data": "model.onnx"}},
        "signature": {"inputs": TENSORS, "outputs": TENSORS},
        "saved_input_example_info": {"artifact_path": "input_example.json", "type": "ndarray"},
        **changes,
    }
    return json.dumps(document).encode()  # which is YAML too


def test_mlmodel_is_read() -> None:
    found = parse_mlmodel(mlmodel())
    assert found.text("onnx", "data") == "model.onnx"
    assert found.example == "input_example.json"
    assert found.signature == Signature(inputs=(SPEC,), outputs=(SPEC,))


def test_columns_are_told_from_tensors() -> None:
    columns = '[{"type": "double", "name": "a"}, {"type": "string", "name": "b"}]'
    found = parse_mlmodel(mlmodel(signature={"inputs": columns, "outputs": None})).signature
    assert found is not None
    assert found.columns
    assert [spec.dtype for spec in found.inputs] == ["float64", "str"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"flavors: 3",
        b"\xff\xfe",
        b"flavors: {a: !!python/object/apply:os.system [id]}",
        b"a: &a [x, x]\nb: &b [*a, *a]\nflavors: *b",
        b"a: &a {onnx: {}}\nflavors: *a",
        b"{" * 5000,
        b"flavors: {a: {}}" + b" " * (1 << 20),
    ],
)
def test_an_mlmodel_that_is_none_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused, match="MLmodel"):
        parse_mlmodel(raw)


@pytest.mark.parametrize(
    "tensors",
    [
        "not json",
        "[]",
        '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": "x"}}]',
        '[{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": [-5]}}]',
        '[{"type": "map", "name": "x"}]',
        "[" * 5000,
        "[3]",
    ],
)
def test_a_signature_that_is_not_understood_is_none(tensors: str) -> None:
    assert parse_mlmodel(mlmodel(signature={"inputs": tensors})).signature is None


@given(st.binary(max_size=300) | st.text(max_size=200).map(str.encode))
def test_no_mlmodel_does_more_than_be_refused(raw: bytes) -> None:
    try:
        parse_mlmodel(raw)
    except Refused:
        return


def test_a_configuration_from_a_signature() -> None:
    text = torchscript_config(Signature(inputs=(SPEC,), outputs=(SPEC,)))
    assert 'backend: "pytorch"' in text
    assert 'input { name: "INPUT__0" data_type: TYPE_FP32 dims: [ -1, 4 ] }' in text
    assert 'output { name: "OUTPUT__0"' in text
    named = pyfunc_config(Signature(inputs=(SPEC,), outputs=(SPEC,), columns=True))
    assert 'input { name: "x"' in named
    assert 'string_value: "columns"' in named


@pytest.mark.parametrize(
    "signature",
    [
        None,
        Signature(inputs=(SPEC,)),
        Signature(inputs=(TensorSpec(name="x", dtype="complex64", shape=(1,)),), outputs=(SPEC,)),
        Signature(inputs=(TensorSpec(name='"', dtype="float32", shape=(1,)),), outputs=(SPEC,)),
    ],
)
def test_no_configuration_from_half_a_signature(signature: Signature | None) -> None:
    with pytest.raises(Refused, match="signature"):
        pyfunc_config(signature)


def test_a_manifest_is_hashed_as_a_push_would(tmp_path: Path) -> None:
    files = {"config.pbtxt": b"c", "golden.json": b"{}", "model.onnx": b"m" * 100, "empty": b""}
    places = {}
    for path, data in files.items():
        places[path] = tmp_path / path
        places[path].write_bytes(data)
    assert manifest_document(places) == manifest_of(files)
    with places["model.onnx"].open("r+b") as file:
        file.truncate(CHUNK_BYTES + 1)
    large = parse_manifest(manifest_document(places))
    assert [len(f.chunks) for f in large.files if f.path == "model.onnx"] == [2]


def test_lineage_keeps_what_the_catalogue_takes_and_drops_the_rest() -> None:
    run = {
        "run": {
            "data": {
                "tags": [
                    {"key": "mlflow.source.git.commit", "value": "a" * 40},
                    {"key": "mlflow.source.git.repoURL", "value": "https://example.org/x"},
                    {"key": "ci_run", "value": "javascript:alert(1)"},
                    {"key": 3, "value": "x"},
                ],
                "metrics": [
                    {"key": "accuracy", "value": 0.5},
                    {"key": "bad", "value": "NaN"},
                    {"key": "worse", "value": float("inf")},
                ],
            }
        }
    }
    found = lineage_of(found={"source": "models:/m-1", "run_id": "", "tags": {}}, run=run)
    assert found == {
        "mlflow_run": "m-1",
        "git_commit": "a" * 40,
        "git_repository": "https://example.org/x",
        "metrics": {"accuracy": 0.5},
    }
    assert lineage_of(found={"source": "s3://x", "run_id": "r"}, run={"run": []}) == {
        "mlflow_run": "r"
    }
