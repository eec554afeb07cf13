"""Deliveries of MLflow: which are believed, and what they are about."""

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from controlplane.catalog.registry.webhook import model_named, require_signed
from controlplane.domain.errors import Unauthenticated

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
BODY = json.dumps({"entity": "model_version", "data": {"name": "iris", "version": "3"}}).encode()


def headers(
    body: bytes = BODY, *, at: int | str | None = None, key: bytes = b"secret", **changes: str
) -> dict[str, str]:
    moment = str(int(NOW.timestamp()) if at is None else at)
    signed = f"d-1.{moment}.".encode() + body
    digest = hmac.digest(key, signed, hashlib.sha256)
    return {
        "X-MLflow-Signature": "v1," + base64.b64encode(digest).decode(),
        "X-MLflow-Timestamp": moment,
        "X-MLflow-Delivery-Id": "d-1",
        **{f"X-MLflow-{key.title().replace('_', '-')}": value for key, value in changes.items()},
    }


def check(secret: str = "secret", body: bytes = BODY, **given: Any) -> None:
    require_signed(secret=secret, headers=given.pop("headers", headers()), body=body, now=NOW)


def test_a_delivery_that_is_signed_is_believed() -> None:
    check()


@pytest.mark.parametrize(
    "given",
    [
        {"secret": ""},
        {"secret": "", "headers": headers(key=b"")},
        {"secret": "other"},
        {"body": BODY + b" "},
        {"headers": {}},
        {"headers": headers(signature="v1,AAAA")},
        {"headers": headers(signature="")},
        {"headers": headers(signature="v1,é")},
        {"headers": headers(delivery_id="d-2")},
        {"headers": headers(delivery_id="d 1")},
        {"headers": headers(timestamp="1")},
        {"headers": headers(timestamp="now")},
        {"headers": headers(timestamp="9" * 40)},
    ],
)
def test_any_other_is_not(given: dict[str, Any]) -> None:
    with pytest.raises(Unauthenticated) as raised:
        check(**given)
    assert raised.value.code == "signature-invalid"


@pytest.mark.parametrize(
    ("shift", "good"), [(-300, True), (300, True), (-301, False), (301, False)]
)
def test_a_kept_delivery_is_worth_nothing_after_five_minutes(shift: int, good: bool) -> None:
    given = headers(at=int(NOW.timestamp()) + shift)
    if good:
        check(headers=given)
        return
    with pytest.raises(Unauthenticated) as raised:
        check(headers=given)
    assert raised.value.code == "signature-expired"


@pytest.mark.parametrize(
    ("body", "name"),
    [
        (BODY, "iris"),
        (b"", ""),
        (b"[]", ""),
        (b'{"data": []}', ""),
        (b'{"data": {"name": 3}}', ""),
        (b'{"data": {"name": "a\\u0000"}}', ""),
        (json.dumps({"data": {"name": "x" * 257}}).encode(), ""),
        (b"[" * 50_000, ""),
    ],
)
def test_what_a_delivery_is_about(body: bytes, name: str) -> None:
    assert model_named(body) == name
