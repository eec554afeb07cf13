"""Each rule on a configuration: what breaks it is found at its line, with a cure."""

import pytest

from controlplane.catalog.config_text import parse_config
from controlplane.domain.config_lint import lint
from controlplane.domain.findings import Finding, Level

HEAD = 'name: "m"\n'
TENSORS = """\
input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 2 ] }
"""
ONNX = 'backend: "onnxruntime"\n' + TENSORS
PYTHON = 'backend: "python"\n' + TENSORS
ENSEMBLE = 'platform: "ensemble"\n' + TENSORS
FILES = frozenset({"model.onnx", "model.py", "labels.txt", "env/env.tar.gz", "config.pbtxt"})


def judge(
    text: str,
    *,
    known: frozenset[str] | None = frozenset({"other"}),
    files: frozenset[str] = FILES,
) -> tuple[Finding, ...]:
    parsed = parse_config(text)
    assert parsed.findings == ()
    assert parsed.view is not None
    return lint(parsed.view, model_name="m", paths=files, known_models=known)


def param(key: str, value: str = "1") -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def accelerator(name: str, key: str = "", kind: str = "gpu") -> str:
    given = f'parameters {{ key: "{key}" value: "/x" }}' if key else ""
    inner = f'{kind}_execution_accelerator [ {{ name: "{name}" {given} }} ]'
    return f"optimization {{ execution_accelerators {{ {inner} }} }}"


def step(name: str, more: str = "model_version: -1") -> str:
    return f'ensemble_scheduling {{ step [ {{ model_name: "{name}" {more} }} ] }}'


@pytest.mark.parametrize(
    "text",
    [
        HEAD + ONNX,
        ONNX,  # the name may be left out
        'platform: "onnxruntime_onnx"\n' + TENSORS,
        'platform: "onnxruntime_onnx"\n' + ONNX,
        ONNX + param("intra_op_thread_count"),
        ONNX + accelerator("cuda", "use_tf32"),
        ONNX + accelerator("tensorrt", "precision_mode"),
        ONNX + accelerator("openvino", kind="cpu"),
        ONNX + 'default_model_filename: "model.onnx"',
        ONNX + "max_batch_size: 65536 instance_group [ { count: 64 } ]",
        ONNX + "dynamic_batching { max_queue_delay_microseconds: 500 }",
        ONNX + 'model_warmup { name: "w" inputs { key: "x" value { dims: 4 zero_data: true } } }',
        ONNX + 'metric_tags { key: "a" value: "b" }',
        PYTHON + param("MY_OWN", "anything"),
        ENSEMBLE + step("other"),
        'backend: "fil"\n' + TENSORS + param("model_type", "xgboost_json"),
    ],
)
def test_what_is_right_has_no_findings(text: str) -> None:
    assert judge(text) == ()


