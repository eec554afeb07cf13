"""A release signature as OpenSSF Model Signing writes it in key mode: a Sigstore bundle v0.3, in it
a DSSE envelope, in it an in-toto Statement that names every file. Decides whether one is well
formed and whether it speaks of these files; it must not know keys or where bundles come from.

What `model-signing` 1.0 and 1.1 write is read (predicate `signature/v1.0`), and no more: no file
shards, no digest but SHA-256, no certificates. The agent has the same rules in its own words
(`waypost_agent/signature.py`); `docs/protocol/signatures.json` holds both to them.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from controlplane.domain.errors import FieldError

MAX_BUNDLE_BYTES = 8 << 20
MAX_DEPTH = 16
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_MOST_SHOWN = 200
_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleFault(Exception):
    """Why a bundle is no signature over anything. `code` is stable, one for each kind of fault."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """What was signed, and by which bytes. Its `hint` at the key is passed over: nobody vouches
    for it."""

    payload: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def signed_bytes(self) -> bytes:
        """DSSE's pre-authentication encoding (PAE), version 1."""
        head = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(self.payload)} "
        return head.encode() + self.payload

    def document(self, *, hint: str) -> dict[str, object]:
        """The bundle with what is known of it and nothing else, as the official tool reads it.
        `hint` is the SHA-256 in hex of the signer's public key as PEM."""
        return {
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {"publicKey": {"hint": hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(self.payload).decode(),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [
                    {"sig": base64.b64encode(self.signature).decode(), "keyid": ""},
                ],
            },
        }


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What the signer says: `files` is name to SHA-256 in hex, `subject` the signer's own name for
    the folder, which is for people."""

    subject: str
    files: Mapping[str, str]


def parse_bundle(raw: bytes) -> Envelope:
    """From the text of a bundle. Nothing in it is true before its signature was verified.

    Raises `BundleFault`.
    """
    if len(raw) > MAX_BUNDLE_BYTES:
        raise BundleFault(
            "bundle-too-large", f"has {len(raw)} bytes; a bundle has at most {MAX_BUNDLE_BYTES}"
        )
    bundle = _object(_json(raw, "bundle-not-json"), "bundle-not-json", "the bundle")
    if bundle.get("mediaType") != MEDIA_TYPE:
        raise BundleFault(
            "bundle-type-unknown",
            f"mediaType is {_shown(bundle.get('mediaType'))}, not {MEDIA_TYPE}",
        )
    _require_a_key(bundle.get("verificationMaterial"))
    envelope = _object(bundle.get("dsseEnvelope"), "envelope-invalid", "dsseEnvelope")
    if envelope.get("payloadType") != PAYLOAD_TYPE:
        raise BundleFault(
            "payload-type-unknown",
            f"payloadType is {_shown(envelope.get('payloadType'))}, not {PAYLOAD_TYPE}",
        )
    signatures = envelope.get("signatures")
    count = len(signatures) if isinstance(signatures, list) else 0
    if not isinstance(signatures, list) or count != 1:
        raise BundleFault(
            "signature-count", f"the envelope has {count} signatures; a bundle has exactly one"
        )
    signature = _object(signatures[0], "envelope-invalid", "the signature")
    return Envelope(
        payload=_base64(envelope.get("payload"), "payload"),
        signature=_base64(signature.get("sig"), "sig"),
    )


def parse_statement(payload: bytes) -> Statement:
    """From the payload of an envelope whose signature is right. Raises `BundleFault`."""
    document = _object(_json(payload, "payload-not-json"), "payload-not-json", "the payload")
    if document.get("_type") != STATEMENT_TYPE:
        raise BundleFault(
            "statement-type-unknown",
            f"_type is {_shown(document.get('_type'))}, not {STATEMENT_TYPE}",
        )
    if document.get("predicateType") != PREDICATE_TYPE:
        raise BundleFault(
            "predicate-unknown",
            f"predicateType is {_shown(document.get('predicateType'))}, not {PREDICATE_TYPE}",
        )
    name, digest = _subject_of(document.get("subject"))
    predicate = _object(document.get("predicate"), "predicate-invalid", "the predicate")
    serialization = predicate.get("serialization")
    method = serialization if isinstance(serialization, Mapping) else {}
    if method.get("method") != "files" or method.get("hash_type") != "sha256":
        raise BundleFault(
            "serialization-unknown", "was not made file by file with SHA-256 (the tool's default)"
        )
    files, computed = _files_of(predicate.get("resources"))
    if computed != digest:
        raise BundleFault(
            "subject-digest-wrong",
            f"the subject's digest is {digest}, its resources give {computed}",
        )
    return Statement(subject=name, files=files)


def differences(signed: Mapping[str, str], files: Mapping[str, str]) -> list[FieldError]:
    """Where what was signed is not what a version holds, both as name to SHA-256; empty: it is."""
    faults = []
    for name in sorted(set(signed) | set(files)):
        if name not in signed:
            message = "is a file of the version and is not signed"
        elif name not in files:
            message = "is signed and is no file of the version"
        elif signed[name] != files[name]:
            message = f"is signed with sha256 {signed[name]}, the version has {files[name]}"
        else:
            continue
        faults.append(FieldError(field=name[:200], message=message))
    if len(faults) > _MOST_SHOWN:
        more = FieldError(field="…", message=f"and {len(faults) - _MOST_SHOWN} more")
        return [*faults[:_MOST_SHOWN], more]
    return faults


def _require_a_key(material: object) -> None:
    if not isinstance(material, Mapping):
        raise BundleFault("material-invalid", "verificationMaterial must be an object")
    if not isinstance(material.get("publicKey"), Mapping):
        raise BundleFault(
            "material-not-a-key",
            "verificationMaterial names no publicKey; sign with a key, not with a certificate or "
            "an identity",
        )


def _subject_of(subjects: object) -> tuple[str, str]:
    if not isinstance(subjects, list) or len(subjects) != 1 or not isinstance(subjects[0], Mapping):
        raise BundleFault("subject-invalid", "there must be exactly one subject")
    name, digests = subjects[0].get("name"), subjects[0].get("digest")
    digest = digests.get("sha256") if isinstance(digests, Mapping) else None
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise BundleFault(
            "subject-invalid", "the subject has no sha256 of 64 lower-case hex digits"
        )
    return name if isinstance(name, str) else "", digest


def _files_of(resources: object) -> tuple[dict[str, str], str]:
    """Name to SHA-256, and the SHA-256 over the digests in their order."""
    if not isinstance(resources, list):
        raise BundleFault("resource-invalid", "resources must be a list")
    files: dict[str, str] = {}
    whole = hashlib.sha256()
    for resource in resources:
        entry = _object(resource, "resource-invalid", "a resource")
        name, digest = entry.get("name"), entry.get("digest")
        if not isinstance(name, str) or not name:
            raise BundleFault("resource-invalid", "a resource has no name")
        if entry.get("algorithm") != "sha256":
            raise BundleFault(
                "resource-algorithm-unknown",
                f"{_shown(name)} is signed by {_shown(entry.get('algorithm'))}, not by sha256",
            )
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise BundleFault(
                "resource-invalid", f"the digest of {_shown(name)} is not 64 lower-case hex digits"
            )
        if name in files:
            raise BundleFault("resource-twice", f"{_shown(name)} is signed twice")
        files[name] = digest
        whole.update(bytes.fromhex(digest))
    return files, whole.hexdigest()


def _base64(text: object, key: str) -> bytes:
    """Standard base64 in its one canonical spelling, so that bytes have one text."""
    try:
        raw = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        raw = b""
    if not raw or base64.b64encode(raw).decode() != text:
        raise BundleFault("encoding-invalid", f"{key} must be base64 as RFC 4648 has it, padded")
    return raw


def _json(raw: bytes, code: str) -> object:
    try:
        value: object = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else f"{error!s:.120}"
        raise BundleFault(code, f"cannot be read as JSON: {what}") from error
    _refuse_what_cannot_be_shown(value, code)
    return value


def _refuse_what_cannot_be_shown(value: object, code: str) -> None:
    """Goes by a list of its own: a deep document must not use up the stack."""
    todo = [(value, 1)]
    while todo:
        item, depth = todo.pop()
        if isinstance(item, str) and not _is_text(item):
            raise BundleFault(code, "has a text with half a surrogate pair")
        if isinstance(item, dict | list):
            if depth > MAX_DEPTH:
                raise BundleFault(code, f"is nested more than {MAX_DEPTH} deep")
            inner = [*item, *item.values()] if isinstance(item, dict) else item
            todo += [(each, depth + 1) for each in inner]


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


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _object(value: object, code: str, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BundleFault(code, f"{what} must be an object")
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
