"""Signing keys and signatures over REST, into the wish of an agent, and from the command line's
signature to the site's own verdict."""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from waypost_agent.manifest import parse_manifest
from waypost_agent.signature import parse_key
from waypost_agent.situation import Target
from waypost_agent.trust import Trust
from waypost_cli.signing import SigningKey as SigningKeyPair
from waypost_cli.signing import sign_files

from controlplane.audit.models import Event
from controlplane.catalog.models import SigningKey, Version, VersionSignature, VersionState
from controlplane.catalog.services import create_version
from controlplane.catalog.signatures import require_standing, signature_standing
from controlplane.domain.errors import Conflict
from controlplane.domain.manifest import SCHEMA
from controlplane.domain.rollout import RolloutState
from tests.api.calls import AgentCaller, ApiCaller, assert_problem
from tests.factories import ACTOR, make_rollout, make_version

EXAMPLES = json.loads(
    (Path(__file__).parents[2] / "docs/protocol/signatures.json").read_text(encoding="utf-8")
)
CASES = {case["name"]: case for case in EXAMPLES["cases"]}
GOOD = CASES["the official tool, P-256"]["bundle"].encode()
VERSION = "models/vad/versions/1"


def version_of(files: Mapping[str, str], now: datetime) -> Version:
    entries = [{"path": path, "size": 3, "sha256": sha256} for path, sha256 in files.items()]
    sizes = {sha256: 3 + n for n, sha256 in enumerate(dict.fromkeys(files.values()))}
    for entry in entries:
        entry["size"] = sizes[str(entry["sha256"])]
    version, _ = create_version(
        model_name="vad", number=1, manifest={"schema": SCHEMA, "files": entries},
        actor=ACTOR, now=now,
    )  # fmt: skip
    return version


@pytest.fixture
def version(now: datetime) -> Version:
    """Has the files of the examples."""
    return version_of(EXAMPLES["files"]["vad"], now)


def add_key(api: ApiCaller, name: str = "p256") -> Any:
    body = {"name": name, "public_key": EXAMPLES["keys"][name]["pem"]}
    return api.post("signing-keys", body)


def put(api: ApiCaller, bundle: bytes, path: str = VERSION) -> Any:
    return api._send("PUT", f"{path}/signature", bundle)


def test_a_key_is_added_once_listed_and_revoked(api: ApiCaller) -> None:
    assert add_key(api).status_code == 201
    assert add_key(api).status_code == 200

    (key,) = api.get("signing-keys").json()["results"]
    assert (key["name"], key["key_type"]) == ("p256", "ecdsa-p256")
    assert key["fingerprint"] == EXAMPLES["keys"]["p256"]["fingerprint"]
    revoked = api.post("signing-keys/p256/revoke", {"reason": "it leaked"}).json()
    assert revoked["revoked_at"]
    assert revoked["revoked_reason"] == "it leaked"
    again = api.post("signing-keys/p256/revoke", {"reason": "twice"}).json()
    assert again["revoked_reason"] == "it leaked"
    assert_problem(add_key(api), 409, "signing-key-revoked")
    told = Event.objects.filter(object_type="signing_key").values_list("action", "reason")
    assert sorted(told) == [("signing_key.added", ""), ("signing_key.revoked", "it leaked")]


def test_a_name_and_a_key_belong_together_for_ever(api: ApiCaller) -> None:
    add_key(api)
    pem = EXAMPLES["keys"]["p256"]["pem"]
    other = EXAMPLES["keys"]["p384"]["pem"]

    body = {"name": "another", "public_key": pem}
    assert_problem(api.post("signing-keys", body), 409, "signing-key-exists")
    body = {"name": "p256", "public_key": other}
    assert_problem(api.post("signing-keys", body), 409, "signing-key-exists")
    assert_problem(api.post("signing-keys/none/revoke", {}), 404, "signing-key-unknown")


def test_all_that_is_wrong_with_a_key_is_said_at_once(api: ApiCaller) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    answer = api.post("signing-keys", {"name": "a b", "public_key": pem})

    problem = assert_problem(answer, 422, "signing-key-invalid")
    assert [fault["field"] for fault in problem["errors"]] == ["name", "public_key"]
    assert "BEGIN" not in answer.content.decode()


def test_who_may_do_what(with_scopes: Callable[..., ApiCaller], version: Version) -> None:
    ci, keeper = with_scopes("push"), with_scopes("approve")
    assert_problem(add_key(ci), 403, "scope-missing")
    assert add_key(keeper).status_code == 201
    assert_problem(put(keeper, GOOD), 403, "scope-missing")
    assert put(ci, GOOD).status_code == 201
    assert_problem(ci.post("signing-keys/p256/revoke", {}), 403, "scope-missing")


def test_a_signature_is_kept_once(api: ApiCaller, version: Version) -> None:
    add_key(api)

    first = put(api, GOOD)
    again = put(
        api, CASES["the other s of the same signature (malleated P-256)"]["bundle"].encode()
    )

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json() == api.get(f"{VERSION}/signature").json()
    document = first.json()
    assert document["standing"]["signed_by"] == ["p256"]
    assert document["standing"]["verdict"] == "ok"
    (kept,) = document["signatures"]
    assert (kept["kind"], kept["key"], kept["bundle"]) == ("oms", "p256", json.loads(GOOD))
    events = Event.objects.filter(action="version.signed")
    assert [event.data["key"] for event in events] == ["p256"]


WRONG = [name for name, case in CASES.items() if "fault" in case and case["files"] == "vad"]


