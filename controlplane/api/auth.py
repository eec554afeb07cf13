"""Who may call `/api/v1`: API tokens with scopes."""

from typing import Any

from django.utils import timezone
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from controlplane.accounts.models import ApiToken, Scope, User
from controlplane.accounts.services import authenticate_api_token
from controlplane.domain.errors import Forbidden, Unauthenticated


class ApiTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer wpt_…`."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        scheme, _, secret = get_authorization_header(request).decode("latin-1").partition(" ")
        if scheme.lower() != "bearer" or not secret:
            return None
        token = authenticate_api_token(secret=secret.strip(), now=timezone.now())
        return token.user, token

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HasScope(BasePermission):
    """A view names the scope of its writes in `write_scope`; every live token may read."""

    def has_permission(self, request: Request, view: Any) -> bool:
        token = request.auth
        if not isinstance(token, ApiToken):
            raise Unauthenticated(
                "token-required", "Send an API token: Authorization: Bearer wpt_…"
            )
        if request.method in ("GET", "HEAD", "OPTIONS"):
            return True
        needed = getattr(view, "write_scope", None)
        if needed in token.scopes:
            return True
        raise Forbidden(
            "scope-missing",
            f"This token has the scopes {', '.join(token.scopes)}; the call needs {needed}.",
            extra={"needed": str(needed), "scopes": list(token.scopes)},
        )


def actor_of(request: Request) -> str:
    """How the caller is written into events."""
    assert isinstance(request.auth, ApiToken)
    return f"token:{request.auth.name}"


def person_of(request: Request) -> str:
    """The person behind the token: what two tokens of theirs do, one person did."""
    assert isinstance(request.auth, ApiToken)
    return request.auth.user.get_username()


def may_freeze(request: Request) -> bool:
    """Whether the caller stands above a freeze."""
    assert isinstance(request.auth, ApiToken)
    return Scope.FREEZE in request.auth.scopes


__all__ = [
    "ApiTokenAuthentication",
    "HasScope",
    "Scope",
    "actor_of",
    "may_freeze",
    "person_of",
]
