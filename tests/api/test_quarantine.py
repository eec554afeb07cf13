"""Versions out of use, pins and drift through the API."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from controlplane.accounts.models import Scope
from controlplane.audit.models import Event
from controlplane.catalog.models import Model
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.services import tick
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_rollout, make_site, make_version
from tests.services.steps import serving, turn

WHY = {"reason": "leaks memory"}


class TestQuarantine:
    PATH = "models/vad/versions/1"

    def test_stops_the_version_and_release_lets_it_go_on(
        self, api: ApiCaller, now: datetime
    ) -> None:
        make_version(now=now)
        document = api.post(f"{self.PATH}/quarantine", WHY).json()
        assert (document["state"], document["missing"]) == ("quarantined", [])
        assert document["state_reason"] == "token:ci: leaks memory"
        assert_problem(api.post(f"{self.PATH}/quarantine", WHY), 409, "version-quarantined")

        released = api.post(f"{self.PATH}/release", {"reason": "mended"}).json()

        assert (released["state"], released["state_reason"]) == ("approved", "")
        assert_problem(api.post(f"{self.PATH}/release", WHY), 409, "version-not-quarantined")

    def test_may_turn_its_rollout_back(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        api.post(f"{self.PATH}/quarantine", {**WHY, "roll_back": True})
        document = api.get(f"rollouts/{rollout.pk}").json()
        assert (document["state"], document["reason_code"]) == (
            "rolling_back",
            "version-withdrawn",
        )

    @pytest.mark.parametrize("verb", ["quarantine", "release"])
    def test_wants_a_reason_and_a_version(self, verb: str, api: ApiCaller, now: datetime) -> None:
        make_version(now=now)
        assert_problem(api.post(f"{self.PATH}/{verb}", {}), 422, "reason-required")
        for path in ("models/vad/versions/9", "models/none/versions/1", "models/%00/versions/1"):
            assert_problem(api.post(f"{path}/{verb}", WHY), 404, "version-unknown")

    def test_of_a_push_that_is_not_finished(self, api: ApiCaller, now: datetime) -> None:
        make_version(registered=False, now=now)
        assert_problem(api.post(f"{self.PATH}/quarantine", WHY), 409, "version-not-registered")

    def test_wants_true_or_false(self, api: ApiCaller, now: datetime) -> None:
        make_version(now=now)
        response = api.post(f"{self.PATH}/quarantine", {**WHY, "roll_back": "perhaps"})
        assert fields(assert_problem(response, 422, "invalid-request")) == ["roll_back"]


class TestPins:
    PATH = "sites/edge/models/vad"

    def test_a_pinned_site_is_left_out_of_plans(self, api: ApiCaller, now: datetime) -> None:
        agents = [make_joined_site(name, now=now) for name in ("edge", "core")]
        serving(agents, now=now)
        make_version(now=now)

        pinned = api.post(f"{self.PATH}/pin", {"reason": "a demo"}).json()

        assert pinned == {
            "site": "edge",
            "model": "vad",
            "desired": "1",
            "pinned_by": "token:ci",
            "pinned_reason": "a demo",
        }
        body = {"model": "vad", "version": "2"}
        plan = api.post("rollouts?dry_run=true", body).json()
        assert [entry["site"] for entry in plan["excluded"]] == ["edge"]
        assert "a demo" in plan["excluded"][0]["reason"]

        assert api.post(f"{self.PATH}/unpin", {}).json()["pinned_by"] == ""
        assert api.post("rollouts?dry_run=true", body).json()["excluded"] == []

    def test_wants_a_reason(self, api: ApiCaller, now: datetime) -> None:
        serving([make_joined_site("edge", now=now)], now=now)
        assert_problem(api.post(f"{self.PATH}/pin", {}), 422, "reason-required")

    @pytest.mark.parametrize("verb", ["pin", "unpin"])
    def test_of_what_is_not_there(self, verb: str, api: ApiCaller, now: datetime) -> None:
        make_site("edge", now=now)
        make_version(now=now)
        for path, code in (
            ("sites/edge/models/vad", "wish-unknown"),
            ("sites/none/models/vad", "site-unknown"),
            ("sites/%00/models/vad", "site-unknown"),
            ("sites/edge/models/none", "model-unknown"),
            ("sites/edge/models/%00", "model-unknown"),
        ):
            assert_problem(api.post(f"{path}/{verb}", WHY), 404, code)


class TestDrift:
    def test_names_who_serves_something_else_and_since_when(
        self, api: ApiCaller, now: datetime
    ) -> None:
        agents = [make_joined_site(name, now=now) for name in ("edge", "core")]
        serving(agents, now=now)
        assert api.get("drift").json()["results"] == []
        agents[0].report("vad", "succeeded", now=now, serving=7)
        tick(now=now)

        (row,) = api.get("drift").json()["results"]

        assert (row["site"], row["model"], row["desired"], row["reported"]) == (
            "edge",
            "vad",
            "1",
            "7",
        )
        assert (row["drift_policy"], row["pinned_by"], row["corrected_at"]) == ("correct", "", None)
        assert datetime.fromisoformat(row["since"]) == now
        assert row["hold"].startswith("acted on if it lasts until")
        assert api.get("drift?site=core").json()["count"] == 0
        assert api.get("drift?drift_policy=hold").json()["count"] == 0
        assert api.get("drift?model=vad&drift_policy=correct").json()["count"] == 1
        assert_problem(api.get("drift?drift_policy=guess"), 422, "invalid-request")

    def test_while_a_rollout_is_at_work_it_is_none(self, api: ApiCaller, now: datetime) -> None:
        edge = make_joined_site("edge", now=now)
        serving([edge], now=now)
        rollout = make_rollout(version=make_version(now=now), agents=[edge], now=now)
        turn(rollout, now=now + timedelta(seconds=5))
        edge.report("vad", "succeeded", now=now, serving=7, generation=0)
        assert api.get("drift").json()["results"] == []

    def test_what_is_done_about_it_is_the_models_to_say(
        self, api: ApiCaller, now: datetime
    ) -> None:
        make_version(now=now)
        assert api.get("models/vad").json()["drift_policy"] == "correct"
        body = {"drift_policy": "hold", "reason": "we look first"}
        assert api.patch("models/vad", body).json()["drift_policy"] == "hold"
        assert api.patch("models/vad", body).status_code == 200
        event = Event.objects.get(action="model.drift_policy_changed")
        assert (event.reason, event.object_id) == ("we look first", "vad")
        assert event.data == {"drift_policy": {"before": "correct", "after": "hold"}}

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({"drift_policy": "guess"}, "drift_policy"),
            ({"drift_policy": None}, "drift_policy"),
            ({"drift_policy": "hold", "name": "x"}, "name"),
        ],
    )
    def test_a_policy_that_is_none(
        self, body: dict[str, Any], field: str, api: ApiCaller, now: datetime
    ) -> None:
        make_version(now=now)
        document = assert_problem(api.patch("models/vad", body), 422, "invalid-request")
        assert fields(document) == [field]
        assert Model.objects.get().drift_policy == "correct"

    def test_of_a_model_that_is_not_there(self, api: ApiCaller) -> None:
        response = api.patch("models/none", {"drift_policy": "hold"})
        assert_problem(response, 404, "model-unknown")


def test_writes_want_the_scope_of_rollouts(with_scopes: Callable[..., ApiCaller]) -> None:
    caller = with_scopes(*(set(Scope.values) - {Scope.ROLLOUT}))
    for response in (
        caller.post("models/vad/versions/1/quarantine", WHY),
        caller.post("models/vad/versions/1/release", WHY),
        caller.patch("models/vad", {"drift_policy": "hold"}),
        caller.post("sites/edge/models/vad/pin", WHY),
        caller.post("sites/edge/models/vad/unpin", WHY),
    ):
        assert assert_problem(response, 403, "scope-missing")["needed"] == "rollout"
