"""What stands behind a version, and taking one out of use."""

from typing import Any

from django.db.models import prefetch_related_objects
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.catalog.approvals import standing_of
from controlplane.catalog.channels import channels_at
from controlplane.catalog.models import Version, VersionState
from controlplane.catalog.queries import find_version
from controlplane.catalog.signatures import signature_standing
from controlplane.domain.errors import Conflict
from controlplane.domain.rollout import VERBS, RolloutState
from controlplane.domain.version_states import APPROVABLE, State
from controlplane.rollouts.freezes import active_freezes
from controlplane.rollouts.quarantine import quarantine_version, release_version
from controlplane.rollouts.queries import ACTIVE_STATES, difference, rollouts, sites_with
from controlplane.rollouts.site_fits import site_fits
from controlplane.web.access import (
    APPROVE,
    CHANGE_VERSION,
    FREEZE,
    QUARANTINE,
    START,
    actor_of,
    console_page,
    person_of,
    refusal,
    require,
)
from controlplane.web.acts import Act, ask_and_do
from controlplane.web.fit_facts import FitSummary, fit_summary
from controlplane.web.forms import QuarantineForm, ReasonForm
from controlplane.web.golden_facts import golden_files
from controlplane.web.look import look_of
from controlplane.web.version_facts import (
    approval_lines,
    build_lines,
    imported_from,
    lineage_lines,
    metric_lines,
    where_it_stands,
    why_not_approve,
    why_not_withdraw,
)
from controlplane.web.words import sites_do

FILES_SHOWN = 200
SITES_SHOWN = 100
ROLLOUTS_SHOWN = 10


@console_page
def version(request: HttpRequest, model: str, number: int) -> HttpResponse:
    found = find_version(model, number)
    prefetch_related_objects([found], "approvals", "signatures__key", "variants")
    people, person = standing_of(found), person_of(request)
    where = where_it_stands(found, people)
    placed = sites_with(found)
    files = found.files.all()
    uploading = found.state == VersionState.UPLOADING
    context = {
        "version": found,
        "where": where,
        "tone": look_of("version", found.state).tone,
        "people": people,
        "approvals": approval_lines(found, people),
        "signature": signature_standing(found),
        "signatures": found.signatures.all(),
        "lineage": lineage_lines(found.lineage),
        "metrics": metric_lines(found.lineage),
        "imported": imported_from(found),
        "builds": build_lines(list(found.variants.all())),
        "channels": channels_at(found),
        "fit": None if uploading else _fit(found),
        "files": list(files[:FILES_SHOWN]),
        "files_total": files.count(),
        "placed": [(row, difference(row)) for row in placed[:SITES_SHOWN]],
        "placed_total": placed.count(),
        "rollouts": list(rollouts().filter(version=found)[:ROLLOUTS_SHOWN]),
        "start_href": f"{reverse('rollout-start')}?version={found.pk}",
        "may_not_start": _why_not_start(found) or refusal(request, START),
        "may_not_quarantine": _why_not_quarantine(found) or refusal(request, QUARANTINE),
        "may_not_approve": refusal(request, APPROVE) or why_not_approve(found, people, person),
        "may_withdraw": not (refusal(request, APPROVE) or why_not_withdraw(found, person)),
        "may_not_change": refusal(request, CHANGE_VERSION),
        "retirable": State(found.state) in APPROVABLE,
    }
    return render(request, "models/version.html", context)


def _fit(found: Version) -> FitSummary | None:
    """None where it has no build, as one of before there were builds."""
    try:
        return fit_summary(site_fits(found, lambda traits: True))
    except Conflict:
        return None


@console_page
def golden(request: HttpRequest, model: str, number: int) -> HttpResponse:
    found = find_version(model, number)
    context = {"version": found, "golden": golden_files(found)}
    return render(request, "models/golden.html", context)


def _why_not_start(found: Version) -> str:
    if found.state == VersionState.QUARANTINED:
        return "It is quarantined; release it first."
    if found.state == VersionState.UPLOADING:
        return "Possible once every file is uploaded and the push is finalised."
    if found.state == VersionState.RETIRED:
        return "It is retired; take it back into use first."
    if found.state != VersionState.APPROVED:
        return f"It is not approved: {found.state_reason}."
    return ""


def _why_not_quarantine(found: Version) -> str:
    if found.state == VersionState.UPLOADING:
        return "It is not registered yet, so nobody can use it."
    return ""


@console_page
def quarantine(request: HttpRequest, model: str, number: int) -> HttpResponse:
    require(request, QUARANTINE)
    found = find_version(model, number)
    form = QuarantineForm(request.POST or None)
    frozen = refusal(request, FREEZE) and active_freezes(current_time()).exists()
    if frozen:  # no way back for this person now
        del form.fields["roll_back"]
    already = found.state == VersionState.QUARANTINED
    act = Act(
        title=f"Quarantine {found}",
        label="Quarantine",
        icon="stop",
        danger=True,
        effect=_quarantine_effect(found),
        back=reverse("version", args=[model, number]),
        back_label=str(found),
        why_not=f"{found} is quarantined already." if already else _why_not_quarantine(found),
    )

    def do(typed: dict[str, Any]) -> str:
        quarantine_version(
            model_name=model,
            number=number,
            reason=typed["reason"],
            roll_back=typed.get("roll_back", False),
            may_while_frozen=not refusal(request, FREEZE),
            actor=actor_of(request),
            now=current_time(),
        )
        return f"{found} is quarantined."

    return ask_and_do(request, act, form, do)


def _quarantine_effect(found: Version) -> list[str]:
    lines = ["No site is offered it or activates it from now on, by no rollout."]
    placed = sites_with(found).filter(reported_serving=found.number).count()
    lines.append(
        f"{sites_do(placed, 'serves', 'serve')} it and {'goes' if placed == 1 else 'go'} on."
    )
    for rollout in rollouts().filter(version=found, state__in=ACTIVE_STATES):
        turns = RolloutState(rollout.state) in VERBS["rollback"]
        way = "it pauses, or turns back if you ask for it" if turns else "it stands still"
        lines.append(f"Rollout {rollout.pk} is {rollout.get_state_display()}: {way}.")
    return lines


@console_page
def release(request: HttpRequest, model: str, number: int) -> HttpResponse:
    require(request, QUARANTINE)
    found = find_version(model, number)
    act = Act(
        title=f"Release {found}",
        label="Release",
        icon="play",
        effect=[
            "It can be rolled out again, and drift is corrected to it again.",
            "A rollout of it that was paused stays paused until it is resumed.",
        ],
        back=reverse("version", args=[model, number]),
        back_label=str(found),
        why_not="" if found.state == VersionState.QUARANTINED else f"{found} is not quarantined.",
    )

    def do(typed: dict[str, str]) -> str:
        release_version(
            model_name=model,
            number=number,
            reason=typed["reason"],
            actor=actor_of(request),
            now=current_time(),
        )
        return f"{found} is released."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="version"), do)
