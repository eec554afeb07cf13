"""Signs the files of a version as OpenSSF Model Signing does in key mode, so that the official
tool, the control plane and the sites can verify it. Decides the bytes of a signature; it must not
know where it goes.

The form, which `model_signing sign key` 1.1 writes too: an in-toto Statement v1 (predicate
`https://model_signing/signature/v1.0`) with the SHA-256 of every file, in a DSSE envelope, in a
Sigstore bundle v0.3. Needs `cryptography`: the extra `sign` of this package."""

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from waypost_cli.errors import CliError

PASSWORD_VARIABLE = "WAYPOST_SIGN_KEY_PASSWORD"
_PAYLOAD_TYPE = "application/vnd.in-toto+json"
_DIGESTS: Mapping[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}
_MAKE_ONE = "make one with: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out KEY"


@dataclass(frozen=True, kw_only=True)
class SigningKey:
    """A private key; `fingerprint` is that of its public half, as `waypost keys list` shows it."""

    fingerprint: str
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def read_key(path: Path) -> SigningKey:
    """Raises `CliError` saying what is wrong, and nothing of what is in the file."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CliError(
            f"the key {path} cannot be read: {error.strerror}", cure=_MAKE_ONE
        ) from error
    password = os.environ.get(PASSWORD_VARIABLE) or None
    try:
        key = load_pem_private_key(raw, password.encode() if password else None)
    except TypeError as error:  # a password is missing, or there is one too many
        cure = f"set {PASSWORD_VARIABLE}" if password is None else f"unset {PASSWORD_VARIABLE}"
        needs = "is encrypted" if password is None else "is not encrypted, and a password is given"
        raise CliError(f"the key {path} {needs}", cure=cure) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CliError(
            f"{path} is not a private key in PEM, or the password is wrong", cure=_MAKE_ONE
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name not in _DIGESTS:
        raise CliError(
            f"the key {path} is not on P-256, P-384 or P-521, which model signing takes",
            cure=_MAKE_ONE,
        )
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return SigningKey(fingerprint=hashlib.sha256(der).hexdigest(), key=key)


def sign_files(files: Mapping[str, str], *, subject: str, key: SigningKey) -> bytes:
    """The bundle over `files` (path to SHA-256 in hex) as JSON text. `subject` is what people call
    the folder; nothing goes by it."""
    payload = json.dumps(_statement(files, subject), indent=2).encode()
    head = f"DSSEv1 {len(_PAYLOAD_TYPE)} {_PAYLOAD_TYPE} {len(payload)} "
    digest = _DIGESTS[key.key.curve.name]()
    signature = key.key.sign(head.encode() + payload, ec.ECDSA(digest))
    pem = key.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {
            "publicKey": {"hint": hashlib.sha256(pem).hexdigest()},
            "tlogEntries": [],
        },
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": _PAYLOAD_TYPE,
            "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": ""}],
        },
    }
    return json.dumps(bundle, separators=(",", ":")).encode() + b"\n"


def _statement(files: Mapping[str, str], subject: str) -> dict[str, object]:
    ordered = sorted(files.items())
    whole = hashlib.sha256(b"".join(bytes.fromhex(sha256) for _, sha256 in ordered))
    resources = [
        {"name": path, "algorithm": "sha256", "digest": sha256} for path, sha256 in ordered
    ]
    how = {"method": "files", "hash_type": "sha256", "allow_symlinks": False}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": subject, "digest": {"sha256": whole.hexdigest()}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"resources": resources, "serialization": how},
    }
