"""A model server that reads the same files as a real Triton and keeps its rules, without one.

Its clock only moves when the agent sleeps. It remembers which bytes answered as a candidate what
they should: nothing else may ever be loaded under a real name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from waypost_agent.errors import Retryable
from waypost_agent.ports import (
    Answer,
    Config,
    Index,
    InferenceRefused,
    LoadRefused,
    LoadTimedOut,
    ServerFacts,
    Tensor,
    VersionState,
)
from waypost_agent.protocol import CANDIDATE_SUFFIX
from waypost_agent.triton_metrics import Scrape


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0
        self.boot = "boot-1"
        self.utc = "2026-11-23T13:12:00Z"
        self.suspended_seconds = 0.0  # which only the boot time counts
        self.while_asleep: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def boottime(self) -> float:
        return self.now + self.suspended_seconds

    def boot_id(self) -> str:
        return self.boot

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.while_asleep()

    def utc_text(self) -> str:
        return self.utc


@dataclass
class Loaded:
    """One version in the server; `until` is when LOADING or UNLOADING ends."""

    state: str
    source: str = ""
    reason: str = ""
    until: float = 0.0


class FakeTriton:
    """Every real load is in `loads`; `unproven` those whose bytes had not passed as a candidate."""

    def __init__(self, repository: Path, clock: FakeClock, unload_seconds: float = 0.2) -> None:
        self.repository = repository
        self.clock = clock
        self.unload_seconds = unload_seconds
        self.running = True
        self.models: dict[str, dict[str, Loaded]] = {}
        self.dies_loading: set[str] = set()
        self.never_gone: set[str] = set()  # versions that unload for ever
        self.most_loaded: int | None = None  # versions that find memory together, of all models
        self.counted: Scrape | None = None  # what its metrics say; None: they cannot be read
        self.passed: set[str] = set()
        self.loads: list[tuple[str, str]] = []
        self.unproven: list[tuple[str, str]] = []

    def restart(self) -> None:
        """As after a crash: it runs and has nothing loaded."""
        self.models.clear()
        self.running = True

    def states(self, model: str) -> set[str]:
        """Those of its versions that were ever loaded."""
        self._settle()
        return {loaded.state for loaded in self.models.get(model, {}).values()}

    def ready(self, model: str) -> set[str]:
        self._settle()
        versions = self.models.get(model, {})
        return {number for number, loaded in versions.items() if loaded.state == "READY"}

    # The agent's view

    def facts(self) -> ServerFacts:
        self._require()
        return ServerFacts(version="fake")

    def index(self) -> Index:
        self._require()
        self._settle()
        return {
            folder.name: {
                number: VersionState(state=loaded.state, reason=loaded.reason)
                for number, loaded in self.models.get(folder.name, {}).items()
            }
            for folder in self.repository.iterdir()
            if folder.is_dir()
        }

    def load(self, model: str, config: Config, *, timeout_seconds: float) -> None:
        self._require()
        self._settle()
        (number,) = config["version_policy"]["specific"]["versions"]
        folder = self.repository / model / number
        paths = [folder / name for name in ("model.py", "model.onnx")]
        source = next((path.read_text() for path in paths if path.is_file()), None)
        if source is None:
            raise LoadRefused("at least one version must be available under the version policy")
        if model in self.dies_loading:
            self.restart()
            raise Retryable("triton-unreachable", "Socket closed")
        self._remember(model, number, source)
        versions = self.models.setdefault(model, {})
        if "RAISES = True" in source:
            versions[number] = Loaded("UNAVAILABLE", reason="this model cannot start")
            raise LoadRefused("this model cannot start")
        if (loaded := versions.get(number)) is not None and loaded.state == "READY":
            self._drop_others(model, number)
            return
        if self.most_loaded is not None and self._loaded() >= self.most_loaded:
            versions[number] = Loaded("UNAVAILABLE", reason="out of memory")
            raise LoadRefused("out of memory")
        seconds = float(_constant(source, "LOAD_SECONDS"))
        versions[number] = Loaded("LOADING", source=source, until=self.clock.now + seconds)
        self.clock.sleep(min(seconds, timeout_seconds))
        if seconds > timeout_seconds:
            raise LoadTimedOut("not loaded in time")
        self._settle()

    def unload(self, model: str) -> None:
        self._require()
        for loaded in self.models.get(model, {}).values():
            if loaded.state in ("READY", "LOADING"):
                loaded.state, loaded.until = "UNLOADING", self.clock.now + self.unload_seconds

    def is_version_ready(self, model: str, version: str) -> bool:
        self._require()
        return version in self.ready(model)

    def infer(
        self, model: str, version: str | None, inputs: Sequence[Tensor], outputs: Sequence[str]
    ) -> Answer:
        self._require()
        number = version or max(self.ready(model), key=int, default="")
        if number not in self.ready(model):
            raise InferenceRefused("not at ready state")
        source = self.models[model][number].source
        self.clock.sleep(float(_constant(source, "ANSWER_SECONDS")))
        value = self.answer(model, source)
        if model.endswith(CANDIDATE_SUFFIX) and value == abs(value):
            self.passed.add(source)
        output = Tensor(name="y", datatype="FP32", shape=(1,), values=(value,))
        return Answer(version=number, outputs={"y": output})

    def answer(self, model: str, source: str) -> float:
        """Versions of these tests answer a positive number when they are right."""
        if "WRONG_WHEN_REAL = True" in source and not model.endswith(CANDIDATE_SUFFIX):
            return -1.0
        return float(_constant(source, "ANSWER"))

    # Inside

    def _require(self) -> None:
        if not self.running:
            raise Retryable("triton-unreachable", "Triton does not answer")

    def _remember(self, model: str, number: str, source: str) -> None:
        if model.endswith(CANDIDATE_SUFFIX):
            return
        self.loads.append((model, number))
        if source not in self.passed:
            self.unproven.append((model, number))

    def _loaded(self) -> int:
        versions = [each for model in self.models.values() for each in model.values()]
        return sum(each.state in ("READY", "LOADING", "UNLOADING") for each in versions)

    def _settle(self) -> None:
        for model, versions in list(self.models.items()):
            for number, loaded in list(versions.items()):
                if loaded.until > self.clock.now:
                    continue
                if loaded.state == "UNLOADING" and number in self.never_gone:
                    continue
                if loaded.state == "LOADING":
                    loaded.state = "READY"
                    self._drop_others(model, number)
                elif loaded.state == "UNLOADING":
                    versions[number] = Loaded("UNAVAILABLE", reason="unloaded")

    def _drop_others(self, model: str, number: str) -> None:
        for other, loaded in self.models[model].items():
            if other != number and loaded.state == "READY":
                loaded.state, loaded.until = "UNLOADING", self.clock.now + self.unload_seconds


def _constant(source: str, name: str) -> str:
    match = re.search(rf"^{name} = (.+)$", source, re.MULTILINE)
    assert match is not None
    return match[1]
