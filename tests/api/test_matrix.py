"""Who may do what: every route of the REST API with every method it has, against every kind of
caller. A route that the table does not have fails the test: whoever adds one says what it takes.

A write's line is method, route, scope (`read`: every token; `open`: no token at all) and what a
token of named models gets there: `named`, for its own model alone; `never`; `held`, let in and held
to its limits by the service (tests/api/test_tokens.py)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import transaction
from django.test import Client
from django.urls import get_resolver

from controlplane.accounts.models import ApiToken, Scope, User
from controlplane.accounts.services import create_api_token
from tests.api.calls import ApiCaller
from tests.api.world import PERSON, World, make_world
from tests.factories import ACTOR

WRITES = """
POST models push named
PATCH models/<str:name> approve named
PUT models/<str:name>/channels/<str:channel> approve named
DELETE models/<str:name>/channels/<str:channel> approve named
POST models/<str:name>/versions push named
PATCH models/<str:name>/versions/<int:number> push named
DELETE models/<str:name>/versions/<int:number> push named
PUT models/<str:name>/versions/<int:number>/blobs/<sha256:sha256> push named
POST models/<str:name>/versions/<int:number>/blobs/<sha256:sha256>/multipart push named
POST models/<str:name>/versions/<int:number>/blobs/<sha256:sha256>/multipart/complete push named
POST models/<str:name>/versions/<int:number>/blobs/<sha256:sha256>/multipart/abort push named
POST models/<str:name>/versions/<int:number>/finalise push named
POST models/<str:name>/versions/<int:number>/approve approve named
POST models/<str:name>/versions/<int:number>/withdraw-approval approve named
POST models/<str:name>/versions/<int:number>/retire approve named
POST models/<str:name>/versions/<int:number>/unretire approve named
POST models/<str:name>/versions/<int:number>/quarantine rollout named
POST models/<str:name>/versions/<int:number>/release rollout named
PUT models/<str:name>/versions/<int:number>/signature push named
POST signing-keys approve never
POST signing-keys/<str:name>/revoke approve never
POST models/<str:name>/registry-links approve named
DELETE models/<str:name>/registry-links/<int:link_id> approve named
POST models/<str:name>/imports push named
POST registries/mlflow/webhook open -
POST sites fleet never
PATCH sites/<str:name> fleet never
DELETE sites/<str:name> fleet never
POST sites/<str:name>/enrolment-tokens fleet never
POST sites/<str:name>/restore fleet never
POST sites/<str:name>/agent/new-key fleet never
POST sites/<str:name>/agent/unlock fleet never
POST sites/<str:name>/agent/revoke fleet never
POST sites/<str:name>/triton-floor-waiver fleet never
POST sites/<str:name>/readings fleet never
DELETE sites/<str:name>/triton-floor-waiver fleet never
POST sites/<str:site>/models/<str:model>/pin rollout named
POST sites/<str:site>/models/<str:model>/unpin rollout named
POST windows fleet never
DELETE windows/<str:name> fleet never
POST rollouts rollout named
POST rollouts/<int:rollout_id>/pause rollout named
POST rollouts/<int:rollout_id>/resume rollout named
POST rollouts/<int:rollout_id>/promote rollout named
POST rollouts/<int:rollout_id>/abort rollout named
POST rollouts/<int:rollout_id>/stop-waiting rollout named
POST rollouts/<int:rollout_id>/rollback rollout named
POST rollouts/<int:rollout_id>/retry-failed rollout named
POST rollouts/<int:rollout_id>/approve rollout named
PUT rollouts/<int:rollout_id>/stages/<plain:stage>/gates/<plain:gate> rollout named
POST freezes freeze never
POST freezes/<int:freeze_id>/lift freeze never
PUT budget freeze never
POST strategies rollout never
POST strategies/<str:name>/retire rollout never
POST tokens read held
POST tokens/exchange open -
POST tokens/<int:token_id>/revoke read held
POST publishers approve held
POST publishers/<str:name>/revoke approve never
POST webhooks fleet never
PATCH webhooks/<str:name> fleet never
DELETE webhooks/<str:name> fleet never
POST webhooks/<str:name>/rotate-secret fleet never
POST webhooks/<str:name>/test fleet never
POST webhooks/<str:name>/deliveries/<str:delivery_id>/redeliver fleet never
"""
READS = """
schema/
models
models/<str:name>
models/<str:name>/channels
models/<str:name>/channels/<str:channel>
models/<str:name>/versions
models/<str:name>/versions/<int:number>
models/<str:name>/versions/<int:number>/fit
models/<str:name>/versions/<int:number>/approvals
models/<str:name>/versions/<int:number>/signature
signing-keys
models/<str:name>/registry-links
models/<str:name>/registry-links/<int:link_id>
models/<str:name>/imports
models/<str:name>/imports/<int:import_id>
sites
sites/<str:name>
sites/<str:name>/servers
sites/<str:name>/measurements
sites/<str:name>/readings
sites/<str:name>/agent
sites/<str:name>/triton-floor-waiver
windows
windows/<str:name>
rollouts
rollouts/<int:rollout_id>
rollouts/<int:rollout_id>/deployments
rollouts/<int:rollout_id>/events
rollouts/<int:rollout_id>/replay
freezes
budget
strategies
strategies/<str:name>
drift
tokens
tokens/<int:token_id>
publishers
publishers/<str:name>
webhooks
webhooks/<str:name>
webhooks/<str:name>/deliveries
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    method: str
    route: str
    scope: str
    models: str