@pytest.mark.parametrize("name", WRONG)
def test_no_attack_gets_in(name: str, api: ApiCaller, version: Version) -> None:
    case = CASES[name]
    for key in case["keys"]:
        add_key(api, key)

    answer = put(api, case["bundle"].encode())

    code = {"key-unknown": "signature-unknown-key", "files-differ": "signature-mismatch"}.get(
        case["fault"], "signature-invalid"
    )
    problem = assert_problem(answer, 422, code)
    if code == "signature-invalid":
        assert problem["fault"] == case["fault"]
    assert not VersionSignature.objects.exists()


@pytest.mark.parametrize("body", [b"", b"{}", b"[" * 10_000, b"\xff", b"null", b'{"a": NaN}'])
def test_bodies_that_are_no_bundle(body: bytes, api: ApiCaller, version: Version) -> None:
    assert_problem(put(api, body), 422, "signature-invalid")


def test_every_file_that_differs_is_named(api: ApiCaller, now: datetime) -> None:
    files = EXAMPLES["files"]["vad"]
    renamed = {{"model.onnx": "other.onnx"}.get(path, path): sha for path, sha in files.items()}
    renamed["config.pbtxt"] = "0" * 64
    version_of(renamed, now)
    add_key(api)

    problem = assert_problem(put(api, GOOD), 422, "signature-mismatch")

    named = [fault["field"] for fault in problem["errors"]]
    assert named == ["config.pbtxt", "model.onnx", "other.onnx"]


def test_a_revoked_key_signs_nothing_and_what_it_signed_counts_no_more(
    api: ApiCaller, version: Version
) -> None:
    add_key(api)
    put(api, GOOD)
    version.model.unsigned = "refused"
    version.model.save()
    assert signature_standing(version).verdict == "ok"

    api.post("signing-keys/p256/revoke", {"reason": "it leaked"})

    standing = api.get(f"{VERSION}/signature").json()["standing"]
    assert standing["verdict"] == "refused"
    assert "only by p256, which was revoked" in standing["sentence"]
    assert_problem(put(api, GOOD), 422, "signature-unknown-key")
    version = Version.objects.select_related("model").get()
    with pytest.raises(Conflict, match="revoked"):
        require_standing(version)


@pytest.mark.parametrize(
    ("policy", "verdict"), [("allowed", "ok"), ("warned", "warned"), ("refused", "refused")]
)
def test_what_becomes_of_an_unsigned_version(
    policy: str, verdict: str, api: ApiCaller, version: Version
) -> None:
    version.model.unsigned = policy
    version.model.save()

    standing = api.get(f"{VERSION}/signature").json()["standing"]

    assert (standing["policy"], standing["verdict"]) == (policy, verdict)
    assert standing["signed_by"] == []
    assert standing["sentence"].startswith("No release key signed it")


def test_a_signature_comes_to_the_site_with_the_wish(
    api: ApiCaller, edge: AgentCaller, now: datetime
) -> None:
    key, version = sign_a_real_version(api, now)
    make_rollout(RolloutState.RUNNING, version=version, agents=[edge.agent], now=now)

    (wish,) = edge.get("desired").json()["models"]

    (signature,) = wish["signatures"]
    assert signature["kind"] == "oms"
    manifest = parse_manifest(wish["manifest"], wish["manifest_digest"])
    trust = Trust([parse_key(key)], "refused")
    target = Target(version="1", digest=manifest.digest)
    assert trust.look(target, manifest, wish["signatures"], committed=None).reason_code == ""
    assert trust.is_signed(manifest)
    stranger = Trust([parse_key(EXAMPLES["keys"]["p256"]["pem"].encode())], "refused")
    fit = stranger.look(target, manifest, wish["signatures"], committed=None)
    assert fit.reason_code == "signature-invalid"


def test_what_a_revoked_key_signed_still_comes_to_a_site_that_trusts_it(
    api: ApiCaller, edge: AgentCaller, now: datetime
) -> None:
    key, version = sign_a_real_version(api, now)
    make_rollout(RolloutState.RUNNING, version=version, agents=[edge.agent], now=now)
    api.post("signing-keys/release/revoke", {"reason": "it leaked"})

    (wish,) = edge.get("desired").json()["models"]

    manifest = parse_manifest(wish["manifest"], wish["manifest_digest"])
    target = Target(version="1", digest=manifest.digest)
    trusting = Trust([parse_key(key)], "refused")
    assert trusting.look(target, manifest, wish["signatures"], committed=None).reason_code == ""
    other = Trust([parse_key(EXAMPLES["keys"]["p256"]["pem"].encode())], "refused")
    fit = other.look(target, manifest, wish["signatures"], committed=None)
    assert fit.reason_code == "signature-invalid"


def sign_a_real_version(api: ApiCaller, now: datetime) -> tuple[bytes, Version]:
    """Signed as the command line signs; the public key in PEM, and the version."""
    version = make_version("vad", 1, now=now)
    assert version.state != VersionState.UPLOADING
    private = ec.generate_private_key(ec.SECP384R1())
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = {"name": "release", "public_key": public.decode()}
    assert api.post("signing-keys", body).status_code == 201
    files = dict(version.files.values_list("path", "sha256"))
    bundle = sign_files(files, subject="vad", key=SigningKeyPair(fingerprint="", key=private))
    assert put(api, bundle).status_code == 201
    assert SigningKey.objects.get().key_type == "ecdsa-p384"
    return public, version
