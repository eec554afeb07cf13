"""Whether a delivery comes from the MLflow server whose secret the settings hold, and which model
it is about. Values in, values out; it must not act on what a delivery says.

MLflow signs `DELIVERY_ID.TIMESTAMP.BODY` with HMAC-SHA256: `X-MLflow-Signature: v1,BASE64`
(mlflow/webhooks/delivery.py)."""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from datetime import datetime

from controlplane.domain.errors import Unauthenticated

MAX_BODY_BYTES = 64 << 10
# A delivery that is older, or from the future by as much, may be one that somebody kept.
TOLERANCE_SECONDS = 300
_TIMESTAMP = re.compile(r"[0-9]{1,12}", re.ASCII)
_ID = re.compile(r"[\x21-\x7e]{1,200}")


def require_signed(*, secret: str, headers: Mapping[str, str], body: bytes, now: datetime) -> None:
    """Raises `Unauthenticated` (`signature-invalid`, `signature-expired`). Without a secret nothing
    is signed rightly."""
    delivery, timestamp = headers.get("X-MLflow-Delivery-Id", ""), _timestamp(headers)
    given = headers.get("X-MLflow-Signature", "")
    if not secret or timestamp is None or not _ID.fullmatch(delivery) or not given.isascii():
        raise _invalid()
    # As the header has it: a leading zero is not the number's.
    signed = f"{delivery}.{headers['X-MLflow-Timestamp']}.".encode() + body
    digest = hmac.digest(secret.encode(), signed, hashlib.sha256)
    if not hmac.compare_digest("v1," + base64.b64encode(digest).decode(), given):
        raise _invalid()
    if abs(now.timestamp() - timestamp) > TOLERANCE_SECONDS:
        raise Unauthenticated(
            "signature-expired",
            f"The delivery's timestamp is more than {TOLERANCE_SECONDS} s away from this clock.",
        )


def model_named(body: bytes) -> str:
    """The registered model that a delivery is about; empty when it names none. Registered models
    name themselves `name`, their versions' and aliases' events too."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    data = document.get("data") if isinstance(document, dict) else None
    name = data.get("name") if isinstance(data, dict) else None
    return name if isinstance(name, str) and len(name) <= 256 and "\0" not in name else ""


def _timestamp(headers: Mapping[str, str]) -> int | None:
    text = headers.get("X-MLflow-Timestamp", "")
    return int(text) if _TIMESTAMP.fullmatch(text) else None


def _invalid() -> Unauthenticated:
    return Unauthenticated(
        "signature-invalid",
        "The delivery is not signed with the secret of WAYPOST_MLFLOW_WEBHOOK_SECRET.",
    )
