"""Fields that more than one resource uses."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

MAX_VERSION = 2_147_483_647


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
