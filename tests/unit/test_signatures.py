"""Release signatures: what the centre takes, over the table that the agent is held to as well, and
which keys may sign."""

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from controlplane.catalog.trust_chains import (
    CHAINS,
    MAX_KEY_TEXT,
    OMS,
    PublicKey,
    parse_public_key,
)
from controlplane.domain.oms import MAX_BUNDLE_BYTES, BundleFault, differences, parse_bundle

EXAMPLES = json.loads(
    (Path(__file__).parents[2] / "docs/protocol/signatures.json").read_text(encoding="utf-8")
)
CASES: Mapping[str, Mapping[str, Any]] = {case["name"]: case for case in EXAMPLES["cases"]}
GOOD = CASES["the official tool, P-256"]


def key(name: str) -> PublicKey:
    return parse_public_key(EXAMPLES["keys"][name]["pem"])


def judge(case: Mapping[str, Any]) -> str:
    """The signer's name with a plus, or the code of the fault."""
    files = EXAMPLES["files"][case["files"]]
    keys = [key(name) for name in case["keys"]]
    try:
        verified = CHAINS[OMS].verify(case["bundle"].encode(), keys, files)
    except BundleFault as fault:
        return fault.code
    if verified.differences:
        return "files-differ"
    names = {each["fingerprint"]: name for name, each in EXAMPLES["keys"].items()}
    return "+" + names[verified.fingerprint]


# A site is given one build; the centre keeps the signature over all of them.
WHOLE = [name for name, case in CASES.items() if case["files"] != "trt"]


@pytest.mark.parametrize("name", WHOLE)
def test_the_table(name: str) -> None:
    case = CASES[name]
    expected = f"+{case['signed_by']}" if "signed_by" in case else case["fault"]
    assert judge(case) == expected


def test_each_fault_has_its_own_code_and_a_sentence() -> None:
    seen = {}
    for name in WHOLE:
        case = CASES[name]
        try:
            keys = [key(each) for each in case["keys"]]
            CHAINS[OMS].verify(case["bundle"].encode(), keys, EXAMPLES["files"][case["files"]])
        except BundleFault as fault:
            seen[fault.code] = fault.reason
    assert len(seen) >= 17
    assert all(10 < len(reason) < 300 for reason in seen.values())


def test_any_bit_of_the_payload_or_the_signature_counts() -> None:
    bundle = json.loads(GOOD["bundle"])
    envelope = bundle["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"])
    for at in range(0, len(payload), 37):
        changed = bytearray(payload)
        changed[at] ^= 1 << (at % 8)
        envelope["payload"] = base64.b64encode(changed).decode()
        assert judge({**GOOD, "bundle": json.dumps(bundle)}) == "key-unknown"


@pytest.mark.parametrize("cut", range(0, len(GOOD["bundle"]), 97))
def test_a_truncated_bundle(cut: int) -> None:
    assert judge({**GOOD, "bundle": GOOD["bundle"][:cut]}) == "bundle-not-json"


@pytest.mark.parametrize("text", ["[" * 10_000 + "]" * 10_000, '{"a":' * 10_000, "", "null", "7"])
def test_json_that_is_no_bundle(text: str) -> None:
    assert judge({**GOOD, "bundle": text}) == "bundle-not-json"


def test_a_bundle_has_an_end() -> None:
    with pytest.raises(BundleFault) as caught:
        parse_bundle(b" " * (MAX_BUNDLE_BYTES + 1))
    assert caught.value.code == "bundle-too-large"


def test_what_is_kept_is_what_was_verified_and_no_more() -> None:
    case = CASES["keys that nobody knows"]
    verified = CHAINS[OMS].verify(case["bundle"].encode(), [key("p256")], EXAMPLES["files"]["vad"])

    assert verified.document == json.loads(GOOD["bundle"])


def test_every_file_that_differs_is_named() -> None:
    said = differences({"a": "1", "b": "2", "c": "3"}, {"b": "2", "c": "4", "d": "5"})

    assert [(fault.field, fault.message) for fault in said] == [
        ("a", "is signed and is no file of the version"),
        ("c", "is signed with sha256 3, the version has 4"),
        ("d", "is a file of the version and is not signed"),
    ]


def test_no_more_differences_than_somebody_reads() -> None:
    said = differences({str(n): "1" for n in range(5000)}, {})

    assert len(said) == 201
    assert said[-1].message == "and 4800 more"


def public(private: Any) -> str:
    pem: bytes = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem.decode()


@pytest.mark.parametrize(
    ("curve", "key_type"),
    [
        (ec.SECP256R1(), "ecdsa-p256"),
        (ec.SECP384R1(), "ecdsa-p384"),
        (ec.SECP521R1(), "ecdsa-p521"),
    ],
)
def test_keys_that_may_sign(curve: ec.EllipticCurve, key_type: str) -> None:
    pem = public(ec.generate_private_key(curve))
    found = parse_public_key(pem.replace("\n", "\r\n") + "\r\n")

    assert (found.pem, found.key_type) == (pem, key_type)
    assert len(found.fingerprint) == 64


def test_the_fingerprints_are_those_of_the_examples() -> None:
    for name, each in EXAMPLES["keys"].items():
        assert key(name).fingerprint == each["fingerprint"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (public(ed25519.Ed25519PrivateKey.generate()), "P-256"),
        (public(rsa.generate_private_key(65537, 2048)), "P-256"),
        (public(ec.generate_private_key(ec.SECP256K1())), "P-256"),
        (EXAMPLES["keys"]["p256"]["pem"] * 2, "exactly one"),
        (EXAMPLES["keys"]["p256"]["pem"] + " " * MAX_KEY_TEXT, "exactly one"),
        (EXAMPLES["keys"]["p256"]["pem"][:60], "not a public key"),
        ("release.pem", "exactly one"),
        ("", "exactly one"),
        ("-----BEGIN PUBLIC KEY-----\né\n-----END PUBLIC KEY-----", "not a public key"),
    ],
)
def test_keys_that_may_not(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_public_key(text)


def test_a_private_key_is_sent_back_and_not_repeated() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    text = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    with pytest.raises(ValueError, match="private key") as caught:
        parse_public_key(text)
    assert "BEGIN" not in str(caught.value)