def declared() -> list[Row]:
    rows = [Row(method="GET", route=r, scope="read", models="free") for r in READS.split()]
    for line in WRITES.strip().splitlines():
        method, route, scope, models = line.split()
        rows.append(Row(method=method, route=route, scope=scope, models=models))
    return rows


def routed() -> Iterator[tuple[str, str]]:
    """Method and route of everything below `/api/v1/`, from the URLconf itself."""

    def walk(patterns: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for pattern in patterns:
            route = prefix + str(pattern.pattern)
            if hasattr(pattern, "url_patterns"):
                yield from walk(pattern.url_patterns, route)
            else:
                yield route, pattern.callback

    for route, callback in walk(get_resolver().url_patterns, ""):
        if route.startswith("api/v1/"):
            for method in ("get", "post", "put", "patch", "delete"):
                if hasattr(callback.cls, method):
                    yield method.upper(), route.removeprefix("api/v1/")


def test_every_route_has_a_row_and_every_row_a_route() -> None:
    table = [(row.method, row.route) for row in declared()]
    assert len(table) == len(set(table))
    assert set(table) == set(routed())


Call = Callable[[Row, str], tuple[int, str]]


@pytest.fixture
def world(settings: Any, now: datetime) -> World:
    settings.WAYPOST_API_RATE = 0
    return make_world(now=now)


@pytest.fixture
def call(world: World) -> Call:
    """Status and code of a call to what is there, whose effect is taken back."""
    client = Client()

    def ask(row: Row, secret: str) -> tuple[int, str]:
        caller = ApiCaller(client=client, secret=secret)
        path = world.url("/api/v1/" + _as_document(row.route))
        body: Any = b""
        if row.method != "GET":
            key = {"models": "name"}.get(row.route, "model")
            body = {key: "vad"} if row.route in ("models", "rollouts") else {}
        with transaction.atomic():
            response = caller._send(row.method, path, body)
            transaction.set_rollback(True)
        problem = "problem" in response.headers.get("Content-Type", "")
        return response.status_code, response.json()["code"] if problem else ""

    return ask


def _as_document(route: str) -> str:
    """`sites/<str:name>` as `sites/{name}`."""
    for kind in ("str", "int", "sha256", "plain"):
        route = route.replace(f"<{kind}:", "{")
    return route.replace(">", "}")


@pytest.fixture
def secret_of(now: datetime) -> Callable[..., str]:
    """The secret of a token of the person to whom the world's token belongs."""

    def make(*scopes: str, models: tuple[str, ...] = ()) -> str:
        user = User.objects.get(username="owner-of-ci")
        _, secret = create_api_token(
            user=user,
            name="matrix",
            scopes=scopes,
            model_names=models,
            lifetime=timedelta(days=1),
            actor=ACTOR,
            now=now,
        )
        return secret

    return make


def refused(answer: tuple[int, str]) -> bool:
    return answer[0] in (401, 403)


def test_without_a_token_that_lives_nobody_gets_in(
    call: Call, secret_of: Callable[..., str], now: datetime
) -> None:
    expired, revoked, left = (secret_of(*Scope.values) for _ in range(3))
    rows = ApiToken.objects.filter(name="matrix").order_by("pk")
    ApiToken.objects.filter(pk=rows[0].pk).update(expires_at=now)
    ApiToken.objects.filter(pk=rows[1].pk).update(revoked_at=now)
    nobody = User.objects.create(username="left", is_active=False)
    ApiToken.objects.filter(pk=rows[2].pk).update(user=nobody)
    for row in declared():
        for secret in ("", "wpt_made-up", expired, revoked, left):
            status, code = call(row, secret)
            if row.scope == "open":
                assert code not in ("token-required", "token-invalid"), row
            else:
                assert status == 401, (row, status, code)


@pytest.mark.parametrize("scope", Scope.values)
def test_a_scope_opens_what_it_is_for_and_nothing_else(
    scope: str, call: Call, secret_of: Callable[..., str]
) -> None:
    secret = secret_of(scope)
    for row in declared():
        status, code = call(row, secret)
        assert status < 500, row
        if row.scope in ("open",):
            continue
        if row.scope in (scope, "read"):
            assert code != "scope-missing", (row, status, code)
            assert status != 401, (row, status, code)
        else:
            assert (status, code) == (403, "scope-missing"), (row, status, code)


def test_all_scopes_open_everything(call: Call, secret_of: Callable[..., str]) -> None:
    secret = secret_of(*Scope.values)
    for row in declared():
        answer = call(row, secret)
        assert answer[0] < 500, row
        assert row.scope == "open" or not refused(answer), (row, answer)


@pytest.mark.parametrize("model", ["vad", "asr"])
def test_a_token_of_a_named_model(model: str, call: Call, secret_of: Callable[..., str]) -> None:
    """Everything in the world is of the model `vad`: to a token of `asr` it is foreign."""
    secret = secret_of(*Scope.values, models=(model,))
    for row in declared():
        status, code = call(row, secret)
        barred = row.models == "never" or (row.models == "named" and model == "asr")
        assert (code == "model-not-allowed") == barred, (row, status, code)
        assert not barred or status == 403, (row, status, code)


def test_what_belongs_to_another_person_is_not_there(
    world: World, call: Call, now: datetime
) -> None:
    """Tokens are the one thing that belongs to a person; all else belongs to everybody."""
    user = User.objects.get(username=PERSON)
    _, secret = create_api_token(
        user=user,
        name="another",
        scopes=Scope.values,
        lifetime=timedelta(days=1),
        actor=ACTOR,
        now=now,
    )
    for row in declared():
        status, _ = call(row, secret)
        if "<int:token_id>" in row.route:
            assert status == 404, row
