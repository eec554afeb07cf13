"""Runs the converter: a process of its own environment, which may run the code of whoever wrote a
model. It gets a scrubbed environment, limits of time, memory, processes and output, a folder of its
own, and the walls of `walls.py`. Where those cannot be built, what runs its author's code as it is
read is refused, unless the settings say otherwise.

It must not know what is converted into what: that is `convert_child.py`. The protocol is one JSON
object each way:

    {"kind": "sklearn" | "xgboost" | "onnx", "model": PATH, "format": TEXT, "model_class": TEXT,
     "trusted": [TEXT], "example": PATH or null, "graph": PATH, "golden": PATH}
    {"ok": true, "golden": BOOL} or {"ok": false, "error": TEXT}

`graph` is where the ONNX model goes to, or with the kind `onnx` the one that is run.
"""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from controlplane.catalog.registry import Refused, Unavailable
from controlplane.catalog.registry.walls import PATH, Walls

_log = structlog.get_logger(__name__)

_CHILD = Path(__file__).with_name("convert_child.py")
_MAX_ANSWER_BYTES = 64 << 10
HOW_TO_TURN_ON = (
    "Make the converter's environment with `python3 deploy/bootstrap.py convert`, and set "
    "WAYPOST_CONVERTER_PYTHON to its .convert/bin/python."
)
# Data, read by code of ours: without walls they still go on within the limits. All else is code.
_DATA_KINDS = ("xgboost", "onnx")
_LOOK_SECONDS = 0.25
_MAX_ENTRIES = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Of one conversion."""

    cpu_seconds: int = 600
    wall_seconds: float = 900.0
    memory_bytes: int = 8 << 30
    file_bytes: int = 4 << 30
    # Of all files together, and what they leave free on the disk.
    disk_bytes: int = 12 << 30
    reserve_bytes: int = 1 << 30
    # Of its user, the worker's own among them.
    processes: int = 4096


@dataclass(frozen=True, kw_only=True)
class Converter:
    """`python` is the interpreter of the converter's environment; empty: it is turned off.
    `unwalled` lets a model's code run where no walls can be built: with the worker's rights."""

    python: str = ""
    walls: Walls = field(default_factory=Walls)
    unwalled: bool = False
    limits: Limits = Limits()

    def run(
        self,
        asked: Mapping[str, Any],
        *,
        inputs: Mapping[str, Path],
        into: Path,
        graph: Mapping[str, Path] | None = None,
    ) -> bool:
        """Fills `into` with `model.onnx` and, if there is an example, `golden.json`; whether the
        latter is there. `inputs` are the keys of `asked` that are files. With `graph` (a
        `model.onnx` and the files of its weights, by name) nothing is converted.

        Raises `Refused`, with what the converter says.
        """
        if not self.python:
            raise Refused(
                f"A version of the kind {asked['kind']} needs the converter, which is turned off "
                f"here. {HOW_TO_TURN_ON}"
            )
        walled = self._walled(asked)
        with tempfile.TemporaryDirectory(prefix="waypost-convert-") as name:
            work, root = Path(name).resolve() / "work", Path(name).resolve() / "root"
            out = work / "out"
            out.mkdir(parents=True)
            root.mkdir()
            if walled:
                front = self.walls.around(self.python, work=work, root=root)
            else:
                front = self.walls.without_network()
            for key, path in inputs.items():
                shutil.copyfile(path, work / f"{key}{path.suffix}")
            files = {key: str(work / f"{key}{path.suffix}") for key, path in inputs.items()}
            made = {"graph": str(out / "model.onnx"), "golden": str(out / "golden.json")}
            for path_in_graph, local in (graph or {}).items():
                copy = work / "graph" / path_in_graph
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(local, copy)
                made["graph"] = str(work / "graph" / "model.onnx")
            answer = self._call({"example": None, **asked, **files, **made}, work, front)
            if answer.get("ok") is not True:
                raise Refused(f"It could not be converted: {_sentence(answer.get('error'))}.")
            wanted = ["model.onnx"] if not graph else []
            wanted += ["golden.json"] if answer.get("golden") is True else []
            for each in wanted:
                _take(out / each, into / each)
            return "golden.json" in wanted

    def _walled(self, asked: Mapping[str, Any]) -> bool:
        """Whether there are walls. Raises `Refused` where they have to be and are not."""
        fault = self.walls.fault(self.python)
        if not fault:
            return True
        _log.warning("converter_unwalled", reason=fault, kind=asked["kind"], allowed=self.unwalled)
        if asked["kind"] in _DATA_KINDS or self.unwalled:
            return False
        raise Refused(
            f"Reading a {asked['kind']} model runs its author's code, and no walls can be built "
            f"around that here ({fault}). Run the importer where user namespaces may be used, or "
            "set WAYPOST_CONVERTER_UNWALLED=true, which lets that code do what the worker may; or "
            "log the model as ONNX."
        )

    def _call(self, asked: Mapping[str, Any], work: Path, front: Sequence[str]) -> dict[str, Any]:
        # Within the walls there is no sight of this file's folder.
        child = shutil.copyfile(_CHILD, work / _CHILD.name)
        command = [*front, self.python, "-I", str(child)]
        with (work / "stderr").open("wb") as stderr, (work / "answer").open("w+b") as answer:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=answer,
                stderr=stderr,
                cwd=work,
                env=_environment(work),
                start_new_session=True,
                preexec_fn=lambda: _limit(self.limits),
            )
            try:
                self._wait(process, json.dumps(asked).encode(), work)
            finally:
                _end(process)
            answer.seek(0)
            said = answer.read(_MAX_ANSWER_BYTES)
        if process.returncode:
            _log.warning("converter_died", status=process.returncode, stderr=_tail(work / "stderr"))
            raise Refused(f"The converter ended without an answer ({_how(process.returncode)}).")
        try:
            document = json.loads(said)
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise Refused("The converter's answer cannot be understood.")
        return document

    def _wait(self, process: "subprocess.Popen[bytes]", asked: bytes, work: Path) -> None:
        """Until it ends, with an eye on the disk: no limit of the system's counts all its files."""
        until = time.monotonic() + self.limits.wall_seconds
        given: bytes | None = asked
        while True:
            try:
                process.communicate(given, timeout=_LOOK_SECONDS)
                return
            except subprocess.TimeoutExpired:
                given = None  # it goes on with what it was given
            if time.monotonic() > until:
                raise Refused(f"The converter did not end within {self.limits.wall_seconds:g} s.")
            # What was written and unlinked is in no folder; the disk shows it.
            if shutil.disk_usage(work).free < self.limits.reserve_bytes:
                raise Unavailable("The disk was nearly full while a model was converted.")
            if _bytes_in(work, self.limits.disk_bytes) > self.limits.disk_bytes:
                raise Refused(f"The converter wrote more than {self.limits.disk_bytes} bytes.")


