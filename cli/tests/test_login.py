"""`waypost login`: the identity goes, the short token comes, and neither is seen elsewhere."""

import pytest
from conftest import Waypost
from fake_api import FakeApi, Reply, problem


def test_trades_the_identity_for_a_token_on_stdout(
    waypost: Waypost, fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_IDENTITY", "ey.job.identity")
    body = b'{"token": "wpt_short", "expires_at": "2030-01-01T00:00:00Z"}'
    fake.intervene("POST", "tokens/exchange", Reply(status=201, body=body))
    ran = waypost("login", "--oidc-token-env", "JOB_IDENTITY", "--publisher", "vad-ci")
    assert ran.exit_code == 0, ran.stderr
    assert ran.stdout == "wpt_short\n"
    assert "wpt_short" not in ran.stderr
    (asked,) = fake.seen
    assert asked.body == {"token": "ey.job.identity", "publisher": "vad-ci"}


def test_without_an_identity_says_how_to_get_one(waypost: Waypost, fake: FakeApi) -> None:
    ran = waypost("login", "--oidc-token-env", "NO_SUCH_VARIABLE")
    assert ran.exit_code == 1
    assert "id-token: write" in ran.stderr
    assert fake.seen == []


def test_a_refusal_is_told_and_not_repeated(
    waypost: Waypost, fake: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOB_IDENTITY", "ey.job.identity")
    fake.intervene("POST", "tokens/exchange", problem(403, "publisher-unknown"))
    ran = waypost("login", "--oidc-token-env", "JOB_IDENTITY")
    assert ran.exit_code == 1
    assert "publisher-unknown" in ran.stderr
    assert "ey.job.identity" not in ran.stderr
    assert len(fake.seen) == 1
