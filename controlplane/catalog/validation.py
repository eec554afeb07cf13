"""Whether a version is what it claims to be: ties the rules of the domain to its bytes.

Reads the configuration, the golden requests and the headers of model files, through a callable
that knows where bytes are; weights are mapped, never loaded. What is wrong is a finding, not an
exception: the caller decides what follows (`findings_error` makes the refusal).
"""

import contextlib
import mmap
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from controlplane.catalog.config_text import MAX_CONFIG_BYTES, parse_config
from controlplane.domain.backends import VLLM_ARGUMENTS_FILE, Backend, ContentClass, backend_named
from controlplane.domain.bundle_files import judge_files
from controlplane.domain.config_lint import lint
from controlplane.domain.config_view import ConfigView
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.findings import (
    Finding,
    fault,
    faults_of,
    findings_error,
    in_order,
)
from controlplane.domain.golden_document import MAX_GOLDEN_BYTES, golden_findings
from controlplane.domain.manifest import CONFIG_FILE, GOLDEN_FILE, Manifest, ManifestFile
from controlplane.domain.onnx_config import (
    DEFAULT_FILE,
    content_findings,
    generate_config,
    referenced_files,
    signature_findings,
)
from controlplane.domain.onnx_signature import OnnxSignature, read_signature
from controlplane.domain.tensors import NotOfTheFormat, safetensors_spans
from controlplane.domain.vllm_arguments import MAX_ARGUMENTS_BYTES, vllm_findings

__all__ = [
    "Bytes",
    "Checked",
    "check_bundle",
    "check_texts",
    "config_from_onnx",
    "findings_error",
    "open_bytes",
]

Bytes = bytes | bytearray | memoryview | Path

# Each takes seconds of a core to walk; of safetensors only the header is read.
MAX_GRAPHS: Final = 4
_TEXT_LIMITS: Final = {
    CONFIG_FILE: MAX_CONFIG_BYTES,
    GOLDEN_FILE: MAX_GOLDEN_BYTES,
    VLLM_ARGUMENTS_FILE: MAX_ARGUMENTS_BYTES,
}
_MISSING: Final = {
    CONFIG_FILE: "Push one; for an ONNX model it can be made from the model's signature.",
    GOLDEN_FILE: "Record the golden requests that prove the version, and push them with it.",
}


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What was found. `backend` is "" where none is known; the content is then `executable`.
    `config` is None where none could be read."""

    content_class: ContentClass
    backend: str
    findings: tuple[Finding, ...]
    config: ConfigView | None

    @property
    def faults(self) -> tuple[Finding, ...]:
        return faults_of(self.findings)


def check_bundle(
    manifest: Manifest,
    read: Callable[[ManifestFile], Bytes],
    *,
    model_name: str,
    known_models: Collection[str] | None = None,
) -> Checked:
    """Judges a version whose bytes are all held.

    `read` gives a file's path on disk, or its bytes. `known_models` are the models that an
    ensemble may name; None: not known. Raises only what `read` and the disk raise.
    """
    by_path = {file.path: file for file in manifest.files}
    sizes = {path: file.size for path, file in by_path.items()}
    found: list[Finding] = []
    texts: dict[str, bytes] = {}
    for path, limit in _TEXT_LIMITS.items():
        if path in by_path and sizes[path] <= limit:
            with open_bytes(read(by_path[path])) as data:
                texts[path] = bytes(data)
    parsed = _parse(texts.get(CONFIG_FILE), found)
    backend = _backend(parsed)
    signatures: dict[str, OnnxSignature | None] = {}
    graphs = [path for path in _models(sizes, backend, parsed) if _is_graph(path)]
    found += [_one_too_many(path) for path in graphs[MAX_GRAPHS:]]
    for path in _models(sizes, backend, parsed):
        if path in graphs[MAX_GRAPHS:]:
            continue
        with open_bytes(read(by_path[path])) as data:
            try:
                if path.endswith(".safetensors"):
                    _check_safetensors(data)
                else:
                    signatures[path] = read_signature(data)
            except NotOfTheFormat as error:
                signatures[path] = None
                found.append(_not_of_the_format(path, error))
    checked = _judge(
        sizes=sizes,
        texts=texts,
        parsed=parsed,
        signatures=signatures,
        model_name=model_name,
        known_models=known_models,
    )
    return _with(checked, found)


def check_texts(
    *,
    files: Mapping[str, int],
    config: str | bytes | None,
    golden: str | bytes | None,
    model_name: str,
    known_models: Collection[str] | None = None,
) -> Checked:
    """The same judgement before a push, from the two texts and each file's size by its path. What
    only the model's own bytes can tell is not judged, nor a text that `files` has and is None."""
    found: list[Finding] = []
    texts: dict[str, bytes] = {}
    for path, text in ((CONFIG_FILE, config), (GOLDEN_FILE, golden)):
        if text is not None:
            raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
            texts[path] = raw
    sizes = {**files, **{path: len(text) for path, text in texts.items()}}
    parsed = _parse(texts.get(CONFIG_FILE), found)
    checked = _judge(
        sizes=sizes,
        texts=texts,
        parsed=parsed,
        signatures=None,
        model_name=model_name,
        known_models=known_models,
    )
    return _with(checked, found)


