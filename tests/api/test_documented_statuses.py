"""Every status that the published document names for an operation can be seen: what all operations
have in common is made by a rule, what is an operation's own by a recipe. One that neither makes is
documented wrongly, or nobody knows how it comes about."""

import asyncio
import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from django.db import OperationalError, connection, transaction
from django.utils import timezone

from controlplane.accounts.issuers import ISSUER_KEYS
from controlplane.accounts.models import ApiToken, IdempotentCall, Scope
from controlplane.accounts.secrets import secret_digest
from controlplane.api.body_limit import limit_bodies, limit_for
from controlplane.api.rate_limit import BUCKETS
from controlplane.catalog.channels import MAX_CHANNELS
from controlplane.catalog.models import Channel, Model
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.models import Rollout
from tests.api.calls import ApiCaller
from tests.api.good_requests import (
    BLOB,
    FILES,
    GOOD,
    PUBLISHER,
    VERSION,
    WEIGHTS,
    WHY,
    Good,
    Scene,
    an_uploading_version,
    identity,
)
from tests.api.issuer import AUDIENCE, running_issuer
from tests.api.issuer import CLAIMS as JOB
from tests.api.world import make_world
from tests.factories import make_token, make_version
from tests.s3_server import S3Server, running_s3

PUBLISHED = Path(__file__).parents[2] / "docs" / "api" / "openapi.yaml"
BASE = "/api/v1/"
READ = Good()
UNKNOWN = {
    "rollout_id": 10**9, "freeze_id": 10**9, "link_id": 10**9, "import_id": 10**9,
    "token_id": 10**9, "number": 10**9, "name": "nothing", "model": "nothing", "site": "nothing",
    "channel": "nothing", "sha256": "f" * 64, "stage": "nothing", "gate": "nothing",
    "delivery_id": "nothing",
}  # fmt: skip


def documented() -> dict[str, Any]:
    """Operations by name, such as `POST models/{name}/versions`."""
    document = yaml.load(PUBLISHED.read_text(encoding="utf-8"), yaml.CSafeLoader)
    return {
        f"{method.upper()} {path.removeprefix(BASE)}": operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
        if "responses" in operation
    }


OPERATIONS = documented()
DOCUMENTED = {
    name: {int(status) for status in operation["responses"]}
    for name, operation in OPERATIONS.items()
}
Attempt = Callable[[Scene, str], Any]


def good(scene: Scene, operation: str, **more: Any) -> Any:
    GOOD.get(operation, READ).prepare(scene)
    return bare(scene, operation, **more)


def bare(scene: Scene, operation: str, **more: Any) -> Any:
    """As `good`, to what is there, whatever must have happened before for it to succeed."""
    sent = GOOD.get(operation, READ).sent(scene)
    headers = {**sent.pop("headers"), **more.pop("headers", {})}
    return scene.call(operation, **{**sent, **more}, headers=headers)


def success(scene: Scene, operation: str) -> Any:
    return good(scene, operation)


def again(scene: Scene, operation: str) -> Any:
    good(scene, operation)
    return scene.call(operation, **GOOD[operation].sent(scene))


def unchanged(scene: Scene, operation: str) -> Any:
    tag = scene.call(operation)["ETag"]
    return scene.call(operation, headers={"If-None-Match": tag})


def not_json(scene: Scene, operation: str) -> Any:
    return bare(scene, operation, body=b"{")


def without_a_token(scene: Scene, operation: str) -> Any:
    return bare(scene, operation, secret="")


def of_little_scope(scene: Scene, operation: str) -> Any:
    return bare(scene, operation, secret=make_token(Scope.READ, name="reader", now=scene.now))


def of_unknown_things(scene: Scene, operation: str) -> Any:
    sent = GOOD.get(operation, READ).sent(scene)
    scene.names = dict(UNKNOWN)
    return scene.call(operation, **sent)


def of_no_route(scene: Scene, operation: str) -> Any:
    sent = GOOD.get(operation, READ).sent(scene)
    scene.names = dict.fromkeys(UNKNOWN, "no/thing")
    return scene.call(operation, **sent)


