"""What an ONNX model's own signature says about the configuration and the files beside it.

Writes a complete configuration from a signature, and finds where one that was pushed disagrees: a
server would refuse to load it, and says only at the site why. Sources: ONNX Runtime's backend
(`ValidateInputs`, `CompareDimsSupported`) and ONNX's document on external data.
"""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Final

from controlplane.domain.config_view import ConfigView, TensorConfig
from controlplane.domain.errors import FieldError, InvalidInput
from controlplane.domain.findings import Finding, fault, shown
from controlplane.domain.manifest import CONFIG_FILE, GOLDEN_FILE, path_fault
from controlplane.domain.onnx_signature import OnnxSignature, OnnxTensor

DEFAULT_FILE: Final = "model.onnx"


def generate_config(
    name: str, signature: OnnxSignature, max_batch_size: int = 0, *, file: str = DEFAULT_FILE
) -> str:
    """A complete config.pbtxt for the model `name` whose ONNX file is `file`.

    With `max_batch_size` over 0 the first dimension of every tensor is the batch and is left out.
    Raises `InvalidInput` (`config-not-derivable`) naming every tensor that Triton cannot carry.
    """
    faults = [
        FieldError(field=f"{file} {kind} {shown(each.name)[1:-1]}", message=message)
        for kind, tensors in (("input", signature.inputs), ("output", signature.outputs))
        for each in tensors
        for message in _why_not(each, max_batch_size)
    ]
    if not signature.inputs or not signature.outputs:
        faults.append(FieldError(field=file, message="The model has no inputs or no outputs."))
    if faults:
        detail = "No configuration can be made from the ONNX model; write config.pbtxt by hand."
        raise InvalidInput("config-not-derivable", detail, errors=faults)
    lines = [
        f"# Made by Waypost from the signature of {file}.",
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f"max_batch_size: {max_batch_size}",
    ]
    if file != DEFAULT_FILE:
        lines.append(f"default_model_filename: {_quoted(file)}")
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        entries = ",\n".join(_entry(each, max_batch_size) for each in tensors)
        lines.append(f"{kind} [\n{entries}\n]")
    return "\n".join(lines) + "\n"


def _why_not(tensor: OnnxTensor, max_batch_size: int) -> Iterator[str]:
    if not tensor.name.isprintable() or not tensor.name:
        yield "It has no name that a configuration can hold."
    yield from _carried_fault(tensor)
    if tensor.kind == "tensor" and tensor.dims is None:
        yield "The model does not say how many dimensions it has; export it with shapes."
    if max_batch_size > 0 and tensor.dims is not None and tensor.dims[:1] != (-1,):
        yield "Its first dimension is fixed, so requests cannot be batched; use max_batch_size 0."


def _carried_fault(tensor: OnnxTensor) -> Iterator[str]:
    if tensor.kind != "tensor":
        hint = " (scikit-learn: convert with zipmap=False)" if tensor.kind == "sequence" else ""
        yield f"It is a {tensor.kind}, and Triton carries only tensors{hint}."
    elif tensor.data_type is None:
        yield "Its type is none that Triton carries; cast it in the model."


def _entry(tensor: OnnxTensor, max_batch_size: int) -> str:
    dims = _served_dims(tensor, max_batch_size) or ()
    sizes = ", ".join(map(str, dims or (1,)))
    # A batch of single numbers: Triton states [ 1 ] and takes it away again for the model.
    is_flat = max_batch_size > 0 and not dims
    reshape = " reshape { shape: [ ] }" if is_flat else ""
    name, data_type = _quoted(tensor.name), tensor.data_type
    return f"  {{ name: {name} data_type: {data_type} dims: [ {sizes} ]{reshape} }}"


def _served_dims(tensor: OnnxTensor, max_batch_size: int) -> tuple[int, ...] | None:
    if tensor.dims is None:
        return None
    return tensor.dims[1:] if max_batch_size > 0 else tensor.dims


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def signature_findings(
    view: ConfigView, signature: OnnxSignature, *, file: str
) -> tuple[Finding, ...]:
    """Where the configuration and the signature of the model in `file` disagree."""
    return (
        *_unserved(signature, file),
        *_compare(view, view.inputs, signature.inputs, file, "input"),
        *_compare(view, view.outputs, signature.outputs, file, "output"),
        *_missing_inputs(view, signature, file),
    )


def _unserved(signature: OnnxSignature, file: str) -> Iterator[Finding]:
    for kind, tensors in (("input", signature.inputs), ("output", signature.outputs)):
        for each in tensors:
            for message in _carried_fault(each):
                place = f"{kind} {shown(each.name)[1:-1]}"
                yield fault(file, message, "Export the model with tensors only.", field=place)


