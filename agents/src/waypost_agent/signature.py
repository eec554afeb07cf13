"""Release signatures as OpenSSF Model Signing writes them in key mode, checked with `cryptography`.

Decides whether a bundle is a signature by one of some keys over exactly these files. Pure: texts
and keys in, an answer or a fault out. A bundle is a Sigstore bundle v0.3; in it is a DSSE envelope,
in that an in-toto Statement with the SHA-256 of every file (docs/signing.md).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)

MAX_BYTES = 8 << 20
MAX_DEPTH = 16
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"

_SHA256 = re.compile(r"[0-9a-f]{64}")
# The digest that goes with each curve, as the official tool has it.
_DIGESTS: Mapping[str, type[hashes.HashAlgorithm]] = {
    "secp256r1": hashes.SHA256,
    "secp384r1": hashes.SHA384,
    "secp521r1": hashes.SHA512,
}


class SignatureFault(Exception):
    """Why a bundle is no signature over these files; `code` names the kind of fault."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class ReleaseKey:
    """A public key; `fingerprint` is the SHA-256 of its DER form (SubjectPublicKeyInfo) in hex."""

    fingerprint: str
    key: ec.EllipticCurvePublicKey

    def verifies(self, signature: bytes, message: bytes) -> bool:
        try:
            self.key.verify(signature, message, ec.ECDSA(_DIGESTS[self.key.curve.name]()))
        except InvalidSignature:
            return False
        return True


def parse_key(pem: bytes) -> ReleaseKey:
    """A public key on P-256, P-384 or P-521 as PEM. Raises `ValueError` saying what is wrong."""
    if b"PRIVATE KEY" in pem:
        raise ValueError("holds a private key; only its public half belongs here")
    if pem.count(b"-----BEGIN ") != 1:
        raise ValueError("must hold exactly one public key in PEM")
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("is not a public key in PEM (BEGIN PUBLIC KEY)") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in _DIGESTS:
        raise ValueError("is not a key on P-256, P-384 or P-521, which model signing takes")
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return ReleaseKey(fingerprint=hashlib.sha256(der).hexdigest(), key=key)


def check_bundle(
    bundle: object, keys: Iterable[ReleaseKey], files: Mapping[str, str]
) -> ReleaseKey:
    """The key that signed exactly `files` (path to SHA-256 in hex). Raises `SignatureFault`.

    A signature over a version of several builds names each file `BUILD/path`; it covers `files`
    when they are exactly one of its builds.
    """
    payload, signature = _open(bundle)
    signed = b"DSSEv1 %d %b %d %b" % (
        len(PAYLOAD_TYPE),
        PAYLOAD_TYPE.encode(),
        len(payload),
        payload,
    )
    signer = next((key for key in keys if key.verifies(signature, signed)), None)
    if signer is None:
        raise SignatureFault("key-unknown", "it was made by none of this site's keys")
    # Only now is it worth reading: an unknown hand wrote it until here.
    named = _named_files(payload)
    if named != files and files not in _builds(named):
        raise SignatureFault("files-differ", _difference(named, files))
    return signer


def read_json(raw: bytes, code: str) -> Any:
    """Strict JSON: UTF-8, no key twice, no NaN, a few levels deep. Raises `SignatureFault`."""
    if len(raw) > MAX_BYTES:
        raise SignatureFault("bundle-too-large", f"it has {len(raw)} bytes, {MAX_BYTES} at most")
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SignatureFault(code, "it cannot be read as JSON") from error
    todo: list[tuple[Any, int]] = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise SignatureFault(code, f"it is nested more than {MAX_DEPTH} deep")
            inner = [*item, *item.values()] if isinstance(item, dict) else item
            todo += [(each, depth + 1) for each in inner]
        elif isinstance(item, str) and not _is_text(item):
            raise SignatureFault(code, "it has half a surrogate pair in a text")
    return value


def _open(bundle: object) -> tuple[bytes, bytes]:
    """Payload and signature of a bundle. Neither is believed yet."""
    if not isinstance(bundle, Mapping):
        raise SignatureFault("bundle-not-json", "the bundle is not an object")
    _require(bundle.get("mediaType") == MEDIA_TYPE, "bundle-type-unknown", "mediaType is another")
    material = bundle.get("verificationMaterial")
    if not isinstance(material, Mapping):
        raise SignatureFault("material-invalid", "verificationMaterial is not an object")
    by_key = isinstance(material.get("publicKey"), Mapping)
    _require(by_key, "material-not-a-key", "it was not signed with a key")
    envelope = bundle.get("dsseEnvelope")
    if not isinstance(envelope, Mapping):
        raise SignatureFault("envelope-invalid", "dsseEnvelope is not an object")
    is_statement = envelope.get("payloadType") == PAYLOAD_TYPE
    _require(is_statement, "payload-type-unknown", "payloadType is another")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1:
        raise SignatureFault("signature-count", "it has not exactly one signature")
    if not isinstance(signatures[0], Mapping):
        raise SignatureFault("envelope-invalid", "the signature is not an object")
    payload = _base64(envelope.get("payload"), "payload")
    signature = _base64(signatures[0].get("sig"), "sig")
    try:
        decode_dss_signature(signature)  # takes canonical DER alone
    except ValueError as error:
        raise SignatureFault("signature-encoding-invalid", "sig is not ECDSA in DER") from error
    # Either of the two values `s` that fit is taken: signers write both, and nothing here is told
    # apart by the bytes of a signature.
    return payload, signature


