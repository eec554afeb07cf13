"""Users over gRPC, beside those over HTTP of `real_site`: each asks without pause and remembers."""

from __future__ import annotations

import threading
import time
from typing import Self

import numpy as np
import tritonclient.grpc as client
from tritonclient.utils import InferenceServerException

TIMEOUT_SECONDS = 5.0


class GrpcUsers:
    """One connection; `with GrpcUsers(port) as users:` and read what it saw."""

    def __init__(self, port: int, model: str, pause_seconds: float = 0.0) -> None:
        self._url = f"127.0.0.1:{port}"
        self._model = model
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask_on)
        self.answers: set[tuple[str, float]] = set()
        self.failures: list[str] = []
        self.count = 0
        self.longest_gap_seconds = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _ask_on(self) -> None:
        # A channel of its own, as users elsewhere have.
        own = [("grpc.use_local_subchannel_pool", 1)]
        connection = client.InferenceServerClient(self._url, channel_args=own)
        asked = client.InferInput("x", [1], "FP32")
        asked.set_data_from_numpy(np.zeros(1, dtype=np.float32))
        last = time.monotonic()
        while not self._stop.wait(self._pause_seconds):
            try:
                answer = connection.infer(self._model, [asked], client_timeout=TIMEOUT_SECONDS)
            except InferenceServerException as error:
                self.failures.append(str(error)[:200])
            else:
                version = answer.get_response().model_version
                self.answers.add((version, float(answer.as_numpy("y")[0])))
            now = time.monotonic()
            self.longest_gap_seconds = max(self.longest_gap_seconds, now - last)
            last = now
            self.count += 1
        connection.close()
