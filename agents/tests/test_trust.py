"""A site takes the versions that its own keys signed, whatever the centre says of them."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from versions import Version, make_version
from waypost_agent.agent import Agent
from waypost_agent.config import Config, parse_config
from waypost_agent.doctor import check_all
from waypost_agent.doctor.gather import gather
from waypost_agent.errors import AnswerError, ConfigError
from waypost_agent.identity import Membership
from waypost_agent.protocol import ModelReport, parse_desired
from waypost_agent.signature import parse_key
from waypost_agent.situation import Target
from waypost_agent.trust import Trust, make_trust
from waypost_agent.trust_config import TrustConfig, parse_trust
from world import World

Key = ec.EllipticCurvePrivateKey
RELEASE, STRANGER = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))


def public(key: Key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def trust(*keys: Key, unsigned: str = "refused") -> Trust:
    return Trust([parse_key(public(key)) for key in keys], unsigned)


def signature(version: Version, key: Key = RELEASE, **more: bytes) -> dict[str, Any]:
    """Over the files of a version, and over those that are named besides."""
    files = {**version.files, **more}
    digests = [hashlib.sha256(data).digest() for _, data in sorted(files.items())]
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": "m", "digest": {"sha256": hashlib.sha256(b"".join(digests)).hexdigest()}}
        ],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256"},
            "resources": [
                {"name": name, "algorithm": "sha256", "digest": digest.hex()}
                for name, digest in zip(sorted(files), digests, strict=True)
            ],
        },
    }
    payload = json.dumps(statement).encode()
    kind = "application/vnd.in-toto+json"
    signed = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    sig = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [{"sig": base64.b64encode(sig).decode()}],
    }
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {}},
        "dsseEnvelope": envelope,
    }
    return {"kind": "oms", "bundle": bundle}


def with_signatures(*signatures: dict[str, Any]) -> dict[str, Any]:
    return {"signatures": list(signatures)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Serves version 1, which the release key signed."""
    world = World(tmp_path)
    trusting(world, trust(RELEASE))
    one = make_version("1")
    world.publish(one, also=with_signatures(signature(one)))
    assert outcome(world).phase == "succeeded"
    return world


def trusting(world: World, whom: Trust) -> None:
    """The operator changes agent.toml and restarts the agent."""
    world.trust = whom
    world.start()
    world.poll()


def outcome(world: World) -> ModelReport:
    report = world.converge()
    assert report is not None
    return report


def test_a_signed_version_is_fetched_proven_and_served(world: World) -> None:
    two = make_version("2")
    world.publish(two, previous="1", also=with_signatures(signature(two)))
    report = outcome(world)
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "2", True)


ATTACKS = {
    "no signature": lambda two: [],
    "of a stranger": lambda two: [signature(two, STRANGER)],
    "of another version": lambda two: [signature(make_version("9"))],
    "over a file more": lambda two: [signature(two, **{"model.so": b"code"})],
    "of another kind": lambda two: [{"kind": "tuf", "bundle": {}}],
    "an empty one": lambda two: [{}],
    "a broken one": lambda two: [{"kind": "oms", "bundle": {"mediaType": 7}}],
    "no bundle in it": lambda two: [{"kind": "oms", "bundle": None}],
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_no_key_signed_is_refused_before_the_first_byte(attack: str, world: World) -> None:
    opened, loads = len(world.blobs.opened), list(world.triton.loads)
    two = make_version("2")
    signatures = ATTACKS[attack](two)
    world.publish(two, previous="1", lease_required=True, also=with_signatures(*signatures))
    report = outcome(world)
    known = [each for each in signatures if each.get("kind") == "oms"]
    code = "signature-invalid" if known else "signature-missing"
    assert (report.phase, report.reason_code) == ("failed", code)
    assert (report.serving, report.healthy) == ("1", True)
    assert "[trust] of agent.toml" in report.reason
    assert len(world.blobs.opened) == opened
    assert world.leases.questions == []
    assert world.triton.loads == loads


def test_one_good_signature_among_bad_ones_is_enough(world: World) -> None:
    two = make_version("2")
    many = [ATTACKS[name](two) for name in ATTACKS]
    world.publish(
        two, previous="1", also=with_signatures(*(s for each in many for s in each), signature(two))
    )
    assert outcome(world).serving == "2"


def test_any_of_several_keys_will_do(world: World) -> None:
    trusting(world, trust(STRANGER, RELEASE))
    two, three = make_version("2"), make_version("3")
    world.publish(two, previous="1", also=with_signatures(signature(two, STRANGER)))
    assert outcome(world).serving == "2"
    world.publish(three, previous="2", also=with_signatures(signature(three, RELEASE)))
    assert outcome(world).serving == "3"


def test_a_key_that_is_taken_away_stops_what_was_fetched_before_it_is_loaded(world: World) -> None:
    two = make_version("2")
    world.leases.fate = "refuse"
    world.publish(two, previous="1", lease_required=True, also=with_signatures(signature(two)))
    world.cycles(30)
    staged = world.report()
    assert staged is not None
    assert staged.phase == "staged"
    loads = list(world.triton.loads)
    trusting(world, trust(STRANGER))
    world.leases.fate = "grant"
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "signature-invalid")
    assert (report.serving, report.healthy) == ("1", True)
    assert world.triton.loads == loads


