"""The load: a few keep-alive connections, each asking again as soon as it is answered.

Runs as a process of its own (a plan on stdin, one JSON object on stdout), so that its CPU time is
not the server's. One thread over raw sockets: an HTTP library would cost more than the server. It
checks every answer and stops at the first that is not exactly the expected one.
"""

import json
import selectors
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_PATIENCE_SECONDS = 20.0


class WrongAnswer(Exception):
    """An answer that was not the expected one, or none."""


@dataclass(kw_only=True)
class Caller:
    """One agent as the load plays it. `prefix` is what of its request never changes."""

    etag: bytes
    head: bytes
    body: str
    epoch: int
    generation: int
    seq: int

    def poll(self) -> bytes:
        return self.head + b"\r\n"

    def report(self) -> bytes:
        self.seq += 1
        body = f'{{"seq":{self.seq},{self.body}'.encode()
        return self.head + b"Content-Length: %d\r\n\r\n" % len(body) + body


@dataclass(kw_only=True)
class Connection:
    """A socket and the agents that take turns on it."""

    socket: socket.socket
    callers: list[Caller]
    turn: int = 0
    asked_at: float = 0.0
    received: bytes = field(default=b"")

    @property
    def caller(self) -> Caller:
        return self.callers[self.turn % len(self.callers)]


def check_poll(caller: Caller, status: int, head: bytes, body: bytes) -> None:
    if status != 304 or body or b"\r\netag: " + caller.etag not in head.lower():
        raise WrongAnswer(f"expected 304 with ETag {caller.etag!r}, got {head!r} {body[:300]!r}")


def check_report(caller: Caller, status: int, head: bytes, body: bytes) -> None:
    document = json.loads(body) if status == 200 else {}
    expected = {"epoch": caller.epoch, "generation": caller.generation, "duplicate": False}
    if {key: document.get(key) for key in expected} != expected:
        raise WrongAnswer(f"expected 200 with {expected} to {caller.seq}, got {head!r} {body!r}")


def split(received: bytes) -> tuple[int, bytes, bytes] | None:
    """(status, head, body) once an answer is whole; both servers send a length or no body."""
    head, found, body = received.partition(b"\r\n\r\n")
    if not found:
        return None
    status = int(head[9:12])
    if status == 304:
        return status, head, body
    _, named, rest = head.lower().partition(b"\r\ncontent-length:")
    if not named:
        raise WrongAnswer(f"an answer without a length: {head!r}")
    return (status, head, body) if len(body) >= int(rest.split(b"\r\n", 1)[0]) else None


class Load:
    """Drives the connections for a time and keeps how long each answer took, in seconds."""

    def __init__(self, port: int, callers: list[Caller], connections: int, kind: str) -> None:
        self.latencies: list[float] = []
        self._request: Callable[[Caller], bytes] = {"poll": Caller.poll, "report": Caller.report}[
            kind
        ]
        self._check = {"poll": check_poll, "report": check_report}[kind]
        self._selector = selectors.DefaultSelector()
        for number in range(connections):
            sock = socket.create_connection(("127.0.0.1", port))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            turn = Connection(socket=sock, callers=callers[number::connections])
            self._selector.register(sock, selectors.EVENT_READ, turn)

    def run(self, seconds: float) -> float:
        """Seconds from the first question to the last answer. Every question is answered."""
        started = time.perf_counter()
        until = started + seconds
        waiting = 0
        for key in self._selector.get_map().values():
            self._ask(key.data)
            waiting += 1
        while waiting:
            ready = self._selector.select(_PATIENCE_SECONDS)
            if not ready:
                raise WrongAnswer(f"no answer within {_PATIENCE_SECONDS:g} s")
            for key, _ in ready:
                if not self._take(key.data):
                    continue
                if time.perf_counter() < until:
                    self._ask(key.data)
                else:
                    waiting -= 1
        return time.perf_counter() - started

    def close(self) -> None:
        for key in list(self._selector.get_map().values()):
            key.data.socket.close()
        self._selector.close()

    def _ask(self, turn: Connection) -> None:
        turn.turn += 1
        request = self._request(turn.caller)
        turn.asked_at = time.perf_counter()
        turn.socket.sendall(request)

    def _take(self, turn: Connection) -> bool:
        """Whether the answer is whole; then it was the right one."""
        data = turn.socket.recv(65536)
        if not data:
            raise WrongAnswer(f"the server closed the connection after {turn.received!r}")
        turn.received += data
        answer = split(turn.received)
        if answer is None:
            return False
        self.latencies.append(time.perf_counter() - turn.asked_at)
        self._check(turn.caller, *answer)
        turn.received = b""
        return True


def callers_of(plan: dict[str, Any]) -> list[Caller]:
    line = {"poll": "GET /agent/v1/desired", "report": "POST /agent/v1/report"}[plan["kind"]]
    callers = []
    for agent in plan["agents"]:
        headers = {
            "Host": f"127.0.0.1:{plan['port']}",
            **plan["headers"],
            "Authorization": f"Bearer {agent['token']}",
            **({"If-None-Match": agent["etag"]} if plan["kind"] == "poll" else {}),
        }
        head = f"{line} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        callers.append(
            Caller(
                etag=agent["etag"].encode(),
                head=head.encode(),
                # Its opening brace goes, since the sequence is put before the rest.
                body=json.dumps(agent["body"], separators=(",", ":"))[1:],
                epoch=agent["epoch"],
                generation=agent["generation"],
                seq=agent["seq"],
            )
        )
    return callers


def percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    plan = json.load(sys.stdin)
    callers = callers_of(plan)
    load = Load(plan["port"], callers, plan["connections"], plan["kind"])
    try:
        cpu_before = time.process_time()
        wall_seconds = load.run(plan["seconds"])
        cpu_seconds = time.process_time() - cpu_before
    except WrongAnswer as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        load.close()
    ordered = sorted(load.latencies)
    json.dump(
        {
            "requests": len(ordered),
            "wall_seconds": wall_seconds,
            "cpu_seconds": cpu_seconds,
            "p50_ms": percentile(ordered, 0.50) * 1000,
            "p99_ms": percentile(ordered, 0.99) * 1000,
            "seqs": [caller.seq for caller in callers],
        },
        sys.stdout,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
