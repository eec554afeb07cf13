"""The agent's own metrics in Prometheus' text format, for who asks on this machine.

Decides what is told: states and counts, never a secret. What is not known has no line.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from waypost_agent import __version__
from waypost_agent.board import Snapshot
from waypost_agent.meter import Measured

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_Sample = tuple[dict[str, str], float]


def metrics_text(snapshot: Snapshot, measured: Measured) -> str:
    """One reading of the whole agent."""
    lines: list[str] = []
    for name, kind, help_text, samples in _families(snapshot, measured):
        if samples:
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {value:.15g}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _families(
    snapshot: Snapshot, measured: Measured
) -> Iterator[tuple[str, str, str, list[_Sample]]]:
    prefix = "waypost_agent_"
    models = snapshot.models
    yield prefix + "up", "gauge", "This agent runs.", [({"version": __version__}, 1)]
    yield (
        prefix + "last_contact_age_seconds",
        "gauge",
        "Since the centre last answered.",
        _known(measured.contact_age_seconds),
    )
    yield (
        prefix + "round_trip_seconds",
        "gauge",
        "Median of the last polls of the centre.",
        _known(measured.round_trip_seconds),
    )
    yield (
        prefix + "download_bytes_per_second",
        "gauge",
        "Median of the last downloads.",
        _known(measured.download_bytes_per_second),
    )
    yield (
        prefix + "triton_live",
        "gauge",
        "Triton answers.",
        _live(snapshot),
    )
    yield (
        prefix + "model_phase",
        "gauge",
        "The phase the model is in; docs/agent-protocol.md says what each means.",
        [({"model": m.model, "phase": m.phase, "reason_code": m.reason_code}, 1) for m in models],
    )
    yield (
        prefix + "model_serving",
        "gauge",
        "The version that answers.",
        [({"model": m.model, "version": m.serving}, 1) for m in models if m.serving is not None],
    )
    yield (
        prefix + "model_healthy",
        "gauge",
        "Whether what answers passed its last golden requests.",
        [({"model": m.model}, float(m.healthy)) for m in models if m.healthy is not None],
    )
    yield (
        prefix + "reports_total",
        "counter",
        "Reports that the centre answered.",
        [({}, measured.reports)],
    )
    yield (
        prefix + "unanswered_calls_total",
        "counter",
        "Calls of the centre that stayed without an answer.",
        [({}, measured.unanswered)],
    )
    yield (
        prefix + "retries_total",
        "counter",
        "Steps that did not work out and were put off.",
        [
            ({"model": model, "reason_code": code}, count)
            for (model, code), count in sorted(measured.retries.items())
        ],
    )
    yield (
        prefix + "downloaded_bytes_total",
        "counter",
        "Bytes of files that came over the wire.",
        [({}, measured.downloaded_bytes)],
    )


def _live(snapshot: Snapshot) -> list[_Sample]:
    if not snapshot.servers:
        return [({}, float(snapshot.triton.live))]
    return [
        ({"server": name} if name else {}, float(triton.live)) for name, triton in snapshot.servers
    ]


def _known(value: float | None) -> list[_Sample]:
    return [] if value is None else [({}, value)]


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    inside = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return "{" + inside + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class MetricsServer:
    """Answers `GET /metrics` on loopback from a thread of its own; port 0 takes a free one."""

    def __init__(self, port: int, text: Callable[[], str]) -> None:
        handler = type("_Handler", (_Handler,), {"text": staticmethod(text)})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    text: Callable[[], str]
    timeout = 10.0  # a caller that says nothing must not hold a thread for ever

    def do_GET(self) -> None:
        if self.path != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        body = self.text().encode()
        self.send_response(200)
        self.send_header("Content-Type", _CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Who reads the metrics is no event."""
