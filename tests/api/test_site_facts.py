"""What is known of a site's agent, its servers and what was measured: read, and acted upon."""

import gzip
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict
from controlplane.fleet.models import Agent, MeasuredInterval
from tests.api.calls import JSON, AgentCaller, ApiCaller, assert_problem, fields
from tests.factories import make_site
from tests.fake_agent import FakeAgent

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol"


def golden(name: str) -> Any:
    return json.loads((PROTOCOL / f"{name}.json").read_text(encoding="utf-8"))


def pack(document: object) -> bytes:
    return gzip.compress(json.dumps(document).encode())


def post_packed(edge: AgentCaller, body: bytes, encoding: str = "gzip") -> Any:
    return edge.post("measurements", body, **{"Content-Encoding": encoding})


def anonymous(path: str, body: bytes, **headers: str) -> Any:
    return Client().post(f"/agent/v1/{path}", body, JSON, headers=headers)


class TestMeasurements:
    def test_the_golden_measurement_gets_the_golden_answer_and_is_read_back(
        self, edge: AgentCaller, api: ApiCaller
    ) -> None:
        said = golden("measurement-request")
        for _ in range(2):
            answer = post_packed(edge, pack(said))
            assert (answer.status_code, answer.json()) == (200, golden("measurement-answer"))

        page = api.get("sites/edge/measurements").json()

        assert page["next"] is None
        (interval,) = page["results"]
        (row,) = interval["models"]
        (counted,) = said["models"]
        same = ("model", "version", "requests", "failures", "queue_us", "batch_executions")
        assert {key: row[key] for key in same} == {key: counted[key] for key in same}
        assert row["failed"] == 3
        assert row["requests_per_second"] == pytest.approx(614 / 60)
        assert row["error_rate"] == pytest.approx(3 / 614)
        assert row["mean_latency_ms"] == pytest.approx(4912 / 611)
        assert (row["p95_at_most_ms"], row["p95_above_ms"]) == (50.0, None)
        assert interval["accelerators"] == said["accelerators"]

    def test_what_nobody_asked_is_idle(self, edge: AgentCaller, api: ApiCaller) -> None:
        said = golden("measurement-request")
        said["models"][0] |= {"requests": 0, "failures": {}}
        assert post_packed(edge, pack(said)).status_code == 200
        (interval,) = api.get("sites/edge/measurements").json()["results"]
        assert (interval["models"], interval["idle"]) == ([], [["", "vad", "2"]])

    def test_a_body_that_is_not_packed_is_taken_too(self, edge: AgentCaller) -> None:
        assert edge.post("measurements", golden("measurement-request")).status_code == 200

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"boot_id": ""}, "boot_id"),
            ({"seq": -1}, "seq"),
            ({"seconds": 0}, "seconds"),
            ({"seconds": 1e9}, "seconds"),
            ({"age_seconds": -1}, "age_seconds"),
            ({"age_seconds": None}, "age_seconds"),
            ({"dropped": 2**40}, "dropped"),
            ({"models": None}, "models"),
            ({"models": [{"model": "m"}]}, "models[0].version"),
            ({"accelerators": [{"uuid": "u", "utilization": 2}]}, "accelerators[0].utilization"),
            ({"accelerators": [{"uuid": "u"}, {"uuid": "u"}]}, "accelerators"),
        ],
    )
    def test_a_fault_is_named_and_nothing_is_kept(
        self, change: dict[str, Any], field: str, edge: AgentCaller
    ) -> None:
        answer = post_packed(edge, pack(golden("measurement-request") | change))
        named = fields(assert_problem(answer, 422, "invalid-request"))
        assert any(name.startswith(field) for name in named), named
        assert not MeasuredInterval.objects.exists()

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"requests": -1}, "requests"),
            ({"requests": 2**63}, "requests"),
            ({"requests": 1}, "failures"),
            ({"version": "../1"}, "version"),
            ({"failures": {"x" * 41: 1}}, "failures"),
            ({"latency_ms": {"bounds": [2, 1], "counts": [0, 0, 0]}}, "latency_ms"),
            ({"latency_ms": {"bounds": [1], "counts": [0]}}, "latency_ms"),
            ({"queue_us": 1.5}, "queue_us"),
        ],
    )
    def test_a_fault_of_a_model_is_named(
        self, change: dict[str, Any], field: str, edge: AgentCaller
    ) -> None:
        said = golden("measurement-request")
        said["models"][0] |= change
        named = fields(assert_problem(post_packed(edge, pack(said)), 422, "invalid-request"))
        assert any(name.startswith(f"models[0].{field}") for name in named), named

    def test_a_version_twice_is_refused(self, edge: AgentCaller) -> None:
        said = golden("measurement-request")
        said["models"] *= 2
        assert_problem(post_packed(edge, pack(said)), 422, "invalid-request")

    @pytest.mark.parametrize(
        ("body", "encoding"),
        [
            (b"no gzip", "gzip"),
            (pack({"boot_id": "x"})[:-4], "gzip"),
            (b"", "gzip"),
            (pack({"boot_id": "x"}), "br"),
            (pack({"boot_id": "x"}), "gzip, gzip"),
        ],
        ids=["none", "torn", "empty", "another", "twice"],
    )
    def test_a_body_that_cannot_be_unpacked(
        self, body: bytes, encoding: str, edge: AgentCaller
    ) -> None:
        assert_problem(post_packed(edge, body, encoding), 422, "invalid-request")

    def test_a_small_body_that_unpacks_without_end_is_stopped(self, edge: AgentCaller) -> None:
        bomb = gzip.compress(b"0" * (1 << 27))
        assert len(bomb) < 256 * 1024
        assert_problem(post_packed(edge, bomb), 413, "report-too-large")

    def test_the_newest_comes_first_a_page_at_a_time(
        self, edge: AgentCaller, api: ApiCaller
    ) -> None:
        for seq in range(1, 4):
            said = golden("measurement-request") | {"seq": seq, "age_seconds": 300.0 - 60 * seq}
            post_packed(edge, pack(said))
        ages = [row["ended_at"] for row in api.get("sites/edge/measurements").json()["results"]]
        assert ages == sorted(ages, reverse=True)
        assert len(api.get("sites/edge/measurements?limit=2").json()["results"]) == 2

    def test_of_a_site_that_does_not_exist(self, api: ApiCaller) -> None:
        assert_problem(api.get("sites/none/measurements"), 404, "site-unknown")


