"""For every write of the REST API one request that it answers with success, in the world of
`world.py`: what it sends, and what must have happened before."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.test import Client

from controlplane.catalog.models import SigningKey, Version, VersionState
from controlplane.domain.manifest import SCHEMA
from controlplane.domain.policy import OnFailure
from controlplane.domain.stages import StageSpec
from controlplane.domain.strategies import StrategySpec
from controlplane.rollouts.models import Rollout
from tests.api.calls import ApiCaller
from tests.api.world import World
from tests.factories import make_joined_site, make_version, manifest_of, version_files
from tests.services.steps import one_stage, start, turn

WHY = {"reason": "a test"}
SIGNED = json.loads(
    (Path(__file__).parents[2] / "docs/protocol/signatures.json").read_text(encoding="utf-8")
)
KEY = {"name": "p256", "public_key": SIGNED["keys"]["p256"]["pem"]}
BUNDLE: bytes = next(
    case["bundle"].encode()
    for case in SIGNED["cases"]
    if case["name"] == "the official tool, P-256"
)
FILES = version_files("good")
WEIGHTS = b"weights" * 1000
SIZE = {"size": len(WEIGHTS)}
WEIGHTS_SHA = hashlib.sha256(WEIGHTS).hexdigest()
ABOUT_VAD = b'{"entity": "model_version", "data": {"name": "vad"}}'
STRATEGY = {"name": "own", "stages": [{"name": "all"}]}
SITE = {"name": "bergen", "tier": "edge", "region": "eu"}
NEW_WEBHOOK = {"name": "pager", "url": "https://pager.example/hook", "actions": ["*"]}
WINDOW = {
    "name": "noon", "kind": "activation", "selector": {}, "days": ["mon"], "start": "12:00",
    "minutes": 30,
}  # fmt: skip
PUBLISHER = {
    "name": "ci", "issuer": "https://issuer.example", "audience": "waypost",
    "claims": {"sub": "y"}, "scopes": ["push"],
}  # fmt: skip


@dataclass(kw_only=True)
class Scene:
    """A world, who calls, and what the parameters of the next paths are instead. From `use_bucket`
    on files are kept in one."""

    world: World
    api: ApiCaller
    now: datetime
    use_bucket: Callable[[], None]
    names: dict[str, Any] = field(default_factory=dict)

    def path(self, route: str) -> str:
        named = self.world.path_parameters(f"/api/v1/{route}") | self.names
        for name, value in named.items():
            route = route.replace(f"{{{name}}}", str(value))
        return route

    def call(self, operation: str, body: Any = b"", **more: Any) -> Any:
        """`operation` as `POST models/{name}/versions`; `secret` in place of the caller's own."""
        method, route = operation.split(" ")
        body = body(self) if callable(body) else body
        caller = ApiCaller(client=Client(), secret=more.pop("secret", self.api.secret))
        return caller._send(method, self.path(route), body, **more)

    def named(self, name: str) -> Any:
        return self.names.get(name, self.world.names[name])


@dataclass(frozen=True, kw_only=True)
class Good:
    """`ready` does what no call can, and may rename; `after` are the calls before it."""

    body: Any = b""
    headers: Mapping[str, str] | Callable[[Scene], Mapping[str, str]] = field(default_factory=dict)
    ready: Callable[[Scene], None] | None = None
    after: tuple[tuple[str, Any], ...] = ()

    def prepare(self, scene: Scene) -> None:
        if self.ready:
            self.ready(scene)
        for operation, body in self.after:
            answer = scene.call(operation, body)
            assert answer.status_code < 300, (operation, answer.content)

    def sent(self, scene: Scene) -> dict[str, Any]:
        """The arguments of `Scene.call`."""
        body = self.body(scene) if callable(self.body) else self.body
        headers = self.headers(scene) if callable(self.headers) else self.headers
        return {"body": body, "headers": dict(headers)}


def an_uploading_version(scene: Scene) -> None:
    files = {**FILES, "weights.bin": WEIGHTS}
    version = make_version(registered=False, files=files, now=scene.now)
    scene.names |= {"number": version.number, "sha256": WEIGHTS_SHA}


def a_validated_version(scene: Scene) -> None:
    version = make_version(state=VersionState.VALIDATED, now=scene.now)
    scene.names["number"] = version.number


def another_version(scene: Scene) -> None:
    scene.names["number"] = make_version(now=scene.now).number


