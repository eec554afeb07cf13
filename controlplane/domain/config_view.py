"""A model's configuration as plain values, with the line of each field.

Holds what the rules look at and decides nothing. It must not know protobuf: `catalog/config_text`
makes it from the text, by the schema that Triton itself reads it with.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from controlplane.domain.findings import Finding, Level, shown_field
from controlplane.domain.manifest import CONFIG_FILE


@dataclass(frozen=True, kw_only=True)
class TensorConfig:
    """An input or output. `data_type` as Triton writes it (`TYPE_FP32`), `dims` without the batch
    where the model batches, -1 for any size; `reshape` None where there is none."""

    place: str
    name: str
    data_type: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class InstanceGroup:
    place: str
    count: int
    gpus: int


@dataclass(frozen=True, kw_only=True)
class NamedFile:
    """A file that the configuration names; `folder` is where Triton looks for it."""

    place: str
    path: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class Parameter:
    place: str
    key: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    place: str
    name: str
    parameters: tuple[Parameter, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One model of an ensemble; version -1 is the newest."""

    place: str
    model_name: str
    model_version: int
    namespace: str


@dataclass(frozen=True, kw_only=True)
class Warmup:
    """`values` counts the numbers that Triton makes for one request of it; `is_typed`: every
    data_type in it is one that Triton knows, or left out."""

    place: str
    count: int
    values: int
    is_typed: bool = True


@dataclass(frozen=True, kw_only=True)
class ConfigView:
    """`present` has the names of the fields that were set; `lines` the line of each place. A
    decoupled model answers a request as often as it likes."""

    name: str = ""
    platform: str = ""
    backend: str = ""
    default_model_filename: str = ""
    max_batch_size: int = 0
    inputs: tuple[TensorConfig, ...] = ()
    outputs: tuple[TensorConfig, ...] = ()
    instance_groups: tuple[InstanceGroup, ...] = ()
    files: tuple[NamedFile, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    accelerators: tuple[Accelerator, ...] = ()
    steps: tuple[Step, ...] = ()
    warmups: tuple[Warmup, ...] = ()
    queue_delays: tuple[tuple[str, int], ...] = ()
    candidates: tuple[tuple[str, int], ...] = ()
    is_decoupled: bool = False
    present: frozenset[str] = frozenset()
    lines: Mapping[str, int] = field(default_factory=dict)

    def line(self, place: str) -> int | None:
        """The line of a place such as `input[1].dims[0]`, or of what it stands in."""
        while place:
            for known in (place, f"{place}[0]"):
                if known in self.lines:
                    return self.lines[known]
            place = place.rpartition(".")[0]
        return None

    def finding(self, place: str, message: str, cure: str, level: Level = Level.FAULT) -> Finding:
        return Finding(
            level=level,
            file=CONFIG_FILE,
            line=self.line(place),
            field=shown_field(place),
            message=message,
            cure=cure,
        )
