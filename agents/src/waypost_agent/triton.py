"""Talks to one Triton over gRPC; the only module that knows tritonclient.

Decides which of its errors mean "nobody answers", "it could not" and "it is still loading".
Control over HTTP stalls all HTTP inference during a load, so nothing here uses HTTP. One thread
owns an instance: the client is not safe to share.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import grpc
import tritonclient.grpc as client
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.utils import InferenceServerException

from waypost_agent.errors import TRITON_UNREACHABLE, Retryable
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
from waypost_agent.triton_stream import Streamed
from waypost_agent.triton_tensors import array_of, tensor_of

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

# A channel of its own: gRPC shares connections within a process, and with them the pause after a
# refused one, during which a server that is back would still count as gone.
_CHANNEL = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
_GONE = {"StatusCode.UNAVAILABLE", "StatusCode.UNKNOWN", "StatusCode.CANCELLED"}
_LATE = "StatusCode.DEADLINE_EXCEEDED"
# To a request for one answer of a decoupled model, before the model hears of it.
_UNSUPPORTED = "StatusCode.UNIMPLEMENTED"


class Triton:
    """`secret_file` is read at each connect, since the secret is made anew at each boot."""

    def __init__(
        self,
        *,
        url: str,
        secret_key: str,
        secret_file: Path | None,
        call_timeout_seconds: float,
        infer_timeout_seconds: float,
    ) -> None:
        self._url = url
        self._secret_key = secret_key
        self._secret_file = secret_file
        self._call_timeout_seconds = call_timeout_seconds
        self._infer_timeout_seconds = infer_timeout_seconds
        self._client: Any = None
        self._headers: dict[str, str] = {}

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def facts(self) -> ServerFacts:
        metadata = self._ask(lambda c, kw: c.get_server_metadata(**kw))
        return ServerFacts(version=metadata.version, extensions=frozenset(metadata.extensions))

    def index(self) -> Index:
        answer = self._ask(lambda c, kw: c.get_model_repository_index(**kw))
        models: dict[str, dict[str, VersionState]] = {}
        for entry in answer.models:
            versions = models.setdefault(entry.name, {})
            if entry.version:
                versions[entry.version] = VersionState(state=entry.state, reason=entry.reason)
        return models

    def load(self, model: str, config: Config, *, timeout_seconds: float) -> None:
        text = json.dumps(config)
        try:
            self._call(
                lambda c, kw: c.load_model(
                    model, config=text, **{**kw, "client_timeout": timeout_seconds}
                ),
                late=LoadTimedOut(f"not loaded within {timeout_seconds:g} s"),
            )
        except InferenceServerException as error:
            raise LoadRefused(_message(error)) from error

    def unload(self, model: str) -> None:
        self._ask(lambda c, kw: c.unload_model(model, **kw))

    def is_version_ready(self, model: str, version: str) -> bool:
        return bool(self._ask(lambda c, kw: c.is_model_ready(model, version, **kw)))

    def infer(
        self, model: str, version: str | None, inputs: Sequence[Tensor], outputs: Sequence[str]
    ) -> Answer:
        asked = {
            "model_name": model,
            "model_version": version or "",
            "inputs": [_infer_input(tensor) for tensor in inputs],
            "outputs": [client.InferRequestedOutput(name) for name in outputs],
        }
        timeout = self._infer_timeout_seconds
        late = InferenceRefused(f"no answer within {timeout:g} s")
        began = time.monotonic()  # a bound on the answer's time does not mean our own conversions
        try:
            result = self._call(
                lambda c, kw: c.infer(**asked, **{**kw, "client_timeout": timeout}), late=late
            )
        except InferenceServerException as error:
            if str(error.status()) == _UNSUPPORTED:
                return self._infer_streamed(asked, outputs)
            raise InferenceRefused(_message(error)) from error
        seconds = time.monotonic() - began
        return Answer(
            version=result.get_response().model_version,
            outputs={
                name: tensor_of(name, array)
                for name in outputs
                if (array := result.as_numpy(name)) is not None
            },
            seconds=seconds,
        )

    def _infer_streamed(self, asked: dict[str, Any], outputs: Sequence[str]) -> Answer:
        """Of a decoupled model: all that it says until it says that it is done, as one answer."""
        timeout, streamed = self._infer_timeout_seconds, Streamed()
        late = InferenceRefused(f"its answer has no end within {timeout:g} s")

        def ask(connected: Any, options: dict[str, Any]) -> Answer:
            began = time.monotonic()
            connected.start_stream(
                streamed.take, stream_timeout=timeout, headers=options["headers"]
            )
            try:
                connected.async_stream_infer(**asked, enable_empty_final_response=True)
                is_whole = streamed.done.wait(timeout)
                seconds = time.monotonic() - began
            finally:
                # Not cancelled, which would leave a thread of gRPC's behind; the deadline ends it.
                connected.stop_stream()
            if streamed.error is not None:
                raise streamed.error
            if not is_whole:
                raise late
            return replace(streamed.answer(outputs), seconds=seconds)

        try:
            return self._call(ask, late=late)
        except InferenceServerException as error:
            raise InferenceRefused(_message(error)) from error

    def _ask(self, ask: Callable[[Any, dict[str, Any]], _Result]) -> _Result:
        """Ask what has no bad outcome: an error of any kind may pass by itself."""
        try:
            return self._call(ask)
        except InferenceServerException as error:
            raise Retryable(
                TRITON_UNREACHABLE,
                f"Triton at {self._url} says: {_message(error)}",
            ) from error

    def _call(
        self,
        ask: Callable[[Any, dict[str, Any]], _Result],
        late: Exception | None = None,
    ) -> _Result:
        """Ask; when nobody answers, connect anew next time and raise `Retryable`."""
        try:
            options = {"headers": self._headers, "client_timeout": self._call_timeout_seconds}
            connected = self._connect()
            options["headers"] = self._headers
            return ask(connected, options)
        except InferenceServerException as error:
            status = str(error.status())
            if status == _LATE and late is not None:
                raise late from error
            if status not in _GONE and status != _LATE:
                raise
            failure: Exception = error
            message = _message(error)
        except (grpc.RpcError, OSError, ConnectionError) as error:
            failure, message = error, str(error)
        self.close()
        raise Retryable(
            TRITON_UNREACHABLE, f"Triton does not answer at {self._url}: {message:.200}"
        ) from failure

    def _connect(self) -> Any:
        if self._client is None:
            self._headers = self._secret_headers()
            self._client = client.InferenceServerClient(self._url, channel_args=_CHANNEL)
        return self._client

    def _secret_headers(self) -> dict[str, str]:
        if self._secret_file is None:
            return {}
        secret = self._secret_file.read_text().strip()
        # Triton's own prefix for the key of --grpc-restricted-protocol.
        return {f"triton-grpc-protocol-{self._secret_key}": secret}


class PbtxtCodec:
    """config.pbtxt (protobuf's text format) to and from its fields, by Triton's own schema."""

    def parse(self, text: str) -> Config:
        try:
            message = text_format.Parse(text, model_config_pb2.ModelConfig())
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise ValueError(str(error)) from error
        fields: Config = json_format.MessageToDict(message, preserving_proto_field_name=True)
        return fields

    def print(self, config: Config) -> str:
        message = json_format.ParseDict(config, model_config_pb2.ModelConfig())
        return str(text_format.MessageToString(message))


def _infer_input(tensor: Tensor) -> Any:
    sent = client.InferInput(tensor.name, list(tensor.shape), tensor.datatype)
    sent.set_data_from_numpy(array_of(tensor))
    return sent


def _message(error: InferenceServerException) -> str:
    """The server's own words in one line; a python model's traceback keeps its first lines."""
    text = str(error.message() or error)
    return " ".join(text.split())[:400]