def a_signable_version(scene: Scene) -> None:
    SigningKey.objects.all().delete()  # the world's is none that could be read
    entries = [
        {"path": path, "size": 3 + n, "sha256": sha256}
        for n, (path, sha256) in enumerate(SIGNED["files"]["vad"].items())
    ]
    push = {"manifest": {"schema": SCHEMA, "files": entries}}
    scene.names["number"] = scene.call("POST models/{name}/versions", push).json()["version"]


def a_rollout_that_waits_for_approval(scene: Scene) -> None:
    strategy = StrategySpec(name="asked", version=1, stages=one_stage(), approval_required=True)
    make_joined_site(now=scene.now)
    _roll_out(scene, strategy=strategy)


def a_rollout_that_soaks(scene: Scene) -> None:
    agent = make_joined_site(now=scene.now)
    stage = StageSpec(name="all", soak_seconds=3600, sites=frozenset({agent.site.name}))
    rollout = _roll_out(scene, (stage,))
    turn(rollout, agent, now=scene.now)


def a_rollout_that_failed(scene: Scene) -> None:
    agent = make_joined_site(now=scene.now)
    agent.broken.add(("asr", 1))
    rollout = _roll_out(scene, one_stage(on_failure=OnFailure.PAUSE))
    turn(rollout, agent, now=scene.now)


def _roll_out(scene: Scene, *stages: Any, **more: Any) -> Rollout:
    rollout = start(make_version("asr", now=scene.now), *stages, now=scene.now, **more)
    scene.names["rollout_id"] = rollout.pk
    return turn(rollout, now=scene.now)


def a_freeze(scene: Scene) -> None:
    body = {"selector": {"sites": ["nowhere"]}, **WHY}
    scene.names["freeze_id"] = scene.call("POST freezes", body).json()["id"]


def its_digest(scene: Scene) -> dict[str, str]:
    version = Version.objects.get(model__name="vad", number=scene.named("number"))
    return {"manifest_digest": version.manifest_digest}


def plan_digest(scene: Scene) -> dict[str, str]:
    return {"plan_digest": Rollout.objects.get(pk=scene.named("rollout_id")).plan_digest}


def signed_by_mlflow(scene: Scene) -> dict[str, str]:
    moment = str(int(scene.now.timestamp()))
    secret = settings.WAYPOST_MLFLOW_WEBHOOK_SECRET.encode()
    digest = hmac.digest(secret, f"d-1.{moment}.".encode() + ABOUT_VAD, hashlib.sha256)
    return {
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
        "X-MLflow-Timestamp": moment,
        "X-MLflow-Delivery-Id": "d-1",
    }


def identity(**header: str) -> str:
    """Of a CI job, signed by nobody."""
    parts = (header, {"iss": "https://nobody.example"}, {})
    raw = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in parts]
    return ".".join(part.rstrip("=") for part in raw)


