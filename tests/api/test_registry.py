"""Links, imports and the receiver of MLflow's webhooks over HTTP."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest
from django.test import Client

from controlplane.accounts.models import Scope
from controlplane.catalog.models import ImportedVersion, RegistryLink
from tests.api.calls import ApiCaller
from tests.factories import make_version
from tests.unit.registry_server import Asked, RegistryServer, Reply

LINKS, IMPORTS = "models/iris/registry-links", "models/iris/imports"
HOOK = "/api/v1/registries/mlflow/webhook"
LINK = {"remote_name": "iris", "aliases": {"prod": "stable"}}


@pytest.fixture
def registry(settings: Any) -> Iterator[RegistryServer]:
    def answer(asked: Asked) -> Reply:
        version = {"name": "iris", "version": "3", "source": "models:/m-1", "status": "READY"}
        if asked.path.endswith("/get-download-uri"):
            return Reply(body=b'{"artifact_uri": "mlflow-artifacts:/1/models/m-1/artifacts"}')
        if asked.query.get("alias") == "prod":
            return Reply(body=json.dumps({"model_version": version}).encode())
        return Reply(status=404, body=b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}')

    server = RegistryServer(answer)
    settings.WAYPOST_MLFLOW_URL = server.url
    yield server
    server.stop()


def test_a_model_is_linked_looked_at_and_unlinked(api: ApiCaller) -> None:
    made = api.post(LINKS, LINK)
    assert made.status_code == 201
    link = made.json()
    assert (link["aliases"], link["stages"], link["failure"]) == ({"prod": "stable"}, {}, "")
    assert api.post(LINKS, LINK).status_code == 200
    assert api.get(LINKS).json()["results"] == [api.get(f"{LINKS}/{link['id']}").json()]
    assert api.delete(f"{LINKS}/{link['id']}").status_code == 204
    assert api.get(f"{LINKS}/{link['id']}").json()["code"] == "link-unknown"
    assert not RegistryLink.objects.exists()


@pytest.mark.parametrize("watched", ["aliases", "stages"])
def test_a_link_that_would_start_rollouts_needs_their_scope_as_well(
    watched: str, api: ApiCaller, with_scopes: Callable[..., ApiCaller], now: datetime
) -> None:
    make_version("iris", now=now)
    channel = {"version": "1", "strategy": "canary", "reason": "x"}
    assert api.put_json("models/iris/channels/stable", channel).status_code == 201
    approver = with_scopes(Scope.APPROVE, name="approver")
    key = {"aliases": "prod", "stages": "Production"}[watched]

    refused = approver.post(LINKS, {"remote_name": "iris", watched: {key: "stable"}})

    assert (refused.status_code, refused.json()["code"]) == (403, "scope-missing")
    assert not RegistryLink.objects.exists()
    other = {"remote_name": "iris", watched: {key: "other"}}
    assert approver.post(LINKS, other).status_code == 201
    assert api.post(LINKS, {"remote_name": "iris", watched: {key: "stable"}}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"remote_name": "a/b"},
        {"remote_name": "iris", "aliases": ["prod"]},
        {"remote_name": "iris", "aliases": {"prod": {"a": 1}}},
        {"remote_name": "iris", "stages": {"Prod": ""}},
        {"remote_name": "iris", "alias": {}},
    ],
)
def test_a_link_that_makes_no_sense_is_refused(body: Any, api: ApiCaller) -> None:
    answer = api.post(LINKS, body)
    assert answer.status_code == 422
    assert answer.json()["errors"]


def test_two_models_do_not_follow_the_same(api: ApiCaller) -> None:
    api.post(LINKS, LINK)
    answer = api.post("models/other/registry-links", LINK)
    assert (answer.status_code, answer.json()["code"]) == (409, "remote-linked")


def test_a_version_is_asked_for_by_its_number(api: ApiCaller, settings: Any) -> None:
    settings.WAYPOST_MLFLOW_URL = "http://127.0.0.1:9"
    api.post(LINKS, LINK)
    asked = api.post(IMPORTS, {"version": "3"})
    assert asked.status_code == 202
    row = asked.json()
    assert (row["remote_version"], row["state"], row["version"]) == ("3", "pending", None)
    assert api.post(IMPORTS, {"version": "3"}).json()["id"] == row["id"]
    assert api.get(f"{IMPORTS}/{row['id']}").json() == api.get(IMPORTS).json()["results"][0]
    answer = api.post(IMPORTS, {"alias": "prod"})
    assert (answer.status_code, answer.json()["code"]) == (503, "registry-unavailable")
    assert answer["Retry-After"]


def test_an_alias_is_looked_up_at_once(api: ApiCaller, registry: RegistryServer) -> None:
    api.post(LINKS, LINK)
    assert api.post(IMPORTS, {"alias": "prod"}).json()["remote_version"] == "3"
    answer = api.post(IMPORTS, {"alias": "none"})
    assert (answer.status_code, answer.json()["code"]) == (422, "remote-version-unknown")


@pytest.mark.parametrize(
    "body", [{}, {"version": "3", "alias": "prod"}, {"version": "x"}, {"a": 1}]
)
def test_what_to_import_must_be_clear(body: Any, api: ApiCaller, registry: RegistryServer) -> None:
    api.post(LINKS, LINK)
    assert api.post(IMPORTS, body).status_code == 422
    assert not ImportedVersion.objects.exists()


def test_without_a_registry_or_a_link_nothing_is_imported(api: ApiCaller, settings: Any) -> None:
    settings.WAYPOST_MLFLOW_URL = ""
    api.post("models", {"name": "iris"})
    assert api.post(IMPORTS, {"version": "3"}).json()["code"] == "link-missing"
    api.post(LINKS, LINK)
    assert api.post(IMPORTS, {"version": "3"}).json()["code"] == "registry-not-set-up"
    assert api.post("models/none/imports", {"version": "3"}).status_code == 404
    assert api.get(f"{IMPORTS}/7").json()["code"] == "import-unknown"


def test_links_are_an_approvers_and_imports_a_pushers(
    with_scopes: Callable[..., ApiCaller], api: ApiCaller, settings: Any
) -> None:
    settings.WAYPOST_MLFLOW_URL = "http://127.0.0.1:9"
    pusher = with_scopes(Scope.PUSH)
    assert pusher.post(LINKS, LINK).json()["code"] == "scope-missing"
    link = api.post(LINKS, LINK).json()
    assert pusher.delete(f"{LINKS}/{link['id']}").status_code == 403
    assert pusher.post(IMPORTS, {"version": "3"}).status_code == 202


def deliver(body: bytes, now: datetime, *, secret: str = "secret", **more: Any) -> Any:
    moment = str(int(now.timestamp()))
    digest = hmac.digest(secret.encode(), f"d-1.{moment}.".encode() + body, hashlib.sha256)
    headers = {
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
        "X-MLflow-Timestamp": moment,
        "X-MLflow-Delivery-Id": "d-1",
    }
    return Client().post(HOOK, body, content_type="application/json", headers=headers, **more)


def about(name: str) -> bytes:
    data = {"name": name, "alias": "prod", "version": "3"}
    return json.dumps({"entity": "model_version_alias", "data": data}).encode()


def test_a_delivery_has_the_link_looked_at(api: ApiCaller, now: datetime, settings: Any) -> None:
    settings.WAYPOST_MLFLOW_WEBHOOK_SECRET = "secret"
    api.post(LINKS, LINK)
    RegistryLink.objects.update(wanted_at=None)
    for _ in range(2):
        assert deliver(about("iris"), now).status_code == 202
    assert RegistryLink.objects.get().wanted_at is not None
    assert not ImportedVersion.objects.exists(), "what it says is only a hint"


@pytest.mark.parametrize("body", [about("other"), b"", b"nonsense", b"[]", b"\xff"])
def test_whom_a_delivery_is_about_is_not_told(body: bytes, now: datetime, settings: Any) -> None:
    settings.WAYPOST_MLFLOW_WEBHOOK_SECRET = "secret"
    assert deliver(body, now).status_code == 202


def test_a_delivery_without_the_secret_is_refused(now: datetime, settings: Any) -> None:
    settings.WAYPOST_MLFLOW_WEBHOOK_SECRET = "secret"
    wrong = deliver(about("iris"), now, secret="other")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "signature-invalid")
    assert Client().post(HOOK, b"{}", content_type="application/json").status_code == 401
    settings.WAYPOST_MLFLOW_WEBHOOK_SECRET = ""
    assert deliver(about("iris"), now, secret="").status_code == 401
    assert Client().get(HOOK).status_code == 405


def test_a_large_delivery_is_not_read(now: datetime, settings: Any) -> None:
    settings.WAYPOST_MLFLOW_WEBHOOK_SECRET = "secret"
    assert deliver(b" " * (65 << 10), now).status_code == 413
