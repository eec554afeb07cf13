"""Who may call `/api/v1`, and what: API tokens with scopes, some for named models alone."""

from collections.abc import Collection
from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from rest_framework.authentication import BaseAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from controlplane.accounts.models import ApiToken, Scope, User
from controlplane.accounts.services import authenticate_api_token
from controlplane.api.concerned import models_concerned
from controlplane.domain.errors import Forbidden, Unauthenticated

READS = ("GET", "HEAD", "OPTIONS")


def token_of(request: HttpRequest) -> ApiToken | None:
    """The token of a request, looked up once; None if it brings none. Raises `Unauthenticated`."""
    if not hasattr(request, "waypost_token"):
        try:
            found: ApiToken | Unauthenticated | None = _look_up(request)
        except Unauthenticated as error:
            found = error
        request.waypost_token = found  # type: ignore[attr-defined]  # this module's own mark
    held: ApiToken | Unauthenticated | None = request.waypost_token  # type: ignore[attr-defined]
    if isinstance(held, Unauthenticated):
        raise held
    return held


def _look_up(request: HttpRequest) -> ApiToken | None:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret:
        return None
    return authenticate_api_token(secret=secret.strip(), now=timezone.now())


class ApiTokenAuthentication(BaseAuthentication):
    """`Authorization: Bearer wpt_…`."""

    def authenticate(self, request: Request) -> tuple[User, ApiToken] | None:
        token = token_of(request._request)
        return (token.user, token) if token else None

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class HasScope(BasePermission):
    """A view names the scope of its writes in `write_scope`; every live token may read. A token of
    named models may only write what a view says is about these (`concerned.py`)."""

    def has_permission(self, request: Request, view: Any) -> bool:
        token = request.auth
        if not isinstance(token, ApiToken):
            raise Unauthenticated(
                "token-required", "Send an API token: Authorization: Bearer wpt_…"
            )
        method = request.method or ""
        if method in READS or not hasattr(view, method.lower()):
            return True
        needed = getattr(view, "write_scope", None)
        # Reading comes with every other scope.
        if needed not in token.scopes and needed != Scope.READ:
            raise Forbidden(
                "scope-missing",
                f"This token has the scopes {', '.join(token.scopes)}; the call needs {needed}.",
                extra={"needed": str(needed), "scopes": list(token.scopes)},
            )
        if token.model_names:
            _require_named(token, models_concerned(request, view))
        return True


def _require_named(token: ApiToken, concerned: Collection[str] | None) -> None:
    if concerned is not None and set(concerned) <= set(token.model_names):
        return
    allowed = ", ".join(token.model_names)
    about = "is not about one of them" if concerned is None else f"is about {', '.join(concerned)}"
    raise Forbidden(
        "model-not-allowed",
        f"This token may change the models {allowed} alone, and the call {about[:200]}.",
        extra={"models": list(token.model_names)},
    )


def actor_of(request: Request) -> str:
    """How the caller is written into events."""
    assert isinstance(request.auth, ApiToken)
    return f"token:{request.auth.name}"


def person_of(request: Request) -> str:
    """The person behind the token: what two tokens of theirs do, one person did."""
    assert isinstance(request.auth, ApiToken)
    return request.auth.user.get_username()


def may_roll_out(request: Request) -> bool:
    """Whether the caller may start rollouts."""
    assert isinstance(request.auth, ApiToken)
    return Scope.ROLLOUT in request.auth.scopes


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
    "may_roll_out",
    "person_of",
    "token_of",
]
