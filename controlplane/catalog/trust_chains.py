"""How it is proven that people outside this control plane released some files: the kinds of proof,
and the one that is built, OpenSSF Model Signing in key mode (`oms`). Verifies and writes nothing.

Another kind, such as a chain of TUF metadata, is another entry of `CHAINS`; agents pass over kinds
that they do not know (docs/adr/0014-signatures-over-manifests.md).
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

from controlplane.domain.errors import FieldError
from controlplane.domain.oms import BundleFault, differences, parse_bundle, parse_statement

OMS = "oms"
MAX_KEY_TEXT = 4000
# By curve: how it is called here, and the digest that goes with it in model-signing.
_CURVES: Mapping[str, tuple[str, type[hashes.HashAlgorithm]]] = {
    "secp256r1": ("ecdsa-p256", hashes.SHA256),
    "secp384r1": ("ecdsa-p384", hashes.SHA384),
    "secp521r1": ("ecdsa-p521", hashes.SHA512),
}


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A key that may sign releases. `pem` is in its one spelling, `fingerprint` the SHA-256 of its
    DER form (SubjectPublicKeyInfo) in hex."""

    pem: str
    key_type: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Verified:
    """Who signed (by fingerprint), the proof as it is kept and sent to agents, and where what was
    signed is not what was asked about: empty when it is."""

    fingerprint: str
    document: Mapping[str, object]
    differences: tuple[FieldError, ...]


class TrustChain(Protocol):
    """A kind of proof."""

    def verify(self, raw: bytes, keys: Iterable[PublicKey], files: Mapping[str, str]) -> Verified:
        """`files` is name to SHA-256 in hex. Raises `BundleFault`, with `key-unknown` when none of
        the keys signed it."""
        ...


class ModelSigning:
    """ECDSA over the PAE of a DSSE envelope, with the digest of the key's curve.

    Both values of `s` that fit are taken: half of what signers write has the higher one, and
    nothing is told apart by the bytes of a signature. These bytes must be canonical DER.
    """

    def verify(self, raw: bytes, keys: Iterable[PublicKey], files: Mapping[str, str]) -> Verified:
        envelope = parse_bundle(raw)
        try:
            decode_dss_signature(envelope.signature)  # takes canonical DER alone
        except ValueError as error:
            raise BundleFault("signature-encoding-invalid", "sig is not ECDSA in DER") from error
        signed = envelope.signed_bytes()
        signer = next((key for key in keys if _verifies(key, envelope.signature, signed)), None)
        if signer is None:
            raise BundleFault("key-unknown", "was made by none of the keys that may sign")
        statement = parse_statement(envelope.payload)
        return Verified(
            fingerprint=signer.fingerprint,
            document=envelope.document(hint=hashlib.sha256(signer.pem.encode()).hexdigest()),
            differences=tuple(differences(statement.files, files)),
        )


CHAINS: Mapping[str, TrustChain] = {OMS: ModelSigning()}


def parse_public_key(text: str) -> PublicKey:
    """A public key on P-256, P-384 or P-521 as PEM. Raises `ValueError` saying what is wrong."""
    if "PRIVATE KEY" in text:
        raise ValueError("holds a private key, which stays with whoever signs; give its public one")
    if len(text) > MAX_KEY_TEXT or text.count("-----BEGIN ") != 1:
        raise ValueError("must be exactly one public key in PEM")
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is not a public key in PEM (BEGIN PUBLIC KEY)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _CURVES:
        raise ValueError("must be a key on P-256, P-384 or P-521, which model signing takes")
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PublicKey(
        pem=pem.decode(),
        key_type=_CURVES[key.curve.name][0],
        fingerprint=hashlib.sha256(der).hexdigest(),
    )


def _verifies(key: PublicKey, signature: bytes, message: bytes) -> bool:
    loaded = load_pem_public_key(key.pem.encode())
    assert isinstance(loaded, ec.EllipticCurvePublicKey)  # `parse_public_key` let it in
    try:
        loaded.verify(signature, message, ec.ECDSA(_CURVES[loaded.curve.name][1]()))
    except InvalidSignature:
        return False
    return True
