"""Who this agent is: its Ed25519 key, what it joined, and how often it logged in.

Decides the order that makes a copied or cut disk show: a key is durable before it is used, the
counter before it is sent, and the old key is there until the centre was seen to know the new one.
Knows nothing of the network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from waypost_agent.durable import make_folder, sync_folder, write_durably
from waypost_agent.errors import ConfigError

_SESSION_PREFIX = "waypost-session-v1"
_ROTATION_PREFIX = "waypost-rotate-key-v1"


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What joining brought. `token_sha256` tells a repeated join from a new one."""

    centre_url: str
    agent: str
    site: str
    poll_seconds: float
    token_sha256: str


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """A new key and both keys' word for it, each in base64."""

    public_key: str
    signature: str
    new_signature: str


class Identity:
    """The files under `state_dir` that make this agent itself. One process uses them at a time."""

    def __init__(self, state_dir: Path) -> None:
        self._key_path = state_dir / "agent.key"
        self._next_path = state_dir / "agent.key.next"
        self._membership_path = state_dir / "membership.json"
        self._counter_path = state_dir / "session_counter"
        self._key: Ed25519PrivateKey | None = None

    def public_key(self) -> str:
        """The public key in base64; makes the key pair, durably, when there is none."""
        return _public(self._load_key())

    def sign_session(
        self, agent: str, nonce: str, session_counter: int, *, by_next_key: bool = False
    ) -> str:
        """The signature of docs/agent-protocol.md, section 2, in base64."""
        key = self._load_next_key() if by_next_key else self._load_key()
        return _signature(key, [_SESSION_PREFIX, agent, nonce, str(session_counter)])

    def has_next_key(self) -> bool:
        """Whether a change of the key was begun and is not known to be done."""
        return self._next_path.exists()

    def next_public_key(self) -> str:
        """The next key's public half, in base64; makes it, durably, when there is none. The same
        one again until it is adopted."""
        if not self._next_path.exists():
            _create_key(self._next_path)
        return _public(self._load_next_key())

    def sign_rotation(self, agent: str, nonce: str) -> Rotation:
        """What asks the centre to take the next key."""
        public_key = self.next_public_key()
        lines = [_ROTATION_PREFIX, agent, nonce, public_key]
        return Rotation(
            public_key=public_key,
            signature=_signature(self._load_key(), lines),
            new_signature=_signature(self._load_next_key(), lines),
        )

    def adopt_next_key(self) -> None:
        """The centre knows the next key: it is the key from here on, the old one is gone."""
        self._key = None  # whichever of the two is there is read again, also after an error here
        os.rename(self._next_path, self._key_path)
        sync_folder(self._key_path.parent)

    def next_session_counter(self) -> int:
        """The next number, written down before it is given out."""
        try:
            last = int(self._counter_path.read_text())
        except FileNotFoundError:
            last = 0
        except ValueError as error:
            raise ConfigError(
                f"{self._counter_path}: does not hold a number; write the highest counter that the "
                "centre has accepted from this agent"
            ) from error
        write_durably(self._counter_path, str(last + 1).encode(), mode=0o600)
        return last + 1

    def membership(self) -> Membership | None:
        """What this agent joined, None before it did."""
        try:
            return Membership(**json.loads(self._membership_path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ConfigError(
                f"{self._membership_path}: cannot be read ({error}); join again with a new token"
            ) from error

    def save_membership(self, membership: Membership) -> None:
        text = json.dumps(asdict(membership), indent=1)
        write_durably(self._membership_path, text.encode(), mode=0o600)

    def _load_key(self) -> Ed25519PrivateKey:
        if self._key is None:
            if not self._key_path.exists():
                _create_key(self._key_path)
            self._key = _read_key(self._key_path, "remove it and join again with a new token")
        return self._key

    def _load_next_key(self) -> Ed25519PrivateKey:
        return _read_key(self._next_path, "remove it: another one will be made when asked for")


def token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _create_key(path: Path) -> None:
    make_folder(path.parent, mode=0o700)
    raw = Ed25519PrivateKey.generate().private_bytes(
        Encoding.Raw, PrivateFormat.Raw, NoEncryption()
    )
    write_durably(path, base64.b64encode(raw) + b"\n", mode=0o600)


def _read_key(path: Path, cure: str) -> Ed25519PrivateKey:
    if os.stat(path).st_mode & 0o077:
        raise ConfigError(f"{path}: others may read the agent's key; chmod 600 {path}")
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(path.read_text()))
    except ValueError as error:
        raise ConfigError(f"{path}: is not a key; {cure}") from error


def _public(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def _signature(key: Ed25519PrivateKey, lines: list[str]) -> str:
    return base64.b64encode(key.sign("\n".join(lines).encode())).decode()
