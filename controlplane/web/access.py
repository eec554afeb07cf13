"""Who may see and do what in the console, and the sentence for those who may not."""

from collections.abc import Callable
from functools import wraps
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import resolve_url

from controlplane.domain.errors import NotFound
from controlplane.web.live import wants_fragment

STEER = "rollouts.change_rollout"
START = "rollouts.add_rollout"
FREEZE = "rollouts.add_freeze"
LIFT = "rollouts.change_freeze"
SET_BUDGET = "rollouts.change_budget"
KEEP_STRATEGY = "rollouts.add_strategy"
RETIRE_STRATEGY = "rollouts.change_strategy"
PIN = "rollouts.change_sitemodel"
PUSH = "catalog.add_version"
CHANGE_VERSION = "catalog.change_version"  # its labels and notes; out of use and back
QUARANTINE = CHANGE_VERSION
APPROVE = "catalog.add_versionapproval"
SET_MODEL = "catalog.change_model"
MOVE_CHANNEL = "catalog.change_channel"
IMPORT = "catalog.change_registrylink"
ADD_KEY = "catalog.add_signingkey"
REVOKE_KEY = "catalog.change_signingkey"
MAKE_TOKEN = "accounts.add_apitoken"
ADD_PUBLISHER = "accounts.add_trustedpublisher"
REVOKE_PUBLISHER = "accounts.change_trustedpublisher"
ADD_SITE = "fleet.add_site"
WAIVE_FLOOR = "fleet.change_site"
RETIRE_SITE = "fleet.delete_site"
ENROL = "fleet.add_enrolmenttoken"
STEER_AGENT = "fleet.change_agent"

View = Callable[..., HttpResponse]


def person_of(request: HttpRequest) -> str:
    """Who this is, whatever they act by: what two of their tokens do, one person did."""
    return request.user.get_username()


def actor_of(request: HttpRequest) -> str:
    """How the event log names the person."""
    return f"user:{request.user.get_username()}"


def refusal(request: HttpRequest, *permissions: str) -> str:
    """Why this person may not, in a sentence; empty if they may. Every one of them is needed."""
    user = request.user
    if user.is_active and getattr(user, "is_staff", False):
        return ""
    missing = [permission for permission in permissions if not user.has_perm(permission)]
    if not missing:
        return ""
    named = ", ".join(missing)
    return f"Your account has no right to do this ({named}). Ask an administrator for it."


def require(request: HttpRequest, *permissions: str) -> None:
    if why := refusal(request, *permissions):
        raise PermissionDenied(why)


def console_page(view: View) -> View:
    """For people who are logged in; an unknown object is a 404 with its sentence."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            return _send_to_login(request)
        try:
            return view(request, *args, **kwargs)
        except NotFound as error:
            raise Http404(error.detail) from error

    return guarded


def _send_to_login(request: HttpRequest) -> HttpResponse:
    """Of a panel the page is sent: a redirect would be followed by the script, which would put the
    login form into the panel."""
    if not wants_fragment(request):
        return redirect_to_login(request.get_full_path())
    shown = urlsplit(request.headers.get("HX-Current-URL", ""))
    back = urlencode({"next": shown.path or request.path})
    response = HttpResponse(status=HTTPStatus.UNAUTHORIZED)
    response["HX-Redirect"] = f"{resolve_url('login')}?{back}"
    return response