def _bytes_in(folder: Path, most: int) -> int:
    """Of all files together; too many count as too much. What comes and goes meanwhile is fine."""
    total = entries = 0
    for place, _, names in os.walk(folder, onerror=None):
        entries += 1 + len(names)
        if entries > _MAX_ENTRIES:
            return most + 1
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
    return total


def _environment(work: Path) -> dict[str, str]:
    return {
        "PATH": PATH,
        "HOME": str(work),
        "TMPDIR": str(work),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _limit(limits: Limits) -> None:
    """Runs in the child, before the converter."""
    for what, most in (
        (resource.RLIMIT_CPU, limits.cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, 256),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(what)[1]  # only root may go beyond it
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """With everything that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _take(made: Path, to: Path) -> None:
    """What the child left may be anything: a link is not followed."""
    try:
        descriptor = os.open(made, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"The converter made no {made.name}.") from error
    with os.fdopen(descriptor, "rb") as source:
        if not os.path.isfile(f"/proc/self/fd/{descriptor}"):
            raise Refused(f"What the converter made as {made.name} is no file.")
        try:
            with to.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except OSError as error:
            raise Unavailable(f"{made.name} cannot be kept: {error.strerror}.") from error


def _sentence(text: object) -> str:
    plain = text if isinstance(text, str) else "it does not say why"
    plain = "".join(c if c.isprintable() else " " for c in plain)
    return " ".join(plain.split())[:500].rstrip(".")


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2000))
        return file.read().decode(errors="replace")


def _how(status: int) -> str:
    if status == -signal.SIGXCPU or status == 128 + signal.SIGXCPU:
        return "it used up its time"
    return f"killed by signal {-status}" if status < 0 else f"exit status {status}"
