"""golden.json and the inputs it is recorded from: reading, bounds, and writing without a gap.

Knows no server and no tolerance's meaning; the control plane checks the same bounds again.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from waypost_cli.errors import CliError
from waypost_cli.golden import Tolerance, parse_tolerance
from waypost_cli.golden_tensors import MAX_TENSOR_BYTES, Tensor, parse_name, parse_tensor

SCHEMA: Final = "waypost.golden/1"
MAX_GOLDEN_BYTES: Final = 16 << 20
MAX_REQUESTS: Final = 256
MAX_TENSORS: Final = 64  # of a request, inputs or outputs
MAX_LATENCY_MS: Final = 86_400_000  # a day


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked."""

    name: str
    inputs: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """An output as it should be, and how near an answer must come."""

    tensor: Tensor
    tolerance: Tolerance


@dataclass(frozen=True, kw_only=True)
class Golden:
    """A request with what it must be answered. `max_latency_ms` None: however long it takes."""

    request: Request
    outputs: tuple[Expected, ...]
    max_latency_ms: float | None = None


def read_inputs(paths: Sequence[Path]) -> tuple[Request, ...]:
    """The requests of some files: each a list of KServe v2 requests, or one of them. One without a
    name is called after its place. Raises `CliError`."""
    requests: list[Request] = []
    for path in paths:
        document = _read(path)
        entries = document if isinstance(document, list) else [document]
        if len(requests) + len(entries) > MAX_REQUESTS:
            raise CliError(f"there are more than {MAX_REQUESTS} requests")
        for at, entry in enumerate(entries):
            where = f"{path}[{at}]" if isinstance(document, list) else str(path)
            requests.append(_request(entry, where, f"request-{len(requests) + 1}"))
    if not requests:
        raise CliError("there are no requests in what --inputs names")
    names = [request.name for request in requests]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise CliError(f"requests have the same name: {', '.join(twice)[:200]}")
    return tuple(requests)


def read_golden(path: Path) -> tuple[Golden, ...]:
    """Raises `CliError` naming the place of the fault."""
    return parse_golden(_read(path), str(path))


def parse_golden(document: object, path: str = "golden.json") -> tuple[Golden, ...]:
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise CliError(f'{path} is no golden document: its schema must be "{SCHEMA}"')
    entries = document.get("requests")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_REQUESTS:
        raise CliError(f"{path}: requests must be a list of 1 to {MAX_REQUESTS}")
    return tuple(_golden(entry, f"{path}: requests[{at}]") for at, entry in enumerate(entries))


def written(goldens: Sequence[Golden]) -> bytes:
    """golden.json, a request a line. Raises `CliError` where it is larger than the control plane
    and the sites take."""
    total = sum(
        tensor.size_bytes
        for golden in goldens
        for tensor in (*golden.request.inputs, *(each.tensor for each in golden.outputs))
    )
    if total > MAX_TENSOR_BYTES:
        raise CliError(
            f"the tensors have {total} bytes; at most {MAX_TENSOR_BYTES} are allowed",
            cure="keep fewer or smaller requests, or leave outputs out with --without",
        )
    lines = ",\n".join(json.dumps(_document(golden), allow_nan=False) for golden in goldens)
    body = f'{{"schema": "{SCHEMA}", "requests": [\n{lines}\n]}}\n'.encode()
    if len(body) > MAX_GOLDEN_BYTES:
        raise CliError(
            f"the document has {len(body)} bytes; at most {MAX_GOLDEN_BYTES} are allowed",
            cure="keep fewer or smaller requests, or leave outputs out with --without",
        )
    return body


def write_whole(path: Path, body: bytes, *, force: bool) -> None:
    """The whole file or none; never over one that is there, unless `force`. Raises `CliError`."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".golden-") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
            os.chmod(file.name, 0o644)
            if force:
                second = f"{file.name}.new"
                os.link(file.name, second)
                os.replace(second, path)
            else:
                os.link(file.name, path)  # fails where it is there, in one step
    except FileExistsError as error:
        raise CliError(f"{path} is there already", cure="give --force to write over it") from error
    except OSError as error:
        raise CliError(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> object:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_GOLDEN_BYTES + 1)
    except OSError as error:
        raise CliError(f"{path} cannot be read: {error.strerror}") from error
    if len(raw) > MAX_GOLDEN_BYTES:
        raise CliError(f"{path} has more than {MAX_GOLDEN_BYTES} bytes")
    try:
        document: object = json.loads(raw, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise CliError(f"{path} is not JSON: {str(error)[:200]}") from error
    return document


def _no_constant(text: str) -> object:
    raise ValueError(f'{text} is not JSON; write it as the text "{text}"')


def _golden(entry: object, where: str) -> Golden:
    request = _request(entry, where)
    assert isinstance(entry, Mapping)  # else it is no request
    latency = entry.get("max_latency_ms")
    if latency is not None and not (
        isinstance(latency, int | float)
        and not isinstance(latency, bool)
        and 0 < latency <= MAX_LATENCY_MS
    ):
        raise CliError(f"{where}.max_latency_ms must be a number of milliseconds over 0")
    return Golden(
        request=request,
        outputs=tuple(_expected(entry, where)),
        max_latency_ms=None if latency is None else float(latency),
    )


def _expected(entry: Mapping[str, object], where: str) -> Iterator[Expected]:
    for at, output in enumerate(_tensors(entry, "outputs", where)):
        place = f"{where}.outputs[{at}]"
        tensor = parse_tensor(output, place)
        assert isinstance(output, Mapping)  # else it is no tensor
        given = output.get("tolerance", {})
        yield Expected(
            tensor=tensor, tolerance=parse_tolerance(given, tensor, f"{place}.tolerance")
        )


def _request(entry: object, where: str, name: str = "") -> Request:
    if not isinstance(entry, Mapping):
        raise CliError(f"{where} must be an object with a name and inputs")
    inputs = tuple(
        parse_tensor(each, f"{where}.inputs[{at}]")
        for at, each in enumerate(_tensors(entry, "inputs", where))
    )
    given = entry.get("name", entry.get("id") or name)
    return Request(name=parse_name(given, f"{where}.name"), inputs=inputs)


def _tensors(entry: Mapping[str, object], key: str, where: str) -> list[object]:
    tensors = entry.get(key)
    if not isinstance(tensors, list) or not 1 <= len(tensors) <= MAX_TENSORS:
        raise CliError(f"{where}.{key} must be a list of 1 to {MAX_TENSORS} tensors")
    return tensors


def _document(golden: Golden) -> dict[str, object]:
    latency = golden.max_latency_ms
    return {
        "name": golden.request.name,
        **({} if latency is None else {"max_latency_ms": latency}),
        "inputs": [tensor.document for tensor in golden.request.inputs],
        "outputs": [
            {**each.tensor.document, **_tolerance(each.tolerance)} for each in golden.outputs
        ],
    }


def _tolerance(tolerance: Tolerance) -> dict[str, object]:
    document = tolerance.document
    return {"tolerance": document} if document else {}
