"""Agents for a benchmark, let in through the real protocol: enrolment, challenge, a signed session,
one first report (docs/agent-protocol.md). Knows nothing of load."""

import base64
import http.client
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks.errors import BenchmarkVoid
from benchmarks.sites import MODEL

HEADERS = {"Waypost-Protocol": "1", "User-Agent": "waypost-agent/0.1.0"}
FIRST_REASON = "joined"


@dataclass(frozen=True, kw_only=True)
class Member:
    """An agent with an open session. `etag` is that of its site's present desired state."""

    agent: str
    token: str
    etag: str
    epoch: int
    generation: int


def admit(port: int, tokens: dict[str, str]) -> list[Member]:
    """Joins every site and sends each one's first report, which carries the inventory."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        return [_admit(connection, site, token) for site, token in tokens.items()]
    finally:
        connection.close()


def report_body(member: Member, *, reason: str, with_inventory: bool = False) -> dict[str, object]:
    """A report as an agent in peace sends it: one model, served as wished. Without its `seq`."""
    body: dict[str, object] = {
        "epoch": member.epoch,
        "observed_generation": member.generation,
        "agent_version": "0.1.0",
        "sent_at": "2026-01-01T00:00:00Z",
        "triton": {"live": True, "version": "2.51.0", "http_url": "http://127.0.0.1:8000"},
        "models": [
            {
                "model": MODEL,
                "generation": member.generation,
                "deployment": None,
                "target": "1",
                "phase": "succeeded",
                "serving": "1",
                "healthy": True,
                "reason_code": "ok",
                "reason": reason,
            }
        ],
    }
    if with_inventory:
        body["inventory"] = {"hostname": "bench", "cpu_count": 2, "memory_bytes": 1 << 33}
    return body


def _admit(connection: http.client.HTTPConnection, site: str, token: str) -> Member:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    said = {"token": token, "public_key": _text(public), "agent_version": "0.1.0", "hostname": site}
    agent = _call(connection, "POST", "enrol", said)["agent"]
    nonce = _call(connection, "POST", "challenge", {"agent": agent})["nonce"]
    signed = "\n".join(["waypost-session-v1", agent, nonce, "1"]).encode()
    said = {"agent": agent, "nonce": nonce, "signature": _text(key.sign(signed))}
    session = _call(connection, "POST", "session", {**said, "session_counter": 1})["token"]
    wish = _call(connection, "GET", "desired", None, session)
    member = Member(
        agent=agent,
        token=session,
        etag=f'"{wish["epoch"]}.{wish["generation"]}"',
        epoch=wish["epoch"],
        generation=wish["generation"],
    )
    first = report_body(member, reason=FIRST_REASON, with_inventory=True)
    if _call(connection, "POST", "report", {"seq": 1, **first}, session)["duplicate"]:
        raise BenchmarkVoid("the first report of a session was answered as a duplicate")
    return member


def _call(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    session: str = "",
) -> dict[str, Any]:
    headers = HEADERS | ({"Authorization": f"Bearer {session}"} if session else {})
    raw = None if body is None else json.dumps(body)
    connection.request(method, f"/agent/v1/{path}", raw, headers)
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    if answer.status != 200:
        raise BenchmarkVoid(f"{method} {path} was answered {answer.status}: {text[:500]}")
    document: dict[str, Any] = json.loads(text)
    return document


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
