"""Keeps what the agent last said of its models, for `waypost-agent status` alone.

The agent never reads it back and a power cut may take it: nothing is decided by it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from waypost_agent.clock import Clock
from waypost_agent.protocol import ModelReport

_log = logging.getLogger(__name__)
_NAME = "said.json"


class Said:
    """`state_dir` is the agent's own folder."""

    def __init__(self, state_dir: Path, clock: Clock) -> None:
        self._path = state_dir / _NAME
        self._clock = clock

    def write(self, reports: tuple[ModelReport, ...]) -> None:
        """Replace what was said before. A disk that refuses is logged and changes nothing else."""
        document = {
            "at": self._clock.utc_text(),
            "models": [report.document() for report in reports],
        }
        new = self._path.with_name(_NAME + ".new")
        try:
            new.write_text(json.dumps(document, ensure_ascii=False, indent=1))
            new.replace(self._path)
        except OSError as error:
            _log.warning("what was said cannot be kept for the status command: %s", error)


def read_said(state_dir: Path) -> Mapping[str, Mapping[str, Any]]:
    """By model: `phase`, `reason_code`, `reason`, `lease` and `at`; empty when nothing was kept."""
    try:
        document = json.loads((state_dir / _NAME).read_bytes())
        keys = ("phase", "reason_code", "reason", "lease")
        return {
            entry["model"]: {**{key: entry[key] for key in keys}, "at": document["at"]}
            for entry in document["models"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}
