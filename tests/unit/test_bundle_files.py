"""Which files may lie in a version for which backend, and what class of content that makes."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from controlplane.catalog.validation import check_bundle
from controlplane.domain.backends import BACKENDS, ContentClass
from controlplane.domain.bundle_files import judge_files
from controlplane.domain.findings import Finding, Level
from controlplane.domain.manifest import Manifest, ManifestFile
from tests.unit.model_files import outer, safetensors
from tests.unit.onnx_models import model, value

MAIN = {
    "onnxruntime": ("model.onnx",),
    "tensorrt": ("model.plan",),
    "openvino": ("model.xml", "model.bin"),
    "fil": ("xgboost.json",),
    "vllm": ("model.json", "weights.safetensors"),
    "python": ("model.py",),
    "pytorch": ("model.pt",),
    "dali": ("model.dali",),
    "tensorflow": ("model.savedmodel/saved_model.pb",),
    "ensemble": ("README",),
}
RECORD = ("config.pbtxt", "golden.json")


def judge(
    backend: str, *more: str, referenced: frozenset[str] | None = frozenset()
) -> tuple[ContentClass, tuple[Finding, ...]]:
    paths = (*RECORD, *MAIN[backend], *more)
    return judge_files(BACKENDS[backend], paths=paths, referenced=referenced)


@pytest.mark.parametrize(
    ("backend", "content"),
    [
        ("onnxruntime", "data"),
        ("openvino", "data"),
        ("fil", "data"),
        ("ensemble", "data"),
        ("tensorrt", "opaque"),
        ("python", "executable"),
        ("vllm", "executable"),
        ("pytorch", "executable"),
        ("dali", "executable"),
        ("tensorflow", "executable"),
    ],
)
def test_the_class_of_each_backend(backend: str, content: str) -> None:
    assert judge(backend) == (content, ())


def test_every_backend_has_its_class_in_this_table() -> None:
    assert set(MAIN) == set(BACKENDS)


@pytest.mark.parametrize("extra", ["labels.txt", "vocab.json", "docs/README.md", "LICENSE"])
@pytest.mark.parametrize("backend", sorted(MAIN))
def test_plain_files_may_lie_beside_any_model(backend: str, extra: str) -> None:
    assert judge(backend, extra)[1] == ()


PLANTED = [
    "libtriton_onnxruntime.so",
    "libtriton_python.so",
    "LIBTRITON_X.SO.1",
    "batchstrategy.so",
    "ops.so",
    "ops.so.1.2",
    "deep/er/ops.so",
    "ops.DLL",
    "ops.dylib",
    "_native.pyd",
    "__pycache__/model.cpython-311.pyc",
    "model.pyc",
    ".hidden",
    ".git/config",
    "../outside.onnx",
    "/etc/passwd",
    "a\\b.onnx",
    "a/.. /b.onnx",
    "%2e%2e/x",
    "a\u202eb.txt",
    "nul\x00.txt",
    "n" * 257,
]


@pytest.mark.parametrize("name", PLANTED)
@pytest.mark.parametrize("backend", sorted(MAIN))
def test_no_backend_takes_a_planted_file(backend: str, name: str) -> None:
    _, found = judge(backend, name)
    assert [each.level for each in found] == [Level.FAULT]
    assert found[0].file.isprintable()


@pytest.mark.parametrize(
    "name",
    [
        "model.py",
        "model.pkl",
        "weights.joblib",
        "net.pt",
        "net.pth",
        "run.sh",
        "files.zip",
        "env.tar.gz",
        "array.npy",
        "other.pbtxt",
        "strange",
        "model.plan.txt.exe",
    ],
)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "fil", "tensorrt", "ensemble"])
def test_what_a_data_version_has_no_business_with_is_a_fault(backend: str, name: str) -> None:
    content, found = judge(backend, name)
    assert content == BACKENDS[backend].content
    assert [(each.level, each.file) for each in found] == [(Level.FAULT, name)]


def test_a_script_is_still_a_fault_where_the_configuration_names_it() -> None:
    _, found = judge_files(
        BACKENDS["onnxruntime"],
        paths=("model.py", "net.raw"),
        default_file="model.py",
        referenced=(),
    )
    assert [each.file for each in found] == ["model.py", "net.raw"]


def test_weights_may_lie_only_where_the_model_names_them() -> None:
    names = ("model.onnx.data", "layer.0.weight", "onnx__MatMul_7", "big.onnx_data_12")
    assert len(judge("onnxruntime", *names, referenced=frozenset())[1]) == len(names)
    assert judge("onnxruntime", *names, referenced=frozenset(names))[1] == ()


@pytest.mark.parametrize("name", ["layer.0", "weights", "w.raw", "onnx__x.pt", "a.onnx_data_1.so2"])
def test_weights_have_a_name_by_which_sites_know_them(name: str) -> None:
    _, found = judge("onnxruntime", name, referenced=frozenset({name}))
    assert [(each.file, each.level) for each in found] == [(name, Level.FAULT)]
    if name != "onnx__x.pt":  # which may be a pickle as well
        assert "model.onnx.data" in found[0].cure


@pytest.mark.parametrize("name", ["libtriton_onnxruntime.so", "model.py", "x.pkl"])
def test_a_model_that_names_code_as_its_weights_does_not_make_it_welcome(name: str) -> None:
    _, found = judge("onnxruntime", name, referenced=frozenset({name}))
    assert [each.level for each in found] == [Level.FAULT]


def test_by_names_alone_weights_are_known_by_their_names() -> None:
    _, found = judge("onnxruntime", "model.onnx.data", "layer.0.w", referenced=None)
    assert [(each.file, each.level) for each in found] == [("layer.0.w", Level.FAULT)]


def test_a_missing_model_file_is_told_with_the_likely_one() -> None:
    _, found = judge_files(BACKENDS["onnxruntime"], paths=(*RECORD, "net.onnx"), referenced=())
    assert [(each.file, each.field) for each in found] == [
        ("config.pbtxt", "default_model_filename")
    ]
    assert 'default_model_filename: "net.onnx"' in found[0].cure


@pytest.mark.parametrize("backend", ["python", "tensorrt", "fil"])
def test_a_folder_is_no_model_of_a_backend_that_reads_a_file(backend: str) -> None:
    paths = (*RECORD, f"{BACKENDS[backend].main[0]}/x.txt")
    _, found = judge_files(BACKENDS[backend], paths=paths, referenced=())
    assert [each.field for each in found] == ["default_model_filename"]


def test_a_folder_may_be_the_model() -> None:
    paths = (*RECORD, "model.onnx/model.onnx", "model.onnx/w.data")
    referenced = {"model.onnx/w.data"}
    assert judge_files(BACKENDS["onnxruntime"], paths=paths, referenced=referenced)[1] == ()


def test_python_may_bring_what_it_likes_but_libraries() -> None:
    names = ("data.pkl", "env.tar.gz", "helper.py", "x.npz", "strange")
    assert judge("python", *names) == (ContentClass.EXECUTABLE, ())


def test_an_unknown_backend_is_not_called_data() -> None:
    content, found = judge_files(None, paths=("model.onnx", "a.so"), referenced=())
    assert content is ContentClass.EXECUTABLE
    assert [each.file for each in found] == ["a.so"]


TABLE = json.loads(
    (Path(__file__).resolve().parents[2] / "docs/protocol/bundle-classes.json").read_text()
)
CASES = TABLE["cases"]


def _bytes_of(case: dict[str, Any]) -> dict[str, bytes]:
    """Files of these names, which are what their names say as far as a check looks into them."""
    config = case["config"] if case.get("states_tensors") else case["config"] + TABLE["tensors"]
    tensors = [value(name, dims=(4,)) for name in ("x", "y")]
    weights = [outer(f"w{at}", name, length=4) for at, name in enumerate(case.get("weights", ()))]
    onnx = model(*weights, inputs=tensors[:1], outputs=tensors[1:])
    four = {"datatype": "FP32", "shape": [4], "data": [1, 2, 3, 4]}
    request = {"name": "r", "inputs": [{"name": "x", **four}], "outputs": [{"name": "y", **four}]}
    golden = {"schema": "waypost.golden/1", "requests": [request]}
    files = {
        path: safetensors({"w": ("F32", b"1234")}) if path.endswith(".safetensors") else b"1234"
        for path in case["files"]
    }
    is_onnx = [path for path in files if path.endswith((".onnx", ".ort"))] or ["net.raw"]
    files.update({path: onnx for path in is_onnx if path in files})
    if "model.json" in files:
        files["model.json"] = b'{"model": "."}'
    return {
        **files,
        "config.pbtxt": config.encode(),
        "golden.json": json.dumps(golden).encode(),
    }


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_version_of_the_shared_table_is_of_its_class(case: dict[str, Any]) -> None:
    files = _bytes_of(case)
    manifest = Manifest(
        files=tuple(
            ManifestFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in files.items()
        )
    )
    checked = check_bundle(
        manifest,
        lambda file: files[file.path],
        model_name=TABLE["model"],
        known_models=frozenset({"other"}),
    )
    told = [f"{each.place} {each.message}" for each in checked.faults]
    if case["class"] == "refused":
        assert told
        assert all(case["names"] in each for each in told)
    else:
        assert told == []
        assert checked.content_class == case["class"]


def test_a_backend_that_runs_no_code_may_be_told_what_the_shared_table_says() -> None:
    plain = [each for each in BACKENDS.values() if each.content is not ContentClass.EXECUTABLE]
    assert {each.name: sorted(each.parameters) for each in plain} == TABLE["parameters"]
    accelerators = {
        each.name: {name: sorted(known) for name, known in each.accelerators.items()}
        for each in BACKENDS.values()
        if each.accelerators
    }
    assert accelerators == TABLE["accelerators"]


def test_the_shared_table_says_where_a_site_may_be_milder() -> None:
    assert len(CASES) >= 60
    for case in CASES:
        if case["class"] != "refused":
            assert not {"site", "names"} & set(case), case["name"]
        assert case.get("site") in (None, "data", "executable"), case["name"]
