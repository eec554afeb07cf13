"""Small versions for tests: a python-backend model that answers a constant, whole with its files.

A real Triton runs them; the fake one reads the same constants out of the same `model.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

MODEL = "echo"

_SOURCE = """
import os
import signal
import time
import numpy as np
import triton_python_backend_utils as pb_utils

ANSWER = {answer!r}
LOAD_SECONDS = {load_seconds!r}
RAISES = {raises!r}
WRONG_WHEN_REAL = {wrong_when_real!r}
ANSWER_SECONDS = {answer_seconds!r}
DIES_AFTER = {dies_after!r}


class TritonPythonModel:
    def initialize(self, args):
        time.sleep(LOAD_SECONDS)
        if RAISES:
            raise RuntimeError("this model cannot start")
        real = not args["model_name"].endswith("--candidate")
        self.answer = -1.0 if WRONG_WHEN_REAL and real else ANSWER
        self.count = 0

    def execute(self, requests):
        time.sleep(ANSWER_SECONDS)
        self.count += len(requests)
        if DIES_AFTER is not None and self.count > DIES_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        value = np.array([self.answer], dtype=np.float32)
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]) for _ in requests
        ]
"""

# Each request is answered by all of ANSWERS in turn, and then ended or left open.
_STREAMING_SOURCE = """
import numpy as np
import triton_python_backend_utils as pb_utils

ANSWERS = {answers!r}
ENDS = {ends!r}


class TritonPythonModel:
    def initialize(self, args):
        self.open = []

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for answer in ANSWERS:
                value = np.array([answer], dtype=np.float32)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", value)]))
            if ENDS:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            else:
                self.open.append(sender)
        return None
"""

_CONFIG = """name: "{model}"
backend: "{backend}"
max_batch_size: 0
input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 1 ] }} ]
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
"""


@dataclass(frozen=True, kw_only=True)
class Version:
    """The files of a version by path, and what they make of a manifest."""

    number: str
    files: dict[str, bytes] = field(repr=False)
    requires: dict[str, Any] = field(default_factory=dict)

    @property
    def manifest(self) -> dict[str, Any]:
        return {
            "schema": "waypost.manifest/1",
            **({"requires": self.requires} if self.requires else {}),
            "files": [
                {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for path, data in sorted(self.files.items())
            ],
        }

    @property
    def digest(self) -> str:
        text = json.dumps(self.manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def make_version(
    number: str,
    *,
    model: str = MODEL,
    answer: float | None = None,
    golden: float | None = None,
    load_seconds: float = 0.0,
    raises: bool = False,
    wrong_when_real: bool = False,
    answer_seconds: float = 0.0,
    max_latency_ms: float | None = None,
    dies_after: int | None = None,
    backend: str = "python",
    extra: dict[str, bytes] | None = None,
) -> Version:
    """Version `number` answers `answer` (its number unless told) and is judged by `golden`.

    `wrong_when_real`: right as a candidate, wrong under the real name. `dies_after` so many
    requests the process that answers them is gone.
    """
    answer = float(number) if answer is None else answer
    golden = answer if golden is None else golden
    source = _SOURCE.format(
        answer=answer,
        load_seconds=load_seconds,
        raises=raises,
        wrong_when_real=wrong_when_real,
        answer_seconds=answer_seconds,
        dies_after=dies_after,
    )
    files = {
        "config.pbtxt": _CONFIG.format(model=model, backend=backend).encode(),
        "golden.json": json.dumps(golden_document(golden, max_latency_ms=max_latency_ms)).encode(),
        "model.py": source.encode(),
        **(extra or {}),
    }
    return Version(number=number, files=files)


def make_streaming_version(
    number: str,
    *,
    model: str,
    answers: Sequence[float],
    golden: Sequence[float] | None = None,
    ends: bool = True,
) -> Version:
    """A decoupled one, which answers each request by all of `answers`."""
    config = _CONFIG.format(model=model, backend="python")
    document = golden_document(*(answers if golden is None else golden))
    files = {
        "config.pbtxt": f"{config}model_transaction_policy {{ decoupled: true }}\n".encode(),
        "golden.json": json.dumps(document).encode(),
        "model.py": _STREAMING_SOURCE.format(answers=list(answers), ends=ends).encode(),
    }
    return Version(number=number, files=files)


def golden_document(*answers: float, max_latency_ms: float | None = None) -> dict[str, Any]:
    given = {"datatype": "FP32", "shape": [1]}
    tensor = {"datatype": "FP32", "shape": [len(answers)]}
    return {
        "schema": "waypost.golden/1",
        "requests": [
            {
                "name": "one",
                **({} if max_latency_ms is None else {"max_latency_ms": max_latency_ms}),
                "inputs": [{"name": "x", "data": [1.0], **given}],
                "outputs": [
                    {"name": "y", "data": list(answers), "tolerance": {"absolute": 0.001}, **tensor}
                ],
            }
        ],
    }


def wish(
    version: Version | None,
    *,
    generation: int,
    model: str = MODEL,
    previous: str | None = None,
    deployment: int | None = 1,
    lease_required: bool = False,
    also: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """An entry of `models` in a desired state; without a lease as a centre of old sends it. `also`
    are keys that came later."""
    return {
        **({"lease_required": True} if lease_required else {}),
        **(also or {}),
        "model": model,
        "generation": generation,
        "deployment": deployment,
        "version": None if version is None else version.number,
        "previous": previous,
        "manifest_digest": None if version is None else version.digest,
        "manifest": None if version is None else version.manifest,
    }
