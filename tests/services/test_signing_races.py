"""A signature that comes while its key is revoked: neither waits for the other for ever."""

import threading
from datetime import datetime

import pytest
from django.conf import settings
from django.db import connection

from controlplane.catalog import signing
from controlplane.catalog.models import SigningKey, Version, VersionSignature
from controlplane.catalog.signing import attach_signature
from controlplane.catalog.signing_keys import revoke_signing_key
from controlplane.catalog.versions import lock_version
from controlplane.domain.errors import InvalidInput
from tests.factories import ACTOR, make_version
from tests.services.test_signing import Signer
from tests.services.threads import DEADLINE_SECONDS

pytestmark = [
    pytest.mark.usefixtures("transactional_db"),
    pytest.mark.skipif(
        settings.DATABASES["default"]["ENGINE"].endswith("sqlite3"),
        reason="SQLite has one writer at a time",
    ),
]


def test_a_signature_and_the_end_of_its_key_do_not_wait_in_a_ring(
    now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = make_version("vad", 1, now=now)
    Version.objects.update(state="validated")
    signer = Signer("release", now)
    signer.sign(version, now)  # so that the end of the key comes to this version
    bundle = signer.bundle(version)
    raised: list[Exception] = []

    def revoke() -> None:
        try:
            revoke_signing_key(name="release", reason="", actor=ACTOR, now=now)
        except Exception as error:
            raised.append(error)
        finally:
            connection.close()

    other = threading.Thread(target=revoke, daemon=True)

    def lock_then_let_the_other_begin(row: Version) -> Version:
        """The version is held here; the other comes as far as the first lock it must wait for."""
        locked = lock_version(row)
        other.start()
        _wait_until_somebody_waits()
        return locked

    monkeypatch.setattr(signing, "lock_version", lock_then_let_the_other_begin)
    _, created = attach_signature(version=version, bundle=bundle, actor=ACTOR, now=now)
    other.join(DEADLINE_SECONDS)

    assert (created, raised, other.is_alive()) == (False, [], False)
    assert SigningKey.objects.get().revoked_at == now
    assert VersionSignature.objects.count() == 1


def test_a_key_that_is_revoked_signs_nothing_more(now: datetime) -> None:
    version = make_version("vad", 1, now=now)
    signer = Signer("release", now)
    revoke_signing_key(name="release", reason="", actor=ACTOR, now=now)
    with pytest.raises(InvalidInput, match="no key that may sign"):
        signer.sign(version, now)


def _wait_until_somebody_waits() -> None:
    """Until another session waits for a lock of this one; looks again at most a while."""
    pause = threading.Event()
    for _ in range(DEADLINE_SECONDS * 20):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_locks"
                " WHERE NOT granted AND pg_backend_pid() = ANY(pg_blocking_pids(pid))"
            )
            if cursor.fetchone()[0]:
                return
        pause.wait(0.05)
    raise AssertionError("nobody came to wait")
