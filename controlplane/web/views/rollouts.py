"""Rollouts: the list, one that refreshes itself, and the sites of a stage."""

from datetime import datetime, timedelta

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.utils.timezone import now as current_time

from controlplane.audit.queries import events_of
from controlplane.catalog.queries import models_with_latest
from controlplane.domain.rollout import (
    FINAL_ROLLOUT,
    DeploymentState,
    RolloutState,
    WaitsFor,
    allowed_verbs,
    waits_for,
)
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.queries import (
    deployment_counts,
    find_rollout,
    first_deployments,
    forward_deployments,
    rollouts,
)
from controlplane.web.access import (
    FREEZE,
    START,
    STEER,
    actor_of,
    console_page,
    refusal,
)
from controlplane.web.approvals import approval_lines
from controlplane.web.choices import choices
from controlplane.web.events import event_lines
from controlplane.web.facts import rollout_facts
from controlplane.web.live import respond
from controlplane.web.look import look_of
from controlplane.web.situations import no_way_back, situation_of
from controlplane.web.stages import REACHED, ROWS_PER_STAGE, stage_panels, stage_strips
from controlplane.web.verbs import offers
from controlplane.web.words import left_out

PER_PAGE = 25
SITES_PER_PAGE = 100
EVENTS_SHOWN = 30


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
            "rows": [
                (rollout, stage_strips(rollout, counts), waiting_word(rollout)) for rollout in page
            ],
            "chosen": chosen,
            "filtered": any(chosen.values()),
            "models": [model.name for model in models_with_latest()],
            "states": [(state.value, look_of("rollout", state).word) for state in RolloutState],
            "may_not_start": refusal(request, START),
        },
        shows=([(r.pk, r.revision) for r in page], page.paginator.count, sorted(counts.items())),
    )


def waiting_word(rollout: Rollout) -> str:
    """Whom it waits for; empty when nothing is waited for any more."""
    found = waits_for(RolloutState(rollout.state), rollout.reason_code)
    return "" if found is WaitsFor.NOTHING else found.value


@console_page
def detail(request: HttpRequest, rollout_id: int) -> HttpResponse:
    now = current_time()
    rollout = find_rollout(rollout_id)
    facts = rollout_facts(rollout, now)
    rows = first_deployments(rollout, per_stage=ROWS_PER_STAGE)
    panels = stage_panels(rollout, facts, rows, now)
    approvals = approval_lines(rollout, facts.approvals, now)
    events = event_lines(
        events_of(object_type="rollout", object_id=str(rollout.pk), limit=EVENTS_SHOWN)
    )
    refused = refusal(request, STEER)
    may_freeze = not refusal(request, FREEZE)
    situation = situation_of(
        rollout, facts, approvals, actor=actor_of(request), may_freeze=may_freeze, now=now
    )
    excluded = [(entry["site"], entry["reason"]) for entry in rollout.excluded]
    frozen = situation.frozen
    return respond(
        request,
        page="rollouts/detail.html",
        fragment="parts/rollout_live.html",
        context={
            "rollout": rollout,
            "waiting": waiting_word(rollout),
            "stages": panels,
            "offers": offers(situation, refused),
            "choices": [] if refused else choices(situation),
            "may_approve": not refused and not situation.not_approver,
            "returnable": _returnable(rollout, refused or frozen),
            "approvals": approvals,
            "expected_end": _expected_end(rollout),
            "events": events,
            "left_out": left_out(excluded),
            "left_out_total": len(excluded),
        },
        shows=(
            rollout.revision,
            facts.shown,
            [(s.stage.state, s.stage.soaked_seconds, s.stage.reason) for s in panels],
            [gate.old for panel in panels for gate in panel.gates],
            [(row.pk, row.state, row.reason, row.back_state, row.back_reason) for row in rows],  # type: ignore[attr-defined]  # annotated by the query
            [(line.valid, line.missing) for line in approvals],
            [line.event.pk for line in events],
            (refused, frozen),
        ),
        final=rollout.state in FINAL_ROLLOUT,
    )


def _returnable(rollout: Rollout, refused: str) -> frozenset[DeploymentState]:
    """In which states a single site can be sent back by this person."""
    possible = not refused and "rollback" in allowed_verbs(RolloutState(rollout.state))
    return REACHED if possible else frozenset()


def _expected_end(rollout: Rollout) -> datetime | None:
    """As planned, from when it began or is to begin; nobody knows while it queues."""
    begin = rollout.started_at or rollout.start_at
    if begin is None or rollout.expected_seconds is None:
        return None
    return begin + timedelta(seconds=rollout.expected_seconds)


@console_page
def stage(request: HttpRequest, rollout_id: int, stage: str) -> HttpResponse:
    """Every site of a stage, for stages that are too long for the rollout's page."""
    rollout = find_rollout(rollout_id)
    found = get_object_or_404(rollout.stages, name=stage)
    rows = forward_deployments(rollout).filter(stage=found)
    page = Paginator(rows, SITES_PER_PAGE).get_page(request.GET.get("page"))
    refused = refusal(request, STEER)
    if not refused and refusal(request, FREEZE):
        refused = no_way_back(current_time())
    context = {
        "rollout": rollout,
        "stage": found,
        "page": page,
        "returnable": _returnable(rollout, refused),
    }
    return render(request, "rollouts/stage.html", context)
