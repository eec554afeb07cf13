"""A whole version against every rule: real configurations and models, and planted faults."""

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from controlplane.catalog import validation
from controlplane.catalog.validation import (
    Checked,
    check_bundle,
    check_texts,
    config_from_onnx,
    findings_error,
)
from controlplane.domain.backends import ContentClass
from controlplane.domain.errors import InvalidInput
from controlplane.domain.manifest import Manifest, ManifestFile
from tests.unit.model_files import inner, outer, safetensors
from tests.unit.onnx_models import model, value

DEMO = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "vad"
WHEELS = sorted((DEMO.parents[2] / ".demo" / "wheels").glob("silero_vad-*.whl"))
GOLDEN = {
    "schema": "waypost.golden/1",
    "requests": [
        {
            "name": "one",
            "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}],
            "outputs": [
                {
                    "name": "y",
                    "datatype": "FP32",
                    "shape": [1, 4],
                    "data": [1, 2, 3, 4],
                    "tolerance": {"cosine": 0.99},
                }
            ],
        }
    ],
}
ONNX: dict[str, bytes] = {
    "config.pbtxt": config_from_onnx(model(), model_name="m").encode(),
    "golden.json": json.dumps(GOLDEN).encode(),
    "model.onnx": model(),
}


def manifest_of(files: Mapping[str, bytes]) -> Manifest:
    return Manifest(
        files=tuple(
            ManifestFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
            for path, data in sorted(files.items())
        )
    )


def check(files: Mapping[str, bytes], name: str = "m") -> Checked:
    return check_bundle(
        manifest_of(files),
        lambda file: files[file.path],
        model_name=name,
        known_models=frozenset(),
    )


def places(checked: Checked) -> list[str]:
    return [each.place for each in checked.faults]


class TestAWholeVersion:
    def test_a_right_one_is_data_without_findings(self) -> None:
        checked = check(ONNX)
        assert (checked.content_class, checked.backend) == (ContentClass.DATA, "onnxruntime")
        assert checked.findings == ()
        assert checked.config is not None
        assert checked.config.name == "m"

    def test_files_are_mapped_from_disk(self, tmp_path: Path) -> None:
        weights = bytes(1 << 20)
        files = {
            **ONNX,
            "model.onnx": model(inner("big", weights), outer("w", "w.data", length=len(weights))),
            "w.data": weights,
            "empty.txt": b"",
        }
        for path, data in files.items():
            (tmp_path / path).write_bytes(data)
        asked: list[str] = []

        def read(file: ManifestFile) -> Path:
            asked.append(file.path)
            return tmp_path / file.path

        checked = check_bundle(manifest_of(files), read, model_name="m", known_models=())
        assert checked.findings == ()
        assert sorted(asked) == ["config.pbtxt", "golden.json", "model.onnx"]

    def test_three_mistakes_are_three_faults_at_once(self) -> None:
        config = ONNX["config.pbtxt"].replace(b'"m"', b'"other"') + b"max_batch_siz: 3\n"
        golden = ONNX["golden.json"].replace(b'"cosine": 0.99', b'"cosine": 2')
        checked = check({**ONNX, "config.pbtxt": config, "golden.json": golden, "model.py": b""})
        line = config.count(b"\n")
        assert places(checked) == [
            "config.pbtxt:2 name",
            f"config.pbtxt:{line} max_batch_siz",
            "golden.json requests[0].outputs[0].tolerance",
            "model.py",
        ]

    @pytest.mark.parametrize(
        ("files", "place"),
        [
            ({"libtriton_onnxruntime.so": b"\x7fELF"}, "libtriton_onnxruntime.so"),
            ({"batchstrategy.so": b"\x7fELF"}, "batchstrategy.so"),
            ({"model.py": b"import os"}, "model.py"),
            ({"tokens.pkl": b"\x80\x04"}, "tokens.pkl"),
            ({"left.data": b"1"}, "left.data"),
            ({"model.onnx": b"\x80\x04\x95cposix\nsystem\n."}, "model.onnx"),
            ({"model.onnx": model()[:-3]}, "model.onnx"),
            ({"model.onnx": b""}, "model.onnx"),
            ({"second.onnx": b"junk"}, "second.onnx"),
            (
                {"model.onnx": model(outer("w", "../../etc/passwd"))},
                "model.onnx external_data",
            ),
            ({"model.onnx": model(outer("w", "golden.json"))}, "model.onnx external_data"),
            ({"model.onnx": model(opsets=("", "my.ops"))}, "model.onnx opset_import"),
            ({"config.pbtxt": b"\xff"}, "config.pbtxt:1"),
            ({"config.pbtxt": b"#" * (256 << 10) + b"#"}, "config.pbtxt"),
            ({"golden.json": b"["}, "golden.json:1"),
            ({"golden.json": b" " * (16 << 20) + b" "}, "golden.json"),
        ],
    )
    def test_a_planted_fault_is_found(self, files: dict[str, bytes], place: str) -> None:
        assert place in places(check({**ONNX, **files}))

    def test_weights_that_hide_behind_an_unreadable_model_are_not_blamed(self) -> None:
        checked = check({**ONNX, "model.onnx": b"junk", "w.data": b"1"})
        assert places(checked) == ["model.onnx"]

    @pytest.mark.parametrize("missing", ["config.pbtxt", "golden.json"])
    def test_a_missing_text_is_a_fault(self, missing: str) -> None:
        files = {path: data for path, data in ONNX.items() if path != missing}
        assert places(check(files)) == [missing]

    def test_the_signature_is_held_against_the_configuration(self) -> None:
        files = {**ONNX, "model.onnx": model(inputs=[value("x", dims=("batch", 5))])}
        assert places(check(files)) == ["config.pbtxt:6 input.dims"]

    def test_without_a_backend_it_is_executable(self) -> None:
        checked = check({**ONNX, "config.pbtxt": b'backend: "mine"'})
        assert (checked.content_class, checked.backend) == (ContentClass.EXECUTABLE, "")


