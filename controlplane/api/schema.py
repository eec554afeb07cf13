"""What the published OpenAPI document covers (`/api/v1`; agents have their own page), and how
tokens are described in it. What all calls have in common is added by `schema_conventions.py`."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension

from controlplane.api.schema_conventions import add_conventions

__all__ = ["ApiTokenScheme", "add_conventions", "only_public_paths"]


def only_public_paths(endpoints: list[Any], **_: Any) -> list[Any]:
    return [entry for entry in endpoints if entry[0].startswith("/api/v1/")]


class ApiTokenScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]  # its metaclass
    """How the document describes our tokens."""

    target_class = "controlplane.api.auth.ApiTokenAuthentication"
    name = "apiToken"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "description": "API token: wpt_…"}
