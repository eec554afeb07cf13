"""Which parameters a configuration may give the backend that loads it, and its accelerators.

Pure. For backends that run no code of a version these are allow-lists: what nobody looked at may
read or write a path, or load a library (OpenVINO's CPU_EXTENSION_PATH does). The control plane has
the same lists (controlplane/domain/backends.py) and cannot widen these. Sources: the README and
source of each backend's repository. Code may be told anything, as it could do it by itself, but
what makes the server itself unpack or load something.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# Parameters that name what the server unpacks and runs, or loads as a library.
_NEVER = {
    "EXECUTION_ENV_PATH": "it brings an interpreter of its own",
    "TRITON_BATCH_STRATEGY_PATH": "it loads a library into the server",
}
# In the name of an accelerator's parameter: of no backend at all.
_REACHING = ("plugin", "lib", "path", "file", "dir", "cache")

PARAMETERS: Mapping[str, frozenset[str]] = {
    "onnxruntime": frozenset(
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
    "tensorrt": frozenset({"execution_context_allocation_strategy"}),
    "openvino": frozenset(
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
    "fil": frozenset(
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
    "ensemble": frozenset(),
}
# By backend and the accelerator's name; a backend that is not here has none.
ACCELERATORS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "onnxruntime": {
        "cuda": frozenset(
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
        ),
        "tensorrt": frozenset(
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
        ),
        "openvino": frozenset(),
    },
}


def parameter_fault(config: Mapping[str, Any], backend: str) -> str:
    """Why `config` must not be loaded by `backend`; empty when its parameters may stand. The keys
    are those of Triton's map: backends tell capitals apart, so the lists do too."""
    allowed = PARAMETERS.get(backend)
    for name in config.get("parameters", {}):
        known = _NEVER.get(name.strip().upper())
        if known is not None:
            return f"it sets the parameter {name}: {known}"
        if allowed is not None and name not in allowed:
            return (
                f"it sets the parameter {name!r:.80}, which is none that the backend {backend} "
                "may get"
            )
    for accelerator, names in _accelerators(config):
        known_names = ACCELERATORS.get(backend, {}).get(accelerator)
        if allowed is not None and known_names is None:
            return (
                f"it asks for the accelerator {accelerator!r:.80}, which is none of the backend "
                f"{backend}"
            )
        for name in names:
            if any(word in name.lower() for word in _REACHING):
                return f"it gives an accelerator the parameter {name}: it names a library or a path"
            if allowed is not None and name not in (known_names or ()):
                return (
                    f"it gives the accelerator {accelerator} the parameter {name!r:.80}, which is "
                    "none that it may get"
                )
    return ""


def _accelerators(config: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """Name, and names of the parameters, of each."""
    every = config.get("optimization", {}).get("execution_accelerators", {})
    for kind in every.values():
        for each in kind:
            yield str(each.get("name", "")), [str(name) for name in each.get("parameters", {})]
