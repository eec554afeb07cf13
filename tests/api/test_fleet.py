"""Sites and the tokens their agents join with."""

import base64
from datetime import datetime
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from controlplane.audit.models import Event
from controlplane.fleet.models import EnrolmentToken, Generation, Site
from tests.api.calls import AgentCaller, ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_rollout, make_site, make_version, settle
from tests.services.threads import at_once

SITE = {
    "name": "edge-1",
    "tier": "edge",
    "region": "eu-west",
    "latitude": 52.5,
    "longitude": 13.4,
    "labels": {"ring": "0"},
    "power_limit_kw": 12.5,
    "energy_price_per_kwh": -0.02,
}


def test_a_site_is_made_and_read_back(api: ApiCaller) -> None:
    made = api.post("sites", SITE)

    assert made.status_code == 201
    document = made.json()
    assert {key: document[key] for key in ("name", "tier", "region", "labels")} == {
        key: SITE[key] for key in ("name", "tier", "region", "labels")
    }
    assert document["envelope"]["power_limit_kw"] == 12.5
    assert document["envelope"]["energy_price_per_kwh"] == -0.02
    assert document["envelope"]["cooling_limit_kw"] is None
    assert (document["health"], document["models"]) == ("new", [])
    assert (document["timezone"], document["redundancy_group"]) == ("UTC", "")
    assert (document["poll_seconds"], document["retired_at"]) == (None, None)
    assert api.get("sites/edge-1").json() == document
    assert Generation.objects.get().generation == 0


def test_a_name_can_be_taken_once(api: ApiCaller) -> None:
    api.post("sites", SITE)
    assert_problem(api.post("sites", SITE | {"tier": "regional"}), 409, "site-exists")
    assert Site.objects.get().tier == "edge"


def test_a_change_is_kept_and_written_down_and_the_name_is_for_ever(api: ApiCaller) -> None:
    api.post("sites", SITE)

    changed = api.patch("sites/edge-1", {"labels": {"ring": "1"}, "power_limit_kw": None})

    assert changed.status_code == 200
    assert changed.json()["labels"] == {"ring": "1"}
    event = Event.objects.get(action="site.changed")
    assert event.data["power_limit_kw"] == {"before": 12.5, "after": None}
    refused = assert_problem(api.patch("sites/edge-1", {"name": "other"}), 422, "site-invalid")
    assert fields(refused) == ["name"]
    assert_problem(api.patch("sites/none", {}), 404, "site-unknown")
    api.patch("sites/edge-1", {"labels": {"ring": "1"}})
    assert Event.objects.filter(action="site.changed").count() == 1


def test_a_refused_change_changes_nothing(api: ApiCaller) -> None:
    api.post("sites", SITE)
    body = {"region": "other", "latitude": 1000}
    assert_problem(api.patch("sites/edge-1", body), 422, "invalid-request")
    assert Site.objects.get().region == "eu-west"


def test_a_site_has_a_clock_a_group_and_a_pace_of_its_own(api: ApiCaller) -> None:
    own = {"timezone": "Asia/Tokyo", "redundancy_group": "tokyo", "poll_seconds": 600}
    made = api.post("sites", SITE | own).json()
    assert {key: made[key] for key in own} == own

    other = {"timezone": "UTC", "redundancy_group": "", "poll_seconds": None}
    changed = api.patch("sites/edge-1", other).json()
    assert {key: changed[key] for key in other} == other


@pytest.mark.parametrize(
    ("field", "wrong", "words"),
    [
        ("timezone", "Tokyo", "use a name such as Europe/Berlin"),
        ("timezone", "", "blank"),
        ("timezone", None, "null"),
        ("redundancy_group", "no spaces", "slug"),
        ("poll_seconds", 4, "greater than or equal to 5"),
        ("poll_seconds", 86_401, "less than or equal to 86400"),
        ("retired_at", "2026-01-01T00:00:00Z", "not a property"),
    ],
)
def test_what_a_site_cannot_have_is_said_at_its_field(
    field: str, wrong: object, words: str, api: ApiCaller
) -> None:
    response = api.post("sites", SITE | {field: wrong})
    assert response.status_code == 422
    (fault,) = response.json()["errors"]
    assert fault["field"] == field
    assert words in fault["message"]
    assert not Site.objects.exists()


