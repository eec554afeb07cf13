"""Models: the list, and one model with its versions, its channels, its policy and its registry."""

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.timezone import now as current_time

from controlplane.catalog.channels import channels_of
from controlplane.catalog.models import VersionState
from controlplane.catalog.queries import find_model
from controlplane.web.access import IMPORT, MOVE_CHANNEL, SET_MODEL, console_page, refusal
from controlplane.web.model_facts import (
    link_lines,
    model_lines,
    models_for_list,
    used_of,
    version_lines,
    versions_for_page,
)

PER_PAGE = 50


@console_page
def model_list(request: HttpRequest) -> HttpResponse:
    page = Paginator(models_for_list(), PER_PAGE).get_page(request.GET.get("page"))
    lines = model_lines(list(page))
    return render(request, "models/list.html", {"page": page, "lines": lines})


@console_page
def detail(request: HttpRequest, model: str) -> HttpResponse:
    found = find_model(model)
    rows, chosen = versions_for_page(found), request.GET.get("state", "")
    if chosen in VersionState.values:
        rows = rows.filter(state=chosen)
    page = Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
    channels = list(channels_of(found))
    used = used_of(found)
    context = {
        "model": found,
        "page": page,
        "lines": version_lines(found, list(page), channels),
        "states": VersionState.choices,
        "chosen": chosen,
        "channels": channels,
        "used": used,
        "links": link_lines(found),
        "may_not_set": refusal(request, SET_MODEL),
        "may_not_move": refusal(request, MOVE_CHANNEL),
        "may_not_import": refusal(request, IMPORT),
        "now": current_time(),
    }
    return render(request, "models/detail.html", context)
