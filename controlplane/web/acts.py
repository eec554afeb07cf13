"""Asking before something is done, with its effect and a form; then doing it.

One address shows the question (GET), as a page or for the script as a dialog, and does it (POST).
What is done is the caller's; so is who may."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypedDict

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render

from controlplane.domain.errors import Conflict, Forbidden, InvalidInput
from controlplane.web.forms import ConsoleForm, add_faults
from controlplane.web.live import wants_fragment


class Back(TypedDict):
    """Where an act came from."""

    back: str
    back_label: str


@dataclass(frozen=True, kw_only=True)
class Act:
    """A question in words. `why_not` is said instead of the form; `back` is where it came from."""

    title: str
    label: str
    icon: str
    effect: Sequence[str]
    back: str
    back_label: str
    danger: bool = False
    why_not: str = ""


def ask_and_do(
    request: HttpRequest, act: Act, form: ConsoleForm, do: Callable[[dict[str, Any]], str]
) -> HttpResponse:
    """`do` gets what was typed and gives the sentence that says it is done. The form is bound if
    the request is a POST."""
    if request.method != "POST":
        return _ask(request, act, form, HTTPStatus.OK)
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if form.is_valid():
        try:
            said = do(form.cleaned_data)
        except InvalidInput as error:
            add_faults(form, error)
        except (Conflict, Forbidden) as error:
            refused = isinstance(error, Forbidden)
            status = HTTPStatus.FORBIDDEN if refused else HTTPStatus.CONFLICT
            form.add_error(None, error.detail)
        else:
            messages.success(request, said)
            if not wants_fragment(request):
                return redirect(act.back)
            response = HttpResponse(status=HTTPStatus.NO_CONTENT)
            response["HX-Redirect"] = act.back
            return response
    return _ask(request, act, form, status)


def _ask(request: HttpRequest, act: Act, form: ConsoleForm, status: HTTPStatus) -> HttpResponse:
    in_dialog = wants_fragment(request)
    template = "parts/act_form.html" if in_dialog else "act.html"
    context = {"act": act, "form": form, "in_dialog": in_dialog}
    response = render(request, template, context, status=status)
    response["Cache-Control"] = "no-store"
    return response