def config_from_onnx(
    model: Bytes, *, model_name: str, max_batch_size: int = 0, file: str = DEFAULT_FILE
) -> str:
    """The text of a config.pbtxt for a version that has none, from its ONNX model `file`.

    Raises `InvalidInput` (`onnx-invalid`, `config-not-derivable`).
    """
    with open_bytes(model) as data:
        try:
            signature = read_signature(data)
        except NotOfTheFormat as error:
            raise InvalidInput(
                "onnx-invalid",
                f"{file} is no ONNX model: {error}.",
                errors=[FieldError(field=file, message=f"is no ONNX model: {error}")],
            ) from error
    return generate_config(model_name, signature, max_batch_size, file=file)


@contextlib.contextmanager
def open_bytes(source: Bytes) -> Iterator[memoryview]:
    """The bytes without a copy: a file is mapped into memory, page by page as it is looked at."""
    if not isinstance(source, Path):
        with memoryview(source) as view:
            yield view
        return
    with source.open("rb") as file:
        if file.seek(0, 2) == 0:  # an empty file cannot be mapped
            yield memoryview(b"")
            return
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
        ):
            yield view


def _parse(text: bytes | None, found: list[Finding]) -> ConfigView | None:
    if text is None:
        return None
    parsed = parse_config(text)
    found += parsed.findings
    return parsed.view


def _backend(view: ConfigView | None) -> Backend | None:
    return None if view is None else backend_named(backend=view.backend, platform=view.platform)


def _models(
    sizes: Mapping[str, int], backend: Backend | None, view: ConfigView | None
) -> Iterator[str]:
    """The files whose own bytes say what they are. A version that runs code may hold any."""
    if backend is None or view is None:
        return
    main = (view.default_model_filename,) if view.default_model_filename else backend.main
    for path in sorted(sizes):
        is_onnx = backend.name == "onnxruntime" and (path.endswith(".onnx") or path in main)
        if is_onnx or (backend.name == "vllm" and path.endswith(".safetensors")):
            yield path


def _is_graph(path: str) -> bool:
    return not path.endswith(".safetensors")


def _one_too_many(path: str) -> Finding:
    message = f"It is one of more than {MAX_GRAPHS} ONNX models; Triton loads one."
    return fault(path, message, "Push the others as versions of models of their own.")


def _check_safetensors(data: memoryview) -> None:
    safetensors_spans(lambda offset, length: bytes(data[offset : offset + length]), len(data))


def _not_of_the_format(path: str, error: NotOfTheFormat) -> Finding:
    kind = "safetensors file" if path.endswith(".safetensors") else "ONNX model"
    message = f"It is no {kind}: {str(error)[:200]}."
    return fault(path, message, "Export the model again, and push the file as it was written.")


def _judge(
    *,
    sizes: Mapping[str, int],
    texts: Mapping[str, bytes],
    parsed: ConfigView | None,
    signatures: Mapping[str, OnnxSignature | None] | None,
    model_name: str,
    known_models: Collection[str] | None,
) -> Checked:
    """Every rule on what is known: `signatures` None while only names are, one None where a model
    cannot be read."""
    backend = _backend(parsed)
    is_vllm = backend is not None and backend.name == "vllm"
    found = list(_missing_texts(sizes, texts, is_vllm=is_vllm))
    if parsed is not None:
        found += lint(parsed, model_name=model_name, paths=sizes, known_models=known_models)
    referenced: set[str] = set()
    readable = {path: each for path, each in (signatures or {}).items() if each is not None}
    for path, signature in readable.items():
        referenced |= referenced_files(signature, path)
        found += content_findings(signature, file=path, sizes=sizes)
        if parsed is not None and _is_main(path, parsed, backend):
            found += signature_findings(parsed, signature, file=path)
    content, files = judge_files(
        backend,
        paths=sizes,
        default_file=parsed.default_model_filename if parsed else "",
        referenced=None if signatures is None or len(readable) < len(signatures) else referenced,
    )
    found += files
    if GOLDEN_FILE in texts:
        found += golden_findings(texts[GOLDEN_FILE], parsed)
    if parsed is not None and "sequence_batching" in parsed.present:
        found.append(_sequences(parsed))
    if is_vllm and VLLM_ARGUMENTS_FILE in texts:
        found += vllm_findings(texts[VLLM_ARGUMENTS_FILE], sizes)
    return Checked(
        content_class=content,
        backend="" if backend is None else backend.name,
        findings=tuple(found),
        config=parsed,
    )


def _missing_texts(
    sizes: Mapping[str, int], texts: Mapping[str, bytes], *, is_vllm: bool
) -> Iterator[Finding]:
    for path, limit in _TEXT_LIMITS.items():
        if path in texts:
            continue
        if sizes.get(path, 0) > limit and (path in _MISSING or is_vllm):
            message = f"It has {sizes[path]} bytes; at most {limit} are allowed."
            yield fault(path, message, "Make it smaller.")
        elif path in _MISSING and path not in sizes:
            yield fault(path, f"There is no {path}.", _MISSING[path])


def _is_main(path: str, view: ConfigView, backend: Backend | None) -> bool:
    main = view.default_model_filename or (backend.main[0] if backend and backend.main else "")
    return path == main or path == f"{main}/{DEFAULT_FILE}"


def _sequences(view: ConfigView) -> Finding:
    message = "Golden requests carry no sequence id, without which a server refuses them."
    cure = "Serve the state as inputs and outputs; no site could prove the version as it is."
    return view.finding("sequence_batching", message, cure)


def _with(checked: Checked, found: Collection[Finding]) -> Checked:
    return Checked(
        content_class=checked.content_class,
        backend=checked.backend,
        findings=in_order((*checked.findings, *found)),
        config=checked.config,
    )
