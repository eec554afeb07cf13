"""Machines that may call: one's own API tokens, trusted publishers, signing keys."""

from datetime import datetime
from http import HTTPStatus

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.timezone import now as current_time

from controlplane.accounts.models import ApiToken, User
from controlplane.accounts.publishers import create_publisher, publishers
from controlplane.accounts.services import create_api_token, tokens_of
from controlplane.catalog.signing_keys import add_signing_key, signing_keys
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.web.access import (
    ADD_KEY,
    ADD_PUBLISHER,
    MAKE_TOKEN,
    REVOKE_KEY,
    REVOKE_PUBLISHER,
    actor_of,
    console_page,
    refusal,
    require,
)
from controlplane.web.forms import add_faults
from controlplane.web.machine_forms import FIELDS, PublisherForm, SigningKeyForm, TokenForm
from controlplane.web.scopes import withheld

PER_PAGE = 50


@console_page
def tokens(request: HttpRequest) -> HttpResponse:
    """One's own: those of others are nobody's business but the back office's."""
    assert isinstance(request.user, User)
    now = current_time()
    page = Paginator(tokens_of(request.user), PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "rows": [(token, _life(token, now)) for token in page],
        "may_not_make": refusal(request, MAKE_TOKEN),
    }
    return render(request, "access/tokens.html", context)


def _life(token: ApiToken, now: datetime) -> str:
    """Works, ended or was revoked, as `look.py` has it."""
    if token.revoked_at is not None:
        return "revoked"
    return "live" if token.expires_at > now else "expired"


@console_page
def new_token(request: HttpRequest) -> HttpResponse:
    """Shows the secret once; nothing that is kept could show it again."""
    require(request, MAKE_TOKEN)
    assert isinstance(request.user, User)
    kept_back = withheld(request)
    form = TokenForm(request.POST or None, withheld=kept_back)
    context: dict[str, object] = {"form": form, "withheld": sorted(kept_back.items())}
    status = HTTPStatus.OK
    if request.method == "POST":
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        if form.is_valid():
            try:
                token, secret = create_api_token(
                    **form.asked(), user=request.user, actor=actor_of(request), now=current_time()
                )
            except InvalidInput as error:
                add_faults(form, error, FIELDS)
            else:
                context |= {"token": token, "secret": secret}
                status = HTTPStatus.OK
    response = render(request, "access/new_token.html", context, status=status)
    response["Cache-Control"] = "no-store"
    return response


@console_page
def publisher_list(request: HttpRequest) -> HttpResponse:
    page = Paginator(publishers(), PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "may_not_add": refusal(request, ADD_PUBLISHER),
        "may_not_revoke": refusal(request, REVOKE_PUBLISHER),
    }
    return render(request, "access/publishers.html", context)


@console_page
def new_publisher(request: HttpRequest) -> HttpResponse:
    """Its tokens act for the person who trusts it, with no more than that person may give."""
    require(request, ADD_PUBLISHER)
    assert isinstance(request.user, User)
    kept_back = withheld(request)
    form = PublisherForm(request.POST or None, withheld=kept_back)
    status = HTTPStatus.OK
    if request.method == "POST":
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        if form.is_valid():
            try:
                made = create_publisher(
                    **form.asked(), user=request.user, actor=actor_of(request), now=current_time()
                )
            except InvalidInput as error:
                add_faults(form, error, FIELDS)
            except Conflict as error:
                status = HTTPStatus.CONFLICT
                form.add_error("name", error.detail)
            else:
                messages.success(request, f"The jobs of {made.name} are trusted.")
                return redirect("publishers")
    context = {"form": form, "withheld": sorted(kept_back.items())}
    return render(request, "access/new_publisher.html", context, status=status)


@console_page
def key_list(request: HttpRequest) -> HttpResponse:
    page = Paginator(signing_keys(), PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "page": page,
        "may_not_add": refusal(request, ADD_KEY),
        "may_not_revoke": refusal(request, REVOKE_KEY),
    }
    return render(request, "access/keys.html", context)


@console_page
def new_key(request: HttpRequest) -> HttpResponse:
    require(request, ADD_KEY)
    form = SigningKeyForm(request.POST or None)
    status = HTTPStatus.OK
    if request.method == "POST":
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        if form.is_valid():
            try:
                key, _ = add_signing_key(
                    **form.cleaned_data, actor=actor_of(request), now=current_time()
                )
            except InvalidInput as error:
                add_faults(form, error)
            except Conflict as error:
                status = HTTPStatus.CONFLICT
                form.add_error(None, error.detail)
            else:
                messages.success(request, f"Versions may be signed by {key.name}.")
                return redirect("signing-keys")
        if "PRIVATE KEY" in request.POST.get("public_key", ""):
            form.forget_key()
    response = render(request, "access/new_key.html", {"form": form}, status=status)
    response["Cache-Control"] = "no-store"
    return response
