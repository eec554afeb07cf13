"""What the agent may change in a version's configuration, and what it refuses to load.

Pure: takes and gives the fields of Triton's ModelConfig as plain values. It changes
`version_policy`, `instance_group` and, for a candidate, the name; all else is the manifest's.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Sequence

from waypost_agent.bundle_class import REFUSED_FIELDS
from waypost_agent.errors import CONFIG_INVALID, Permanent
from waypost_agent.ports import Config


def overlay(
    config: Config,
    *,
    name: str,
    version: str,
    instance_group: Sequence[Config] | None = None,
) -> Config:
    """The configuration that makes `name` serve `version` alone."""
    changed = copy.deepcopy(config)
    changed["name"] = name
    changed["version_policy"] = {"specific": {"versions": [version]}}
    if instance_group is not None:
        changed["instance_group"] = [copy.deepcopy(group) for group in instance_group]
    return changed


def check(config: Config, model: str, files: Collection[str]) -> None:
    """Raises `Permanent` (`config-invalid`) when this configuration must not be loaded with the
    `files` of the version's folder."""
    name = config.get("name", "")
    if name not in ("", model):
        raise _invalid(f"it names the model {name!r}, the wish is for {model!r}")
    if not config.get("backend") and not config.get("platform"):
        raise _invalid("it names no backend and no platform")
    for field, why in REFUSED_FIELDS.items():
        if config.get(field):
            raise _invalid(f"it sets {field}: {why}")
    filename = config.get("default_model_filename", "")
    if "/" in filename or filename.startswith("."):
        raise _invalid(f"default_model_filename is {filename!r}, not a plain file name")
    if config.get("backend") == "python" and (filename or "model.py") not in files:
        # Measured on 2.51: such a load never ends, and holds up every later one of that model.
        raise _invalid(
            f"the python backend needs {filename or 'model.py'}, which is not among them"
        )
    for output in config.get("output", []):
        if output.get("label_filename"):
            raise _invalid(
                "it names a label_filename, which would lie outside the version's folder"
            )
    for warmup in config.get("model_warmup", []):
        if any("input_data_file" in data for data in warmup.get("inputs", {}).values()):
            raise _invalid("a warm-up reads input_data_file, which would lie outside the version")
    for state in config.get("sequence_batching", {}).get("state", []):
        if any("data_file" in first for first in state.get("initial_state", [])):
            raise _invalid(
                "sequence_batching reads a data_file, which would lie outside the version"
            )


def _invalid(fault: str) -> Permanent:
    return Permanent(CONFIG_INVALID, f"config.pbtxt is refused: {fault}")
