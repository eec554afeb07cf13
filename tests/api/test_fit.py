"""Which sites can take a version, as the API says it; the waiver of the floor; what agents report
that fit goes by."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from controlplane.accounts.models import Scope
from controlplane.audit.models import Event
from controlplane.catalog.models import LearnedFootprint
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Agent, Server, Site
from tests.api.calls import AgentCaller, ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_rollout, make_version, settle

FIT = "models/vad/versions/1/fit"
WAIVER = "sites/edge/triton-floor-waiver"


class TestFit:
    @pytest.fixture(autouse=True)
    def _sites(self, now: datetime) -> None:
        make_version(now=now)
        make_joined_site("ready", labels={"ring": "0"}, now=now)
        closed = make_joined_site("closed", tier="regional", labels={"ring": "1"}, now=now)
        Agent.objects.filter(pk=closed.agent_id).update(executable_allowed=None)

    def test_every_site_is_told_with_its_numbers(self, api: ApiCaller) -> None:
        document = api.get(FIT).json()
        assert (document["sites"], document["shown"]) == (2, 2)
        summary = document["summary"]
        assert (summary["no"], summary["unknown"], summary["ok"]) == (1, 1, 0)
        assert summary["variants"] == {"default": 1}
        assert summary["refusals"] == {"executable": 1}
        closed, ready = document["results"]
        assert (closed["site"], closed["variant"], closed["verdict"]) == ("closed", None, "no")
        assert "allow_executable = true" in closed["why"]
        assert (ready["variant"], ready["verdict"]) == ("default", "unknown")
        assert {check["name"] for check in ready["checks"]} == {
            "disk", "executable", "triton-floor",
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("query", "sites", "shown"),
        [
            ({"selector": "ring=0"}, 1, ["ready"]),
            ({"selector": "tier!=edge"}, 1, ["closed"]),
            ({"selector": "name in (ready,closed)"}, 2, ["closed", "ready"]),
            ({"verdict": "no"}, 2, ["closed"]),
            ({"verdict": "ok"}, 2, []),
            ({"limit": "1"}, 2, ["closed"]),
            ({"limit": "0"}, 2, []),
        ],
    )
    def test_it_is_narrowed(
        self, api: ApiCaller, query: dict[str, str], sites: int, shown: list[str]
    ) -> None:
        text = "&".join(f"{key}={value}" for key, value in query.items())
        document = api.get(f"{FIT}?{text}").json()
        assert document["sites"] == sites
        assert [each["site"] for each in document["results"]] == shown

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ("verdict=maybe", "invalid-request"),
            ("limit=-1", "invalid-request"),
            ("limit=1001", "invalid-request"),
            ("limit=x", "invalid-request"),
            ("selector=ring%3D%3D%3D", "selector-invalid"),
            ("selector=%00", "invalid-request"),
        ],
    )
    def test_a_question_that_makes_no_sense_is_refused(
        self, api: ApiCaller, query: str, code: str
    ) -> None:
        assert_problem(api.get(f"{FIT}?{query}"), 422, code)

    def test_of_an_unknown_version_there_is_none(self, api: ApiCaller) -> None:
        assert_problem(api.get("models/vad/versions/9/fit"), 404, "version-unknown")


class TestWaiver:
    @pytest.fixture(autouse=True)
    def _site(self, now: datetime) -> None:
        site = make_joined_site("edge", now=now).site
        Site.objects.filter(pk=site.pk).update(floor_waiver="", floor_waiver_by="")

    def test_it_is_given_shown_and_taken_back_with_an_event_each(self, api: ApiCaller) -> None:
        given = api.post(WAIVER, {"reason": "the wheel is older"})
        assert given.json() == api.get(WAIVER).json()
        assert given.json()["reason"] == "the wheel is older"
        assert api.delete(f"{WAIVER}?reason=renewed").status_code == 204
        assert api.delete(WAIVER).status_code == 204
        assert api.get(WAIVER).json() == {"site": "edge", "reason": "", "by": ""}
        told = Event.objects.filter(action__startswith="site.triton_floor").order_by("pk")
        assert list(told.values_list("action", "reason")) == [
            ("site.triton_floor_waived", "the wheel is older"),
            ("site.triton_floor_restored", "renewed"),
        ]

    @pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x" * 401}, {"why": "x"}])
    def test_it_needs_a_reason(self, api: ApiCaller, body: dict[str, str]) -> None:
        assert_problem(api.post(WAIVER, body), 422, "invalid-request")

    def test_it_is_for_those_who_keep_the_fleet(
        self, with_scopes: Callable[..., ApiCaller]
    ) -> None:
        others = [scope for scope in Scope.values if scope != Scope.FLEET]
        assert_problem(with_scopes(*others).post(WAIVER, {"reason": "x"}), 403, "scope-missing")
        assert with_scopes(Scope.FLEET).post(WAIVER, {"reason": "x"}).status_code == 200

    def test_of_an_unknown_site_there_is_none(self, api: ApiCaller) -> None:
        path = "sites/nowhere/triton-floor-waiver"
        assert_problem(api.post(path, {"reason": "x"}), 404, "site-unknown")


class TestReports:
    @pytest.fixture
    def report(self, edge: AgentCaller, now: datetime) -> dict[str, Any]:
        settle(
            make_rollout(RolloutState.RUNNING, agents=[edge.agent], now=now), [edge.agent], now=now
        )
        (wish,) = edge.agent.wishes(now=now).values()
        caller = edge.agent.caller(now=now)
        return {
            "seq": edge.agent.seq + 1,
            "epoch": caller.epoch,
            "observed_generation": caller.generation,
            "agent_version": "0.1.0",
            "triton": {"live": True, "version": "2.51.0"},
            "models": [
                {
                    "model": "vad",
                    "generation": wish["generation"],
                    "phase": "succeeded",
                    "target": wish["version"],
                    "serving": wish["version"],
                    "healthy": True,
                    "learned": {"load_seconds": 2.4, "memory_bytes": 310_000_000},
                }
            ],
            "inventory": {
                "hostname": "edge-1",
                "policy": {"allow_executable": True},
                "trust": {"unsigned": "refused", "keys": ["ab" * 32]},
                "servers": [{"name": "", "version": "2.51.0", "tensorrt": "10.3.0"}],
            },
        }

    def test_what_fit_goes_by_is_kept(self, edge: AgentCaller, report: dict[str, Any]) -> None:
        assert edge.post("report", report).status_code == 200
        agent = Agent.objects.get(pk=edge.agent.agent_id)
        assert agent.executable_allowed is True
        assert agent.trust == {"unsigned": "refused", "keys": ["ab" * 32]}
        (row,) = LearnedFootprint.objects.all()
        assert (row.hardware, row.load_seconds, row.memory_bytes) == ("", 2.4, 310_000_000)
        assert Server.objects.get().tritons[0]["tensorrt"] == "10.3.0"

    def test_the_last_named_version_of_triton_stays_while_it_is_away(
        self, edge: AgentCaller, report: dict[str, Any]
    ) -> None:
        edge.post("report", report)
        away = report | {"seq": report["seq"] + 1, "triton": {"live": False, "version": None}}
        assert edge.post("report", away).status_code == 200
        assert Server.objects.values_list("triton_live", "triton_version").get() == (
            False,
            "2.51.0",
        )

    @pytest.mark.parametrize(
        ("place", "value", "field"),
        [
            ("learned", {"load_seconds": -1}, "models.0.learned.load_seconds"),
            ("learned", {"memory_bytes": 1 << 70}, "models.0.learned.memory_bytes"),
            ("learned", 3, "models.0.learned.non_field_errors"),
            ("policy", {"allow_executable": "maybe"}, "inventory.policy.allow_executable"),
            ("trust", {"keys": []}, "inventory.trust.unsigned"),
            ("trust", {"unsigned": "x", "keys": ["a"] * 101}, "inventory.trust.keys"),
        ],
    )
    def test_nonsense_is_refused_with_its_place(
        self, edge: AgentCaller, report: dict[str, Any], place: str, value: object, field: str
    ) -> None:
        holder = report["models"][0] if place == "learned" else report["inventory"]
        holder[place] = value
        problem = assert_problem(edge.post("report", report), 422, "invalid-request")
        last = field.rsplit(".", 1)[-1]
        assert any(last in named or place in named for named in fields(problem))
