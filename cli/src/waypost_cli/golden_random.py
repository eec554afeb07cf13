"""Inputs by chance, for a model whose metadata says what it takes; the same seed gives the same.

Pure but for the generator it makes. They prove that a model answers as it did, not that it is good:
real inputs do that.
"""

import math
import random
from collections.abc import Mapping, Sequence

from waypost_cli.errors import CliError
from waypost_cli.golden_document import MAX_TENSORS, Request
from waypost_cli.golden_tensors import (
    MAX_TENSOR_BYTES,
    TYPES,
    Tensor,
    held,
    parse_name,
    parse_tensor,
)

_WORD = "abcdefghijklmnopqrstuvwxyz0123456789"


def random_requests(
    metadata: Mapping[str, object],
    *,
    count: int,
    seed: int,
    shapes: Mapping[str, Sequence[int]],
    fills: Mapping[str, str],
) -> tuple[Request, ...]:
    """`metadata` is a server's answer about the model. Sizes it leaves open are 1 unless `shapes`
    says so; `fills` gives an input one value throughout. Raises `CliError`."""
    inputs = metadata.get("inputs")
    if not isinstance(inputs, list) or not 1 <= len(inputs) <= MAX_TENSORS:
        raise CliError("the server does not say what inputs the model takes; give --inputs")
    names = [str(each.get("name")) for each in inputs if isinstance(each, Mapping)]
    for option, given in (("--shape", shapes), ("--fill", fills)):
        if unknown := sorted(set(given) - set(names)):
            raise CliError(f"{option} names {unknown[0]!r}; the inputs are {', '.join(names)}")
    requests = []
    for number in range(1, count + 1):
        chance = random.Random(f"{seed}/{number}")
        tensors = tuple(_tensor(each, chance, shapes, fills) for each in inputs)
        requests.append(Request(name=f"random-{seed}-{number}", inputs=tensors))
    return tuple(requests)


def _tensor(
    entry: object,
    chance: random.Random,
    shapes: Mapping[str, Sequence[int]],
    fills: Mapping[str, str],
) -> Tensor:
    if not isinstance(entry, Mapping):
        raise CliError("the server describes an input in a way that is not KServe v2")
    name = parse_name(entry.get("name"), "the name of an input of the model")
    datatype, stated = entry.get("datatype"), entry.get("shape")
    if datatype not in TYPES:
        raise CliError(f"the input {name!r} is {datatype!r:.40}, which no golden request can hold")
    if not isinstance(stated, list):
        raise CliError(f"the server does not say the shape of {name!r}; give --inputs")
    sizes = [int(size) for size in stated]
    shape = list(shapes.get(name, [1 if size < 0 else size for size in sizes]))
    fits = len(shape) == len(sizes) and all(
        size in (-1, given) for size, given in zip(sizes, shape, strict=True)
    )
    if not fits:
        raise CliError(f"--shape {name}={','.join(map(str, shape))} does not fit {sizes}")
    count = math.prod(shape)
    if count > MAX_TENSOR_BYTES:
        raise CliError(f"the input {name!r} would have {count} values")
    if name in fills:
        data = [_filled(fills[name], datatype, name)] * count
    else:
        data = [_value(datatype, chance) for _ in range(count)]
    document = {"name": name, "datatype": datatype, "shape": shape, "data": data}
    return parse_tensor(document, f"the input {name!r}")


def _value(datatype: str, chance: random.Random) -> object:
    if datatype == "BOOL":
        return chance.random() < 0.5
    if datatype == "BYTES":
        return "".join(chance.choices(_WORD, k=8))
    if datatype.startswith("FP"):
        return chance.uniform(-1.0, 1.0)
    return chance.randrange(0, 100)


def _filled(text: str, datatype: str, name: str) -> object:
    value: object = text
    try:
        if datatype == "BOOL":
            value = {"true": True, "false": False}[text.lower()]
        elif datatype.startswith("FP"):
            value = float(text)
        elif datatype != "BYTES":
            value = int(text)
    except (ValueError, KeyError) as error:
        raise CliError(f"--fill {name}={text!r:.40}: that is no {datatype} value") from error
    return held(datatype, [value], f"--fill {name}")[0]
