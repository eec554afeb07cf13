"""Looks at a Triton over HTTP: who it is and what it has loaded. Controls nothing.

gRPC and its client are a third of what an agent takes in memory, and a look at peace needs neither.
Whether these answers may stand for those over gRPC is not decided here.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from waypost_agent.ports import Index, ServerFacts, VersionState

_SECONDS = 2.0
_MAX_BYTES = 16 << 20


class NoLook(Exception):
    """There is no answer, or none that says what was asked."""


class HttpLook:
    """`secret_file` is read each time, since the secret is made anew at each boot."""

    def __init__(self, *, url: str, secret_key: str, secret_file: Path | None) -> None:
        self.url = url
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port
        self._connect = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._base = parts.path.rstrip("/") + "/v2"
        self._secret_key = secret_key
        self._secret_file = secret_file

    def facts(self) -> ServerFacts:
        """Raises `NoLook`."""
        try:
            said = self._ask("GET", "")
            return ServerFacts(
                version=str(said["version"]), extensions=frozenset(map(str, said["extensions"]))
            )
        except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError) as error:
            raise NoLook(str(error)) from error

    def index(self) -> Index:
        """Raises `NoLook`."""
        models: dict[str, dict[str, VersionState]] = {}
        try:
            said = self._ask("POST", "/repository/index")
            if not isinstance(said, list):
                raise ValueError("it is not a list")
            for entry in said:
                versions = models.setdefault(str(entry["name"]), {})
                if entry.get("version"):
                    state, reason = str(entry.get("state", "")), str(entry.get("reason", ""))
                    versions[str(entry["version"])] = VersionState(state=state, reason=reason)
        except (
            *(OSError, http.client.HTTPException, ValueError),
            *(TypeError, KeyError, AttributeError),
        ) as error:
            raise NoLook(str(error)) from error
        return models

    def _ask(self, method: str, path: str) -> Any:
        headers = {}
        if self._secret_file is not None:
            # Triton asks for it under this bare name over HTTP (--http-restricted-api).
            headers[self._secret_key] = self._secret_file.read_text().strip()
        connection = self._connect(self._host, self._port, timeout=_SECONDS)
        try:
            connection.request(method, self._base + path, headers=headers)
            answer = connection.getresponse()
            body = answer.read(_MAX_BYTES)
            if answer.status != 200:
                raise ValueError(f"it answers {answer.status}")
            return json.loads(body)
        finally:
            connection.close()