INJECTIONS = [
    ('backend: "onnxruntime"\nname: "other"', "name"),
    ('name: "../m"', "name"),
    ('backend: "custom"', "backend"),
    ('backend: "../../tmp/evil"', "backend"),
    ('platform: "custom"', "platform"),
    ('backend: "python"\nplatform: "onnxruntime_onnx"', "platform"),
    ("max_batch_size: 1", "backend"),
]
REFUSED = [
    ('runtime: "model.py"', "runtime"),
    ('runtime: "../../libevil.so"', "runtime"),
    ('model_operations { op_library_filename: "libops.so" }', "model_operations"),
    ("model_operations { }", "model_operations"),
    ('model_repository_agents { agents [ { name: "checksum" } ] }', "model_repository_agents"),
    ('cc_model_filenames { key: "8.9" value: "../../etc/x" }', "cc_model_filenames"),
    ('default_model_filename: "../../etc/passwd"', "default_model_filename"),
    ('default_model_filename: "/etc/passwd"', "default_model_filename"),
    ('default_model_filename: "env/env.tar.gz"', "default_model_filename"),
    ('default_model_filename: "missing.onnx"', "default_model_filename"),
    ('default_model_filename: ".hidden"', "default_model_filename"),
    ('default_model_filename: "config.pbtxt"', "default_model_filename"),
    (
        'output { name: "z" data_type: TYPE_FP32 dims: 1\nlabel_filename: "../../../etc/passwd" }',
        "output.label_filename",
    ),
    (
        'output { name: "z" data_type: TYPE_FP32 dims: 1 label_filename: "none.txt" }',
        "output.label_filename",
    ),
    (
        'model_warmup { inputs { key: "x" value { input_data_file: "../../../etc/passwd" } } }',
        "model_warmup.inputs.value.input_data_file",
    ),
    (
        'model_warmup { inputs { key: "x" value { input_data_file: "/dev/zero" } } }',
        "model_warmup.inputs.value.input_data_file",
    ),
    (
        'sequence_batching { state { initial_state { data_file: "../s" } } }',
        "sequence_batching.state.initial_state.data_file",
    ),
    (param("TRITON_BATCH_STRATEGY_PATH", "/tmp/batchstrategy.so"), "parameters"),
    (param("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env.tar.gz"), "parameters"),
    (param("optimized_model_filepath", "/etc/cron.d/x"), "parameters"),
    (param("ep.cuda.plugin", "/x.so"), "parameters"),
    (
        accelerator("tensorrt", "trt_extra_plugin_lib_paths"),
        "optimization.execution_accelerators.gpu_execution_accelerator.parameters",
    ),
    (
        accelerator("tensorrt", "trt_engine_cache_path"),
        "optimization.execution_accelerators.gpu_execution_accelerator.parameters",
    ),
    (
        accelerator("evil"),
        "optimization.execution_accelerators.gpu_execution_accelerator.name",
    ),
    (
        accelerator("openvino", "load_config", "cpu"),
        "optimization.execution_accelerators.cpu_execution_accelerator.parameters",
    ),
    ("max_batch_size: -1", "max_batch_size"),
    ("max_batch_size: 65537", "max_batch_size"),
    ("instance_group [ { count: 65 } ]", "instance_group.count"),
    ("instance_group [ { count: -1 } ]", "instance_group.count"),
    ("instance_group { } " * 17, "instance_group"),
    (
        "dynamic_batching { max_queue_delay_microseconds: 60000001 }",
        "dynamic_batching.max_queue_delay_microseconds",
    ),
    (
        "sequence_batching { oldest { max_candidate_sequences: 65537 } }",
        "sequence_batching.oldest.max_candidate_sequences",
    ),
    (
        'model_warmup { batch_size: 100000 inputs { key: "x" value { dims: [ 4096 ] } } }',
        "model_warmup",
    ),
    ("model_warmup { count: 1001 }", "model_warmup"),
    ('input { name: "z" dims: [ 1 ] }', "input"),
    ("input { data_type: TYPE_FP32 dims: [ 1 ] }", "input"),
    ('input { name: "z" data_type: TYPE_FP32 }', "input.dims"),
    ('input { name: "z" data_type: TYPE_FP32 dims: [ 0 ] }', "input.dims"),
    ('output { name: "z" data_type: TYPE_FP32 dims: [ -2 ] }', "output.dims"),
    ('input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] }', "input"),
    ('input { name: "a\\nb" data_type: TYPE_FP32 dims: [ 1 ] }', "input.name"),
    ('input { name: "z" data_type: TYPE_FP32 dims: 1 reshape { } }', "input.reshape"),
    ('input { name: "z" data_type: TYPE_FP32 dims: 1 reshape { shape: 0 } }', "input.reshape"),
    ('ensemble_scheduling { step { model_name: "other" } }', "ensemble_scheduling"),
]


@pytest.mark.parametrize(("text", "field"), INJECTIONS)
def test_a_wrong_name_or_backend_is_a_fault(text: str, field: str) -> None:
    has_own = "backend" in text or "platform" in text or field == "backend"
    found = judge(f"{TENSORS if has_own else ONNX}{text}")
    assert field in [each.field for each in found if each.level is Level.FAULT]


@pytest.mark.parametrize(("text", "field"), REFUSED)
def test_each_injection_is_a_fault_at_its_line_with_a_cure(text: str, field: str) -> None:
    found = [each for each in judge(f"{HEAD}{ONNX}{text}") if each.level is Level.FAULT]
    assert field in [each.field for each in found]
    for each in found:
        assert each.line is not None
        assert each.line >= 4
        assert each.message.endswith(".")
        assert each.cure.endswith(".")


