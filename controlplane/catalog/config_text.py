"""config.pbtxt to plain values: parsed with Triton's own protobuf, so that what is judged here is
what a server will read. Decides only whether it can be read; `domain/config_lint` judges it.

Schema: `model_config.proto` of Triton's common repository, as tritonclient carries it.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from google.protobuf import text_format

from controlplane.catalog.text_positions import Mark, Path, TooDeep, marks
from controlplane.domain.config_bounds import MAX_WARMUP_VALUES
from controlplane.domain.config_view import (
    Accelerator,
    ConfigView,
    InstanceGroup,
    NamedFile,
    Parameter,
    Step,
    TensorConfig,
    Warmup,
)
from controlplane.domain.findings import Finding, fault, shown
from controlplane.domain.manifest import CONFIG_FILE

MAX_CONFIG_BYTES: Final = 256 << 10
_REFERENCE = "the reference is Triton's model_config.proto"


@dataclass(frozen=True, kw_only=True)
class ParsedConfig:
    """`view` is None where nothing could be read. With unknown fields there are both: a view of
    the rest, so that its faults are told in the same turn."""

    view: ConfigView | None
    findings: tuple[Finding, ...] = ()


def parse_config(text: str | bytes) -> ParsedConfig:
    """Reads a config.pbtxt. What is wrong with it is a finding with line, field and cure."""
    raw = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if len(raw) > MAX_CONFIG_BYTES:
        message = f"It has {len(raw)} bytes; a configuration has at most {MAX_CONFIG_BYTES}."
        return _unread(message, "Move data such as labels into files of their own.")
    try:
        plain = raw.decode()
        places = tuple(marks(plain))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        return _unread("It is not UTF-8 text.", "Save the file as UTF-8.", line)
    except TooDeep as error:
        message = f"Its messages are {error}."
        return _unread(message, f"Write only fields that Triton knows; {_REFERENCE}.", error.line)
    return _parse(plain, places)


def _parse(text: str, places: tuple[Mark, ...]) -> ParsedConfig:
    unknown = tuple(_unknown_fields(places))
    try:
        message = text_format.Parse(
            text, _schema().ModelConfig(), allow_unknown_field=bool(unknown)
        )
    except text_format.ParseError as error:
        return ParsedConfig(view=None, findings=(*unknown, _parse_fault(error)))
    except (ValueError, RecursionError) as error:
        return ParsedConfig(
            view=None, findings=(*unknown, *_unread(_printable(str(error)), _CURE).findings)
        )
    return ParsedConfig(view=_View(message, places).view(), findings=unknown)


_CURE = f"Write it in protobuf's text format; {_REFERENCE}."


@cache
def _schema() -> Any:
    # gRPC comes with it: 20 MB that only a process which reads configurations shall hold.
    from tritonclient.grpc import model_config_pb2

    return model_config_pb2


def _unread(message: str, cure: str, line: int | None = None) -> ParsedConfig:
    return ParsedConfig(view=None, findings=(fault(CONFIG_FILE, message, cure, line=line),))


def _parse_fault(error: text_format.ParseError) -> Finding:
    line = error.GetLine()
    said = str(error)
    if line is not None:
        said = said.removeprefix(f"{line}:{error.GetColumn()} :").strip()
    said = " ".join(said.split())
    return fault(CONFIG_FILE, f"It cannot be read: {_printable(said)[:300]}", _CURE, line=line)


def _printable(said: str) -> str:
    """It quotes the text, which may hold anything; PostgreSQL keeps no NUL."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in said)


def _unknown_fields(places: Sequence[Mark]) -> Iterator[Finding]:
    for mark in places:
        *parents, name = mark.names
        message = _message_type(parents)
        if message is None or name in message.fields_by_name:
            continue
        near = difflib.get_close_matches(name, list(message.fields_by_name), n=1)
        instead = f"Write {near[0]}" if near else "Leave it out"
        yield fault(
            CONFIG_FILE,
            f"{shown(name)} is no field of {message.name}.",
            f"{instead}; {_REFERENCE}.",
            field=".".join(mark.names)[:200],
            line=mark.line,
        )


def _message_type(names: Sequence[str]) -> Any:
    """The schema of the message that these fields lead to, or None."""
    message = _schema().ModelConfig.DESCRIPTOR
    for name in names:
        field = message.fields_by_name.get(name) if message is not None else None
        message = field.message_type if field is not None else None
    return message


