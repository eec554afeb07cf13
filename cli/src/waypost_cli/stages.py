"""The grammar of `--stage` and of a `--stages` file. Decides whether a plan can be sent; which
sites it selects is for the control plane to say.

    stage     := NAME (BLANK condition)*          BLANK and quotes as in a shell
    condition := tier=TIER | region=REGION | hardware=NAME | label.KEY=VALUE
               | sites=NAME[,NAME]... | percent=N[%] | count=N | per=region|tier|hardware
               | soak=DURATION
"""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from waypost_cli.durations import parse_seconds
from waypost_cli.errors import CliError

DEFAULT_SOAK_SECONDS = 60
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
_EXAMPLE = 'write it as --stage "canary tier=edge percent=10 soak=30s"'


def parse_stage(text: str) -> dict[str, object]:
    """One stage in the API's form; no condition but `soak` means every site that is left."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise CliError(f"the stage {text!r} cannot be read: {error}", cure=_EXAMPLE) from error
    if not words or not _NAME.fullmatch(words[0]):
        raise CliError(
            f"the stage {text!r} does not begin with a name of 1 to 40 of a-z 0-9 -", cure=_EXAMPLE
        )
    select: dict[str, object] = {}
    labels: dict[str, str] = {}
    stage: dict[str, object] = {"name": words[0], "select": select}
    for word in words[1:]:
        key, equals, value = word.partition("=")
        if not equals or not key or not value:
            raise CliError(
                f"the stage {words[0]!r} has {word!r}, which is not key=value", cure=_EXAMPLE
            )
        _refuse_repetition(words[0], key, stage, select, labels)
        if key.startswith("label."):
            labels[key.removeprefix("label.")] = value
        elif key == "soak":
            stage["soak_seconds"] = parse_seconds(value)
        else:
            select[key] = _condition(words[0], key, value)
    if labels:
        select["labels"] = labels
    stage.setdefault("soak_seconds", DEFAULT_SOAK_SECONDS)
    return stage


def read_stages_file(path: Path) -> list[dict[str, object]]:
    """A JSON list of stages in the API's form, or an object with such a list as `stages`."""
    cure = (
        'write a JSON list such as [{"name": "canary", "select": {"tier": "edge"},'
        ' "soak_seconds": 30}]'
    )
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CliError(f"the stages file {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CliError(f"the stages file {path} is not JSON: {error}", cure=cure) from error
    stages = document.get("stages") if isinstance(document, Mapping) else document
    if not isinstance(stages, list) or not stages:
        raise CliError(f"the stages file {path} holds no list of stages", cure=cure)
    for index, stage in enumerate(stages):
        if not isinstance(stage, dict) or not isinstance(stage.get("name"), str):
            raise CliError(f"stage {index + 1} in {path} is not an object with a name", cure=cure)
    return stages


def plan_from_options(
    stages: Sequence[str], stages_file: Path | None
) -> list[dict[str, object]] | None:
    """What to send as `stages`; None leaves the plan to the control plane."""
    if stages and stages_file:
        raise CliError(
            "--stage and --stages-file are both given", cure="give the plan in one of them"
        )
    if stages_file:
        return read_stages_file(stages_file)
    return [parse_stage(stage) for stage in stages] or None


def _condition(stage: str, key: str, value: str) -> object:
    if key in ("tier", "region", "hardware", "per"):
        return value
    if key == "sites":
        names = value.split(",")
        if not all(names):
            raise CliError(f"the stage {stage!r} has an empty name in {key}={value}")
        return names
    if key == "percent":
        number = value.removesuffix("%")
        if not re.fullmatch(r"\d{1,3}", number, re.ASCII) or not 1 <= int(number) <= 100:
            raise CliError(
                f"the stage {stage!r} has percent={value}", cure="give a whole number from 1 to 100"
            )
        return int(number)
    if key == "count":
        if not re.fullmatch(r"[1-9]\d{0,5}", value, re.ASCII):
            raise CliError(f"the stage {stage!r} has count={value}", cure="give a number from 1")
        return int(value)
    raise CliError(
        f"the stage {stage!r} has the unknown key {key!r}",
        cure="known are tier, region, hardware, label.KEY, sites, percent, count, per and soak;"
        " policies go into a --stages-file",
    )


def _refuse_repetition(
    stage: str,
    key: str,
    found: Mapping[str, object],
    select: Mapping[str, object],
    labels: Mapping[str, str],
) -> None:
    if key == "label.":
        raise CliError(f"the stage {stage!r} has a label without a key", cure="label.ring=0")
    repeated = (
        key in select
        or (key == "soak" and "soak_seconds" in found)
        or (key.startswith("label.") and key.removeprefix("label.") in labels)
    )
    if repeated:
        raise CliError(f"the stage {stage!r} gives {key} twice", cure="give it once")
