"""A registry that drips: every byte comes in time, the whole never would. The time that counts is
virtual: each look at the clock lets the server send one more byte."""

import queue
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from controlplane.audit.timed_wire import Deadline, OutOfTime
from controlplane.catalog.registry import Away, RegistryError, Unavailable
from controlplane.catalog.registry.http import RegistryHttp

SECONDS, STEP = 5.0, 0.5
LOOKS = SECONDS / STEP + 1
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"


class Dripper:
    """Answers one request: `at_once`, then a blank with each look at its clock."""

    def __init__(self, at_once: bytes) -> None:
        self.sent = 0
        self._at_once = at_once
        self._time = 0.0
        self._looks: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._answer)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def clock(self) -> float:
        self._looks.put(True)
        self._time += STEP
        return self._time

    def stop(self) -> None:
        self._looks.put(False)
        self._listener.shutdown(socket.SHUT_RDWR)  # ends an accept that still waits
        self._listener.close()
        self._thread.join()

    def _answer(self) -> None:
        with self._listener.accept()[0] as connection:
            connection.recv(4096)
            connection.sendall(self._at_once)
            while self._looks.get():
                try:
                    connection.sendall(b" ")
                except OSError:  # the client has had enough
                    return
                self.sent += 1


@pytest.fixture
def dripping() -> Iterator[Callable[[bytes], Dripper]]:
    servers: list[Dripper] = []

    def make(at_once: bytes) -> Dripper:
        servers.append(Dripper(at_once))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


def http_to(server: Dripper) -> RegistryHttp:
    return RegistryHttp(url=server.url, read_seconds=SECONDS, clock=server.clock)


@pytest.mark.parametrize(
    ("at_once", "error"),
    [
        (b"", Away),
        (HEAD[:30], Away),
        (HEAD, Unavailable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3e8;", Unavailable),
        (HEAD.replace(b"200 OK", b"500 No"), Unavailable),
    ],
)
def test_an_answer_that_drips_is_given_up_as_a_whole(
    at_once: bytes, error: type[RegistryError], dripping: Callable[[bytes], Dripper]
) -> None:
    server = dripping(at_once)
    with pytest.raises(error, match="gave no whole answer within 5 s"):
        http_to(server).json("GET", "/api")
    assert server.sent <= LOOKS


def test_a_file_that_drips_is_given_up_by_its_rate(dripping: Callable[[bytes], Dripper]) -> None:
    server = dripping(HEAD)
    stream = http_to(server).open("/file", size=1000)
    with pytest.raises(Unavailable, match="broke off: the registry gave fewer than"):
        b"".join(iter(lambda: stream.read(1 << 20), b""))
    stream.close()
    assert 0 < server.sent <= LOOKS


def test_bytes_that_are_only_skipped_must_come_in_time_too(
    dripping: Callable[[bytes], Dripper],
) -> None:
    server = dripping(HEAD.replace(b"\r\n\r\n", b'\r\nETag: "one"\r\n\r\n'))
    with pytest.raises(Unavailable, match="fewer than"):
        http_to(server).open("/file", size=1000, offset=900, etag='"one"')


def test_a_lot_in_time_begins_the_time_anew_and_no_haste_before_buys_more() -> None:
    time = [0.0]
    deadline = Deadline(seconds=60, lot=100, clock=lambda: time[0])
    for _ in range(5):  # far longer than 60 s, at the least rate
        time[0] += 59
        deadline.came(50)
        deadline.came(50)
    deadline.came(100_000)
    time[0] += 59
    deadline.came(99)
    assert deadline.left() == 1
    time[0] += 1
    with pytest.raises(OutOfTime, match="fewer than 100 bytes within 60 s"):
        deadline.left()
