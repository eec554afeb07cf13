"""A catalogue in which every state and every part of its pages is somewhere, for tests of pages."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from controlplane.accounts.models import ApiToken, Scope, User
from controlplane.accounts.publishers import create_publisher
from controlplane.accounts.services import create_api_token, revoke_api_token
from controlplane.catalog.approvals import approve_version
from controlplane.catalog.channels import move_channel
from controlplane.catalog.models import (
    ImportedVersion,
    ImportState,
    Model,
    RegistryLink,
    Version,
    VersionSignature,
    VersionState,
)
from controlplane.catalog.registry.linking import link_model
from controlplane.catalog.signing_keys import add_signing_key, find_signing_key, revoke_signing_key
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Agent, Site
from tests.factories import ACTOR, make_rollout, make_version
from tests.services.test_variants import GIB, make_builds, site_with

SECRETIVE = "https://user:pass@evil.example/"
LINEAGE = {
    "git_repository": "https://git.example/acme/vad",
    "git_commit": "0123456789abcdef",
    "ci_run": "http://ci.example/7",
    "mlflow_run": "javascript:alert(1)",
    "dataset": SECRETIVE,
    "metrics": {f"metric-{n:02}": n / 7 for n in range(20)},
}


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """`served` runs at fra and is what stable points at; `waiting` has one yes of two; `builds` has
    two builds, for hardware that some sites have."""

    served: Version
    waiting: Version
    builds: Version
    token: ApiToken
    link: RegistryLink
    failed: ImportedVersion


def public_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def make_catalogue(user: User, *, now: datetime) -> Catalogue:
    agents = [site_with(name, has, now=now) for name, has in (("fra", "8.9"), ("osl", "8.6"))]
    closed = site_with("rom", None, now=now)
    Agent.objects.filter(pk=closed.agent_id).update(
        executable_allowed=False, trust={"unsigned": "refused", "keys": ["a" * 64]}
    )
    Site.objects.filter(name="rom").update(floor_waiver="", floor_waiver_by="")
    served = make_version("vad", author=user.username, now=now)
    Version.objects.filter(pk=served.pk).update(
        lineage=LINEAGE, labels={"quality": "measured"}, notes="A good one.\nMeasured twice.",
        warnings=["config.pbtxt line 3: max_batch_size is 0. State one."],
    )  # fmt: skip
    make_rollout(RolloutState.SUCCEEDED, version=served, agents=agents, now=now)
    waiting = make_version("vad", state=VersionState.VALIDATED, author="ana", now=now)
    approve_version(
        version=waiting, manifest_digest=waiting.manifest_digest, person="bo",
        reason="it answers well", actor="user:bo", now=now,
    )  # fmt: skip
    for state in (VersionState.QUARANTINED, VersionState.RETIRED, VersionState.UPLOADING):
        make_version("vad", state=state, now=now)
    make_version("asr", state=VersionState.REGISTERED, now=now)
    builds = make_builds(
        {
            "trt-8.9": {
                "priority": 10,
                "requires": {
                    "compute_capability_exact": "8.9",
                    "accelerator_memory_bytes": 2 * GIB,
                },
            },
            "onnx": {"requires": {"memory_bytes": 1000 * GIB, "backends": ["onnxruntime"]}},
        },
        now=now,
    )
    for name, strategy in (("stable", "canary"), ("candidate", "")):
        move_channel(
            model=served.model, name=name, version=served, strategy=strategy, reason="it is good",
            actor=ACTOR, person="tests", now=now,
        )  # fmt: skip
    link, _ = link_model(
        model_name="vad", remote_name="acme-vad", aliases={"prod": "stable"},
        stages={"Staging": ""}, actor=ACTOR, person="tests", now=now,
    )  # fmt: skip
    link.failure, link.failed_since = "it does not answer", now - timedelta(hours=3)
    link.save()
    failed = ImportedVersion.objects.create(
        link=link, remote_version="3", state=ImportState.FAILED, reason="its bytes are gone",
        attempts=5, asked_by=ACTOR, asked_at=now, finished_at=now,
    )  # fmt: skip
    ImportedVersion.objects.create(
        link=link, remote_version="4", state=ImportState.IMPORTED, version=waiting,
        source_uri="models:/m-1", asked_by=ACTOR, asked_at=now, finished_at=now,
    )  # fmt: skip
    return Catalogue(
        served=served, waiting=waiting, builds=builds, token=_machines(user, now), link=link,
        failed=failed,
    )  # fmt: skip


def _machines(user: User, now: datetime) -> ApiToken:
    """Tokens, a publisher and keys, live and not; a signature by each key."""
    token, _ = create_api_token(
        user=user, name="ci", scopes=[Scope.PUSH], model_names=["vad"], actor=ACTOR, now=now
    )
    old, _ = create_api_token(user=user, name="old", scopes=[Scope.READ], actor=ACTOR, now=now)
    revoke_api_token(token=old, actor=ACTOR, now=now)
    create_publisher(
        name="ci-main", issuer="https://issuer.example", audience="waypost",
        claims={"ref": "refs/heads/main", "repository": "acme/vad"}, user=user,
        scopes=[Scope.PUSH], model_names=["vad"], actor=ACTOR, now=now,
    )  # fmt: skip
    version = Version.objects.get(model=Model.objects.get(name="vad"), number=1)
    for name in ("release", "lost"):
        add_signing_key(name=name, public_key=public_key(), actor=ACTOR, now=now)
        VersionSignature.objects.create(
            version=version, key=find_signing_key(name), bundle={}, added_by=ACTOR, added_at=now
        )
    revoke_signing_key(name="lost", reason="left in a train", actor=ACTOR, now=now)
    return token


def catalogue_paths(made: Catalogue) -> list[str]:
    """Every page and every question of the catalogue."""
    served, waiting, builds = (
        f"/models/vad/{version.number}/" for version in (made.served, made.waiting, made.builds)
    )
    return [
        "/models/", "/models/vad/", "/models/vad/?state=validated", "/models/asr/",
        "/models/vad/policy/", "/models/vad/new-channel/", "/models/vad/channels/stable/move/",
        "/models/vad/channels/stable/remove/", f"/models/vad/links/{made.link.pk}/look/",
        f"/models/vad/imports/{made.failed.pk}/again/",
        served, waiting, builds, "/models/vad/3/", "/models/vad/4/", "/models/vad/5/",
        "/models/asr/1/", f"{served}golden/", f"{builds}golden/", f"{builds}fit/",
        f"{served}fit/?verdict=no", f"{waiting}approve/", f"{waiting}withdraw/",
        f"{waiting}retire/", "/models/vad/4/unretire/", f"{waiting}notes/",
        "/access/", "/access/new-token/", f"/access/tokens/{made.token.pk}/revoke/",
        "/access/publishers/", "/access/new-publisher/", "/access/publishers/ci-main/revoke/",
        "/access/keys/", "/access/new-key/", "/access/keys/release/revoke/",
        "/sites/rom/floor/waive/", "/sites/fra/floor/restore/", "/sites/rom/",
    ]  # fmt: skip