def test_what_serves_goes_on_and_comes_back_whoever_signed_it(world: World) -> None:
    trusting(world, trust(STRANGER))
    world.publish(make_version("1"))  # the same wish in a newer generation, and no signature
    report = outcome(world)
    assert (report.phase, report.serving) == ("succeeded", "1")
    assert "comes without a signature" in report.reason
    world.triton.restart()
    report = outcome(world)
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "1", True)


def test_the_way_back_needs_a_signature_too(world: World) -> None:
    two = make_version("2")
    world.publish(two, previous="1", also=with_signatures(signature(two)))
    assert outcome(world).serving == "2"
    world.publish(make_version("1"), previous="2")
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "signature-missing")
    assert (report.serving, report.healthy) == ("2", True)
    one = make_version("1")
    world.publish(one, previous="2", also=with_signatures(signature(one)))
    assert outcome(world).serving == "1"


def test_a_first_version_without_a_signature_leaves_nothing_behind(tmp_path: Path) -> None:
    world = World(tmp_path)
    trusting(world, trust(RELEASE))
    world.publish(make_version("1"))
    report = outcome(world)
    assert (report.phase, report.serving) == ("failed", None)
    assert world.blobs.opened == []


def test_an_agent_that_lost_its_journal_does_not_unload_what_answers_users(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.publish(make_version("1"))
    assert outcome(world).serving == "1"
    for path in (tmp_path / "state" / "journal").rglob("*echo*"):
        path.unlink()
    trusting(world, trust(RELEASE))
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "signature-missing")
    assert world.triton.ready("echo") == {"1"}


def test_where_it_is_only_warned_the_report_says_so(world: World) -> None:
    trusting(world, trust(RELEASE, unsigned="warned"))
    world.publish(make_version("2"), previous="1")
    report = outcome(world)
    assert (report.phase, report.serving) == ("succeeded", "2")
    assert "version 2 comes without a signature" in report.reason


@pytest.mark.parametrize("whom", [Trust(), trust(RELEASE, unsigned="allowed")])
def test_where_it_is_allowed_nothing_is_said(whom: Trust, world: World) -> None:
    trusting(world, whom)
    world.publish(make_version("2"), previous="1")
    report = outcome(world)
    assert (report.phase, report.serving) == ("succeeded", "2")
    assert "signature" not in report.reason


@pytest.mark.parametrize("value", ["x", {}, [7], ["x"], [{}] * 17, True])
def test_a_wish_whose_signatures_are_no_list_of_objects_is_refused_whole(value: object) -> None:
    wish = {"model": "echo", "generation": 1, "version": None, "manifest": None,
            "manifest_digest": None, "previous": None, "signatures": value}  # fmt: skip
    document = {"epoch": 1, "generation": 1, "site": "edge-1", "models": [wish]}
    with pytest.raises(AnswerError):
        parse_desired(document)


def test_a_verdict_is_remembered_by_manifest_and_signature(world: World) -> None:
    two = make_version("2")
    world.publish(two, also=with_signatures(signature(two)))
    (entry,) = parse_desired(
        {"epoch": 1, "generation": 2, "site": "edge-1", "models": list(world.wishes.values())}
    ).models
    manifest = entry.manifest
    assert manifest is not None
    target = Target(version="2", digest=manifest.digest)
    judge = trust(RELEASE)
    assert not judge.is_signed(manifest)
    for _ in range(2):
        assert judge.look(target, manifest, [], committed=None).reason_code
        assert not judge.is_signed(manifest)
    assert not judge.look(target, manifest, entry.signatures, committed=None).reason_code
    assert judge.is_signed(manifest)
    assert judge.look(target, manifest, [], committed=None).reason_code