def _named_files(payload: bytes) -> dict[str, str]:
    """What a Statement says of files: name to SHA-256."""
    document = read_json(payload, "payload-not-json")
    if not isinstance(document, Mapping):
        raise SignatureFault("payload-not-json", "the payload is not an object")
    is_statement = document.get("_type") == STATEMENT_TYPE
    _require(is_statement, "statement-type-unknown", "_type is another")
    is_model = document.get("predicateType") == PREDICATE_TYPE
    _require(is_model, "predicate-unknown", "predicateType is another")
    digest = _subject_digest(document.get("subject"))
    predicate = document.get("predicate")
    if not isinstance(predicate, Mapping):
        raise SignatureFault("predicate-invalid", "the predicate is not an object")
    how = predicate.get("serialization")
    by_file = isinstance(how, Mapping) and how.get("method") == "files"
    by_sha256 = isinstance(how, Mapping) and how.get("hash_type") == "sha256"
    _require(by_file and by_sha256, "serialization-unknown", "not file by file with SHA-256")
    resources = predicate.get("resources")
    if not isinstance(resources, list):
        raise SignatureFault("resource-invalid", "resources is not a list")
    files: dict[str, str] = {}
    whole = hashlib.sha256()
    for resource in resources:
        name, sha256 = _resource(resource)
        _require(name not in files, "resource-twice", f"{name!r:.80} is signed twice")
        files[name] = sha256
        whole.update(bytes.fromhex(sha256))
    is_whole = whole.hexdigest() == digest
    _require(is_whole, "subject-digest-wrong", "its subject's digest is not that of its resources")
    return files


def _subject_digest(subjects: object) -> str:
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], Mapping):
        raise SignatureFault("subject-invalid", "it has not exactly one subject")
    digests = subjects[0].get("digest")
    digest = digests.get("sha256") if isinstance(digests, Mapping) else None
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise SignatureFault("subject-invalid", "its subject has no sha256")
    return digest


def _resource(resource: object) -> tuple[str, str]:
    if not isinstance(resource, Mapping):
        raise SignatureFault("resource-invalid", "a resource is not an object")
    name, digest = resource.get("name"), resource.get("digest")
    if not isinstance(name, str) or not name:
        raise SignatureFault("resource-invalid", "a resource has no name")
    if resource.get("algorithm") != "sha256":
        raise SignatureFault(
            "resource-algorithm-unknown", f"{name!r:.80} is not signed by its sha256"
        )
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise SignatureFault("resource-invalid", f"the digest of {name!r:.80} is not a sha256")
    return name, digest


def _builds(named: Mapping[str, str]) -> list[dict[str, str]]:
    """The builds that a signature names. A version of one build has files that lie in no folder
    (its config.pbtxt); then there are none, so that no part of it passes for the whole."""
    builds: dict[str, dict[str, str]] = {}
    for name, sha256 in named.items():
        build, slash, path = name.partition("/")
        if not slash:
            return []
        builds.setdefault(build, {})[path] = sha256
    return list(builds.values())


def _difference(named: Mapping[str, str], files: Mapping[str, str]) -> str:
    unsigned = sorted(set(files) - set(named))
    missing = sorted(set(named) - set(files))
    other = sorted(name for name in set(named) & set(files) if named[name] != files[name])
    said = [
        f"{what} {', '.join(names[:5])}{' and more' if len(names) > 5 else ''}"
        for what, names in (
            ("not signed:", unsigned),
            ("signed and not in the manifest:", missing),
            ("signed with another sha256:", other),
        )
        if names
    ]
    return f"it speaks of other files ({'; '.join(said)})"


def _base64(text: object, key: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    canonical = bool(raw) and base64.b64encode(raw).decode() == text
    _require(canonical, "encoding-invalid", f"{key} is not base64 in its one spelling")
    return raw


def _require(holds: bool, code: str, reason: str) -> None:
    if not holds:
        raise SignatureFault(code, reason)


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("an object has the same key twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
