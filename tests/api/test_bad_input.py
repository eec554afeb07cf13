"""What no caller should send. Each is a problem with a code, never a 500, and nothing is kept."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client

from controlplane.accounts.models import ApiToken, Scope
from controlplane.accounts.services import revoke_api_token
from controlplane.audit.models import Event
from controlplane.catalog.models import Model, Version
from controlplane.fleet.models import Site
from controlplane.rollouts.models import Rollout
from tests.api.calls import JSON, ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_rollout, make_site, make_token, make_version

WRITES = [
    "models",
    "models/vad/versions",
    "sites",
    "rollouts",
    "rollouts/1/pause",
    "rollouts/1/approve",
    "strategies",
    "freezes",
]
HUGE = "9" * 400


@pytest.fixture
def rows() -> Callable[[], tuple[int, ...]]:
    def count() -> tuple[int, ...]:
        return tuple(kind.objects.count() for kind in (Model, Version, Site, Rollout, Event))

    return count


BODIES = {
    "no JSON at all": b"{",
    "an empty body": b"",
    "a list": b"[]",
    "a text": b'"x"',
    "null": b"null",
    "NaN": b'{"name": NaN}',
    "not UTF-8": b'{"name": "\xff\xfe"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "100,000 brackets": b"[" * 100_000,
    "100,000 objects": b'{"name":' * 100_000,
    "a bomb that closes": b"[" * 50_000 + b"]" * 50_000,
    "NUL in a key": b'{"\\u0000": 1}',
    "half a surrogate pair": b'{"name": "\\ud800"}',
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
@pytest.mark.parametrize("path", WRITES)
def test_a_body_that_is_no_request(
    path: str, body: bytes, api: ApiCaller, rows: Callable[[], tuple[int, ...]]
) -> None:
    before = rows()

    response = api.post(path, body)

    assert response.status_code in (400, 404, 422), response.content
    assert response["Content-Type"] == "application/problem+json"
    assert json.loads(response.content)["code"]
    assert rows() == before


def test_a_body_of_another_type_is_said_to_be(api: ApiCaller) -> None:
    assert_problem(
        api.post("sites", b"<x/>", content_type="text/xml"), 415, "unsupported-media-type"
    )


def test_a_method_that_is_not_there_is_a_problem(api: ApiCaller) -> None:
    assert_problem(api.delete("sites"), 405, "method-not-allowed")


@pytest.mark.parametrize("path", ["nothing", "models/vad/nothing", "rollouts/x", "rollouts/-1"])
def test_a_path_that_is_not_there_is_a_problem(path: str, api: ApiCaller) -> None:
    assert_problem(api.get(path), 404, "endpoint-unknown")


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("models/%00", "model-unknown"),
        ("models/%00/versions", "model-unknown"),
        ("models/vad/versions/1", "version-unknown"),
        ("models/%00/versions/1", "version-unknown"),
        (f"models/vad/versions/{HUGE}", "version-unknown"),
        ("sites/%00", "site-unknown"),
        ("sites/%ff", "site-unknown"),
        (f"sites/{'x' * 5000}", "site-unknown"),
        (f"rollouts/{HUGE}", "rollout-unknown"),
        (f"rollouts/{HUGE}/events", "rollout-unknown"),
        (f"rollouts/{HUGE}/deployments", "rollout-unknown"),
        ("rollouts/0", "rollout-unknown"),
    ],
)
def test_a_name_that_nothing_has_is_unknown(path: str, code: str, api: ApiCaller) -> None:
    assert_problem(api.get(path), 404, code)


def test_a_number_of_5000_digits_is_no_rollout(api: ApiCaller) -> None:
    assert_problem(api.get(f"rollouts/{'9' * 5000}"), 404, "endpoint-unknown")


SITE = {"name": "edge-1", "tier": "edge", "region": "eu-west"}
BAD_SITES: list[tuple[dict[str, Any], str]] = [
    ({"name": "with space"}, "name"),
    ({"name": ""}, "name"),
    ({"name": "x" * 64}, "name"),
    ({"name": "\0"}, "name"),
    ({"name": None}, "name"),
    ({"name": ["x"]}, "name"),
    ({"tier": "cloud"}, "tier"),
    ({"region": "\0"}, "region"),
    ({"region": ""}, "region"),
    ({"region": "x" * 64}, "region"),
    ({"latitude": 91}, "latitude"),
    ({"latitude": "north"}, "latitude"),
    ({"latitude": 10**400}, "latitude"),
    ({"power_limit_kw": -1}, "power_limit_kw"),
    ({"power_limit_kw": 10**400}, "power_limit_kw"),
    ({"power_usage_effectiveness": 0.5}, "power_usage_effectiveness"),
    ({"labels": [1]}, "labels"),
    ({"labels": {"ring": 0}}, "labels"),
    ({"labels": "x"}, "labels"),
    ({"powr_limit_kw": 5}, "powr_limit_kw"),
]


@pytest.mark.parametrize(("change", "field"), BAD_SITES, ids=[str(c)[:40] for c, _ in BAD_SITES])
def test_a_bad_site_is_refused_with_the_field_of_its_fault(
    change: dict[str, Any], field: str, api: ApiCaller, rows: Callable[[], tuple[int, ...]]
) -> None:
    before = rows()
    response = api.post("sites", SITE | change)
    document = json.loads(response.content)
    assert response.status_code in (400, 422), document
    assert rows() == before
    if response.status_code == 422:
        assert field in fields(document)


@pytest.mark.parametrize("number", ["1e999", "-1e999", "NaN", "Infinity"])
def test_a_number_that_json_does_not_have_is_refused(
    number: str, api: ApiCaller, rows: Callable[[], tuple[int, ...]]
) -> None:
    before = rows()
    text = json.dumps(SITE)[:-1] + f', "energy_price_per_kwh": {number}}}'
    assert api.post("sites", text.encode()).status_code == 400
    assert rows() == before


@pytest.mark.parametrize("labels", [{"\0": "x"}, {"x": "\0"}, {"x": "\ud800"}, {"\ud800": "x"}])
def test_text_that_no_database_keeps_is_refused(
    labels: dict[str, str], api: ApiCaller, now: datetime, rows: Callable[[], tuple[int, ...]]
) -> None:
    make_joined_site("edge", now=now)
    version = make_version(now=now)
    before = rows()
    stages = [{"name": "a", "select": {"labels": labels}}, {"name": "b"}]
    manifest = version.manifest

    for path, body in (
        ("sites", SITE | {"labels": labels}),
        ("models/ocr/versions", {"manifest": manifest, "labels": labels}),
        ("rollouts", {"model": "vad", "version": "1", "stages": stages}),
    ):
        assert_problem(api.post(path, body), 400, "parse-error")
    assert api.patch("sites/edge", {"labels": labels}).status_code == 400
    assert rows() == before


@pytest.mark.parametrize(
    "version", [0, -1, 1.5, True, None, "", "01", "x", "1 ", "\u0661", HUGE, "9" * 5000, [1], 2**31]
)
def test_a_version_that_is_no_number_from_1(version: object, api: ApiCaller) -> None:
    response = api.post("rollouts", {"model": "vad", "version": version})
    assert fields(assert_problem(response, 422, "invalid-request")) == ["version"]


@pytest.mark.parametrize(
    "body",
    [{}, {"manifest": None}, {"manifest": []}, {"manifest": {"files": 3}}, {"manifest": "x"}],
)
def test_a_manifest_that_is_none(body: dict[str, object], api: ApiCaller) -> None:
    response = api.post("models/vad/versions", body)
    assert response.status_code == 422
    assert not Model.objects.exists()


def test_a_deep_manifest_is_refused(api: ApiCaller) -> None:
    for depth in (200, 400, 600, 800, 950):
        body = b'{"manifest": ' + b"[" * depth + b"]" * depth + b"}"
        assert api.post("models/vad/versions", body).status_code in (400, 422)


@pytest.mark.parametrize(
    "query", ["wait=x", "wait=-1", "wait=61", "wait=1e1", f"wait={'9' * 5000}"]
)
def test_a_wait_that_is_no_number_of_seconds(query: str, api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(now=now)
    response = api.get(f"rollouts/{rollout.pk}?{query}")
    assert fields(assert_problem(response, 422, "invalid-request")) == ["wait"]


@pytest.mark.parametrize(
    "query", ["tier=cloud", "tier=%00", "region=%00", "limit=x", f"offset={HUGE}", "limit=0"]
)
@pytest.mark.parametrize("path", ["sites", "rollouts", "models", "freezes", "drift"])
def test_no_query_breaks_a_list(path: str, query: str, api: ApiCaller, now: datetime) -> None:
    make_site(now=now)
    assert api.get(f"{path}?{query}").status_code in (200, 422)


@pytest.mark.parametrize("query", ["state=done", "state=%00", "model=%00"])
def test_a_filter_that_can_not_be_is_refused(query: str, api: ApiCaller) -> None:
    assert_problem(api.get(f"rollouts?{query}"), 422, "invalid-request")


class TestTokens:
    CALLS = [
        ("models", Scope.PUSH),
        ("models/vad/versions", Scope.PUSH),
        ("models/vad/versions/1/finalise", Scope.PUSH),
        ("sites", Scope.FLEET),
        ("sites/edge/enrolment-tokens", Scope.FLEET),
        ("sites/edge/agent/new-key", Scope.FLEET),
        ("sites/edge/agent/unlock", Scope.FLEET),
        ("sites/edge/agent/revoke", Scope.FLEET),
        ("rollouts", Scope.ROLLOUT),
        *(
            (f"rollouts/1/{verb}", Scope.ROLLOUT)
            for verb in (
                "pause",
                "resume",
                "promote",
                "abort",
                "rollback",
                "retry-failed",
                "approve",
            )
        ),
        ("strategies", Scope.ROLLOUT),
        ("strategies/canary/retire", Scope.ROLLOUT),
        ("models/vad/versions/1/quarantine", Scope.ROLLOUT),
        ("sites/edge/models/vad/pin", Scope.ROLLOUT),
        ("freezes", Scope.FREEZE),
        ("freezes/1/lift", Scope.FREEZE),
    ]

    @pytest.mark.parametrize(("path", "scope"), CALLS)
    def test_a_write_without_its_scope_is_forbidden(
        self,
        path: str,
        scope: str,
        with_scopes: Callable[..., ApiCaller],
        rows: Callable[[], tuple[int, ...]],
    ) -> None:
        caller = with_scopes(*(set(Scope.values) - {scope}))
        before = rows()

        document = assert_problem(caller.post(path, {}), 403, "scope-missing")

        assert document["needed"] == scope
        assert rows() == before

    def test_put_patch_and_delete_want_their_scope_too(
        self, with_scopes: Callable[..., ApiCaller], now: datetime
    ) -> None:
        caller = with_scopes(Scope.READ)
        make_site("edge", now=now)
        make_version(registered=False, now=now)
        for response in (
            caller.put(f"models/vad/versions/1/blobs/{'0' * 64}", b"x"),
            caller.delete("models/vad/versions/1"),
            caller.patch("sites/edge", {"region": "other"}),
        ):
            assert_problem(response, 403, "scope-missing")
        assert Site.objects.get().region == "eu-west"
        assert Version.objects.exists()

    @pytest.mark.parametrize(
        "path",
        ["models", "sites", "rollouts", "strategies", "freezes", "budget", "drift", "schema/"],
    )
    def test_reading_wants_any_token(
        self, path: str, with_scopes: Callable[..., ApiCaller]
    ) -> None:
        assert with_scopes(Scope.PUSH).get(path).status_code == 200

        response = Client().get(f"/api/v1/{path}")
        assert_problem(response, 401, "token-required")
        assert response["WWW-Authenticate"] == "Bearer"

    @pytest.mark.parametrize(
        "header",
        [
            "Bearer",
            "Bearer ",
            "Bearer x",
            "Bearer wpt_unknown",
            "Basic eDp5",
            "wpt_x",
            "Bearer \xff",
            "Bearer wpt_" + "x" * 10_000,
        ],
    )
    def test_a_header_that_opens_nothing(self, header: str) -> None:
        response = Client().get("/api/v1/sites", headers={"Authorization": header})
        assert response.status_code == 401
        assert json.loads(response.content)["code"] in ("token-required", "token-invalid")

    def test_an_expired_a_revoked_and_an_orphaned_token_are_refused(
        self, with_scopes: Callable[..., ApiCaller], now: datetime
    ) -> None:
        past = ApiCaller(
            client=Client(), secret=make_token(now=now - timedelta(days=2), name="past")
        )
        revoked, orphaned = with_scopes(name="revoked"), with_scopes(name="orphaned")
        revoke_api_token(token=ApiToken.objects.get(name="revoked"), actor="user:ann", now=now)
        owner = ApiToken.objects.get(name="orphaned").user
        owner.is_active = False
        owner.save()

        for caller in (past, revoked, orphaned):
            assert_problem(caller.get("sites"), 401, "token-invalid")

    def test_a_session_of_an_agent_opens_nothing_here(self, edge: Any) -> None:
        caller = ApiCaller(client=Client(), secret=edge.agent.secret)
        assert_problem(caller.get("sites"), 401, "token-invalid")


def test_a_problem_carries_the_id_of_its_request(api: ApiCaller) -> None:
    first, second = (assert_problem(api.get("sites/none"), 404, "site-unknown") for _ in range(2))
    assert first["request_id"] != second["request_id"]


def test_json_that_says_a_charset_is_json_still(api: ApiCaller) -> None:
    assert api.post("sites", SITE, content_type=f"{JSON}; charset=utf-8").status_code == 201
