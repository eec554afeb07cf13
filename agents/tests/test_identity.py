"""The key, the signature and the counter that shows a copied disk."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from waypost_agent.errors import ConfigError
from waypost_agent.identity import Identity, Membership

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "protocol"


def test_the_documented_signature_is_made(tmp_path: Path) -> None:
    vector = json.loads((EXAMPLES / "session-signature.json").read_text())
    key = tmp_path / "agent.key"
    key.write_text(base64.b64encode(bytes.fromhex(vector["private_key_hex"])).decode())
    key.chmod(0o600)
    identity = Identity(tmp_path)
    assert identity.public_key() == vector["public_key"]
    signature = identity.sign_session(vector["agent"], vector["nonce"], vector["session_counter"])
    assert signature == vector["signature"]


def test_a_key_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    first = Identity(tmp_path / "state").public_key()
    assert Identity(tmp_path / "state").public_key() == first
    assert os.stat(tmp_path / "state" / "agent.key").st_mode & 0o777 == 0o600
    assert len(base64.b64decode(first)) == 32


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    Identity(tmp_path).public_key()
    (tmp_path / "agent.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        Identity(tmp_path).public_key()


def test_a_file_that_is_no_key_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "agent.key").write_text("bm90IGEga2V5")
    (tmp_path / "agent.key").chmod(0o600)
    with pytest.raises(ConfigError, match="is not a key"):
        Identity(tmp_path).public_key()


def test_the_counter_is_on_disk_before_it_is_given_out(tmp_path: Path) -> None:
    identity = Identity(tmp_path)
    for expected in (1, 2, 3):
        assert identity.next_session_counter() == expected
        assert (tmp_path / "session_counter").read_text() == str(expected)
    assert Identity(tmp_path).next_session_counter() == 4


def test_a_counter_that_is_no_number_is_not_guessed(tmp_path: Path) -> None:
    (tmp_path / "session_counter").write_text("")
    with pytest.raises(ConfigError, match="highest counter"):
        Identity(tmp_path).next_session_counter()


def test_the_membership_is_read_back_the_same(tmp_path: Path) -> None:
    assert Identity(tmp_path).membership() is None
    membership = Membership(
        centre_url="https://centre", agent="a", site="s", poll_seconds=15.0, token_sha256="0"
    )
    Identity(tmp_path).save_membership(membership)
    assert Identity(tmp_path).membership() == membership
    (tmp_path / "membership.json").write_text("{}")
    with pytest.raises(ConfigError, match="join again"):
        Identity(tmp_path).membership()
