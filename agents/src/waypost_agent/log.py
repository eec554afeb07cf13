"""One line of JSON per event on standard error, with the standard library alone."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from pathlib import Path

from waypost_agent.config import load_config
from waypost_agent.errors import ConfigError

_log = logging.getLogger(__name__)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "from": record.name.removeprefix("waypost_agent."),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up(level: str = "INFO") -> None:
    """Send every event of `level` and above to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Its pool logs each retry of a connection; the agent says the same once, in its own words.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def read_level_again(config_path: Path) -> None:
    """Take `log_level` from the file as it is now; a file that cannot be read changes nothing.

    Nothing else of the file is looked at: everything else needs a restart.
    """
    try:
        level = load_config(config_path).log_level
    except ConfigError as error:
        _log.error("the log level stays as it is: %s", error)
        return
    root = logging.getLogger()
    before = logging.getLevelName(root.level)
    root.setLevel(level)
    # As a warning, so that it shows at every level but the last.
    _log.warning("log level %s, before %s", level, before)
