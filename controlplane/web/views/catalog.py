"""Models and what stands behind a version."""

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.catalog.models import VersionState
from controlplane.catalog.queries import find_version, models_with_latest
from controlplane.rollouts.queries import difference, rollouts, sites_with
from controlplane.web.access import START, console_page, refusal

PER_PAGE = 50
SITES_SHOWN = 100
ROLLOUTS_SHOWN = 10


@console_page
def model_list(request: HttpRequest) -> HttpResponse:
    models = models_with_latest().prefetch_related("versions")
    page = Paginator(models, PER_PAGE).get_page(request.GET.get("page"))
    return render(request, "models/list.html", {"page": page})


@console_page
def version(request: HttpRequest, model: str, number: int) -> HttpResponse:
    found = find_version(model, number)
    placed = sites_with(found)
    return render(
        request,
        "models/version.html",
        {
            "version": found,
            "files": list(found.files.all()),
            "registered": found.state == VersionState.REGISTERED,
            "placed": [(row, difference(row)) for row in placed[:SITES_SHOWN]],
            "placed_total": placed.count(),
            "rollouts": list(rollouts().filter(version=found)[:ROLLOUTS_SHOWN]),
            "may_not_start": refusal(request, START),
        },
    )
