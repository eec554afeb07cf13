"""`waypost sign`, `push --signature` and `waypost keys`."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Waypost
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fake_api import FakeApi, problem
from waypost_cli.bundle import read_bundle

CURVES = {
    "P-256": (ec.SECP256R1(), hashes.SHA256()),
    "P-384": (ec.SECP384R1(), hashes.SHA384()),
    "P-521": (ec.SECP521R1(), hashes.SHA512()),
}


def write_key(path: Path, key: Any, encryption: KeySerializationEncryption | None = None) -> Path:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())
    path.write_bytes(pem)
    return path


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


@pytest.mark.parametrize("curve", CURVES)
def test_a_signature_says_what_every_file_is(
    curve: str, waypost: Waypost, folder: Path, tmp_path: Path
) -> None:
    kind, digest = CURVES[curve]
    key = ec.generate_private_key(kind)
    out = tmp_path / "out.sig"

    ran = waypost(
        "sign", str(folder), "--key", str(write_key(tmp_path / "key", key)), "--out", str(out)
    )

    assert ran.exit_code == 0, ran.stderr
    bundle = json.loads(out.read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    hint = hashlib.sha256(public_pem(key)).hexdigest()
    assert bundle["verificationMaterial"] == {"publicKey": {"hint": hint}, "tlogEntries": []}
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    key.public_key().verify(signature, signed, ec.ECDSA(digest))
    statement = json.loads(payload)
    files = {each["name"]: each["digest"] for each in statement["predicate"]["resources"]}
    assert files == {file.path: file.sha256 for file in read_bundle(folder).files}
    whole = b"".join(bytes.fromhex(sha256) for sha256 in files.values())
    assert statement["subject"] == [
        {"name": folder.name, "digest": {"sha256": hashlib.sha256(whole).hexdigest()}}
    ]


def test_a_signature_is_not_laid_into_what_it_signs(
    waypost: Waypost, folder: Path, tmp_path: Path
) -> None:
    key = write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()))
    before = sorted(folder.rglob("*"))

    ran = waypost("sign", str(folder), "--key", str(key), "--out", str(folder / "model.sig"))

    assert ran.exit_code == 1
    assert "would be a file of the version itself" in ran.stderr
    assert sorted(folder.rglob("*")) == before


def test_a_key_with_a_password(
    waypost: Waypost, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encryption = BestAvailableEncryption(b"correct")
    key = write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()), encryption)
    call = ("sign", str(folder), "--key", str(key), "--out", str(tmp_path / "out.sig"))

    assert "cure: set WAYPOST_SIGN_KEY_PASSWORD" in waypost(*call).stderr
    monkeypatch.setenv("WAYPOST_SIGN_KEY_PASSWORD", "wrong")
    assert "the password is wrong" in waypost(*call).stderr
    monkeypatch.setenv("WAYPOST_SIGN_KEY_PASSWORD", "correct")
    assert waypost(*call).exit_code == 0


@pytest.mark.parametrize("what", ["ed25519", "k256", "public", "text", "missing"])
def test_a_key_that_cannot_sign(what: str, waypost: Waypost, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "key"
    if what == "ed25519":
        write_key(path, ed25519.Ed25519PrivateKey.generate())
    elif what == "k256":
        write_key(path, ec.generate_private_key(ec.SECP256K1()))
    elif what == "public":
        path.write_bytes(public_pem(ec.generate_private_key(ec.SECP256R1())))
    elif what == "text":
        path.write_text("secret words")

    ran = waypost("sign", str(folder), "--key", str(path), "--out", str(tmp_path / "out.sig"))

    assert ran.exit_code == 1
    assert "openssl genpkey" in ran.stderr
    assert "secret words" not in ran.stderr
    assert not (tmp_path / "out.sig").exists()


def accept(fake: FakeApi, version: str = "1") -> None:
    path = f"models/vad/versions/{version}/signature"
    fake.answers["PUT", path] = {"standing": {"signed_by": ["release"]}, "signatures": []}


def test_a_push_attaches_what_was_signed_before(
    waypost: Waypost, fake: FakeApi, folder: Path, tmp_path: Path
) -> None:
    key = write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()))
    out = tmp_path / "out.sig"
    waypost("sign", str(folder), "--key", str(key), "--out", str(out))
    accept(fake)

    ran = waypost("push", "vad", str(folder), "--signature", str(out))

    assert ran.exit_code == 0, ran.stderr
    assert "vad version 1 is signed by release" in ran.stderr
    (put,) = fake.requests("PUT", "signature")
    assert put.headers["content-type"] == "application/json"
    assert put.headers["content-length"] == str(out.stat().st_size)


def test_a_push_signs_as_it_goes(
    waypost: Waypost, fake: FakeApi, folder: Path, tmp_path: Path
) -> None:
    key = write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()))
    accept(fake)

    ran = waypost("push", "vad", str(folder), "--sign-key", str(key))

    assert ran.exit_code == 0, ran.stderr
    assert len(fake.requests("PUT", "signature")) == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--sign-key", "/no/key"),
        ("--signature", "/no/sig"),
        ("--signature", "x", "--sign-key", "y"),
    ],
)
def test_a_signature_that_cannot_be_is_known_before_anything_is_sent(
    options: tuple[str, ...], waypost: Waypost, fake: FakeApi, folder: Path
) -> None:
    ran = waypost("push", "vad", str(folder), *options)

    assert ran.exit_code == 1
    assert fake.seen == []


def test_a_signature_that_is_refused_fails_the_push_with_every_file(
    waypost: Waypost, fake: FakeApi, folder: Path, tmp_path: Path
) -> None:
    key = write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()))
    errors = [{"field": "model.py", "message": "is signed with sha256 1, the version has 2"}]
    refusal = problem(422, "signature-mismatch", errors=errors)
    fake.intervene("PUT", "signature", refusal)

    ran = waypost("push", "vad", str(folder), "--sign-key", str(key))

    assert ran.exit_code == 1
    assert "model.py" in ran.stderr


def test_keys_are_added_listed_and_revoked(waypost: Waypost, fake: FakeApi, tmp_path: Path) -> None:
    pem = tmp_path / "public.pem"
    pem.write_bytes(public_pem(ec.generate_private_key(ec.SECP256R1())))
    shown = {"name": "release", "key_type": "ecdsa-p256", "revoked_at": None}
    fake.answers["POST", "signing-keys"] = shown
    fake.answers["POST", "signing-keys/release/revoke"] = {**shown, "revoked_at": "2026-11-23"}
    fake.lists["signing-keys"] = [shown]

    assert waypost("keys", "add", "release", str(pem)).exit_code == 0
    assert fake.seen[-1].body == {"name": "release", "public_key": pem.read_text()}
    assert "live" in waypost("keys").stdout
    assert "live" in waypost("keys", "list").stdout
    ran = waypost("keys", "revoke", "release", "--reason", "it leaked")
    assert "revoked" in ran.stdout
    assert "agent.toml" in ran.stderr
    assert fake.seen[-1].body == {"reason": "it leaked"}


def test_a_private_key_stays_here(waypost: Waypost, fake: FakeApi, tmp_path: Path) -> None:
    key = write_key(tmp_path / "key", ec.generate_private_key(ec.SECP256R1()))

    ran = waypost("keys", "add", "release", str(key))

    assert ran.exit_code == 1
    assert "-pubout" in ran.stderr
    assert fake.seen == []
