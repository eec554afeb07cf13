"""Release signatures as the agent judges them: the table that the centre is held to as well."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from waypost_agent.protocol import parse_desired
from waypost_agent.signature import (
    MAX_BYTES,
    SignatureFault,
    check_bundle,
    parse_key,
    read_json,
)

EXAMPLES = json.loads(
    (Path(__file__).parents[2] / "docs/protocol/signatures.json").read_text(encoding="utf-8")
)
CASES: Mapping[str, Mapping[str, Any]] = {case["name"]: case for case in EXAMPLES["cases"]}
GOOD = CASES["the official tool, P-256"]


KEYS = {name: parse_key(each["pem"].encode()) for name, each in EXAMPLES["keys"].items()}


def judge(case: Mapping[str, Any]) -> str:
    """The signer's name with a plus, or the code of the fault."""
    keys = [KEYS[name] for name in case["keys"]]
    try:
        bundle = read_json(case["bundle"].encode(), "bundle-not-json")
        signer = check_bundle(bundle, keys, EXAMPLES["files"][case["files"]])
    except SignatureFault as fault:
        return fault.code
    names = {each["fingerprint"]: name for name, each in EXAMPLES["keys"].items()}
    return "+" + names[signer.fingerprint]


@pytest.mark.parametrize("name", CASES)
def test_the_table(name: str) -> None:
    case = CASES[name]
    expected = f"+{case['signed_by']}" if "signed_by" in case else case["fault"]
    assert judge(case) == expected


def test_the_wish_of_the_examples_is_signed() -> None:
    path = Path(__file__).parents[2] / "docs/protocol/desired-signed-answer.json"
    (wish, retired) = parse_desired(json.loads(path.read_text(encoding="utf-8"))).models
    assert wish.manifest is not None
    files = {file.path: file.sha256 for file in wish.manifest.files}
    (signature,) = wish.signatures
    assert signature["kind"] == "oms"
    signer = check_bundle(signature["bundle"], [KEYS["desired"], KEYS["p256"]], files)
    assert signer == KEYS["desired"]
    assert retired.signatures == ()


def test_any_bit_of_the_payload_counts() -> None:
    bundle = json.loads(GOOD["bundle"])
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
    for at in range(0, len(payload), 37):
        changed = bytearray(payload)
        changed[at] ^= 1 << (at % 8)
        bundle["dsseEnvelope"]["payload"] = base64.b64encode(changed).decode()
        assert judge({**GOOD, "bundle": json.dumps(bundle)}) == "key-unknown"


@pytest.mark.parametrize("text", ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000, "", "null", "7"])
def test_json_that_is_no_bundle(text: str) -> None:
    assert judge({**GOOD, "bundle": text}) == "bundle-not-json"


def test_a_payload_has_an_end() -> None:
    with pytest.raises(SignatureFault) as caught:
        read_json(b" " * (MAX_BYTES + 1), "payload-not-json")
    assert caught.value.code == "bundle-too-large"


def test_a_part_of_a_build_is_no_build() -> None:
    case = CASES["the official tool, a version of two builds, one of them at a site"]
    bundle = json.loads(case["bundle"])
    keys = [KEYS["p256"]]
    whole = EXAMPLES["files"]["trt"]
    for left_out in whole:
        part = {path: sha256 for path, sha256 in whole.items() if path != left_out}
        with pytest.raises(SignatureFault):
            check_bundle(bundle, keys, part)


def public(private: Any) -> bytes:
    pem: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def private(key: Any) -> bytes:
    pem: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return pem


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (public(ed25519.Ed25519PrivateKey.generate()), "P-256"),
        (public(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (private(ec.generate_private_key(ec.SECP256R1())), "private key"),
        (EXAMPLES["keys"]["p256"]["pem"].encode() * 2, "exactly one"),
        (b"-----BEGIN PUBLIC KEY-----\nAA==\n-----END PUBLIC KEY-----\n", "not a public key"),
        (b"\xff\xfe", "exactly one"),
        (b"", "exactly one"),
    ],
)
def test_keys_that_may_not_sign(pem: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_key(pem)