class TestServers:
    def test_all_that_was_reported_and_nothing_else(
        self, edge: AgentCaller, api: ApiCaller
    ) -> None:
        said = golden("report-request") | {"models": []}
        assert edge.post("report", said).status_code == 200
        (server,) = api.get("sites/edge/servers").json()
        inventory = said["inventory"]
        same = ("hostname", "cpu_count", "memory_bytes", "disk_total_bytes", "disk_free_bytes")
        assert {key: server[key] for key in same} == {key: inventory[key] for key in same}
        assert server["booted_at"] == inventory["booted_at"]
        assert server["round_trip_seconds"] == inventory["network"]["round_trip_seconds"]
        assert server["download_bytes_per_second"] is None
        assert server["accelerators"] is None
        (triton,) = server["tritons"]
        assert triton["extensions"] == inventory["servers"][0]["extensions"]
        assert triton["backends"] is None
        assert "2.51.0 has known critical faults" in triton["warning"]

    def test_none_is_another_thing_than_not_looking(
        self, edge: AgentCaller, api: ApiCaller
    ) -> None:
        said = golden("report-request") | {"models": []}
        said["inventory"]["accelerators"] = []
        edge.post("report", said)
        (server,) = api.get("sites/edge/servers").json()
        assert server["accelerators"] == []

    @pytest.mark.parametrize(
        ("change", "field"),
        [
            ({"disk_total_bytes": -1}, "disk_total_bytes"),
            ({"booted_at": "yesterday"}, "booted_at"),
            ({"network": {"round_trip_seconds": -1}}, "network.round_trip_seconds"),
            ({"network": 5}, "network"),
            ({"servers": [{}]}, "servers[0].name"),
            ({"servers": [{"name": "", "extensions": "all"}]}, "servers[0].extensions"),
            ({"servers": {}}, "servers"),
        ],
    )
    def test_a_fault_is_named(self, change: dict[str, Any], field: str, edge: AgentCaller) -> None:
        said = golden("report-request") | {"models": []}
        said["inventory"] |= change
        named = fields(assert_problem(edge.post("report", said), 422, "invalid-request"))
        assert any(name.startswith(f"inventory.{field}") for name in named), named