class _View:
    """Makes the view of one parsed message."""

    def __init__(self, config: Any, places: Sequence[Mark]) -> None:
        self._config = config
        self._lines: dict[str, int] = {}
        self._entries: dict[tuple[str, str], str] = {}  # of maps, by the map's place and the key
        for mark in places:
            place = _place(mark.path)
            self._lines[place] = mark.line
            if mark.names[-1] == "key":
                entry = place.rpartition(".")[0]
                self._entries[entry.rpartition("[")[0], _unquoted(mark.value)] = entry

    def view(self) -> ConfigView:
        config = self._config
        return ConfigView(
            name=config.name,
            platform=config.platform,
            backend=config.backend,
            default_model_filename=config.default_model_filename,
            max_batch_size=config.max_batch_size,
            inputs=_tensors("input", config.input),
            outputs=_tensors("output", config.output),
            instance_groups=tuple(
                InstanceGroup(place=place, count=group.count, gpus=len(group.gpus))
                for place, group in _numbered("instance_group", config.instance_group)
            ),
            files=tuple(self._files()),
            parameters=self._parameters(
                "parameters", {key: each.string_value for key, each in config.parameters.items()}
            ),
            accelerators=tuple(self._accelerators()),
            steps=tuple(
                Step(
                    place=place,
                    model_name=step.model_name,
                    model_version=step.model_version,
                    namespace=step.model_namespace,
                )
                for place, step in _numbered("ensemble_scheduling.step", self._steps())
            ),
            warmups=tuple(
                Warmup(
                    place=place,
                    count=warmup.count,
                    values=_values(warmup),
                    is_typed=_is_typed(warmup),
                )
                for place, warmup in _numbered("model_warmup", config.model_warmup)
            ),
            queue_delays=tuple(self._queue_delays()),
            candidates=tuple(self._candidates()),
            is_decoupled=config.model_transaction_policy.decoupled,
            present=frozenset(field.name for field, _ in config.ListFields()),
            lines=self._lines,
        )

    def _steps(self) -> Sequence[Any]:
        steps: Sequence[Any] = self._config.ensemble_scheduling.step
        return steps

    def _files(self) -> Iterator[NamedFile]:
        for place, output in _numbered("output", self._config.output):
            if output.label_filename:
                where = f"{place}.label_filename"
                yield NamedFile(place=where, path=output.label_filename, folder="")
        for place, warmup in _numbered("model_warmup", self._config.model_warmup):
            for key, each in warmup.inputs.items():
                if each.HasField("input_data_file"):
                    where = self._entry(f"{place}.inputs", key) + ".value.input_data_file"
                    yield NamedFile(place=where, path=each.input_data_file, folder="warmup")
        for place, state in _numbered(
            "sequence_batching.state", self._config.sequence_batching.state
        ):
            for at, first in _numbered(f"{place}.initial_state", state.initial_state):
                if first.HasField("data_file"):
                    where = f"{at}.data_file"
                    yield NamedFile(place=where, path=first.data_file, folder="initial_state")

    def _parameters(self, place: str, values: Mapping[str, str]) -> tuple[Parameter, ...]:
        return tuple(
            Parameter(place=self._entry(place, key), key=key, value=value)
            for key, value in sorted(values.items())
        )

    def _accelerators(self) -> Iterator[Accelerator]:
        accelerators = self._config.optimization.execution_accelerators
        for kind in ("gpu_execution_accelerator", "cpu_execution_accelerator"):
            start = f"optimization.execution_accelerators.{kind}"
            for place, each in _numbered(start, getattr(accelerators, kind)):
                parameters = self._parameters(f"{place}.parameters", each.parameters)
                yield Accelerator(place=place, name=each.name, parameters=parameters)

    def _queue_delays(self) -> Iterator[tuple[str, int]]:
        config, key = self._config, "max_queue_delay_microseconds"
        if config.HasField("dynamic_batching"):
            yield f"dynamic_batching.{key}", config.dynamic_batching.max_queue_delay_microseconds
        for kind in ("direct", "oldest"):
            if config.sequence_batching.HasField(kind):
                value = getattr(config.sequence_batching, kind).max_queue_delay_microseconds
                yield f"sequence_batching.{kind}.{key}", value

    def _candidates(self) -> Iterator[tuple[str, int]]:
        if self._config.sequence_batching.HasField("oldest"):
            place = "sequence_batching.oldest.max_candidate_sequences"
            yield place, self._config.sequence_batching.oldest.max_candidate_sequences

    def _entry(self, place: str, key: str) -> str:
        """Where the entry `key` of a map stands; the map itself where that cannot be told."""
        return self._entries.get((place, key), place)


def _place(path: Path) -> str:
    """`input[1].dims[0]`: a name has a number where the field is repeated."""
    parts = []
    message = _schema().ModelConfig.DESCRIPTOR
    for name, index in path:
        field = message.fields_by_name.get(name) if message is not None else None
        parts.append(f"{name}[{index}]" if field is None or field.is_repeated else name)
        message = field.message_type if field is not None else None
    return ".".join(parts)


def _unquoted(value: str) -> str:
    return value[1:-1] if value[:1] in ("'", '"') else value


def _tensors(name: str, tensors: Sequence[Any]) -> tuple[TensorConfig, ...]:
    types = _schema().DataType
    return tuple(
        TensorConfig(
            place=place,
            name=each.name,
            data_type=_type_name(types, each.data_type),
            dims=tuple(each.dims),
            reshape=tuple(each.reshape.shape) if each.HasField("reshape") else None,
            optional=bool(getattr(each, "optional", False)),
        )
        for place, each in _numbered(name, tensors)
    )


def _type_name(types: Any, number: int) -> str:
    """The text format takes any number for an enum; one that is none is no type."""
    return str(types.Name(number)) if number in types.values() else "TYPE_INVALID"


def _numbered(place: str, values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{place}[{index}]", each) for index, each in enumerate(values))


def _is_typed(warmup: Any) -> bool:
    known = set(_schema().DataType.values())
    return all(each.data_type in known for each in warmup.inputs.values())


def _values(warmup: Any) -> int:
    """At most one more than is allowed: the product of what somebody wrote may have no end."""
    total = 0
    for each in warmup.inputs.values():
        size = max(warmup.batch_size, 1)
        for dim in each.dims:
            size = min(size * max(dim, 1), MAX_WARMUP_VALUES + 1)
        total = min(total + size, MAX_WARMUP_VALUES + 1)
    return total
