"""Which versions run code of their own: by their names, and by names and configuration together."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waypost_agent.bundle_class import (
    DATA,
    EXECUTABLE,
    OPAQUE,
    REFUSED,
    by_config,
    by_names,
)
from waypost_agent.config_parameters import ACCELERATORS, PARAMETERS
from waypost_agent.errors import Permanent
from waypost_agent.model_config import check
from waypost_agent.triton import PbtxtCodec

RECORD = ["config.pbtxt", "golden.json"]
ONNX = {"backend": "onnxruntime"}

TABLE = json.loads(
    (Path(__file__).resolve().parents[2] / "docs/protocol/bundle-classes.json").read_text()
)
CASES = TABLE["cases"]
ORDER = (DATA, OPAQUE, EXECUTABLE, REFUSED)


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_a_version_of_the_shared_table_is_of_its_class(case: dict[str, Any]) -> None:
    text = case["config"] if case.get("states_tensors") else case["config"] + TABLE["tensors"]
    config = PbtxtCodec().parse(text)
    found = [by_names([*RECORD, *case["files"]]), by_config(config, [*RECORD, *case["files"]])]
    kinds, reasons = [each.kind for each in found], [each.reason for each in found]
    try:
        check(config, TABLE["model"], case["files"])
    except Permanent as refusal:
        kinds.append(REFUSED)
        reasons.append(refusal.reason)
    strictest = max(kinds, key=ORDER.index)
    assert strictest == case.get("site", case["class"])
    if strictest == REFUSED:
        assert any(
            case["names"] in reason
            for kind, reason in zip(kinds, reasons, strict=True)
            if kind == REFUSED
        )


# What the names alone tell: a refusal or a need of the opt-in before any byte moves.
@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["model.onnx"], DATA),
        (["model.onnx", "model.onnx_data", "w.bin", "onnx__MatMul_7"], DATA),
        (["weights.bin"], DATA),
        (["model.txt"], DATA),
        (["xgboost.json"], DATA),
        (["README.md"], DATA),
        (["model.plan"], OPAQUE),
        (["model.engine", "labels.txt"], OPAQUE),
        (["model.py"], EXECUTABLE),
        (["model.py", "model.onnx"], EXECUTABLE),
        (["model.pkl"], EXECUTABLE),
        (["model.ort"], EXECUTABLE),
        (["model.onnx", "model.plan"], EXECUTABLE),
        (["model.onnx", "onnx__x.py"], EXECUTABLE),
        (["data"], EXECUTABLE),
        (["model.onnx", "x.py", "libtriton_onnxruntime.so"], REFUSED),
        (["fast.so"], REFUSED),
        (["lib/fast.SO.6"], REFUSED),
    ],
)
def test_names_alone_tell_a_part(files: list[str], kind: str) -> None:
    assert by_names([*RECORD, *files]).kind == kind


def test_what_is_not_plain_data_names_the_file_or_the_backend() -> None:
    assert "train.py" in by_names(["model.onnx", "train.py", "model.onnx_data"]).reason
    assert "'mystery'" in by_config({"backend": "mystery"}, ["a.bin"]).reason
    smuggled = by_config(ONNX, ["model.onnx", "libtriton_onnxruntime.so"])
    assert smuggled.code == "bundle-refused"
    assert "has libtriton_onnxruntime.so" in smuggled.reason
    assert by_config({**ONNX, "runtime": "x"}, ["model.onnx"]).code == "config-invalid"


def test_a_backend_that_runs_no_code_may_be_told_what_the_shared_table_says() -> None:
    assert {name: sorted(known) for name, known in PARAMETERS.items()} == TABLE["parameters"]
    accelerators = {
        backend: {name: sorted(known) for name, known in each.items()}
        for backend, each in ACCELERATORS.items()
    }
    assert accelerators == TABLE["accelerators"]


def test_no_backend_is_plain_without_a_list_of_its_parameters() -> None:
    files = {"tensorrt": "model.plan", "fil": "xgboost.json", "openvino": "model.xml"}
    for backend in ("onnxruntime", "openvino", "fil", "tensorrt", "ensemble"):
        config = {"backend": backend, "parameters": {"strange": {"string_value": "1"}}}
        found = by_config(config, [files.get(backend, "README.md")])
        assert (found.kind, found.code) == (REFUSED, "config-invalid")


@pytest.mark.parametrize(
    "config",
    [
        {"input": [{"name": "x", "data_type": 99}]},
        {"output": [{"data_type": "TYPE_FP32"}, {"data_type": -1}]},
        {"sequence_batching": {"state": [{"data_type": 99}]}},
        {"model_warmup": [{"inputs": {"x": {"data_type": 99}}}]},
    ],
)
@pytest.mark.parametrize("backend", ["onnxruntime", "python"])
def test_a_type_of_no_name_is_refused_wherever_it_stands(
    config: dict[str, Any], backend: str
) -> None:
    found = by_config({"backend": backend, **config}, ["model.onnx"])
    assert (found.kind, found.code) == (REFUSED, "config-invalid")
    assert "data_type" in found.reason


_PART = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,12}", fullmatch=True)


@given(st.lists(st.lists(_PART, min_size=1, max_size=3).map("/".join), min_size=1, max_size=4))
def test_no_name_makes_a_library_or_a_script_pass_for_data(paths: list[str]) -> None:
    for ending in (".so", ".so.6", ".py", ".pt", ".pkl", ".pth", ".pyc"):
        files = [*paths, paths[0] + ending]
        assert by_names(files).kind in (EXECUTABLE, REFUSED)
        for backend in ("onnxruntime", "openvino", "tensorrt", "ensemble", "python"):
            assert by_config({"backend": backend}, files).kind in (EXECUTABLE, REFUSED)