class TestTheAgent:
    def test_a_new_key_is_asked_for(self, edge: AgentCaller, api: ApiCaller) -> None:
        assert api.get("sites/edge/agent").json()["rotate_by"] is None
        asked = api.post("sites/edge/agent/new-key", {})
        assert asked.status_code == 200
        assert asked.json()["rotate_by"] is not None
        assert api.get("sites/edge/agent").json() == asked.json()
        late = api.post("sites/edge/agent/new-key", {"by": "2001-01-01T00:00:00Z"})
        assert fields(assert_problem(late, 422, "invalid-request")) == ["by"]

    def test_a_locked_one_is_seen_and_let_in_again(
        self, edge: AgentCaller, api: ApiCaller, now: datetime
    ) -> None:
        copy = FakeAgent(site=edge.agent.site, agent_id=edge.agent.agent_id, key=edge.agent.key)
        with pytest.raises(Conflict):
            copy.open_session(now=now)
        assert api.get("sites/edge/agent").json()["locked_at"] is not None
        site = api.get("sites/edge").json()
        assert (site["health"], "two held its key" in site["health_reason"]) == ("stale", True)
        assert_problem(api.post("sites/edge/agent/unlock", {}), 422, "reason-required")
        assert api.post("sites/edge/agent/unlock", {"reason": "gone"}).json()["locked_at"] is None
        assert Event.objects.get(action="agent.unlocked").reason == "gone"

    def test_it_is_ended_for_good(self, edge: AgentCaller, api: ApiCaller) -> None:
        assert_problem(api.post("sites/edge/agent/revoke", {}), 422, "reason-required")
        assert api.post("sites/edge/agent/revoke", {"reason": "sold"}).status_code == 204
        assert_problem(edge.get("desired"), 401, "session-invalid")
        assert_problem(api.get("sites/edge/agent"), 404, "agent-not-joined")

    def test_a_site_that_nobody_joined(self, api: ApiCaller, now: datetime) -> None:
        make_site("lone", now=now)
        for verb in ("new-key", "unlock", "revoke"):
            answer = api.post(f"sites/lone/agent/{verb}", {"reason": "x"})
            assert_problem(answer, 409, "agent-not-joined")


class TestSignals:
    def test_each_is_told_on_its_own(self, edge: AgentCaller, api: ApiCaller) -> None:
        edge.post("report", golden("report-request") | {"models": []})
        signals = {each["name"]: each["state"] for each in api.get("sites/edge").json()["signals"]}
        assert signals == {
            "process": "good", "versions": "good", "golden": "good", "freshness": "good",
        }  # fmt: skip

    def test_silence_is_stale_and_not_bad(
        self, edge: AgentCaller, api: ApiCaller, now: datetime
    ) -> None:
        edge.agent.triton_live = False
        edge.agent.send(now=now - timedelta(days=1))
        states = {each["state"] for each in api.get("sites/edge").json()["signals"]}
        assert "bad" not in states


class TestAnotherProtocol:
    SAID = {"Waypost-Protocol": "0", "User-Agent": "waypost-agent/0.0.9"}

    def test_is_told_with_both_versions_and_who_is_the_older(self, edge: AgentCaller) -> None:
        document = assert_problem(edge.get("desired", **self.SAID), 422, "protocol-unsupported")
        assert "waypost-agent/0.0.9" in document["detail"]
        assert "speaks protocol '0', this centre speaks 1: upgrade the agent" in document["detail"]
        newer = edge.get("desired", **{"Waypost-Protocol": "2"}).json()
        assert "upgrade this centre" in newer["detail"]

    def test_shows_at_the_site_until_its_next_session(
        self, edge: AgentCaller, api: ApiCaller, now: datetime
    ) -> None:
        edge.get("desired", **self.SAID)
        assert api.get("sites/edge/agent").json()["refused_protocol"] == "0"
        edge.agent.open_session(now=now)
        assert api.get("sites/edge/agent").json()["refused_protocol"] == ""

    def test_shows_also_of_an_agent_that_cannot_log_in(self, edge: AgentCaller) -> None:
        body = json.dumps({"agent": str(edge.agent.agent_id)}).encode()
        answer = anonymous("challenge", body, **self.SAID)
        assert_problem(answer, 422, "protocol-unsupported")
        assert Agent.objects.get().refused_protocol == "0"

    @pytest.mark.parametrize("body", [b"", b"[]", b'{"agent": "x"}', b'{"agent": 5}'], ids=repr)
    def test_of_who_knows_whom_is_refused_all_the_same(
        self, body: bytes, edge: AgentCaller
    ) -> None:
        answer = anonymous("challenge", body, **self.SAID)
        assert_problem(answer, 422, "protocol-unsupported")
        assert Agent.objects.get().refused_protocol == ""
