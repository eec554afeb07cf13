"""The agent before this one at this centre: what it sends is taken, what it needs is answered.

`docs/protocol/previous` has the documents of the release before; they never change with the code.
"""

import base64
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.test import Client

from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Server
from controlplane.fleet.services import create_enrolment_token
from tests.api.calls import JSON, AgentCaller, assert_problem
from tests.factories import ACTOR, make_rollout, make_site, make_version

PREVIOUS = Path(__file__).parents[2] / "docs" / "protocol" / "previous"
REPORTS = ("report-request", "report-lease-waiting-request")


def before(name: str) -> Any:
    return json.loads((PREVIOUS / f"{name}.json").read_text(encoding="utf-8"))


def lacking(answer: Any, documented: Any, at: str = "") -> list[str]:
    """Where an answer lacks what the agent before this needs: a key, or its kind. More keys than
    it knows are passed over."""
    if isinstance(documented, dict):
        if not isinstance(answer, dict):
            return [at]
        return [
            fault
            for key, inner in documented.items()
            for fault in (
                lacking(answer[key], inner, f"{at}.{key}") if key in answer else [f"{at}.{key}"]
            )
        ]
    if isinstance(documented, list):
        if not isinstance(answer, list):
            return [at]
        pairs = [(each, documented[0]) for each in answer] if documented else []
        return [fault for each, inner in pairs for fault in lacking(each, inner, f"{at}[]")]
    if answer is None or documented is None:
        return []  # which of the two it is depends on what is wished
    return [] if type(answer) is type(documented) or _numbers(answer, documented) else [at]


def _numbers(*values: object) -> bool:
    return all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)


def test_it_joins_and_logs_in(now: datetime) -> None:
    key = Ed25519PrivateKey.generate()
    site = make_site("edge-1", now=now)
    _, token = create_enrolment_token(site=site, actor=ACTOR, now=now)
    public_key = base64.b64encode(key.public_key().public_bytes_raw()).decode()

    def post(name: str, body: dict[str, Any]) -> Any:
        headers = {"Waypost-Protocol": "1", "User-Agent": "waypost-agent/0.1.0"}
        answer = Client().post(f"/agent/v1/{name}", json.dumps(body), JSON, headers=headers)
        assert answer.status_code == 200, answer.content
        assert lacking(answer.json(), before(f"{name}-answer")) == []
        return answer.json()

    asked = before("enrol-request") | {"token": token, "public_key": public_key}
    agent = post("enrol", asked)["agent"]
    nonce = post("challenge", before("challenge-request") | {"agent": agent})["nonce"]
    signed = "\n".join(["waypost-session-v1", agent, nonce, "7"]).encode()
    proof = {
        "agent": agent,
        "nonce": nonce,
        "signature": base64.b64encode(key.sign(signed)).decode(),
    }
    assert post("session", before("session-request") | proof)["session_counter"] == 7


@pytest.mark.parametrize("name", REPORTS)
def test_its_reports_are_taken(name: str, edge: AgentCaller, now: datetime) -> None:
    make_rollout(RolloutState.RUNNING, version=make_version(now=now), agents=[edge.agent], now=now)
    said = before(name)
    said["models"] = [{**said["models"][1], "generation": 1, "deployment": None}]
    answer = edge.post("report", said)
    assert answer.status_code == 200, answer.content
    assert lacking(answer.json(), before("report-answer")) == []


def test_what_it_does_not_report_stays_unknown(edge: AgentCaller) -> None:
    assert edge.post("report", before("report-request") | {"models": []}).status_code == 200
    server = Server.objects.get()
    assert server.cpu_count == before("report-request")["inventory"]["cpu_count"]
    assert server.disk_total_bytes is server.booted_at is server.tritons is None
    assert server.round_trip_seconds is server.accelerator_count is None


def test_it_finds_all_it_needs_in_its_wishes(edge: AgentCaller, now: datetime) -> None:
    make_rollout(RolloutState.RUNNING, version=make_version(now=now), agents=[edge.agent], now=now)
    for name in ("desired-answer", "desired-lease-answer"):
        documented = before(name)
        documented["models"] = documented["models"][:1]
        assert lacking(edge.get("desired").json(), documented) == []


def test_it_asks_for_leases_and_understands_the_answers(edge: AgentCaller, now: datetime) -> None:
    make_rollout(RolloutState.RUNNING, version=make_version(now=now), agents=[edge.agent], now=now)
    edge.agent.report("vad", "staged", now=now)
    (wish,) = edge.get("desired").json()["models"]
    asked = before("lease-request") | {
        key: wish[key] for key in ("model", "generation", "deployment", "manifest_digest")
    }
    granted = edge.post("lease", asked)
    assert granted.status_code == 200, granted.content
    assert lacking(granted.json(), before("lease-granted-answer")) == []

    document = assert_problem(
        edge.post("lease", asked | {"generation": 99}), 409, "wish-superseded"
    )
    assert lacking(document, before("lease-superseded-problem")) == []


def test_the_comparison_sees_what_is_missing() -> None:
    documented = {"a": 1, "b": [{"c": "x"}], "d": None}
    assert lacking({"a": 1.5, "b": [{"c": "y", "e": 1}], "d": 2, "new": 0}, documented) == []
    assert lacking({"a": "1", "b": [{}], "d": None}, documented) == [".a", ".b[].c"]
    assert lacking({"a": True, "b": {}}, documented) == [".a", ".b", ".d"]
