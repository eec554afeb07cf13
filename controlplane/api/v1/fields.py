"""Fields, paths and bodies that more than one resource uses."""

import re
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request

from controlplane.domain.errors import FieldError, InvalidInput

MAX_VERSION = 2_147_483_647
CHANNEL = re.compile(r"@[a-z0-9][a-z0-9_-]{0,39}")
# A moment further away than that is a typing error, and would overflow where durations are added.
FURTHEST = timedelta(days=366)


@extend_schema_field(OpenApiTypes.STR)
class VersionNumber(serializers.Field[int, Any, str, Any]):
    """A version's number, written as a string; it is also Triton's version."""

    default_error_messages = {
        "invalid": 'must be a version number such as "3": 1 or higher, no leading zero'
    }

    def to_internal_value(self, data: Any) -> int:
        text = str(data) if isinstance(data, int | str) and not isinstance(data, bool) else ""
        if len(text) > 10 or not text.isascii() or not text.isdigit() or text[0] == "0":
            self.fail("invalid")
        if int(text) > MAX_VERSION:
            self.fail("invalid")
        return int(text)

    def to_representation(self, value: Any) -> str:
        return str(getattr(value, "number", value))


@extend_schema_field(OpenApiTypes.STR)
class VersionOrChannel(VersionNumber):
    """A version by its number, or by a channel that points at it, such as `@stable`."""

    default_error_messages = {
        "invalid": 'must be a version number such as "3", or a channel such as "@stable"'
    }

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, str) and CHANNEL.fullmatch(data):
            return data
        return super().to_internal_value(data)


class Moment(serializers.DateTimeField):
    """A point in time, RFC 3339 with its offset: without one it would be read in whose time?"""

    default_error_messages = {
        "invalid": "must be a time such as 2026-12-01T22:00:00+01:00",
        "no_offset": "has no offset from UTC; write it as 2026-12-01T22:00:00+01:00, or with Z",
        "too_far": "must be within a year",
        "overflow": "must be within a year",
    }

    def to_internal_value(self, value: Any) -> datetime:
        if not isinstance(value, str):
            self.fail("invalid", format="")
        return super().to_internal_value(value)

    def enforce_timezone(self, value: datetime) -> datetime:
        if value.tzinfo is None:
            self.fail("no_offset")
        moment = super().enforce_timezone(value)
        if moment > timezone.now() + FURTHEST:
            self.fail("too_far")
        return moment


class StrictBody(serializers.Serializer[Any]):
    """A body whose unknown keys are refused: a mistyped option must not silently be no option."""

    def to_internal_value(self, data: Any) -> Any:
        unknown = sorted(set(data) - set(self.fields)) if isinstance(data, dict) else []
        if unknown:
            known = ", ".join(self.fields)
            faults = {key: [f"is not known; known are {known}"] for key in unknown}
            raise serializers.ValidationError(faults)
        return super().to_internal_value(data)


def asks_for(request: Request, name: str) -> bool:
    """A yes or no in the query, no when it is left out. Raises `InvalidInput`."""
    text = request.query_params.get(name, "false")
    if text not in ("true", "false"):
        fault = FieldError(field=name, message="must be true or false")
        raise InvalidInput("invalid-request", "The request cannot be used.", errors=[fault])
    return text == "true"
