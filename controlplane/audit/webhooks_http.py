"""Sends one message over HTTP to an address that was checked, and says what came back.

A name is resolved once, and the connection goes to the very address that passed: a name server that
answers otherwise a moment later changes nothing. TLS and the header Host still go by the name. No
redirect is followed, no proxy used, and the answer's body is not kept."""

import contextlib
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException

from controlplane.audit.timed_wire import Deadline, TimedWire
from controlplane.audit.webhooks_message import Message
from controlplane.audit.webhooks_target import (
    BadTarget,
    Target,
    TargetRules,
    address_refusal,
    parse_target,
)

MAX_ANSWER_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A status, or what went wrong before there was one."""

    status: int | None
    error: str = ""

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def resolve(host: str, port: int) -> list[str]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


@dataclass(frozen=True, kw_only=True)
class HttpSender:
    """Called with a message from several threads at once. Never raises for what a receiver does."""

    rules: TargetRules
    connect_seconds: float = 5.0
    total_seconds: float = 10.0
    resolve: Callable[[str, int], Sequence[str]] = resolve
    tls: ssl.SSLContext | None = None  # the system's authorities

    def __call__(self, message: Message) -> Answer:
        deadline = Deadline(seconds=self.total_seconds)
        try:
            status = self._post(message, deadline)
        except BadTarget as error:
            return Answer(status=None, error=f"refused: the URL {error}")
        except TimeoutError:
            return Answer(status=None, error=f"no answer within {self.total_seconds:g} s")
        except socket.gaierror as error:
            return Answer(status=None, error=f"the name cannot be resolved: {error.strerror}")
        except (OSError, HTTPException, ValueError) as error:
            return Answer(status=None, error=f"{type(error).__name__}: {error}")
        return Answer(status=status, error=_said(status))

    def _post(self, message: Message, deadline: Deadline) -> int:
        target = parse_target(message.url, self.rules)
        with contextlib.ExitStack() as stack:
            plain = stack.enter_context(self._connect(target, deadline))
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire = plain
            if target.scheme == "https":
                plain.settimeout(deadline.left())
                tls = self.tls or _system_trust()
                wire = stack.enter_context(tls.wrap_socket(plain, server_hostname=target.host))
            connection = HTTPConnection(target.host, target.port)
            connection.sock = TimedWire(wire, deadline)
            stack.callback(connection.close)
            headers = {**message.headers, "Host": target.authority, "Connection": "close"}
            connection.request("POST", target.path, message.body, headers)
            answer = stack.enter_context(connection.getresponse())
            # Politeness: a receiver that is cut off while it answers logs an error. What it says,
            # and how long it takes for that, changes nothing.
            with contextlib.suppress(OSError, HTTPException, ValueError):
                answer.read(MAX_ANSWER_BYTES)
            return answer.status

    def _connect(self, target: Target, deadline: Deadline) -> socket.socket:
        until = Deadline(seconds=min(deadline.left(), self.connect_seconds))
        addresses = self.resolve(target.host, target.port)
        refusals = [address_refusal(address, self.rules) for address in addresses]
        allowed = [a for a, refusal in zip(addresses, refusals, strict=True) if not refusal]
        if not allowed:
            raise BadTarget(f"leads nowhere: {refusals[0] if refusals else 'it has no address'}")
        fault: OSError = ConnectionError()
        for rest in range(len(allowed), 0, -1):  # each may use its share of what time is left
            try:
                where = (allowed[-rest], target.port)
                return socket.create_connection(where, timeout=until.left() / rest)
            except TimeoutError:
                fault = ConnectionError(f"no connection within {self.connect_seconds:g} s")
            except OSError as error:
                fault = error
        raise fault


@cache
def _system_trust() -> ssl.SSLContext:
    """Read once: it takes longer than a whole idle sweep."""
    return ssl.create_default_context()


def _said(status: int) -> str:
    if 200 <= status < 300:
        return ""
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "unknown"
    hint = "; redirects are not followed, change the URL" if 300 <= status < 400 else ""
    return f"answered {status} {phrase}{hint}"
