"""`/agent/v1` as docs/agent-protocol.md says it, the golden documents included."""

import base64
import hashlib
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings
from django.db import connection
from django.test import AsyncClient, Client
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import Event
from controlplane.catalog.queries import blob_store
from controlplane.domain.rollout import RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.fleet.identity import revoke_agent
from controlplane.fleet.models import Agent, AgentSession, Lease, Server
from controlplane.fleet.services import create_enrolment_token
from controlplane.rollouts.models import Deployment, SiteModel
from tests.api.calls import JSON, AgentCaller, assert_problem, fields
from tests.factories import ACTOR, make_joined_site, make_rollout, make_site, make_version, settle

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol"


def golden(name: str) -> Any:
    return json.loads((PROTOCOL / f"{name}.json").read_text(encoding="utf-8"))


def shape(value: Any) -> Any:
    """Keys and kinds of a document, without what is in it."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return "null" if value is None else type(value).__name__


def post(path: str, body: Any, **headers: str) -> Any:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Client().post(f"/agent/v1/{path}", raw, JSON, headers=headers)


class TestJoining:
    @pytest.fixture
    def token(self, now: datetime) -> str:
        site = make_site("edge-1", now=now)
        return create_enrolment_token(site=site, actor=ACTOR, now=now)[1]

    def test_the_golden_way_from_token_to_session(self, token: str) -> None:
        vector = golden("session-signature")
        key = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(vector["private_key_hex"]))

        joined = post("enrol", golden("enrol-request") | {"token": token})
        assert joined.status_code == 200
        assert shape(joined.json()) | {"poll_seconds": 0} == shape(golden("enrol-answer")) | {
            "poll_seconds": 0
        }
        assert joined.json()["site"] == "edge-1"
        agent = joined.json()["agent"]
        again = post("enrol", golden("enrol-request") | {"token": token})
        assert again.json() == joined.json()

        challenge = post("challenge", golden("challenge-request") | {"agent": agent})
        assert challenge.status_code == 200
        assert shape(challenge.json()) == shape(golden("challenge-answer"))
        assert challenge.json()["expires_seconds"] == golden("challenge-answer")["expires_seconds"]
        nonce = challenge.json()["nonce"]
        signed = "\n".join(["waypost-session-v1", agent, nonce, "7"]).encode()
        body = golden("session-request") | {
            "agent": agent,
            "nonce": nonce,
            "session_counter": 7,
            "signature": base64.b64encode(key.sign(signed)).decode(),
        }
        session = post("session", body)
        assert session.status_code == 200
        assert shape(session.json()) == shape(golden("session-answer"))
        assert session.json()["session_counter"] == 7

        headers = {"Authorization": f"Bearer {session.json()['token']}"}
        assert Client().get("/agent/v1/desired", headers=headers).status_code == 200

    def test_another_key_is_a_conflict_that_is_written_down(self, token: str) -> None:
        body = golden("enrol-request") | {"token": token}
        post("enrol", body)
        other = base64.b64encode(b"\1" * 32).decode()
        assert_problem(
            post("enrol", body | {"public_key": other}), 409, "token-bound-to-another-key"
        )
        assert Event.objects.filter(action="agent.enrolment_refused").exists()

    def test_an_unknown_token_is_refused(self) -> None:
        assert_problem(post("enrol", golden("enrol-request")), 401, "enrolment-token-invalid")

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"public_key": "AAAA"}, "public_key"),
            ({"public_key": None}, "public_key"),
            ({"public_key": 5}, "public_key"),
            ({"token": ""}, "token"),
            ({"token": "\0"}, "token"),
            ({"hostname": "x" * 254}, "hostname"),
            ({"agent_version": "x" * 33}, "agent_version"),
        ],
    )
    def test_a_malformed_request_names_its_field(
        self, change: dict[str, Any], field: str, token: str
    ) -> None:
        response = post("enrol", golden("enrol-request") | {"token": token} | change)
        document = assert_problem(response, 422, "invalid-request")
        if change != {"token": "\0"}:
            assert fields(document) == [field]
        assert not Agent.objects.exists()

    def test_unknown_keys_are_passed_over(self, token: str) -> None:
        body = golden("enrol-request") | {"token": token, "tpm": {"quote": "x"}}
        assert post("enrol", body).status_code == 200

    def test_a_stale_counter_is_a_conflict(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        agent.counter = 7
        agent.open_session(now=now)
        nonce = post("challenge", {"agent": str(agent.agent_id)}).json()["nonce"]
        body = {
            "agent": str(agent.agent_id),
            "nonce": nonce,
            "session_counter": 8,
            "signature": agent.sign(nonce, 8),
        }
        assert_problem(post("session", body), 409, "session-counter-stale")

    @pytest.mark.parametrize("counter", [0, -1, 2**63, 1.5, "x", None, 10**29])
    def test_a_counter_that_is_none(self, counter: object, now: datetime) -> None:
        agent = make_joined_site(now=now)
        body = {
            "agent": str(agent.agent_id),
            "nonce": "x",
            "session_counter": counter,
            "signature": "x",
        }
        document = assert_problem(post("session", body), 422, "invalid-request")
        assert fields(document) == ["session_counter"]

    def test_a_revoked_agent_is_told_so(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        revoke_agent(agent=Agent.objects.get(), reason="x", actor=ACTOR, now=now)
        body = {"agent": str(agent.agent_id)}
        assert_problem(post("challenge", body), 403, "agent-revoked")


SESSION_CALLS = [("GET", "desired"), ("POST", "report"), ("GET", f"blobs/{'0' * 64}")]


@pytest.mark.parametrize(("method", "path"), SESSION_CALLS)
class TestASession:
    def call(self, method: str, path: str, **headers: str) -> Any:
        return Client().generic(method, f"/agent/v1/{path}", b"{}", JSON, headers=headers)

    @pytest.mark.parametrize(
        "header", ["", "Bearer", "Bearer ", "Bearer wps_x", "Basic eDp5", "Bearer \xff\xfe"]
    )
    def test_is_needed(self, header: str, method: str, path: str) -> None:
        headers = {"Authorization": header} if header else {}
        response = self.call(method, path, **headers)
        assert_problem(response, 401, "session-invalid")
        assert response["WWW-Authenticate"] == "Bearer"

    def test_ends_when_it_expires(self, method: str, path: str, edge: AgentCaller) -> None:
        AgentSession.objects.update(expires_at=datetime.fromisoformat("2020-01-01T00:00:00Z"))
        assert_problem(self.call(method, path, **edge.headers), 401, "session-invalid")

    def test_ends_with_the_agent(
        self, method: str, path: str, edge: AgentCaller, now: datetime
    ) -> None:
        revoke_agent(agent=Agent.objects.get(), reason="x", actor=ACTOR, now=now)
        assert_problem(self.call(method, path, **edge.headers), 401, "session-invalid")

    def test_of_another_protocol_is_refused(
        self, method: str, path: str, edge: AgentCaller
    ) -> None:
        headers = {**edge.headers, "Waypost-Protocol": "2"}
        assert_problem(self.call(method, path, **headers), 422, "protocol-unsupported")

    def test_of_a_person_opens_nothing(self, method: str, path: str, api: Any) -> None:
        headers = {"Authorization": f"Bearer {api.secret}"}
        assert_problem(self.call(method, path, **headers), 401, "session-invalid")

    def test_takes_no_other_method(self, method: str, path: str, edge: AgentCaller) -> None:
        response = self.call("DELETE", path, **edge.headers)
        assert_problem(response, 405, "method-not-allowed")
        assert response["Allow"] == method


class TestDesired:
    def test_has_the_shape_of_the_golden_document(self, edge: AgentCaller, now: datetime) -> None:
        for version in (make_version(now=now), make_version(now=now)):
            rollout = make_rollout(version=version, agents=[edge.agent], now=now)
            settle(rollout, [edge.agent], now=now)
        retired = make_version("retired", now=now)
        edge.agent.broken.add(("retired", 1))
        settle(make_rollout(version=retired, agents=[edge.agent], now=now), [edge.agent], now=now)

        response = edge.get("desired")

        assert response.status_code == 200
        document, example = response.json(), golden("desired-lease-answer")
        assert set(document) == set(example)
        got = {wish["model"]: wish for wish in document["models"]}
        expected = {wish["model"]: wish for wish in example["models"]}
        assert shape(got["vad"]) == shape(expected["vad"])
        assert shape(got["retired"]) | {"deployment": 0} == shape(expected["retired"]) | {
            "deployment": 0
        }
        assert (got["vad"]["version"], got["vad"]["previous"]) == ("2", "1")
        assert response["ETag"] == f'"{document["epoch"]}.{document["generation"]}"'
        assert float(response["Waypost-Poll-Seconds"]) == settings.WAYPOST_POLL_SECONDS

    def test_the_digest_is_of_the_manifest_that_travels(
        self, edge: AgentCaller, now: datetime
    ) -> None:
        make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=[edge.agent], now=now
        )
        (wish,) = edge.get("desired").json()["models"]
        canonical = json.dumps(wish["manifest"], sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()
        assert wish["manifest_digest"] == f"sha256:{digest}"
        assert wish["deployment"] == Deployment.objects.get().pk

    def test_nothing_new_is_304_and_says_when_to_ask_again(self, edge: AgentCaller) -> None:
        tag = edge.get("desired")["ETag"]
        response = edge.get("desired", **{"If-None-Match": tag})
        assert (response.status_code, response.content) == (304, b"")
        assert response["ETag"] == tag
        assert float(response["Waypost-Poll-Seconds"]) == settings.WAYPOST_POLL_SECONDS

    def test_a_wish_changes_the_tag(self, edge: AgentCaller, now: datetime) -> None:
        tag = edge.get("desired")["ETag"]
        make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=[edge.agent], now=now
        )
        response = edge.get("desired", **{"If-None-Match": tag})
        assert response.status_code == 200
        assert response["ETag"] != tag

    def test_each_site_sees_its_own(self, edge: AgentCaller, now: datetime) -> None:
        other = make_joined_site("other", now=now)
        only = (StageSpec(name="only", sites=frozenset({"other"}), soak_seconds=0),)
        make_rollout(
            RolloutState.RUNNING,
            version=make_version(now=now),
            agents=[other],
            stages=only,
            now=now,
        )
        assert edge.get("desired").json()["models"] == []
        assert list(other.wishes(now=now)) == ["vad"]

    def test_an_unchanged_poll_reads_one_row_and_writes_seldom(
        self, edge: AgentCaller, now: datetime
    ) -> None:
        tag = edge.get("desired")["ETag"]
        with CaptureQueriesContext(connection) as captured:
            edge.get("desired", **{"If-None-Match": tag})
        assert len(captured) == 1

        Lease.objects.update(last_seen_at=now - timedelta(minutes=1))
        edge.get("desired", **{"If-None-Match": tag})
        assert Lease.objects.filter(last_seen_at__gte=now).exists()

    def test_costs_the_same_queries_however_many_models(
        self, edge: AgentCaller, now: datetime
    ) -> None:
        def cost() -> int:
            edge.get("desired")  # one that was silent for seconds costs the write of its lease too
            with CaptureQueriesContext(connection) as captured:
                assert edge.get("desired").status_code == 200
            return len(captured)

        def wish(name: str) -> None:
            version = make_version(name, now=now)
            make_rollout(RolloutState.RUNNING, version=version, agents=[edge.agent], now=now)

        wish("first")
        few = cost()
        for turn in range(5):
            wish(f"m-{turn}")
        assert cost() == few == 3


def report(**changes: Any) -> dict[str, Any]:
    return {
        "seq": 1,
        "epoch": 1,
        "observed_generation": 0,
        "agent_version": "0.1.0",
        "sent_at": None,
        "triton": {"live": True},
        "models": [],
        **changes,
    }


def about(**changes: Any) -> dict[str, Any]:
    return {
        "model": "vad",
        "generation": 1,
        "deployment": None,
        "target": "1",
        "phase": "staged",
        "serving": None,
        "healthy": None,
        "reason_code": "ok",
        "reason": "",
        **changes,
    }


class TestReport:
    @pytest.fixture
    def offered(self, edge: AgentCaller, now: datetime) -> Deployment:
        rollout = make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=[edge.agent], now=now
        )
        return rollout.deployments.get()

    def test_the_golden_report_gets_the_golden_answer(self, edge: AgentCaller) -> None:
        response = edge.post("report", golden("report-request"))

        assert response.status_code == 200
        example = golden("report-answer")
        assert set(response.json()) == set(example)
        assert response.json()["duplicate"] is False
        server = Server.objects.get()
        inventory = golden("report-request")["inventory"]
        assert (server.hostname, server.cpu_count) == (
            inventory["hostname"],
            inventory["cpu_count"],
        )
        assert (server.triton_live, server.triton_version) == (True, "2.51.0")
        (triton,) = server.tritons
        assert triton == inventory["servers"][0]

    def test_moves_the_deployment(self, edge: AgentCaller, offered: Deployment) -> None:
        response = edge.post("report", report(models=[about(reason="x" * 600)]))

        assert response.json() == {
            "epoch": 1,
            "generation": 1,
            "poll_seconds": settings.WAYPOST_POLL_SECONDS,
            "duplicate": False,
            "superseded": [],
        }
        offered.refresh_from_db()
        assert (offered.state, offered.reason) == ("staged", "x" * 500)

    def test_twice_is_once(self, edge: AgentCaller, offered: Deployment) -> None:
        edge.post("report", report(models=[about()]))
        answer = edge.post("report", report(models=[about(phase="failed")])).json()
        assert answer["duplicate"] is True
        offered.refresh_from_db()
        assert offered.state == "staged"

    def test_of_an_older_generation_is_superseded(
        self, edge: AgentCaller, offered: Deployment
    ) -> None:
        answer = edge.post("report", report(models=[about(generation=0, phase="failed")])).json()
        assert answer["superseded"] == ["vad"]
        offered.refresh_from_db()
        assert offered.state == "offered"

    def test_of_a_generation_nobody_made_keeps_nothing(
        self, edge: AgentCaller, offered: Deployment
    ) -> None:
        body = report(models=[about(generation=2)], inventory={"hostname": "h"})
        assert_problem(edge.post("report", body), 409, "generation-unknown")
        assert not Server.objects.exists()
        assert Agent.objects.get().report_seq == 0

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"seq": 0}, "seq"),
            ({"seq": 2**63}, "seq"),
            ({"seq": "x"}, "seq"),
            ({"seq": None}, "seq"),
            ({"epoch": -1}, "epoch"),
            ({"observed_generation": 2**63}, "observed_generation"),
            ({"sent_at": "yesterday"}, "sent_at"),
            ({"sent_at": 5}, "sent_at"),
            ({"triton": None}, "triton"),
            ({"triton": {}}, "triton.live"),
            ({"triton": {"live": "maybe"}}, "triton.live"),
            ({"models": None}, "models"),
            ({"models": {}}, "models"),
            ({"models": [3]}, "models[0]"),
            ({"models": [about(), about()]}, "models"),
            ({"models": [about(phase="done")]}, "models[0].phase"),
            ({"models": [about(serving=1.5)]}, "models[0].serving"),
            ({"models": [about(serving="latest")]}, "models[0].serving"),
            ({"models": [about(target="9" * 5000)]}, "models[0].target"),
            ({"models": [about(generation=-1)]}, "models[0].generation"),
            ({"models": [about(healthy="yes indeed")]}, "models[0].healthy"),
            ({"models": [about(model="x" * 65)]}, "models[0].model"),
            ({"inventory": {}}, "inventory.hostname"),
            ({"inventory": {"hostname": "h", "cpu_count": -1}}, "inventory.cpu_count"),
            ({"inventory": {"hostname": "h", "memory_bytes": 2**63}}, "inventory.memory_bytes"),
            (
                {"inventory": {"hostname": "h", "accelerators": [{}]}},
                "inventory.accelerators[0].uuid",
            ),
        ],
    )
    def test_a_fault_is_named_where_it_stands_and_nothing_is_kept(
        self, change: dict[str, Any], field: str, edge: AgentCaller, offered: Deployment
    ) -> None:
        response = edge.post("report", report(**change))

        document = assert_problem(response, 422, "invalid-request")
        assert any(name.startswith(field) for name in fields(document)), fields(document)
        assert Agent.objects.get().report_seq == 0
        assert SiteModel.objects.get().reported_at is None

    @pytest.mark.parametrize("key", ["seq", "epoch", "triton", "models", "agent_version"])
    def test_a_missing_key_is_an_error(self, key: str, edge: AgentCaller) -> None:
        body = report()
        del body[key]
        assert fields(assert_problem(edge.post("report", body), 422, "invalid-request")) == [key]

    def test_unknown_keys_are_passed_over(self, edge: AgentCaller, offered: Deployment) -> None:
        body = report(models=[about(temperature=5)], mood="good")
        assert edge.post("report", body).status_code == 200

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'"x"',
            b"\xff\xfe",
            b"[" * 100_000,
            b'{"a":' * 40_000,
            b'{"seq": NaN}',
            b'{"seq": 1e999}',
            b'{"seq": ' + b"9" * 5000 + b"}",
            b'{"agent_version": "\\u0000"}',
            b'{"agent_version": "\\ud800"}',
        ],
        ids=lambda body: str(body[:24]),
    )
    def test_a_body_that_is_no_report(self, body: bytes, edge: AgentCaller) -> None:
        assert_problem(edge.post("report", body), 422, "invalid-request")

    def test_a_number_no_column_holds_is_refused(self, edge: AgentCaller) -> None:
        gpu = {"uuid": "u", "name": "n", "power_limit_watts": 10**29}
        body = report(inventory={"hostname": "h", "accelerators": [gpu]})
        assert edge.post("report", body).status_code == 200

    def test_over_256_kib_is_refused(self, edge: AgentCaller) -> None:
        body = json.dumps(report(pad="x" * (256 * 1024))).encode()
        assert_problem(edge.post("report", body), 413, "report-too-large")
        exactly = json.dumps(report(pad="")).encode()
        exactly = exactly[:-2] + b"x" * (256 * 1024 - len(exactly)) + exactly[-2:]
        assert len(exactly) == 256 * 1024
        assert edge.post("report", exactly).status_code == 200

    def test_costs_the_same_queries_for_one_model_as_for_none_new(
        self, edge: AgentCaller, offered: Deployment
    ) -> None:
        edge.post("report", report(models=[about()]))
        with CaptureQueriesContext(connection) as captured:
            edge.post("report", report(seq=2, models=[about()]))
        assert len(captured) <= 12


class TestBlobs:
    """Through the ASGI handler: files leave as an asynchronous stream."""

    @pytest.fixture
    def file(self, edge: AgentCaller, now: datetime) -> Any:
        make_rollout(
            RolloutState.RUNNING, version=make_version(now=now), agents=[edge.agent], now=now
        )
        return edge.agent.wishes(now=now)["vad"]["manifest"]["files"][2]  # type: ignore[index]  # a document

    def get(self, edge: AgentCaller, sha256: str, **headers: str) -> tuple[Any, bytes]:
        async def call() -> tuple[Any, bytes]:
            response = await AsyncClient().get(
                f"/agent/v1/blobs/{sha256}", headers={**edge.headers, **headers}
            )
            if not response.streaming:
                return response, response.content
            return response, b"".join([chunk async for chunk in response.streaming_content])

        return async_to_sync(call)()

    @pytest.fixture
    def data(self, file: Any) -> bytes:
        return blob_store().path(file["sha256"]).read_bytes()

    def test_whole(self, edge: AgentCaller, file: Any, data: bytes) -> None:
        response, body = self.get(edge, file["sha256"])
        assert (response.status_code, body) == (200, data)
        assert response["ETag"] == f'"{file["sha256"]}"'
        assert response["Accept-Ranges"] == "bytes"
        assert response["Content-Length"] == str(file["size"]) == str(len(data))

    @pytest.mark.parametrize("start", [0, 1, 10])
    def test_from_where_a_download_broke_off(
        self, start: int, edge: AgentCaller, file: Any, data: bytes
    ) -> None:
        response, body = self.get(edge, file["sha256"], Range=f"bytes={start}-")
        assert (response.status_code, body) == (206, data[start:])
        assert response["Content-Range"] == f"bytes {start}-{len(data) - 1}/{len(data)}"
        assert response["Content-Length"] == str(len(data) - start)

    def test_a_part_with_an_end(self, edge: AgentCaller, file: Any, data: bytes) -> None:
        response, body = self.get(edge, file["sha256"], Range="bytes=2-4")
        assert (response.status_code, body) == (206, data[2:5])
        response, body = self.get(edge, file["sha256"], Range="bytes=2-999999")
        assert (response.status_code, body) == (206, data[2:])

    @pytest.mark.parametrize("held", ["same", "other"])
    def test_if_range(self, held: str, edge: AgentCaller, file: Any, data: bytes) -> None:
        tag = f'"{file["sha256"]}"' if held == "same" else '"other"'
        response, body = self.get(edge, file["sha256"], **{"Range": "bytes=5-", "If-Range": tag})
        assert response.status_code == (206 if held == "same" else 200)
        assert body == (data[5:] if held == "same" else data)

    @pytest.mark.parametrize("wanted", ["bytes=-5", "bytes=0-1,3-4", "bytes=x-", "lines=1-", "5-"])
    def test_a_range_of_another_form_is_answered_whole(
        self, wanted: str, edge: AgentCaller, file: Any, data: bytes
    ) -> None:
        response, body = self.get(edge, file["sha256"], Range=wanted)
        assert (response.status_code, body) == (200, data)

    @pytest.mark.parametrize("start", ["end", "999999999999999999"])
    def test_past_the_end(self, start: str, edge: AgentCaller, file: Any, data: bytes) -> None:
        start = str(len(data)) if start == "end" else start
        response, _ = self.get(edge, file["sha256"], Range=f"bytes={start}-")
        assert_problem(response, 416, "range-not-satisfiable")
        assert response["Content-Range"] == f"bytes */{len(data)}"

    def test_of_another_site_are_unknown(self, edge: AgentCaller, file: Any, now: datetime) -> None:
        other = make_joined_site("other", now=now)
        other.open_session(now=now)
        caller = AgentCaller(client=Client(), agent=other)
        assert_problem(caller.get(f"blobs/{file['sha256']}"), 404, "blob-unknown")
        assert_problem(edge.get(f"blobs/{'0' * 64}"), 404, "blob-unknown")

    def test_that_the_store_lost_say_so(self, edge: AgentCaller, file: Any) -> None:
        blob_store().path(file["sha256"]).unlink()
        assert_problem(edge.get(f"blobs/{file['sha256']}"), 404, "blob-lost")

    @pytest.mark.parametrize("name", ["x", "A" * 64, "0" * 63, "..", "0" * 64 + "/x"])
    def test_a_name_that_is_no_digest_is_no_path(self, name: str, edge: AgentCaller) -> None:
        assert_problem(edge.get(f"blobs/{name}"), 404, "endpoint-unknown")
