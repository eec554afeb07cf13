"""Whether a configuration states its tensors whole, and asks for amounts that a server survives.

Judges a `ConfigView` alone: no file, no other model. Which fields may stand there at all,
`config_lint` decides. The rules on shapes are those of Triton's core (`ValidateIOShape`).
"""

from collections.abc import Iterator
from typing import Final

from controlplane.domain.config_view import ConfigView, TensorConfig
from controlplane.domain.findings import Finding, shown

MAX_BATCH_SIZE: Final = 65_536
MAX_INSTANCES: Final = 64  # of a group, on each device
MAX_INSTANCE_GROUPS: Final = 16
MAX_QUEUE_DELAY_US: Final = 60_000_000
MAX_CANDIDATES: Final = 65_536
MAX_WARMUP_VALUES: Final = 1 << 28  # 2 GiB of doubles
MAX_WARMUP_COUNT: Final = 1000
MAX_TENSORS: Final = 256
MAX_DIMS: Final = 16
MAX_TEXT: Final = 256


def shape_findings(view: ConfigView) -> Iterator[Finding]:
    """Whether every input and output is stated whole: servers at the sites complete nothing."""
    for kind, tensors in (("input", view.inputs), ("output", view.outputs)):
        if not tensors:
            message = f"It states no {kind}s, and the sites' servers do not complete them."
            cure = f"List every {kind} of the model with name, data_type and dims."
            yield view.finding(kind, message, cure)
        if len(tensors) > MAX_TENSORS:
            message = f"It has {len(tensors)} {kind}s; at most {MAX_TENSORS} are allowed."
            yield view.finding(kind, message, "Join tensors.")
        seen: set[str] = set()
        for tensor in tensors[:MAX_TENSORS]:
            yield from _tensor(view, tensor, kind)
            if tensor.name and tensor.name in seen:
                message = f"The {kind} {shown(tensor.name)} is there twice."
                yield view.finding(tensor.place, message, "Keep one of them.")
            seen.add(tensor.name)


def _tensor(view: ConfigView, tensor: TensorConfig, kind: str) -> Iterator[Finding]:
    what = f"The {kind} {shown(tensor.name)}" if tensor.name else f"An {kind}"
    if not tensor.name:
        yield view.finding(tensor.place, f"{what} has no name.", "Give it the model's own name.")
    elif len(tensor.name) > MAX_TEXT or not tensor.name.isprintable():
        cure = f"Use at most {MAX_TEXT} printable characters."
        yield view.finding(f"{tensor.place}.name", f"{what} has a name that cannot be used.", cure)
    if tensor.data_type == "TYPE_INVALID":
        cure = "Set data_type, for example TYPE_FP32."
        yield view.finding(tensor.place, f"{what} has no data_type.", cure)
    if not 1 <= len(tensor.dims) <= MAX_DIMS:
        message = f"{what} has {len(tensor.dims)} dims; there are 1 to {MAX_DIMS}."
        cure = "State the shape without the batch, -1 for any size; [ 1 ] for a single number."
        yield view.finding(f"{tensor.place}.dims", message, cure)
    if any(dim < 1 and dim != -1 for dim in tensor.dims):
        message = f"{what} has a size under 1 in its dims."
        yield view.finding(f"{tensor.place}.dims", message, "Write -1 for any size.")
    if tensor.reshape is not None:
        if any(dim < 1 and dim != -1 for dim in tensor.reshape):
            message = f"{what} has a size under 1 in its reshape."
            yield view.finding(f"{tensor.place}.reshape", message, "Write -1 for any size.")
        if not tensor.reshape and view.max_batch_size == 0:
            message = f"{what} is reshaped to nothing, which Triton allows only with a batch."
            cure = "Leave reshape out; dims: [ 1 ] feeds a scalar."
            yield view.finding(f"{tensor.place}.reshape", message, cure)


def size_findings(view: ConfigView) -> Iterator[Finding]:
    """Whether what the configuration asks of a server stays within bounds."""
    if not 0 <= view.max_batch_size <= MAX_BATCH_SIZE:
        message = f"It is {view.max_batch_size}."
        cure = f"Write 0 for a model without a batch, or up to {MAX_BATCH_SIZE}."
        yield view.finding("max_batch_size", message, cure)
    if len(view.instance_groups) > MAX_INSTANCE_GROUPS:
        message = f"There are {len(view.instance_groups)} instance groups."
        cure = f"Use at most {MAX_INSTANCE_GROUPS}."
        yield view.finding("instance_group", message, cure)
    for group in view.instance_groups:
        if not 0 <= group.count <= MAX_INSTANCES:
            message = f"It asks for {group.count} instances on each device."
            cure = f"Write 1 to {MAX_INSTANCES}, or leave it out for one."
            yield view.finding(f"{group.place}.count", message, cure)
    for place, delay in view.queue_delays:
        if delay > MAX_QUEUE_DELAY_US:
            message = f"Requests would wait {delay} microseconds for others."
            yield view.finding(place, message, f"Write at most {MAX_QUEUE_DELAY_US}.")
    for place, candidates in view.candidates:
        if candidates > MAX_CANDIDATES:
            message = f"It reserves room for {candidates} sequences."
            yield view.finding(place, message, f"Write at most {MAX_CANDIDATES}.")
    for warmup in view.warmups:
        if not warmup.is_typed:
            message = "An input of it has a data_type that is none."
            yield view.finding(warmup.place, message, "Set data_type, for example TYPE_FP32.")
        if warmup.values > MAX_WARMUP_VALUES or warmup.count > MAX_WARMUP_COUNT:
            message = f"It makes {warmup.values} values for a request, {warmup.count} times."
            cure = f"Stay within {MAX_WARMUP_VALUES} values and {MAX_WARMUP_COUNT} times."
            yield view.finding(warmup.place, message, cure)
