"""Who this agent is: its Ed25519 key, what it joined, and how often it logged in.

Decides the order that makes a copied or cut disk show: the key is durable before it is used, the
counter before it is sent. Knows nothing of the network.
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

from waypost_agent.durable import make_folder, write_durably
from waypost_agent.errors import ConfigError

_SIGNED_PREFIX = "waypost-session-v1"


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What joining brought. `token_sha256` tells a repeated join from a new one."""

    centre_url: str
    agent: str
    site: str
    poll_seconds: float
    token_sha256: str


class Identity:
    """The files under `state_dir` that make this agent itself. One process uses them at a time."""

    def __init__(self, state_dir: Path) -> None:
        self._key_path = state_dir / "agent.key"
        self._membership_path = state_dir / "membership.json"
        self._counter_path = state_dir / "session_counter"
        self._key: Ed25519PrivateKey | None = None

    def public_key(self) -> str:
        """The public key in base64; makes the key pair, durably, when there is none."""
        raw = self._load_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return base64.b64encode(raw).decode()

    def sign_session(self, agent: str, nonce: str, session_counter: int) -> str:
        """The signature of docs/agent-protocol.md, section 2, in base64."""
        text = "\n".join([_SIGNED_PREFIX, agent, nonce, str(session_counter)])
        return base64.b64encode(self._load_key().sign(text.encode())).decode()

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
                self._create_key()
            self._key = _read_key(self._key_path)
        return self._key

    def _create_key(self) -> None:
        make_folder(self._key_path.parent, mode=0o700)
        raw = Ed25519PrivateKey.generate().private_bytes(
            Encoding.Raw, PrivateFormat.Raw, NoEncryption()
        )
        write_durably(self._key_path, base64.b64encode(raw) + b"\n", mode=0o600)


def token_sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _read_key(path: Path) -> Ed25519PrivateKey:
    if os.stat(path).st_mode & 0o077:
        raise ConfigError(f"{path}: others may read the agent's key; chmod 600 {path}")
    try:
        return Ed25519PrivateKey.from_private_bytes(base64.b64decode(path.read_text()))
    except ValueError as error:
        raise ConfigError(
            f"{path}: is not a key; remove it and join again with a new token"
        ) from error
