"""The backends of Triton that a version may use, and what each of them may be given.

One table: the class of its content, the files it reads, the parameters and accelerators it may be
told. All are allow-lists: what nobody looked at is refused. Sources: the README and source of each
backend's repository; what is left out reads or writes a path, or loads a library.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class ContentClass(StrEnum):
    """What loading a version can do at a site: `data` is read, `opaque` is a build that nobody
    can look into, `executable` runs as code."""

    DATA = "data"
    OPAQUE = "opaque"
    EXECUTABLE = "executable"


@dataclass(frozen=True, kw_only=True)
class Backend:
    """`main` has the names one of which Triton loads where the configuration names none;
    `suffixes` and `names` are the files it reads, `weights` patterns of those that its model file
    may name: sites know them by their names alone, as they read no model. `folder`: the main name
    may be that of a folder. `free` lets every file but the forbidden ones, and every parameter but
    Triton's own, stand in a version."""

    name: str
    content: ContentClass
    main: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    names: frozenset[str] = frozenset()
    parameters: frozenset[str] = frozenset()
    accelerators: Mapping[str, frozenset[str]] = field(default_factory=dict)
    folder: bool = False
    free: bool = False
    note: str = ""


_CUDA = frozenset(
    {
        "arena_extend_strategy",
        "cudnn_conv1d_pad_to_nc1d",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "do_copy_in_default_stream",
        "enable_cuda_graph",
        "gpu_mem_limit",
        "prefer_nhwc",
        "use_ep_level_unified_stream",
        "use_tf32",
    }
)
# Without the caches and plugins: they read and write paths on the server, or load libraries.
_TENSORRT = frozenset(
    {
        "max_workspace_size_bytes",
        "precision_mode",
        "trt_auxiliary_streams",
        "trt_build_heuristics_enable",
        "trt_builder_optimization_level",
        "trt_context_memory_sharing_enable",
        "trt_cuda_graph_enable",
        "trt_dla_core",
        "trt_dla_enable",
        "trt_force_sequential_engine_build",
        "trt_layer_norm_fp32_fallback",
        "trt_max_partition_iterations",
        "trt_min_subgraph_size",
        "trt_profile_max_shapes",
        "trt_profile_min_shapes",
        "trt_profile_opt_shapes",
        "trt_sparsity_enable",
        "trt_tactic_sources",
    }
)

VLLM_ARGUMENTS_FILE: Final = "model.json"
ENSEMBLE: Final = "ensemble"

_ALL = (
    Backend(
        name="onnxruntime",
        content=ContentClass.DATA,
        main=("model.onnx",),
        suffixes=(".onnx",),
        # External data of ONNX has any name; these are what exporters write.
        weights=(
            "*.data",
            "*.onnx_data",
            "*.onnx_data_*",
            "*.bin",
            "*.weight",
            "*.weights",
            "*.bias",
            "onnx__*",
        ),
        folder=True,
        parameters=frozenset(
            {
                "arena_extend_strategy",
                "cudnn_conv_algo_search",
                "do_copy_in_default_stream",
                "enable_mem_arena",
                "enable_mem_pattern",
                "execution_mode",
                "gpu_mem_limit",
                "inter_op_thread_count",
                "intra_op_thread_count",
                "memory.enable_memory_arena_shrinkage",
                "session.use_device_allocator_for_initializers",
            }
        ),
        accelerators={"cuda": _CUDA, "tensorrt": _TENSORRT, "openvino": frozenset()},
    ),
    Backend(
        name="tensorrt",
        content=ContentClass.OPAQUE,
        main=("model.plan",),
        suffixes=(".plan", ".engine"),
        parameters=frozenset({"execution_context_allocation_strategy"}),
    ),
    Backend(
        name="openvino",
        content=ContentClass.DATA,
        main=("model.xml",),
        suffixes=(".xml", ".bin"),
        parameters=frozenset(
            {
                "COMPILATION_NUM_THREADS",
                "ENABLE_BATCH_PADDING",
                "HINT_BF16",
                "INFERENCE_NUM_THREADS",
                "NUM_STREAMS",
                "PERFORMANCE_HINT",
                "RESHAPE_IO_LAYERS",
                "SKIP_OV_DYNAMIC_BATCHSIZE",
                "TARGET_DEVICE",
            }
        ),
    ),
    Backend(
        name="fil",
        content=ContentClass.DATA,
        main=("xgboost.model", "xgboost.json", "xgboost.ubj", "model.txt", "checkpoint.tl"),
        suffixes=(".model", ".json", ".ubj", ".txt", ".tl"),
        parameters=frozenset(
            {
                "algo",
                "blocks_per_sm",
                "chunk_size",
                "cpu_nthread",
                "is_classifier",
                "layout",
                "model_type",
                "output_class",
                "predict_proba",
                "storage_type",
                "threads_per_tree",
                "threshold",
                "transfer_threshold",
                "use_experimental_optimizations",
                "xgboost_allow_unknown_field",
            }
        ),
    ),
    Backend(
        # Its engine builds and runs what configurations beside the weights ask for.
        name="vllm",
        content=ContentClass.EXECUTABLE,
        main=(VLLM_ARGUMENTS_FILE,),
        suffixes=(".safetensors", ".json", ".model", ".jinja", ".tiktoken", ".bin", ".pt", ".pth"),
        parameters=frozenset({"ENABLE_VLLM_HEALTH_CHECK", "REPORT_CUSTOM_METRICS"}),
    ),
    Backend(
        name="python",
        content=ContentClass.EXECUTABLE,
        main=("model.py",),
        free=True,
    ),
    Backend(
        name="pytorch",
        content=ContentClass.EXECUTABLE,
        main=("model.pt", "model.pt2"),
        suffixes=(".pt", ".pt2", ".pth"),
        parameters=frozenset(
            {
                "DISABLE_CUDNN",
                "DISABLE_OPTIMIZED_EXECUTION",
                "ENABLE_CACHE_CLEANING",
                "ENABLE_WEIGHT_SHARING",
                "INFERENCE_MODE",
                "INTER_OP_THREAD_COUNT",
                "INTRA_OP_THREAD_COUNT",
                "NUM_INTEROP_THREADS",
                "NUM_THREADS",
            }
        ),
    ),
    Backend(
        name="dali",
        content=ContentClass.EXECUTABLE,
        main=("model.dali", "dali.py"),
        suffixes=(".dali",),
        names=frozenset({"dali.py"}),
        parameters=frozenset({"num_threads"}),
    ),
    Backend(
        name="tensorflow",
        content=ContentClass.EXECUTABLE,
        main=("model.savedmodel", "model.graphdef"),
        suffixes=(".graphdef", ".pb", ".index"),
        folder=True,
        note="Triton's releases from late 2025 carry no tensorflow backend",
    ),
    Backend(name=ENSEMBLE, content=ContentClass.DATA),
)

BACKENDS: Final[Mapping[str, Backend]] = {each.name: each for each in _ALL}

PLATFORMS: Final[Mapping[str, str]] = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    ENSEMBLE: ENSEMBLE,
}


def backend_named(*, backend: str, platform: str) -> Backend | None:
    """The backend that these two fields of a configuration lead to, where both agree."""
    by_platform = PLATFORMS.get(platform) if platform else backend
    name = backend or by_platform
    return BACKENDS.get(name) if name and name == by_platform else None
