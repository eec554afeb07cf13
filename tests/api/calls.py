"""How the tests call the two planes, and what a problem must look like."""

import json
from dataclasses import dataclass
from typing import Any

from django.test import Client

from tests.fake_agent import FakeAgent

JSON = "application/json"


@dataclass(kw_only=True)
class ApiCaller:
    """Speaks `/api/v1` with one token."""

    client: Client
    secret: str

    def _send(self, method: str, path: str, body: Any, **more: Any) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.secret}", **more.pop("headers", {})}
        return self.client.generic(
            method, f"/api/v1/{path}", raw, more.pop("content_type", JSON), headers=headers, **more
        )

    def get(self, path: str, **more: Any) -> Any:
        return self._send("GET", path, b"", **more)

    def post(self, path: str, body: Any = b"", **more: Any) -> Any:
        return self._send("POST", path, body, **more)

    def put(self, path: str, body: bytes, **more: Any) -> Any:
        return self._send("PUT", path, body, content_type="application/octet-stream", **more)

    def put_json(self, path: str, body: Any) -> Any:
        return self._send("PUT", path, body)

    def patch(self, path: str, body: Any) -> Any:
        return self._send("PATCH", path, body)

    def delete(self, path: str) -> Any:
        return self._send("DELETE", path, b"")


@dataclass(kw_only=True)
class AgentCaller:
    """Speaks `/agent/v1` with the session of a fake agent."""

    client: Client
    agent: FakeAgent

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.agent.secret}", "Waypost-Protocol": "1"}

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(f"/agent/v1/{path}", headers={**self.headers, **headers})

    def post(self, path: str, body: Any, **headers: str) -> Any:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(f"/agent/v1/{path}", raw, JSON, headers={**self.headers, **headers})


def assert_problem(response: Any, status: int, code: str) -> dict[str, Any]:
    """RFC 9457 with a stable code; its members, for what a test wants to see besides."""
    assert response.status_code == status, response.content[:500]
    assert response["Content-Type"] == "application/problem+json"
    document = json.loads(response.content)
    assert (document["status"], document["code"]) == (status, code), document
    assert document["type"] == f"urn:waypost:problem:{code}"
    assert document["title"]
    assert document["detail"]
    return dict(document)


def fields(document: dict[str, Any]) -> list[str]:
    return [error["field"] for error in document["errors"]]