VLLM_CONFIG = b"""backend: "vllm"
input { name: "x" data_type: TYPE_FP32 dims: [ 1, 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 1, 4 ] }
"""


class TestVllm:
    @staticmethod
    def check(arguments: object, **more: bytes) -> Checked:
        body = arguments if isinstance(arguments, bytes) else json.dumps(arguments).encode()
        files = {
            "config.pbtxt": VLLM_CONFIG,
            "golden.json": ONNX["golden.json"],
            "model.json": body,
            "weights/a.safetensors": safetensors({"w": ("F32", b"1234")}),
            **more,
        }
        return check(files)

    @pytest.mark.parametrize(
        "arguments",
        [
            {"model": "."},
            {"model": "./weights", "tokenizer": "weights/", "dtype": "auto"},
            {"model": "weights", "trust_remote_code": False, "load_format": "safetensors"},
        ],
    )
    def test_its_own_files_are_right_and_executable(self, arguments: object) -> None:
        checked = self.check(arguments)
        assert (checked.content_class, checked.findings) == (ContentClass.EXECUTABLE, ())

    @pytest.mark.parametrize(
        ("arguments", "place"),
        [
            ({"model": "facebook/opt-125m"}, "model.json model"),
            ({"model": "https://example.org/m"}, "model.json model"),
            ({"model": "/srv/models"}, "model.json model"),
            ({"model": "../other"}, "model.json model"),
            ({"model": ""}, "model.json model"),
            ({"model": 1}, "model.json model"),
            ({"dtype": "auto"}, "model.json model"),
            ({"model": ".", "tokenizer": "gpt2"}, "model.json tokenizer"),
            ({"model": ".", "trust_remote_code": True}, "model.json trust_remote_code"),
            ({"model": ".", "trust_remote_code": "true"}, "model.json trust_remote_code"),
            ({"model": ".", "load_format": "pt"}, "model.json load_format"),
            ({"model": ".", "worker_cls": "a.B"}, "model.json worker_cls"),
            ({"model": ".", "download_dir": "/tmp"}, "model.json download_dir"),
            ({"model": ".", "quantization": {"a": 1}}, "model.json quantization"),
            (b"[]", "model.json"),
            (b"{", "model.json"),
            (b"[" * 100_000, "model.json"),
            (b" " * (2 << 20), "model.json"),
        ],
    )
    def test_what_reaches_out_of_the_version_is_a_fault(
        self, arguments: object, place: str
    ) -> None:
        assert places(self.check(arguments)) == [place]

    def test_a_pickle_named_safetensors_is_a_fault(self) -> None:
        checked = self.check({"model": "."}, **{"b.safetensors": b"\x80\x04\x95" + b"x" * 40})
        assert places(checked) == ["b.safetensors"]

    def test_a_backend_script_is_a_fault(self) -> None:
        assert places(self.check({"model": "."}, **{"model.py": b""})) == ["model.py"]

    def test_a_large_vocabulary_of_another_backend_is_no_fault(self) -> None:
        assert check({**ONNX, "model.json": b" " * (2 << 20)}).findings == ()


