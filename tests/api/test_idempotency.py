"""A POST that its caller named happens once, and is answered as it was the first time."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.test import Client, override_settings
from django.urls import path
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from controlplane.accounts.models import ApiToken, IdempotentCall, Scope
from controlplane.accounts.pruning import CALLS_KEPT_FOR, prune_accounts
from controlplane.api.idempotency import GIVEN_UP_AFTER
from controlplane.audit.models import Event
from controlplane.catalog.models import Model
from controlplane.fleet.models import Site
from tests.api.calls import ApiCaller, assert_problem
from tests.factories import make_version

SITE = {"name": "oslo", "tier": "edge", "region": "eu-north"}
KEY = "run-17/attempt-1"


def named(key: str = KEY) -> dict[str, Any]:
    return {"headers": {"Idempotency-Key": key}}


def test_the_repetition_is_answered_as_the_first_and_makes_nothing(api: ApiCaller) -> None:
    first = api.post("sites", SITE, **named())
    again = api.post("sites", SITE, **named())

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again["Content-Type"] == first["Content-Type"]
    assert "Idempotency-Replayed" not in first.headers
    assert again["Idempotency-Replayed"] == "true"
    assert Site.objects.count() == 1
    assert Event.objects.filter(action="site.created").count() == 1


def test_without_a_key_a_repetition_is_a_call_of_its_own(api: ApiCaller) -> None:
    assert api.post("sites", SITE).status_code == 201
    assert api.post("sites", SITE).status_code == 409


def test_where_it_was_made_is_repeated_too(api: ApiCaller) -> None:
    body = {"name": "ci-2", "scopes": ["read"]}
    made = api.post("tokens", body, **named())
    assert made["Location"] == f"/api/v1/tokens/{made.json()['id']}"


def test_what_is_its_own_repetition_is_not_kept(api: ApiCaller, now: datetime) -> None:
    version = make_version(now=now)
    path = f"models/{version.model.name}/versions/{version.number}/finalise"

    answers = [api.post(path, **named()) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert not IdempotentCall.objects.exists()


def test_a_refusal_is_an_answer_and_is_kept(api: ApiCaller) -> None:
    refused = api.post("sites", {**SITE, "tier": "moon"}, **named())
    again = api.post("sites", {**SITE, "tier": "moon"}, **named())
    assert again.status_code == refused.status_code == 422
    assert again["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize("other", ["body", "path", "query"])
def test_the_same_key_for_another_request_is_refused(api: ApiCaller, other: str) -> None:
    api.post("sites", SITE, **named())
    where = {"path": "models", "query": "sites?x=1"}.get(other, "sites")
    body = {**SITE, "name": "rome"} if other == "body" else SITE
    assert_problem(api.post(where, body, **named()), 422, "idempotency-key-reused")
    assert Site.objects.count() == 1


def test_what_the_state_of_things_refused_may_pass_later(api: ApiCaller) -> None:
    api.post("sites", SITE)
    assert_problem(api.post("sites", SITE, **named()), 409, "site-exists")
    Site.objects.all().delete()
    response = api.post("sites", SITE, **named())
    assert response.status_code == 201
    assert "Idempotency-Replayed" not in response.headers


def test_what_makes_no_sense_is_answered_as_before(api: ApiCaller) -> None:
    for replayed in (None, "true"):
        response = api.post("sites", {"name": ""}, **named())
        assert_problem(response, 422, "invalid-request")
        assert response.headers.get("Idempotency-Replayed") == replayed


def test_each_token_has_names_of_its_own(api: ApiCaller, with_scopes: Any) -> None:
    api.post("sites", SITE, **named())
    other = with_scopes(Scope.FLEET, name="other")
    response = other.post("sites", {**SITE, "name": "rome"}, **named())
    assert response.status_code == 201


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 201, "tab\there", "\x7f"])
def test_a_key_that_cannot_be_used(api: ApiCaller, key: str) -> None:
    response = api.post("sites", SITE, **named(key))
    document = assert_problem(response, 422, "idempotency-key-invalid")
    assert document["errors"][0]["field"] == "Idempotency-Key"
    assert not Site.objects.exists()


def test_200_visible_characters_are_a_key(api: ApiCaller) -> None:
    assert api.post("sites", SITE, **named("!~" * 100)).status_code == 201


def call_in_flight(api: ApiCaller, *, now: datetime) -> IdempotentCall:
    """As a process that died in the middle of the call leaves it."""
    api.post("sites", SITE, **named())
    Site.objects.all().delete()
    row = IdempotentCall.objects.get()
    row.status, row.started_at = None, now
    row.save()
    return row


def test_while_the_first_is_under_way_the_second_waits(api: ApiCaller, now: datetime) -> None:
    call_in_flight(api, now=now - GIVEN_UP_AFTER / 2)
    response = api.post("sites", SITE, **named())
    assert_problem(response, 409, "call-under-way")
    assert response["Retry-After"] == "1"
    assert not Site.objects.exists()


def test_a_call_that_was_cut_off_can_be_made_again(api: ApiCaller, now: datetime) -> None:
    call_in_flight(api, now=now - GIVEN_UP_AFTER - timedelta(seconds=1))
    response = api.post("sites", SITE, **named())
    assert response.status_code == 201
    assert "Idempotency-Replayed" not in response.headers
    assert api.post("sites", SITE, **named())["Idempotency-Replayed"] == "true"


def test_after_a_day_the_key_is_free_again(api: ApiCaller, now: datetime) -> None:
    api.post("sites", SITE, **named())
    IdempotentCall.objects.update(started_at=now - CALLS_KEPT_FOR - timedelta(seconds=1))
    assert api.post("sites", {**SITE, "name": "rome"}, **named()).status_code == 201


def test_answers_are_forgotten_when_nobody_may_ask_any_more(api: ApiCaller, now: datetime) -> None:
    api.post("sites", SITE, **named())
    assert prune_accounts(now=now) == 0
    assert prune_accounts(now=now + CALLS_KEPT_FOR + timedelta(minutes=1)) == 1


def test_a_secret_is_shown_once_and_stored_nowhere(api: ApiCaller) -> None:
    body = {"name": "deploy", "scopes": ["push"]}
    secret = api.post("tokens", body, **named()).json()["token"]
    stored = bytes(IdempotentCall.objects.get().body)
    assert secret.encode() not in stored

    again = api.post("tokens", body, **named())

    assert_problem(again, 409, "secret-shown-once")
    assert ApiToken.objects.filter(name="deploy").count() == 1


def test_a_call_without_a_token_is_not_kept(api: ApiCaller) -> None:
    nobody = ApiCaller(client=Client(), secret="wpt_nobody")
    assert nobody.post("sites", SITE, **named()).status_code == 401
    assert not IdempotentCall.objects.exists()


class Breaks(APIView):
    """Changes something, and then has a bug."""

    write_scope = Scope.PUSH

    def post(self, request: Request) -> Response:
        Model.objects.create(name="half-made", created_at="2026-11-23T12:00:00Z")
        raise ZeroDivisionError


class Urls:
    urlpatterns = [path("api/v1/breaks", Breaks.as_view())]


@pytest.fixture
def breaking() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=Urls):
        yield


def test_a_bug_leaves_neither_the_change_nor_an_answer(api: ApiCaller, breaking: None) -> None:
    """The change and the answer are one transaction: the call may be made again at once."""
    api.client = Client(raise_request_exception=False)
    assert api.post("breaks", **named()).status_code == 500
    assert not Model.objects.exists()
    assert not IdempotentCall.objects.exists()


def test_what_is_sent_is_kept_as_sent(api: ApiCaller) -> None:
    first = api.post("sites", SITE, **named())
    row = IdempotentCall.objects.get()
    assert (row.status, json.loads(bytes(row.body))) == (201, first.json())