def with_another_wish(scene: Scene, operation: str) -> Any:
    return bare(scene, operation, headers={"Accept": "text/csv"})


def under_way(scene: Scene, operation: str) -> Any:
    named = {"body": [], "headers": {"Idempotency-Key": "k"}}
    scene.call(operation, **named)
    IdempotentCall.objects.update(status=None, started_at=timezone.now())
    return scene.call(operation, **named)


def of_another_state(scene: Scene, operation: str) -> Any:
    return bare(scene, operation, headers={"If-Match": '"0.0"'})


def of_another_state_of_its_own(scene: Scene, operation: str) -> Any:
    return good(scene, operation, headers={"If-Match": '"0.0"'})


def too_large(scene: Scene, operation: str) -> Any:
    method, route = operation.split(" ")
    path = BASE + scene.path(route)
    length = str(limit_for(path, method) + 1).encode()
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def nothing(*_: Any) -> Any:
        raise AssertionError("it is refused unread")

    asked = {
        "type": "http", "path": path, "method": method, "headers": [(b"content-length", length)],
    }  # fmt: skip
    asyncio.run(limit_bodies(nothing)(asked, nothing, send))
    return Answer(sent[0]["status"])


class Answer:
    def __init__(self, status: int) -> None:
        self.status_code = status


def of_another_type(scene: Scene, operation: str) -> Any:
    return bare(scene, operation, content_type="text/plain")


def of_another_shape(scene: Scene, operation: str) -> Any:
    return bare(scene, operation, body=[])


def with_a_bad_key(scene: Scene, operation: str) -> Any:
    return bare(scene, operation, headers={"Idempotency-Key": "a b"})


def with_a_bad_query(scene: Scene, operation: str) -> Any:
    inputs = [each for each in OPERATIONS[operation].get("parameters", ()) if "name" in each]
    names = [each["name"] for each in inputs if each["in"] == "query"]
    query = "&".join([*(f"{name}=?" for name in names), "wait=?", "cursor=x"])
    return good(scene, f"{operation}?{query}")


def too_often(scene: Scene, operation: str) -> Any:
    BUCKETS.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("django.conf.settings.WAYPOST_API_RATE", 1)
        patch.setattr("django.conf.settings.WAYPOST_API_BURST", 0)
        return scene.call(operation, secret="")


def while_busy(scene: Scene, operation: str) -> Any:
    sent = GOOD.get(operation, READ).sent(scene)
    with a_busy_database():
        return scene.call(operation, **sent)


def while_busy_with_unknown_things(scene: Scene, operation: str) -> Any:
    """What is built in needs no database."""
    with a_busy_database():
        return of_unknown_things(scene, operation)


@contextmanager
def a_busy_database() -> Iterator[None]:
    """To all but the look-up of the token and the marks of transactions."""

    def busy(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("SELECT", "INSERT", "UPDATE", "DELETE")):
            raise OperationalError("database is locked")
        return execute(sql, params, many, context)

    with connection.execute_wrapper(busy):
        yield


# --- What single operations answer with ---------------------------------------------------------


def as_a_dry_run(scene: Scene, operation: str) -> Any:
    return scene.call(f"{operation}?dry_run=true", **GOOD[operation].sent(scene))


def begun_in_a_bucket(scene: Scene, operation: str) -> Any:
    scene.use_bucket()
    return good(scene, operation)


def completed(scene: Scene, operation: str) -> Any:
    made = begun_in_a_bucket(scene, f"POST {BLOB}/multipart").json()
    with httpx2.Client(trust_env=False) as client:
        sent = client.put(
            made["parts"][0]["url"], content=WEIGHTS, headers={"Content-Length": str(len(WEIGHTS))}
        )
    assert sent.status_code == 200
    return scene.call(operation, {"upload": made["upload"]})


def completed_twice(scene: Scene, operation: str) -> Any:
    completed(scene, operation)
    return scene.call(operation, {"upload": "x"})