class TestTexts:
    FILES = {"model.onnx": 10, "config.pbtxt": 5, "golden.json": 5}

    def test_a_right_one_has_no_findings(self) -> None:
        checked = check_texts(
            files=self.FILES,
            config=ONNX["config.pbtxt"],
            golden=ONNX["golden.json"].decode(),
            model_name="m",
        )
        assert (checked.content_class, checked.findings) == (ContentClass.DATA, ())

    def test_mistakes_are_told_as_after_the_push(self) -> None:
        config = ONNX["config.pbtxt"].decode().replace("onnxruntime", "onnx")
        checked = check_texts(
            files={**self.FILES, "ops.so": 4}, config=config, golden="{}", model_name="n"
        )
        assert places(checked) == [
            "config.pbtxt:2 name",
            "config.pbtxt:3 backend",
            "golden.json schema",
            "ops.so",
        ]

    def test_a_text_that_is_there_but_was_not_sent_is_not_judged(self) -> None:
        checked = check_texts(files=self.FILES, config=None, golden=None, model_name="m")
        assert checked.findings == ()

    def test_missing_texts_are_told(self) -> None:
        checked = check_texts(files={"model.onnx": 1}, config=None, golden=None, model_name="m")
        assert places(checked) == ["config.pbtxt", "golden.json"]


class TestTheDemo:
    def test_its_configuration_passes_as_executable(self) -> None:
        tensors = [
            {"name": name, "datatype": kind, "shape": shape, "data": [0] * count}
            for name, kind, shape, count in (
                ("input", "FP32", [1, 576], 576),
                ("state", "FP32", [2, 1, 128], 256),
                ("sr", "INT64", [1], 1),
            )
        ]
        output = {"name": "output", "datatype": "FP32", "shape": [1, 1], "data": [0.03]}
        request = {
            "name": "silence",
            "inputs": tensors,
            "outputs": [{**output, "tolerance": {"absolute": 1e-4}}],
        }
        files = {
            "config.pbtxt": (DEMO / "config.pbtxt").read_bytes(),
            "model.py": (DEMO / "model.py").read_bytes(),
            "model.onnx": model(),
            "golden.json": json.dumps(
                {"schema": "waypost.golden/1", "requests": [request]}
            ).encode(),
        }
        checked = check(files, "vad")
        assert checked.findings == ()
        assert (checked.content_class, checked.backend) == (ContentClass.EXECUTABLE, "python")

    @pytest.mark.skipif(not WHEELS, reason="make demo has not fetched the models yet")
    @pytest.mark.parametrize("wheel", WHEELS, ids=lambda each: each.name)
    def test_its_real_models_are_read(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read("silero_vad/data/silero_vad.onnx")
        view = validation.parse_config(config_from_onnx(data, model_name="vad")).view
        assert view is not None
        assert {each.name: (each.data_type, each.dims) for each in view.inputs} == {
            "input": ("TYPE_FP32", (-1, -1)),
            "state": ("TYPE_FP32", (2, -1, 128)),
            "sr": ("TYPE_INT64", (1,)),
        }
        for cut in (len(data) // 2, len(data) - 1):
            with pytest.raises(InvalidInput):
                config_from_onnx(data[:cut], model_name="vad")


def test_the_refusal_names_every_fault_with_its_cure() -> None:
    config = b'name: "m"\nbackend: "onnxruntime"\ninstance_group { count: 100 }\n'
    error = findings_error(check({**ONNX, "config.pbtxt": config}).findings)
    assert error.code == "version-invalid"
    assert "3 faults" in error.detail
    counted = error.errors[-1]
    assert counted.field == "config.pbtxt:3 instance_group.count"
    assert counted.message == (
        "It asks for 100 instances on each device. Cure: Write 1 to 64, or leave it out for one."
    )


def test_warnings_refuse_nothing() -> None:
    config = ONNX["config.pbtxt"] + b"version_policy { all { } }\n"
    checked = check({**ONNX, "config.pbtxt": config})
    assert [each.field for each in checked.findings] == ["version_policy"]
    assert checked.faults == ()
    assert findings_error(checked.findings).errors == ()