@pytest.mark.parametrize("backend", ["python", "onnxruntime", "vllm", "fil"])
@pytest.mark.parametrize("key", ["EXECUTION_ENV_PATH", " execution_env_path"])
@pytest.mark.parametrize("value", ["/opt/env", "$$TRITON_MODEL_DIRECTORY/env/env.tar.gz", ""])
def test_no_version_brings_an_interpreter(backend: str, key: str, value: str) -> None:
    (found,) = judge(f'backend: "{backend}"\n{TENSORS}' + param(key, value))
    assert (found.field, found.level) == ("parameters", Level.FAULT)
    assert "python backend of the sites" in found.cure


@pytest.mark.parametrize("key", ["TRITON_BATCH_STRATEGY_PATH", "triton_new", "EXECUTION_ENV_X"])
def test_a_python_model_gets_no_parameter_of_tritons_own(key: str) -> None:
    assert [each.level for each in judge(PYTHON + param(key))] == [Level.FAULT]


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        (param("CPU_EXTENSION_PATH", "/tmp/x.so"), "openvino"),
        (param("executor_worker_path", "/bin/sh"), "tensorrt"),
        (param("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env"), "vllm"),
    ],
)
def test_a_parameter_of_another_backend_is_refused(text: str, backend: str) -> None:
    found = judge(f'backend: "{backend}"\n{TENSORS}{text}')
    assert [each.field for each in found] == ["parameters"]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (step("unknown"), "ensemble_scheduling.step.model_name"),
        (step("m"), "ensemble_scheduling.step.model_name"),
        (step("../other"), "ensemble_scheduling.step.model_name"),
        (step("other", "model_version: 0"), "ensemble_scheduling.step.model_version"),
        (
            step("other", 'model_version: 1 model_namespace: "n"'),
            "ensemble_scheduling.step.model_namespace",
        ),
        ("ensemble_scheduling { }", "ensemble_scheduling"),
        ("", "platform"),
    ],
)
def test_an_ensemble_names_registered_models_only(text: str, field: str) -> None:
    found = judge(ENSEMBLE + text)
    assert [(each.field, each.level) for each in found] == [(field, Level.FAULT)]


def test_without_the_models_an_ensemble_is_warned_of() -> None:
    assert [e.level for e in judge(ENSEMBLE + step("unknown"), known=None)] == [Level.WARNING]


@pytest.mark.parametrize("kind", ["input", "output"])
def test_tensors_must_be_stated(kind: str) -> None:
    other = "output" if kind == "input" else "input"
    text = f'backend: "python"\n{other} {{ name: "t" data_type: TYPE_BOOL dims: [ 1 ] }}'
    assert [each.field for each in judge(text)] == [kind]


@pytest.mark.parametrize(
    "text",
    [
        'output { name: "z" data_type: TYPE_FP32 dims: 1 label_filename: "labels.txt" }',
        'model_warmup { inputs { key: "x" value { input_data_file: "labels.txt" } } }',
        'sequence_batching { state { initial_state { data_file: "labels.txt" } } }',
    ],
)
def test_a_file_that_triton_seeks_beside_the_version_is_a_fault(text: str) -> None:
    (found,) = judge(ONNX + text)
    assert found.level is Level.FAULT
    assert "beside the numbered folder" in found.message


@pytest.mark.parametrize("backend", ["python", "vllm"])
def test_a_model_may_answer_as_often_as_it_likes(backend: str) -> None:
    decoupled = "model_transaction_policy { decoupled: true }"
    assert judge(f'backend: "{backend}"\n{TENSORS}{decoupled}') == ()


def test_what_an_agent_overrules_is_warned_of() -> None:
    assert [each.level for each in judge(ONNX + "version_policy { all { } }")] == [Level.WARNING]


def test_every_fault_is_told_at_once() -> None:
    text = 'name: "x"\nbackend: "nope"\nruntime: "a.so"\nmax_batch_size: -5\n'
    assert [(each.line, each.field) for each in judge(text)] == [
        (1, "name"),
        (2, "backend"),
        (3, "runtime"),
        (None, "input"),
        (None, "output"),
        (4, "max_batch_size"),
    ]
