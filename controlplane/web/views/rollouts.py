"""Rollouts: the list, one that refreshes itself, the verbs, and starting one."""

from http import HTTPStatus

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.audit.queries import events_of
from controlplane.catalog.queries import models_with_latest
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.rollout import FINAL_ROLLOUT, RolloutState
from controlplane.rollouts.models import DeploymentKind, Rollout
from controlplane.rollouts.planning import plan_rollout
from controlplane.rollouts.queries import (
    deployment_counts,
    find_rollout,
    first_deployments,
    forward_deployments,
    rollouts,
)
from controlplane.rollouts.services import start_rollout
from controlplane.web.access import START, STEER, actor_of, console_page, refusal, require
from controlplane.web.events import event_lines
from controlplane.web.forms import ReasonForm, StartForm, add_faults
from controlplane.web.live import respond, wants_fragment
from controlplane.web.stages import ROWS_PER_STAGE, stage_panels
from controlplane.web.verbs import VERB_BY_NAME, Totals, Verb, offers, why_not

PER_PAGE = 25
SITES_PER_PAGE = 100
EVENTS_SHOWN = 30
EXCLUDED_SHOWN = 50


@console_page
def rollout_list(request: HttpRequest) -> HttpResponse:
    chosen = {key: request.GET.get(key, "") for key in ("model", "state")}
    rows = rollouts()
    if chosen["model"]:
        rows = rows.filter(model__name=chosen["model"])
    if chosen["state"]:
        rows = rows.filter(state=chosen["state"])
    page = Paginator(rows, PER_PAGE).get_page(request.GET.get("page"))
    counts = deployment_counts(rollout.pk for rollout in page)
    return respond(
        request,
        page="rollouts/list.html",
        fragment="parts/rollouts_live.html",
        context={
            "page": page,
            "rows": [(rollout, stage_panels(rollout, counts)) for rollout in page],
            "chosen": chosen,
            "filtered": any(chosen.values()),
            "models": [model.name for model in models_with_latest()],
            "states": [state.value for state in RolloutState],
            "may_not_start": refusal(request, START),
        },
        shows=([(r.pk, r.revision) for r in page], page.paginator.count, sorted(counts.items())),
    )


@console_page
def detail(request: HttpRequest, rollout_id: int) -> HttpResponse:
    rollout = find_rollout(rollout_id)
    counts = deployment_counts([rollout.pk])
    rows = first_deployments(rollout, per_stage=ROWS_PER_STAGE)
    panels = stage_panels(rollout, counts, rows)
    events = event_lines(
        events_of(object_type="rollout", object_id=str(rollout.pk), limit=EVENTS_SHOWN)
    )
    refused = refusal(request, STEER)
    return respond(
        request,
        page="rollouts/detail.html",
        fragment="parts/rollout_live.html",
        context={
            "rollout": rollout,
            "stages": panels,
            "offers": offers(RolloutState(rollout.state), refused),
            "events": events,
            "excluded": rollout.excluded[:EXCLUDED_SHOWN],
            "excluded_total": len(rollout.excluded),
        },
        shows=(
            rollout.revision,
            sorted(counts.items()),
            [(s.stage.state, s.stage.soaked_seconds, s.stage.reason) for s in panels],
            [(row.pk, row.state, row.reason, row.back_state, row.back_reason) for row in rows],  # type: ignore[attr-defined]  # annotated by the query
            [line.event.pk for line in events],
            refused,
        ),
        final=rollout.state in FINAL_ROLLOUT,
    )


@console_page
def stage(request: HttpRequest, rollout_id: int, stage: str) -> HttpResponse:
    """Every site of a stage, for stages that are too long for the rollout's page."""
    rollout = find_rollout(rollout_id)
    found = get_object_or_404(rollout.stages, name=stage)
    rows = forward_deployments(rollout).filter(stage=found)
    page = Paginator(rows, SITES_PER_PAGE).get_page(request.GET.get("page"))
    return render(
        request, "rollouts/stage.html", {"rollout": rollout, "stage": found, "page": page}
    )


@console_page
def act(request: HttpRequest, rollout_id: int, verb: str) -> HttpResponse:
    """Asks (GET) and does (POST). One address serves the dialog and the page without script."""
    chosen = VERB_BY_NAME.get(verb)
    if chosen is None:
        raise Http404(f"{verb} is not something that can be done to a rollout.")
    require(request, STEER)
    if request.method != "POST":
        return _ask(request, find_rollout(rollout_id), chosen, ReasonForm(chosen))
    form = ReasonForm(chosen, request.POST)
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if form.is_valid():
        try:
            chosen.service(
                rollout_id=rollout_id,
                reason=form.cleaned_data["reason"],
                actor=actor_of(request),
                now=current_time(),
            )
        except InvalidInput as error:
            add_faults(form, error)
        except Conflict as error:
            status = HTTPStatus.CONFLICT
            form.add_error(None, error.detail)
        else:
            messages.success(request, f"Rollout {rollout_id} is {chosen.done}.")
            return _back_to(request, rollout_id)
    return _ask(request, find_rollout(rollout_id), chosen, form, status)


def _ask(
    request: HttpRequest,
    rollout: Rollout,
    verb: Verb,
    form: ReasonForm,
    status: HTTPStatus = HTTPStatus.OK,
) -> HttpResponse:
    template = "parts/verb_form.html" if wants_fragment(request) else "rollouts/verb.html"
    state = RolloutState(rollout.state)
    context = {
        "rollout": rollout,
        "verb": verb,
        "form": form,
        "effect": verb.effect(_forward_totals(rollout)),
        "why_not": why_not(verb, state),
        "possible": [offer.verb for offer in offers(state, "") if not offer.why_not],
        "in_dialog": wants_fragment(request),
    }
    response = render(request, template, context, status=status)
    response["Cache-Control"] = "no-store"
    return response


def _forward_totals(rollout: Rollout) -> Totals:
    totals: dict[object, int] = {}
    for (_, kind), counts in deployment_counts([rollout.pk]).items():
        if kind == DeploymentKind.FORWARD:
            for state, count in counts.items():
                totals[state] = totals.get(state, 0) + count
    return totals  # type: ignore[return-value]  # keys are DeploymentState


def _back_to(request: HttpRequest, rollout_id: int) -> HttpResponse:
    if not wants_fragment(request):
        return redirect("rollout", rollout_id=rollout_id)
    response = HttpResponse(status=HTTPStatus.NO_CONTENT)
    response["HX-Redirect"] = reverse("rollout", args=[rollout_id])
    return response


@console_page
def start(request: HttpRequest) -> HttpResponse:
    require(request, START)
    """Twice the same form: first it shows the plan, then it starts just the plan that was shown."""
    first = {"version": request.GET.get("version", "")}
    form = StartForm(request.POST or None, initial=first)
    status, planned = HTTPStatus.OK, None
    if request.method == "POST" and not form.is_valid():
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    elif request.method == "POST":
        try:
            if request.POST.get("step") == "start":
                rollout = start_rollout(
                    **form.asked(current_time()),
                    note=form.cleaned_data["note"],
                    expect_plan=request.POST.get("expect_plan", ""),
                    actor=actor_of(request),
                )
                return redirect("rollout", rollout_id=rollout.pk)
            planned = plan_rollout(**form.asked(current_time()))
        except InvalidInput as error:
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            add_faults(form, error)
        except Conflict as error:
            status = HTTPStatus.CONFLICT
            form.add_error(None, error.detail)
            if error.code == "plan-changed":
                planned = plan_rollout(**form.asked(current_time()))
    return render(request, "rollouts/start.html", {"form": form, "planned": planned}, status=status)