def aborted(scene: Scene, operation: str) -> Any:
    made = begun_in_a_bucket(scene, f"POST {BLOB}/multipart").json()
    return scene.call(operation, {"upload": made["upload"]})


def of_a_new_channel(scene: Scene, operation: str) -> Any:
    scene.names["channel"] = "fresh"
    return good(scene, operation)


def a_piece_from(start: int) -> Attempt:
    def piece(scene: Scene, operation: str) -> Any:
        headers = {"Content-Range": f"bytes {start}-{start + 9}/{len(WEIGHTS)}"}
        return good(scene, operation, body=WEIGHTS[start : start + 10], headers=headers)

    return piece


def of_a_trusted_job(scene: Scene, operation: str) -> Any:
    ISSUER_KEYS.forget()
    with running_issuer() as issuer:
        trusted = {**PUBLISHER, "issuer": issuer.url, "audience": AUDIENCE, "claims": JOB}
        assert scene.call("POST publishers", trusted).status_code == 201
        return scene.call(operation, {"token": issuer.identity(now=scene.now)}, secret="")


def of_a_job_of_nobody(scene: Scene, operation: str) -> Any:
    return scene.call(operation, {"token": identity(alg="RS256", kid="x")}, secret="")


def of_a_job_with_a_weak_signature(scene: Scene, operation: str) -> Any:
    return scene.call(operation, {"token": identity(alg="HS256")}, secret="")


def unsigned(scene: Scene, operation: str) -> Any:
    return scene.call(operation, b"{}", secret="")


def of_a_wider_token(scene: Scene, operation: str) -> Any:
    narrow = make_token(Scope.READ, now=scene.now)
    digest = secret_digest(scene.api.secret)
    scene.names["token_id"] = ApiToken.objects.get(digest=digest).pk
    return good(scene, operation, secret=narrow)


def of_one_channel_too_many(scene: Scene, operation: str) -> Any:
    model = Model.objects.get(name="vad")
    Channel.objects.bulk_create(Channel(model=model, name=f"c{n}") for n in range(MAX_CHANNELS))
    return of_a_new_channel(scene, operation)


def once_it_is_registered(scene: Scene, operation: str) -> Any:
    return scene.call(operation)


def before_its_files_came(scene: Scene, operation: str) -> Any:
    an_uploading_version(scene)
    return scene.call(operation)


def of_other_bytes(scene: Scene, operation: str) -> Any:
    return good(scene, operation, body=WEIGHTS[::-1])


def with_a_faulty_file(scene: Scene, operation: str) -> Any:
    files = {**FILES, "config.pbtxt": b"?!"}
    version = make_version(registered=False, files=files, now=scene.now)
    scene.names["number"] = version.number
    for data in files.values():
        scene.names["sha256"] = hashlib.sha256(data).hexdigest()
        assert scene.call(f"PUT {BLOB}", data).status_code == 201
    return scene.call(operation)


def once_it_is_over(scene: Scene, operation: str) -> Any:
    assert scene.call("POST rollouts/{rollout_id}/abort", WHY).status_code == 200
    Rollout.objects.update(state=RolloutState.CANCELLED)
    return good(scene, operation)


def without_a_reason(scene: Scene, operation: str) -> Any:
    return scene.call(operation)