def _compare(
    view: ConfigView,
    stated: tuple[TensorConfig, ...],
    known: tuple[OnnxTensor, ...],
    file: str,
    kind: str,
) -> Iterator[Finding]:
    by_name = {each.name: each for each in known}
    has_own = kind == "output" or not view.present & {"batch_input", "sequence_batching"}
    for tensor in stated:
        model = by_name.get(tensor.name)
        if model is None:
            if has_own and known:
                names = ", ".join(shown(each.name) for each in known[:20])
                message = f"{file} has no {kind} {shown(tensor.name)}."
                yield view.finding(f"{tensor.place}.name", message, f"It has {names}.")
            continue
        if model.data_type is not None and tensor.data_type != model.data_type:
            message = f"{shown(tensor.name)} is {model.data_type} in {file}."
            cure = f"Write data_type: {model.data_type}."
            yield view.finding(f"{tensor.place}.data_type", message, cure)
        yield from _compare_dims(view, tensor, model, file)


def _compare_dims(
    view: ConfigView, tensor: TensorConfig, model: OnnxTensor, file: str
) -> Iterator[Finding]:
    if model.dims is None or not tensor.dims:
        return
    place = f"{tensor.place}.dims"
    shape = ", ".join(map(str, model.dims))
    if view.max_batch_size > 0 and model.dims[:1] != (-1,):
        message = f"{shown(tensor.name)} is [ {shape} ] in {file}, whose first is no batch."
        yield view.finding("max_batch_size", message, "Write max_batch_size: 0 and whole dims.")
        return
    right = _served_dims(model, view.max_batch_size) or ()
    given = tensor.reshape if tensor.reshape is not None else tensor.dims
    if not right and view.max_batch_size == 0:
        right = (1,)
    fits = len(given) == len(right) and all(b in (-1, a) for a, b in zip(given, right, strict=True))
    if not fits:
        stated = ", ".join(map(str, given))
        message = f"{shown(tensor.name)} is [ {shape} ] in {file}, stated is [ {stated} ]."
        cure = f"Write dims: [ {', '.join(map(str, right))} ]."
        if not right:
            cure = "Write dims: [ 1 ] reshape { shape: [ ] }."
        yield view.finding(place, message, cure)


def _missing_inputs(view: ConfigView, signature: OnnxSignature, file: str) -> Iterator[Finding]:
    if not view.inputs or view.present & {"batch_input", "sequence_batching"}:
        return  # told already, or fed by those
    stated = {each.name for each in view.inputs}
    for each in signature.inputs:
        if each.name not in stated:
            message = f"{file} has the input {shown(each.name)}, which is not stated."
            yield view.finding("input", message, "State every input; a server refuses the rest.")


def content_findings(
    signature: OnnxSignature, *, file: str, sizes: Mapping[str, int]
) -> tuple[Finding, ...]:
    """What the model in `file` asks for beyond itself: operators, built engines and other files.

    `sizes` has the bytes of each file of the version by its path.
    """
    return (
        *_operators(signature, file),
        *dict.fromkeys(
            each
            for data in signature.external
            for each in _external(data.location, data.offset, data.length, file, sizes)
        ),
    )


def _operators(signature: OnnxSignature, file: str) -> Iterator[Finding]:
    for domain in sorted(signature.custom_domains):
        message = f"It uses operators of {shown(domain)}, which come from a library."
        yield fault(file, message, "Export with operators of ONNX only.", field="opset_import")
    if signature.has_built_engine:
        message = "It carries or names an engine built elsewhere, which nobody can look into."
        cure = "Push the plain ONNX model, and the engine as a TensorRT variant."
        yield fault(file, message, cure, field="graph")


def _external(
    location: str, offset: int | None, length: int | None, file: str, sizes: Mapping[str, int]
) -> Iterator[Finding]:
    field = "external_data"
    cure = "Name a file of the version, relative to the model's folder."
    why = path_fault(location)
    path = posixpath.join(posixpath.dirname(file), location)
    if why:
        yield fault(file, f"Weights lie outside the version: the name {why}.", cure, field=field)
    elif path in (CONFIG_FILE, GOLDEN_FILE) or path not in sizes:
        message = f"Weights lie in {shown(location)}, which is not among the version's files."
        yield fault(file, message, f"Push {shown(path)} too. {cure}", field=field)
    elif offset is None or length is None:
        message = f"Where weights lie in {shown(location)} is not a number."
        yield fault(file, message, "Export the model again.", field=field)
    elif offset + length > sizes[path]:
        message = f"Weights end at byte {offset + length} of {shown(location)}, "
        yield fault(
            file,
            f"{message}which has {sizes[path]}.",
            "Push the file that was exported with the model.",
            field=field,
        )


def referenced_files(signature: OnnxSignature, file: str) -> frozenset[str]:
    """The files of the version that the model in `file` keeps weights in."""
    folder = posixpath.dirname(file)
    return frozenset(posixpath.join(folder, each.location) for each in signature.external)
