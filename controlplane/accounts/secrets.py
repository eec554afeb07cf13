"""Opaque secrets: how they look and how they are kept. Nothing here knows what they open."""

import hashlib
import secrets


def new_secret(prefix: str) -> str:
    """256 random bits behind a prefix that secret scanners can find."""
    return f"{prefix}_{secrets.token_urlsafe(32)}"


def secret_digest(secret: str) -> str:
    """What is stored instead. Plain SHA-256 is enough: the secret has 256 bits of its own."""
    return hashlib.sha256(secret.encode()).hexdigest()
