"""Whether loading a version runs code of its author, told from file names and configuration.

Pure: names and fields in, a finding out; whether this site takes such a version, `bundles` says.
The lists allow: what is on none of them counts as code. The control plane judges by the same rules
before it takes a version, so that none is refused here that it let through; the cases that both are
held to are docs/protocol/bundle-classes.json. Triton looks for the library of a backend,
and for that of a batching strategy, in the version's folder before its own (its core's
`GetBackendLibrarySearchPaths`), so a library beside plain data would be code nobody declared.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from waypost_agent.config_parameters import parameter_fault
from waypost_agent.errors import BUNDLE_REFUSED, CONFIG_INVALID
from waypost_agent.manifest import RECORD_FILES

# Each would let a version reach past its own files or change how the server loads others.
REFUSED_FIELDS = {
    "model_operations": "it loads libraries into the server",
    "model_repository_agents": "it runs repository agents in the server",
    "cc_model_filenames": "it picks files by hardware, which is what variants are for",
    "runtime": "it names a library to load",
}

# From the plainest to what nobody loads. Opaque: machine code that its builder must vouch for.
DATA = "data"
OPAQUE = "opaque"
EXECUTABLE = "executable"
REFUSED = "refused"

_BACKEND = re.compile(r"[a-z][a-z0-9_]{0,63}")
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "torch_aoti": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "ensemble": "ensemble",
}
# What a backend that runs no code of a version reads; in lower case, by the last part of a path.
_ANYWHERE = (
    "*.txt", "*.json", "*.csv", "*.tsv", "*.md", "*.yaml", "*.yml", "*.labels",
    "license", "notice", "readme", "authors", "version", "mlmodel",
)  # fmt: skip
_NAMES = {
    # External data of ONNX has any name; these are what exporters write.
    "onnxruntime": (
        "*.onnx", "*.data", "*.onnx_data", "*.onnx_data_*", "*.bin", "*.weight",
        "*.weights", "*.bias", "onnx__*",
    ),
    "openvino": ("*.xml", "*.bin"),
    "fil": ("*.model", "*.ubj", "*.tl"),
    "tensorrt": ("*.plan", "*.engine"),
    "ensemble": (),
}  # fmt: skip
_OPAQUE = frozenset({"tensorrt"})
# In no version, whatever its backend: none needs one, and a server may load it before its own.
_NEVER = re.compile(r"libtriton_.*|.*\.(so|dll|dylib|pyd)(\.[0-9][0-9.]*)?|.*\.pyc", re.ASCII)
# Beside plain data: code, and ONNX Runtime's own format, into which nobody looks.
_NOT_BESIDE_DATA = ("model.py", "*.ort")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Of what kind a version is. `reason` goes on after "version 3 "; `code` is for `REFUSED`."""

    kind: str
    reason: str = ""
    code: str = ""


def by_names(files: Collection[str]) -> Finding:
    """What the names alone tell, before any byte is here. `DATA` may still turn out to be more."""
    names = _payload(files)
    if planted := _never(names):
        return _smuggled(planted[0])
    fitting = [backend for backend in _NAMES if not _unlisted(names, backend)]
    if fitting:
        only_opaque = set(fitting) <= _OPAQUE
        return _opaque(names) if only_opaque else Finding(kind=DATA)
    return _unknown(min((_unlisted(names, backend) for backend in _NAMES), key=len)[0])


def by_config(config: Mapping[str, Any], files: Collection[str]) -> Finding:
    """What configuration and names tell together: the last word."""
    if fault := _lint(config):
        return Finding(
            kind=REFUSED, code=CONFIG_INVALID, reason=f"has a config.pbtxt that is refused: {fault}"
        )
    backend = _backends(config)[0]
    names = _payload(files)
    if planted := _never(names):
        return _smuggled(planted[0])
    if backend not in _NAMES:
        return Finding(
            kind=EXECUTABLE, reason=f"has the backend {backend!r}, which runs code of its own"
        )
    if beside := _like(names, _NOT_BESIDE_DATA):
        return _smuggled(beside[0], f" beside a model of the backend {backend}")
    if unlisted := _unlisted(names, backend):
        return _unknown(unlisted[0])
    return _opaque(names) if backend in _OPAQUE else Finding(kind=DATA)


def _lint(config: Mapping[str, Any]) -> str:
    """What runs code or reaches beyond the version, whoever allows it; empty when nothing does."""
    for field, why in REFUSED_FIELDS.items():
        if config.get(field):
            return f"it sets {field}: {why}"
    platform = config.get("platform", "")
    if platform and platform not in _PLATFORMS:
        return f"its platform {platform!r:.80} is none that is known"
    backends = _backends(config)
    if not backends:
        return "it names no backend and no platform"
    if len(set(backends)) > 1:
        return f"its backend is {backends[0]!r}, its platform is of {backends[1]!r}"
    if not _BACKEND.fullmatch(backends[0]):
        return f"its backend {backends[0]!r:.80} is not a name such as onnxruntime"
    if fault := parameter_fault(config, backends[0]):
        return fault
    if (number := _unknown_type(config)) is not None:
        return f"it has the data_type {number}, which is none that is known"
    return ""


def _unknown_type(fields: object) -> int | None:
    """The text format takes any number for an enum; one that has no name stays a number."""
    if isinstance(fields, Mapping):
        if isinstance(number := fields.get("data_type"), int):
            return number
        fields = list(fields.values())
    if not isinstance(fields, list):
        return None
    found = (_unknown_type(each) for each in fields)
    return next((number for number in found if number is not None), None)


def _backends(config: Mapping[str, Any]) -> list[str]:
    """As the configuration names it, once or twice."""
    named = [config.get("backend", ""), _PLATFORMS.get(config.get("platform", ""), "")]
    return [each for each in named if each]


def _payload(files: Collection[str]) -> list[str]:
    return sorted(path for path in files if path not in RECORD_FILES)


def _like(paths: Sequence[str], patterns: Sequence[str]) -> list[str]:
    lowered = ((path, path.rsplit("/", 1)[-1].lower()) for path in paths)
    return [path for path, name in lowered if any(_fits(name, each) for each in patterns)]


def _fits(name: str, pattern: str) -> bool:
    """The star of an ending holds no dot: `onnx__*` is not `onnx__x.py`."""
    stem, dot, ending = name.rpartition(".")
    wanted, wanted_dot, wanted_ending = pattern.rpartition(".")
    return dot == wanted_dot and fnmatchcase(stem, wanted) and fnmatchcase(ending, wanted_ending)


def _never(paths: Sequence[str]) -> list[str]:
    return [path for path in paths if _NEVER.fullmatch(path.rsplit("/", 1)[-1].lower())]


def _unlisted(paths: Sequence[str], backend: str) -> list[str]:
    listed = set(_like(paths, (*_NAMES[backend], *_ANYWHERE)))
    return [path for path in paths if path not in listed]


def _smuggled(path: str, beside: str = "") -> Finding:
    return Finding(
        kind=REFUSED,
        code=BUNDLE_REFUSED,
        reason=f"has {path}{beside}, which Triton could load as code: push it without",
    )


def _unknown(path: str) -> Finding:
    return Finding(
        kind=EXECUTABLE, reason=f"has {path}, which is code or not known to be plain data"
    )


def _opaque(paths: Sequence[str]) -> Finding:
    plans = _like(paths, _NAMES["tensorrt"]) or list(paths)
    return Finding(
        kind=OPAQUE, reason=f"has {plans[0]}, machine code that no release key of this site signed"
    )
