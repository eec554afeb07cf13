"""The models of the delta benchmark: seeded random weights in safetensors, and what a new version
changes in them. The spread of a change decides the ratios, so the share of words that differ is
measured and told."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MODEL_FILE = "model.safetensors"
CONFIG_FILE = "config.pbtxt"
LAYERS = 10
# Of a layer of 1: the shares of its tensors. With `SMALL`, what stands beside them in most models.
_SHARES = {"attention": 0.4, "up": 0.3, "down": 0.3}
_SMALL = 4096
# The embedding, in layers: long enough to be split.
_EMBEDDING = 2

Words = NDArray[np.uint16]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """One step from a version to the next, in words for the table. `uniform` changes each weight by
    up to that share of itself, `normal` by that standard deviation; `layer` is the only one
    touched, if any."""

    name: str
    dtype: str
    uniform: float = 0.0
    normal: float = 0.0
    layer: int | None = None
    header_bytes: int = 0


CASES = (
    Case(name="config only", dtype="BF16"),
    Case(name="one layer of ten, +-1 %", dtype="BF16", uniform=0.01, layer=4),
    Case(name="5 kB more in the header", dtype="BF16", header_bytes=5000),
    Case(name="light fine-tune, bf16", dtype="BF16", normal=0.0022),
    Case(name="full fine-tune, fp16, +-1 %", dtype="F16", uniform=0.01),
)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two folders with a version each, and the share of the model's words that differ."""

    old: Path
    new: Path
    differing: float


def write_pair(case: Case, folder: Path, megabytes: int) -> Pair:
    """Both versions below `folder`, about `megabytes` each; the same each time."""
    old, new = folder / "old", folder / "new"
    for each in (old, new):
        each.mkdir(parents=True)
    (old / CONFIG_FILE).write_text('name: "bench"\nmax_batch_size: 8\n')
    (new / CONFIG_FILE).write_text('name: "bench"\nmax_batch_size: 16\n')
    tensors = _tensors(megabytes)
    differing = 0
    with (old / MODEL_FILE).open("wb") as before, (new / MODEL_FILE).open("wb") as after:
        before.write(_header(tensors, case.dtype, 0))
        after.write(_header(tensors, case.dtype, case.header_bytes))
        for seed, (name, count) in enumerate(tensors.items()):
            one, other = _weights(case, name, count, np.random.default_rng([7, seed]))
            differing += int(np.count_nonzero(one != other))
            before.write(one.tobytes())
            after.write(other.tobytes())
    return Pair(old=old, new=new, differing=differing / sum(tensors.values()))


def _tensors(megabytes: int) -> dict[str, int]:
    """Names and numbers of 16-bit words."""
    layer = megabytes * 1_000_000 // 2 // (LAYERS + _EMBEDDING)
    tensors = {"embedding": layer * _EMBEDDING // 64 * 64}
    for number in range(LAYERS):
        for name, share in _SHARES.items():
            tensors[f"layer.{number}.{name}"] = int(layer * share) // 64 * 64
        tensors[f"layer.{number}.norm"] = _SMALL
    return tensors


def _header(tensors: dict[str, int], dtype: str, more: int) -> bytes:
    header: dict[str, object] = {"__metadata__": {"note": "x" * more}} if more else {}
    at = 0
    for name, count in tensors.items():
        header[name] = {"dtype": dtype, "shape": [count], "data_offsets": [at, at + 2 * count]}
        at += 2 * count
    raw = json.dumps(header).encode()
    raw += b" " * (-len(raw) % 8)
    return len(raw).to_bytes(8, "little") + raw


def _weights(case: Case, name: str, count: int, chance: np.random.Generator) -> tuple[Words, Words]:
    before = chance.standard_normal(count, dtype=np.float32)
    after = before
    if case.layer is None or name.startswith(f"layer.{case.layer}."):
        if case.uniform:
            change = chance.uniform(1 - case.uniform, 1 + case.uniform, count)
            after = before * change.astype(np.float32)
        elif case.normal:
            change = 1 + case.normal * chance.standard_normal(count)
            after = before * change.astype(np.float32)
    return _words(before, case.dtype), _words(after, case.dtype)


def _words(values: Floats, dtype: str) -> Words:
    """Half precision, or bfloat16: the upper half of a single-precision number, rounded."""
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return rounded.astype(np.uint16)
