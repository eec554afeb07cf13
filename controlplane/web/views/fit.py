"""Which sites can take a version, and why not: asked before anything is planned."""

from http import HTTPStatus

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from controlplane.catalog.queries import find_version
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.fit_facts import Answer, matching
from controlplane.rollouts.site_fits import SiteFit, site_fits
from controlplane.web.access import console_page
from controlplane.web.fit_facts import fit_rows, fit_summary
from controlplane.web.look import look_of

PER_PAGE = 50


@console_page
def fit(request: HttpRequest, model: str, number: int) -> HttpResponse:
    found = find_version(model, number)
    selector, verdict = request.GET.get("selector", ""), request.GET.get("verdict", "")
    fault, status = "", HTTPStatus.OK
    sites: list[SiteFit] = []
    try:
        sites = site_fits(found, matching(selector))
    except InvalidInput as error:
        fault, status = error.detail, HTTPStatus.UNPROCESSABLE_ENTITY
    except Conflict as error:
        fault, status = error.detail, HTTPStatus.CONFLICT
    known = [answer.value for answer in Answer]
    chosen = [each for each in sites if verdict not in known or each.verdict == verdict]
    page = Paginator(chosen, PER_PAGE).get_page(request.GET.get("page"))
    context = {
        "version": found,
        "selector": selector,
        "verdict": verdict,
        "verdicts": [(value, look_of("fit", value).word) for value in known],
        "filtered": bool(selector or verdict),
        "fault": fault,
        "summary": fit_summary(sites),
        "page": page,
        "rows": fit_rows(page),
    }
    return render(request, "models/fit.html", context, status=status)
