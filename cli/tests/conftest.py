"""Fixtures: a running fake control plane, the command line with its streams, a folder to push."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_api import TOKEN, FakeApi
from waypost_cli.api import Api
from waypost_cli.connection import Connection
from waypost_cli.main import run
from waypost_cli.transport import Transport


@dataclass(frozen=True, kw_only=True)
class Ran:
    """How a command ended and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


Waypost = Callable[..., Ran]


@pytest.fixture
def fake() -> Iterator[FakeApi]:
    fake = FakeApi()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def waypost(
    fake: FakeApi, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Waypost:
    """Runs a command line against the fake, as a CI job would: settings in the environment."""
    monkeypatch.setenv("WAYPOST_URL", fake.url)
    monkeypatch.setenv("WAYPOST_TOKEN", TOKEN)
    monkeypatch.delenv("WAYPOST_CA_FILE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run_it(*arguments: str) -> Ran:
        capsys.readouterr()
        exit_code = run(list(arguments))
        written = capsys.readouterr()
        return Ran(exit_code=int(exit_code), stdout=written.out, stderr=written.err)

    return run_it


class Pauses:
    """Stands in for `time.sleep`: remembers how long, waits not at all."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


@pytest.fixture
def api(fake: FakeApi, pauses: Pauses, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """The CLI's own client against the fake, with pauses that take no time."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Transport(Connection(url=fake.url, token=TOKEN), sleep=pauses) as transport:
        yield Api(transport)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A version that may be pushed."""
    folder = tmp_path / "model"
    (folder / "weights").mkdir(parents=True)
    (folder / "config.pbtxt").write_text('backend: "python"\n')
    (folder / "golden.json").write_text("[]\n")
    (folder / "model.py").write_text("print('hello')\n")
    (folder / "weights" / "a.bin").write_bytes(b"a" * 1000)
    return folder