def on_a_full_disk(scene: Scene, operation: str) -> Any:
    def no_room(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no room")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("controlplane.catalog.store.os.fsync", no_room)
        return good(scene, operation)


RULES: dict[int, tuple[Attempt, ...]] = {
    200: (success,),
    201: (success,),
    202: (success,),
    204: (success,),
    304: (unchanged,),
    400: (not_json,),
    401: (without_a_token,),
    403: (of_little_scope,),
    404: (of_unknown_things, of_no_route),
    406: (with_another_wish,),
    409: (under_way, success),
    412: (of_another_state, of_another_state_of_its_own),
    413: (too_large,),
    415: (of_another_type,),
    422: (of_another_shape, with_a_bad_key, with_a_bad_query),
    429: (too_often,),
    503: (while_busy, while_busy_with_unknown_things),
}
# What an operation answers with in a way of its own.
OWN: dict[tuple[str, int], Attempt] = {
    ("POST models", 200): again,
    ("POST models/{name}/registry-links", 200): again,
    ("POST models/{name}/versions", 200): again,
    ("POST signing-keys", 200): again,
    (f"PUT {BLOB}", 200): again,
    (f"PUT {VERSION}/signature", 200): again,
    ("POST rollouts", 200): as_a_dry_run,
    (f"POST {BLOB}/multipart", 200): begun_in_a_bucket,
    (f"POST {BLOB}/multipart/complete", 200): completed_twice,
    (f"POST {BLOB}/multipart/complete", 201): completed,
    (f"POST {BLOB}/multipart/abort", 204): aborted,
    ("PUT models/{name}/channels/{channel}", 201): of_a_new_channel,
    ("POST tokens/exchange", 201): of_a_trusted_job,
    (f"PUT {BLOB}", 204): a_piece_from(0),
    ("POST tokens/exchange", 401): of_a_job_with_a_weak_signature,
    ("POST registries/mlflow/webhook", 401): unsigned,
    ("POST tokens/{token_id}/revoke", 403): of_a_wider_token,
    ("POST tokens/exchange", 403): of_a_job_of_nobody,
    ("PUT models/{name}/channels/{channel}", 409): of_one_channel_too_many,
    (f"DELETE {VERSION}", 409): once_it_is_registered,
    (f"PUT {BLOB}", 409): a_piece_from(1),
    (f"POST {VERSION}/finalise", 409): before_its_files_came,
    ("PUT rollouts/{rollout_id}/stages/{stage}/gates/{gate}", 409): once_it_is_over,
    (f"PUT {BLOB}", 422): of_other_bytes,
    (f"POST {VERSION}/finalise", 422): with_a_faulty_file,
    ("DELETE sites/{name}", 422): without_a_reason,
    ("POST tokens/exchange", 503): while_busy,
    (f"PUT {BLOB}", 507): on_a_full_disk,
}


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3-statuses")) as server:
        yield server


@pytest.fixture
def scene(
    request: pytest.FixtureRequest,
    settings: Any,
    api: ApiCaller,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> Scene:
    settings.WAYPOST_API_RATE = 0
    settings.WAYPOST_MLFLOW_URL = "http://127.0.0.1:9"
    settings.WAYPOST_MLFLOW_WEBHOOK_SECRET = "secret"
    settings.WAYPOST_OIDC_ALLOW_LOOPBACK_HTTP = True
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def use_bucket() -> None:
        settings.WAYPOST_S3 = request.getfixturevalue("s3_server").bucket("statuses")

    return Scene(world=make_world(now=now), api=api, now=now, use_bucket=use_bucket)


@pytest.mark.parametrize("status", sorted(set.union(*DOCUMENTED.values())))
def test_a_documented_status_can_be_seen(status: int, scene: Scene, settings: Any) -> None:
    told: dict[str, list[Any]] = {}
    for operation in (each for each, statuses in DOCUMENTED.items() if status in statuses):
        own = OWN.get((operation, status))
        answers = told[operation] = []
        for attempt in (own,) if own else RULES.get(status, ()):
            settings.WAYPOST_S3, scene.names = None, {}
            with transaction.atomic():
                answers.append(attempt(scene, operation).status_code)
                transaction.set_rollback(True)
            if answers[-1] == status:
                del told[operation]
                break
    unseen = [f"{status} of {each}: {answers or 'no rule'}" for each, answers in told.items()]
    assert not unseen, "\n".join(unseen)


def test_every_recipe_is_for_what_is_documented() -> None:
    assert not [key for key in OWN if key[1] not in DOCUMENTED.get(key[0], ())]
    assert not [operation for operation in GOOD if operation not in DOCUMENTED]