class TestRetirement:
    @pytest.fixture(autouse=True)
    def _site(self, api: ApiCaller) -> None:
        api.post("sites", SITE)

    def test_a_retired_site_is_listed_only_when_asked_for(self, api: ApiCaller) -> None:
        api.post("sites", SITE | {"name": "edge-2"})

        gone = api.delete("sites/edge-1?reason=the+shop+closed")

        assert (gone.status_code, gone.content) == (204, b"")

        def names(query: str) -> list[str]:
            return [site["name"] for site in api.get(f"sites?{query}").json()["results"]]

        assert names("") == names("retired=false") == ["edge-2"]
        assert names("retired=true") == ["edge-1"]
        assert names("health=new") == ["edge-2"]
        assert_problem(api.get("sites?retired=perhaps"), 422, "invalid-request")

    def test_it_can_still_be_read_and_is_neither_well_nor_ill(self, api: ApiCaller) -> None:
        api.delete("sites/edge-1?reason=closed")
        document = api.get("sites/edge-1").json()
        assert document["retired_at"]
        assert document["health"] is None
        assert document["health_reason"].startswith("retired on ")

    def test_the_reason_may_stand_in_the_body_and_the_call_be_repeated(
        self, api: ApiCaller
    ) -> None:
        for _ in range(2):
            response = api._send("DELETE", "sites/edge-1", {"reason": "the shop closed"})
            assert response.status_code == 204
        event = Event.objects.get(action="site.retired")
        assert (event.actor, event.reason) == ("token:ci", "the shop closed")

    @pytest.mark.parametrize("body", [b"", {}, {"reason": " "}])
    def test_without_a_reason_nothing_happens(self, body: object, api: ApiCaller) -> None:
        problem = assert_problem(api._send("DELETE", "sites/edge-1", body), 422, "reason-required")
        assert fields(problem) == ["reason"]
        assert api.get("sites/edge-1").json()["retired_at"] is None

    def test_nothing_is_done_to_it_but_to_restore_it(self, api: ApiCaller) -> None:
        api.delete("sites/edge-1?reason=closed")
        assert_problem(api.patch("sites/edge-1", {"region": "x"}), 404, "site-retired")
        assert_problem(api.post("sites/edge-1/enrolment-tokens"), 404, "site-retired")
        assert_problem(api.post("sites", SITE), 409, "site-exists")

        restored = api.post("sites/edge-1/restore", {"reason": "it reopened"})

        assert restored.status_code == 200
        assert (restored.json()["retired_at"], restored.json()["health"]) == (None, "new")
        assert api.post("sites/edge-1/restore").status_code == 200
        assert Event.objects.get(action="site.restored").reason == "it reopened"

    def test_a_site_that_is_not_there_cannot_be_retired(self, api: ApiCaller) -> None:
        assert_problem(api.delete("sites/none?reason=x"), 404, "site-unknown")
        assert_problem(api.delete("sites/%00?reason=x"), 404, "site-unknown")
        assert_problem(api.delete("sites/edge-1?reason=%00"), 422, "invalid-request")
        assert_problem(api.post("sites/none/restore"), 404, "site-unknown")

    def test_an_agent_of_a_retired_site_is_told_and_a_token_of_it_joins_nothing(
        self, api: ApiCaller, edge: AgentCaller
    ) -> None:
        token = api.post("sites/edge/enrolment-tokens").json()["token"]
        api.delete("sites/edge?reason=closed")
        assert_problem(edge.get("desired"), 401, "session-invalid")
        question = edge.post("challenge", {"agent": str(edge.agent.agent_id)})
        assert_problem(question, 403, "agent-revoked")
        key = base64.b64encode(bytes(32)).decode()
        joining = edge.post("enrol", {"token": token, "public_key": key})
        assert_problem(joining, 403, "site-retired")