VERSION = "models/{name}/versions/{number}"
BLOB = f"{VERSION}/blobs/{{sha256}}"
ROLLOUT = "rollouts/{rollout_id}"
GOOD: dict[str, Good] = {
    "PUT budget": Good(body={"changing_percent": 50, **WHY}),
    "POST freezes": Good(body={"selector": {"sites": ["nowhere"]}, **WHY}),
    "POST freezes/{freeze_id}/lift": Good(body=WHY, ready=a_freeze),
    "POST models": Good(body={"name": "ocr"}),
    "PATCH models/{name}": Good(body={"description": "hears"}),
    "PUT models/{name}/channels/{channel}": Good(
        body=lambda scene: {"version": str(scene.world.names["number"]), **WHY}
    ),
    "DELETE models/{name}/channels/{channel}": Good(),
    "POST models/{name}/imports": Good(body={"version": "3"}),
    "POST models/{name}/registry-links": Good(body={"remote_name": "other"}),
    "DELETE models/{name}/registry-links/{link_id}": Good(),
    "POST models/{name}/versions": Good(body={"manifest": manifest_of(FILES)}),
    f"PATCH {VERSION}": Good(body={"notes": "x"}),
    f"DELETE {VERSION}": Good(ready=an_uploading_version),
    f"POST {VERSION}/approve": Good(body=its_digest),
    f"POST {VERSION}/withdraw-approval": Good(
        body=WHY, ready=a_validated_version, after=((f"POST {VERSION}/approve", its_digest),)
    ),
    f"PUT {BLOB}": Good(body=WEIGHTS, ready=an_uploading_version),
    f"POST {BLOB}/multipart": Good(body=SIZE, ready=an_uploading_version),
    f"POST {BLOB}/multipart/complete": Good(body={"upload": "x"}, ready=an_uploading_version),
    f"POST {BLOB}/multipart/abort": Good(body={"upload": "x"}, ready=an_uploading_version),
    f"POST {VERSION}/finalise": Good(),
    f"POST {VERSION}/quarantine": Good(body=WHY),
    f"POST {VERSION}/release": Good(body=WHY, after=((f"POST {VERSION}/quarantine", WHY),)),
    f"POST {VERSION}/retire": Good(body=WHY, ready=another_version),
    f"POST {VERSION}/unretire": Good(
        body=WHY, ready=another_version, after=((f"POST {VERSION}/retire", WHY),)
    ),
    f"PUT {VERSION}/signature": Good(
        body=BUNDLE, ready=a_signable_version, after=(("POST signing-keys", KEY),)
    ),
    "POST publishers": Good(body=PUBLISHER),
    "POST publishers/{name}/revoke": Good(body=WHY),
    "POST registries/mlflow/webhook": Good(body=ABOUT_VAD, headers=signed_by_mlflow),
    "POST rollouts": Good(
        body=lambda scene: {
            "model": "vad",
            "version": str(scene.world.names["number"]),
            "on_conflict": "queue",
            "stages": [{"name": "all"}],
        }
    ),
    f"POST {ROLLOUT}/abort": Good(body=WHY),
    f"POST {ROLLOUT}/approve": Good(body=plan_digest, ready=a_rollout_that_waits_for_approval),
    f"POST {ROLLOUT}/pause": Good(body=WHY),
    f"POST {ROLLOUT}/promote": Good(body=WHY, ready=a_rollout_that_soaks),
    f"POST {ROLLOUT}/resume": Good(body=WHY, after=((f"POST {ROLLOUT}/pause", WHY),)),
    f"POST {ROLLOUT}/retry-failed": Good(body=WHY, ready=a_rollout_that_failed),
    f"POST {ROLLOUT}/rollback": Good(body=WHY),
    f"POST {ROLLOUT}/stop-waiting": Good(body=WHY, after=((f"POST {ROLLOUT}/rollback", WHY),)),
    f"PUT {ROLLOUT}/stages/{{stage}}/gates/{{gate}}": Good(body={"verdict": "pass"}),
    "POST signing-keys": Good(body=KEY),
    "POST signing-keys/{name}/revoke": Good(body=WHY),
    "POST sites": Good(body=SITE),
    "PATCH sites/{name}": Good(body={"region": "eu"}),
    "DELETE sites/{name}": Good(body=WHY),
    "POST sites/{name}/agent/new-key": Good(body={}),
    "POST sites/{name}/agent/revoke": Good(body=WHY),
    "POST sites/{name}/agent/unlock": Good(body=WHY),
    "POST sites/{name}/enrolment-tokens": Good(),
    "POST sites/{name}/readings": Good(body={"power_kw": 1}),
    "POST sites/{name}/restore": Good(body=WHY, after=(("DELETE sites/{name}", WHY),)),
    "POST sites/{name}/triton-floor-waiver": Good(body=WHY),
    "DELETE sites/{name}/triton-floor-waiver": Good(),
    "POST sites/{site}/models/{model}/pin": Good(body=WHY),
    "POST sites/{site}/models/{model}/unpin": Good(body=WHY),
    "POST strategies": Good(body=STRATEGY),
    "POST strategies/{name}/retire": Good(
        body=WHY,
        ready=lambda scene: scene.names.update(name="own"),
        after=(("POST strategies", STRATEGY),),
    ),
    "POST tokens": Good(body={"name": "x", "scopes": ["push"]}),
    "POST tokens/{token_id}/revoke": Good(body=WHY),
    "POST tokens/exchange": Good(body={"token": identity(alg="RS256", kid="x")}),
    "POST webhooks": Good(body=NEW_WEBHOOK),
    "PATCH webhooks/{name}": Good(body={"active": False}),
    "DELETE webhooks/{name}": Good(),
    "POST webhooks/{name}/deliveries/{delivery_id}/redeliver": Good(),
    "POST webhooks/{name}/rotate-secret": Good(),
    "POST webhooks/{name}/test": Good(),
    "POST windows": Good(body=WINDOW),
    "DELETE windows/{name}": Good(),
}
