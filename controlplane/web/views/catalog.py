"""Models, what stands behind a version, and taking one out of use."""

from typing import Any

from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.catalog.models import Version, VersionState
from controlplane.catalog.queries import find_version, models_with_latest
from controlplane.domain.rollout import VERBS, RolloutState
from controlplane.rollouts.freezes import active_freezes
from controlplane.rollouts.quarantine import quarantine_version, release_version
from controlplane.rollouts.queries import ACTIVE_STATES, difference, rollouts, sites_with
from controlplane.web.access import (
    FREEZE,
    QUARANTINE,
    START,
    actor_of,
    console_page,
    refusal,
    require,
)
from controlplane.web.acts import Act, ask_and_do
from controlplane.web.forms import QuarantineForm, ReasonForm
from controlplane.web.words import sites_do

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
            "quarantined": found.state == VersionState.QUARANTINED,
            "placed": [(row, difference(row)) for row in placed[:SITES_SHOWN]],
            "placed_total": placed.count(),
            "rollouts": list(rollouts().filter(version=found)[:ROLLOUTS_SHOWN]),
            "start_href": f"{reverse('rollout-start')}?version={found.pk}",
            "may_not_start": _why_not_start(found) or refusal(request, START),
            "may_not_quarantine": _why_not_quarantine(found) or refusal(request, QUARANTINE),
        },
    )


def _why_not_start(found: Version) -> str:
    if found.state == VersionState.QUARANTINED:
        return "It is quarantined; release it first."
    if found.state != VersionState.REGISTERED:
        return "Possible once every file is uploaded and the push is finalised."
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
