"""The overlay changes what it may and nothing else; configurations that reach out are refused."""

from __future__ import annotations

from typing import Any

import pytest

from versions import make_version
from waypost_agent.errors import Permanent
from waypost_agent.model_config import check, overlay
from waypost_agent.triton import PbtxtCodec

RICH = """
name: "vad"
backend: "onnxruntime"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 576 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 1 ] } ]
instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0 ] } ]
version_policy { latest { num_versions: 3 } }
dynamic_batching { max_queue_delay_microseconds: 100 preferred_batch_size: [ 4, 8 ] }
parameters { key: "threads" value { string_value: "1" } }
optimization { execution_accelerators { gpu_execution_accelerator [ { name: "tensorrt" } ] } }
model_warmup [ { name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_FP32
  dims: [ 576 ] zero_data: true } } } ]
"""
codec = PbtxtCodec()


def test_only_the_version_policy_changes_for_the_real_model() -> None:
    before = codec.parse(RICH)
    after = overlay(before, name="vad", version="7")
    assert after.pop("version_policy") == {"specific": {"versions": ["7"]}}
    expected = {key: value for key, value in before.items() if key != "version_policy"}
    assert after == expected


def test_only_name_and_version_policy_change_for_the_candidate() -> None:
    before = codec.parse(RICH)
    after = overlay(before, name="vad--candidate", version="7")
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    assert changed == {"name", "version_policy"}


def test_an_instance_group_may_be_overlaid() -> None:
    group = [{"count": 1, "kind": "KIND_CPU"}]
    after = overlay(codec.parse(RICH), name="vad", version="7", instance_group=group)
    assert after["instance_group"] == group


def test_the_version_itself_is_not_touched() -> None:
    before = codec.parse(RICH)
    copy = codec.parse(RICH)
    overlay(before, name="other", version="1", instance_group=[])
    assert before == copy


def test_what_is_printed_is_read_back_the_same() -> None:
    fields = overlay(codec.parse(RICH), name="vad", version="7")
    assert codec.parse(codec.print(fields)) == fields


def test_an_unknown_field_is_refused_with_its_place() -> None:
    with pytest.raises(ValueError, match="no field named"):
        codec.parse('name: "m"\nnot_a_field: 1')


def _config(**changes: Any) -> dict[str, Any]:
    plain = codec.parse(make_version("1").files["config.pbtxt"].decode())
    return {**plain, **changes}


def test_the_plain_one_is_accepted() -> None:
    check(_config(), "echo", ["model.py"])
    check(_config(name=""), "echo", ["model.py"])


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"backend": ""},
        {"runtime": "/tmp/evil.so"},
        {"model_operations": {"op_library_filename": ["/tmp/evil.so"]}},
        {"model_repository_agents": {"agents": [{"name": "checksum"}]}},
        {"cc_model_filenames": {"8.9": "other.plan"}},
        {"default_model_filename": "../../elsewhere"},
        {"default_model_filename": ".hidden"},
        {"output": [{"name": "y", "label_filename": "/etc/passwd"}]},
        {"model_warmup": [{"inputs": {"x": {"input_data_file": "../../secret"}}}]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_configuration_that_reaches_out_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Permanent) as caught:
        check(_config(**changes), "echo", ["model.py"])
    assert caught.value.code == "config-invalid"


@pytest.mark.parametrize(
    ("filename", "files"), [("", ["model.onnx"]), ("wrapper.py", ["model.py"]), ("", [])]
)
def test_a_python_version_without_its_wrapper_is_refused(filename: str, files: list[str]) -> None:
    with pytest.raises(Permanent, match="python backend needs"):
        check(_config(backend="python", default_model_filename=filename), "echo", files)