# Configuration


@pytest.mark.parametrize(
    ("table", "keys", "unsigned"),
    [
        ({}, 0, "allowed"),
        ({"keys": []}, 0, "allowed"),
        ({"keys": ["/a.pem"]}, 1, "refused"),
        ({"keys": ["/a.pem", "/b.pem"], "unsigned": "warned"}, 2, "warned"),
        ({"keys": ["/a.pem"], "unsigned": "allowed"}, 1, "allowed"),
    ],
)
def test_who_gives_keys_means_them(table: dict[str, Any], keys: int, unsigned: str) -> None:
    parsed = parse_config({"state_dir": "/s", "triton": {"repository": "/m"}, "trust": table}).trust
    assert (len(parsed.keys), parsed.unsigned) == (keys, unsigned)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"keys": "/a.pem"}, "trust.keys: must be a list"),
        ({"keys": ["a.pem"]}, "trust.keys: must be a list of absolute paths"),
        ({"keys": [7]}, "trust.keys"),
        ({"keys": ["/a.pem"] * 17}, "at most 16"),
        ({"keys": ["/a.pem"], "unsigned": "no"}, "trust.unsigned: must be one of"),
        ({"keys": ["/a.pem"], "unsigned": True}, "trust.unsigned"),
        ({"unsigned": "refused"}, "trust.keys names no key"),
        ({"key": "/a.pem"}, "trust.key: unknown key"),
    ],
)
def test_what_cannot_be_meant(table: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_trust(table)


def test_keys_that_cannot_be_read_stop_the_start_with_the_file_named(tmp_path: Path) -> None:
    path = tmp_path / "release.pem"
    config = TrustConfig(keys=(path,), unsigned="refused")
    with pytest.raises(ConfigError, match=r"release\.pem cannot be read"):
        make_trust(config)
    path.write_text("no key")
    with pytest.raises(ConfigError, match=r"release\.pem must hold exactly one public key"):
        make_trust(config)
    path.write_bytes(public(RELEASE))
    found = make_trust(config)
    assert found.document() == {
        "unsigned": "refused",
        "keys": [parse_key(public(RELEASE)).fingerprint],
    }


def config_file(tmp_path: Path, keys: list[Path]) -> Path:
    (tmp_path / "models").mkdir()
    named = json.dumps([str(key) for key in keys])
    path = tmp_path / "agent.toml"
    path.write_text(
        f'state_dir = "{tmp_path}"\n[triton]\nrepository = "{tmp_path}/models"\n'
        f'grpc_url = "127.0.0.1:1"\n[trust]\nkeys = {named}\n'
    )
    return path


def test_the_doctor_sees_keys_that_are_missing_or_open_to_others(tmp_path: Path) -> None:
    key = tmp_path / "release.pem"
    config = config_file(tmp_path, [key])

    def verdict() -> tuple[str, str]:
        (check,) = (c for c in check_all(*gather(config)) if c.name == "release keys")
        return check.verdict, check.seen

    assert verdict()[0] == "fail"
    key.write_bytes(public(RELEASE))
    key.chmod(0o666)
    assert "can be changed by others" in verdict()[1]
    key.chmod(0o644)
    fingerprint = parse_key(public(RELEASE)).fingerprint
    assert verdict() == (
        "ok", f"{fingerprint[:16]}; versions that none of them signed are refused"
    )  # fmt: skip


def test_an_agent_reports_whom_it_trusts(tmp_path: Path) -> None:
    key = tmp_path / "release.pem"
    key.write_bytes(public(RELEASE))
    document = {
        "state_dir": str(tmp_path),
        "centre_url": "http://127.0.0.1:1",
        "triton": {"repository": str(tmp_path)},
        "trust": {"keys": [str(key)]},
    }
    config: Config = parse_config(document)
    membership = Membership(
        agent="a", site="edge-1", centre_url="http://127.0.0.1:1", poll_seconds=15, token_sha256=""
    )
    agent = Agent(config, membership)
    fingerprint = parse_key(public(RELEASE)).fingerprint
    assert agent._inventory()["trust"] == {"unsigned": "refused", "keys": [fingerprint]}
    for server in agent.servers:
        server.close()