def test_an_enrolment_token_is_shown_once_with_the_line_to_paste(api: ApiCaller) -> None:
    api.post("sites", SITE)

    response = api.post("sites/edge-1/enrolment-tokens")

    assert response.status_code == 201
    document = response.json()
    assert document["token"].startswith("wpe_")
    assert document["command"].endswith(f"--token {document['token']}")
    assert EnrolmentToken.objects.get().digest != document["token"]
    assert_problem(api.post("sites/none/enrolment-tokens"), 404, "site-unknown")


def test_the_list_can_be_narrowed(api: ApiCaller, now: datetime) -> None:
    make_site("a", tier="edge", region="eu", now=now)
    make_site("b", tier="regional", region="eu", now=now)
    make_site("c", tier="edge", region="us", now=now)

    def names(query: str) -> list[str]:
        return [site["name"] for site in api.get(f"sites?{query}").json()["results"]]

    assert names("tier=edge") == ["a", "c"]
    assert names("region=eu") == ["a", "b"]
    assert names("tier=edge&region=eu") == ["a"]
    assert_problem(api.get("sites?tier=cloud"), 422, "invalid-request")


def test_a_page_is_never_longer_than_500(api: ApiCaller, now: datetime) -> None:
    Site.objects.bulk_create(
        Site(name=f"s-{n:04}", tier="edge", region="eu", created_at=now) for n in range(501)
    )
    page = api.get("sites?limit=100000").json()
    assert (page["count"], len(page["results"])) == (501, 500)
    assert page["next"].endswith("limit=500&offset=500")


def test_desired_and_reported_stand_side_by_side(api: ApiCaller, now: datetime) -> None:
    edge = make_joined_site("edge", now=now)
    rollout = make_rollout(version=make_version(now=now), agents=[edge], now=now)
    settle(rollout, [edge], now=now)

    (row,) = api.get("sites/edge").json()["models"]

    assert (row["model"], row["desired"], row["reported"]) == ("vad", "1", "1")
    assert (row["phase"], row["healthy"], row["difference"]) == ("succeeded", True, "equal")


def queries(call: Any) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert call().status_code == 200
    return len(captured)


def test_lists_cost_the_same_number_of_queries_however_many_sites(
    api: ApiCaller, now: datetime
) -> None:
    edge = make_joined_site(now=now)
    version = make_version(now=now)
    settle(make_rollout(version=version, agents=[edge], now=now), [edge], now=now)
    paths = ["sites", "models", "models/vad/versions", "rollouts", "rollouts/1"]
    rollout_id = api.get("rollouts").json()["results"][0]["id"]
    paths[-1] = f"rollouts/{rollout_id}"
    few = [queries(lambda path=path: api.get(path)) for path in paths]

    agents = [make_joined_site(now=now) for _ in range(12)]
    for _ in range(2):
        settle(
            make_rollout(version=make_version(now=now), agents=[edge, *agents], now=now),
            [edge, *agents],
            now=now,
        )
    paths[-1] = f"rollouts/{rollout_id + 2}"
    many = [queries(lambda path=path: api.get(path)) for path in paths]

    assert many == few
    assert max(many) <= 12


@pytest.mark.usefixtures("transactional_db")
def test_of_two_jobs_that_make_one_site_one_is_told_it_exists(api: ApiCaller) -> None:
    for turn in range(4):
        body = SITE | {"name": f"edge-{turn}"}

        answers = at_once(lambda _, body=body: api.post("sites", body).status_code, range(4))

        assert sorted(answers) == [201, 409, 409, 409]  # type: ignore[type-var]  # statuses
