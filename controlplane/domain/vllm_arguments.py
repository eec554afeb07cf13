"""Whether the engine arguments of a vLLM version (`model.json`) keep to the version's own files.

vLLM downloads what it is told to, and runs the code that comes with it when it is allowed to: so
only arguments that name neither a place nor code may stand there, and `model` is a folder of the
version. Knows nothing of the configuration beside it.
Source: vLLM's engine arguments (docs.vllm.ai) and Triton's vllm_backend.
"""

import json
from collections.abc import Collection, Iterator
from typing import Any, Final

from controlplane.domain.backends import VLLM_ARGUMENTS_FILE
from controlplane.domain.findings import Finding, fault, shown
from controlplane.domain.manifest import path_fault

MAX_ARGUMENTS_BYTES: Final = 1 << 20
_PLACES: Final = ("model", "tokenizer")
_PLAIN: Final = frozenset(
    {
        "block_size",
        "cpu_offload_gb",
        "disable_custom_all_reduce",
        "disable_log_requests",
        "disable_log_stats",
        "dtype",
        "enable_chunked_prefill",
        "enable_prefix_caching",
        "enforce_eager",
        "gpu_memory_utilization",
        "kv_cache_dtype",
        "limit_mm_per_prompt",
        "max_logprobs",
        "max_model_len",
        "max_num_batched_tokens",
        "max_num_seqs",
        "max_seq_len_to_capture",
        "num_scheduler_steps",
        "pipeline_parallel_size",
        "quantization",
        "seed",
        "served_model_name",
        "swap_space",
        "task",
        "tensor_parallel_size",
        "tokenizer_mode",
    }
)
_KNOWN = sorted({*_PLAIN, *_PLACES, "load_format", "trust_remote_code"})
_FORMATS: Final = ("auto", "safetensors", "dummy")


def vllm_findings(body: bytes, paths: Collection[str]) -> tuple[Finding, ...]:
    """Judges `model.json` of a version with the files `paths`."""
    try:
        arguments = json.loads(body)
    except (ValueError, RecursionError):
        return (_fault("", "It is not JSON.", "Write the engine arguments as a JSON object."),)
    if not isinstance(arguments, dict):
        return (_fault("", "It is not a JSON object.", 'Write at least {"model": "."}.'),)
    return tuple(_judge(arguments, paths))


def _judge(arguments: dict[str, Any], paths: Collection[str]) -> Iterator[Finding]:
    if "model" not in arguments:
        message = "It names no model, and vLLM would download its default."
        yield _fault("model", message, 'Write "model": "." for the version\'s own folder.')
    for key, value in arguments.items():
        if key in _PLACES:
            if (why := _place_fault(value, paths)) is not None:
                cure = 'Push the files and write "." or the folder of the version they are in.'
                yield _fault(key, why, cure)
        elif key == "trust_remote_code":
            if value is not False:
                message = "It lets vLLM run code that comes with the weights."
                yield _fault(key, message, "Leave it out, or serve by the python backend.")
        elif key == "load_format":
            if value not in _FORMATS:
                message = f"{shown(str(value))} may be pickles, or reaches out of the version."
                yield _fault(key, message, f"Use one of {', '.join(_FORMATS)}, or leave it out.")
        elif key not in _PLAIN:
            message = f"{shown(key)} is not on the list of arguments that name no place or code."
            yield _fault(
                shown(key, 60)[1:-1], message, f"Leave it out; known: {', '.join(_KNOWN)}."
            )
        elif isinstance(value, dict) and key != "limit_mm_per_prompt":
            yield _fault(key, "It is an object.", "Give a number, a text, true or false.")


def _place_fault(value: object, paths: Collection[str]) -> str | None:
    if not isinstance(value, str):
        return "It is not a text."
    plain = value.removeprefix("./").removesuffix("/")
    if plain in (".", ""):
        return None if value else "It is empty."
    if path_fault(plain) or not any(path.startswith(f"{plain}/") for path in paths):
        return f"{shown(value)} is no folder of the version; vLLM would look for it elsewhere."
    return None


def _fault(field: str, message: str, cure: str) -> Finding:
    return fault(VLLM_ARGUMENTS_FILE, message, cure, field=field)
