"""Steady inference at every site over plain HTTP, as clients send it, and what became of it.

An answer counts only if it is the expected one of the version that says it answered."""

import http.client
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 5.0
PERIOD_SECONDS = 0.03  # about 33 requests a second and site: busy, far from saturated


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """One golden request and what each version that may answer it must say."""

    body: bytes
    outputs: Mapping[str, Sequence[Mapping[str, Any]]]

    def version_of(self, answer: Mapping[str, Any]) -> str | None:
        """The version that answered rightly, else None."""
        version = str(answer.get("model_version"))
        given = {output["name"]: output for output in answer.get("outputs", ())}
        for wanted in self.outputs.get(version, ()):
            values = given.get(wanted["name"], {}).get("data", ())
            if not _close(values, wanted["data"], wanted["tolerance"]["absolute"]):
                return None
        return version if version in self.outputs else None


def expectation(versions: Mapping[str, Path]) -> Expectation:
    """From the golden requests of the versions (number to folder): the one whose right answers
    differ most between them, so that no version can pass for another."""
    golden = {
        number: {r["name"]: r for r in json.loads((folder / "golden.json").read_text())["requests"]}
        for number, folder in versions.items()
    }
    names = set.intersection(*(set(requests) for requests in golden.values()))

    def spread(name: str) -> float:
        first = [requests[name]["outputs"][0]["data"][0] for requests in golden.values()]
        return float(max(first) - min(first))

    name = max(sorted(names), key=spread)
    inputs = next(iter(golden.values()))[name]["inputs"]
    return Expectation(
        body=json.dumps({"inputs": inputs}).encode(),
        outputs={number: requests[name]["outputs"] for number, requests in golden.items()},
    )


def _close(values: Sequence[float], wanted: Sequence[float], tolerance: float) -> bool:
    return len(values) == len(wanted) and all(
        math.isfinite(value) and abs(value - right) <= tolerance
        for value, right in zip(values, wanted, strict=True)
    )


@dataclass(kw_only=True)
class Tally:
    """What one site's clients saw. `longest_gap_seconds`: the longest time without an answer."""

    requests: int = 0
    failed: int = 0
    longest_gap_seconds: float = 0.0
    by_version: dict[str, int] = field(default_factory=dict)
    first_fault: str | None = None


class Client:
    """One keep-alive connection to one site's model."""

    def __init__(self, *, url: str, model: str, expected: Expectation) -> None:
        self._host = urlsplit(url).netloc
        self._path = f"/v2/models/{model}/infer"
        self._expected = expected
        self._connection: http.client.HTTPConnection | None = None

    def ask(self) -> str:
        """The version that answered. Raises `OSError` or `ValueError` with what went wrong."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection(self._host, timeout=TIMEOUT_SECONDS)
        try:
            self._connection.request(
                "POST", self._path, self._expected.body, {"Content-Type": "application/json"}
            )
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise OSError(f"{type(error).__name__}: {error}") from error
        if answer.status != http.client.OK:
            raise ValueError(f"status {answer.status}: {body[:200]!r}")
        version = self._expected.version_of(json.loads(body))
        if version is None:
            raise ValueError(f"not the answer of a verified version: {body[:200]!r}")
        return version

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Traffic:
    """Clients at several sites, counting from `start` to `stop`."""

    def __init__(self, *, urls: Mapping[str, str], model: str, expected: Expectation) -> None:
        self.tallies = {site: Tally() for site in urls}
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._send,
                args=(self.tallies[site], Client(url=url, model=model, expected=expected)),
                name=f"traffic-{site}",
                daemon=True,
            )
            for site, url in urls.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT_SECONDS)

    @property
    def requests(self) -> int:
        return sum(tally.requests for tally in self.tallies.values())

    @property
    def failed(self) -> int:
        return sum(tally.failed for tally in self.tallies.values())

    @property
    def longest_gap_ms(self) -> int:
        return round(1000 * max(tally.longest_gap_seconds for tally in self.tallies.values()))

    def faults(self) -> dict[str, str]:
        return {site: t.first_fault for site, t in self.tallies.items() if t.first_fault}

    def _send(self, tally: Tally, client: Client) -> None:
        last_answer = time.monotonic()
        due = last_answer
        while not self._stop.is_set():
            tally.requests += 1
            try:
                version = client.ask()
            except (OSError, ValueError) as error:
                tally.failed += 1
                tally.first_fault = tally.first_fault or str(error)
            else:
                now = time.monotonic()
                tally.longest_gap_seconds = max(tally.longest_gap_seconds, now - last_answer)
                last_answer = now
                tally.by_version[version] = tally.by_version.get(version, 0) + 1
            # A slow answer is not made up for by a burst afterwards.
            due = max(due + PERIOD_SECONDS, time.monotonic())
            self._stop.wait(due - time.monotonic())
        tally.longest_gap_seconds = max(
            tally.longest_gap_seconds, time.monotonic() - last_answer - PERIOD_SECONDS
        )
        client.close()
