"""What is said of a version by its page: a yes to its bytes and that yes taken back, that it is out
of the choice or in it again, its labels and notes."""

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.catalog.approvals import approve_version, standing_of
from controlplane.catalog.channels import channels_at
from controlplane.catalog.models import ContentClass, Version, VersionState
from controlplane.catalog.queries import find_version
from controlplane.catalog.versions import change_version
from controlplane.domain.version_states import APPROVABLE, State
from controlplane.rollouts.version_verbs import retire_version, unretire_version, withdraw_approval
from controlplane.web.access import (
    APPROVE,
    CHANGE_VERSION,
    actor_of,
    console_page,
    person_of,
    require,
)
from controlplane.web.acts import Act, Back, ask_and_do
from controlplane.web.catalog_forms import ApproveForm, NotesForm
from controlplane.web.forms import PairsField, ReasonForm
from controlplane.web.version_facts import why_not_approve, why_not_withdraw


def _back(version: Version) -> Back:
    href = reverse("version", args=[version.model.name, version.number])
    return {"back": href, "back_label": str(version)}


@console_page
def approve(request: HttpRequest, model: str, number: int) -> HttpResponse:
    """Names the bytes that were on the page: if others stand there by now it is refused."""
    require(request, APPROVE)
    found = find_version(model, number)
    people = standing_of(found)
    lines = [f"It counts for the bytes {found.manifest_digest} alone."]
    if found.content_class == ContentClass.EXECUTABLE:
        lines.append("Loading it runs its author's code at every site that allows it.")
    if people.missing == 1:
        lines.append("It is the last yes that is missing: channels and rollouts may use it then.")
    elif people.missing:
        lines.append(f"{people.missing - 1} more will still be missing.")
    act = Act(
        title=f"Approve {found}",
        label="Approve",
        icon="thumb",
        effect=lines,
        why_not=why_not_approve(found, people, person_of(request)),
        **_back(found),
    )

    def do(typed: dict[str, str]) -> str:
        row = approve_version(
            version=found,
            manifest_digest=typed["manifest_digest"],
            reason=typed["reason"],
            person=person_of(request),
            actor=actor_of(request),
            now=current_time(),
        )
        if row.state == VersionState.APPROVED:
            return f"{found} is approved."
        return f"Your yes to {found} is kept; {standing_of(row).sentence}."

    initial = {"manifest_digest": found.manifest_digest}
    return ask_and_do(request, act, ApproveForm(request.POST or None, initial=initial), do)


@console_page
def withdraw(request: HttpRequest, model: str, number: int) -> HttpResponse:
    require(request, APPROVE)
    found = find_version(model, number)
    act = Act(
        title=f"Take back your approval of {found}",
        label="Take it back",
        icon="undo",
        danger=True,
        effect=[
            "With one too few it is not approved any more, and no rollout can be started.",
            "Possible as long as no rollout of it was started; after that, quarantine it.",
        ],
        why_not=why_not_withdraw(found, person_of(request)),
        **_back(found),
    )

    def do(reason: str) -> str:
        withdraw_approval(
            version=found,
            person=person_of(request),
            reason=reason,
            actor=actor_of(request),
            now=current_time(),
        )
        return f"Your approval of {found} is taken back."

    return _with_reason(request, act, do)


@console_page
def retire(request: HttpRequest, model: str, number: int) -> HttpResponse:
    require(request, CHANGE_VERSION)
    found = find_version(model, number)
    names = channels_at(found)
    why_not = "" if State(found.state) in APPROVABLE else f"It is {found.state}."
    if names and not why_not:
        why_not = f"{', '.join(names)} points at it; move that first."
    act = Act(
        title=f"Retire {found}",
        label="Retire",
        icon="stop",
        danger=True,
        effect=[
            "No new rollout brings it anywhere.",
            "Sites that serve it go on, and a way back to it stays open.",
        ],
        why_not=why_not,
        **_back(found),
    )

    def do(reason: str) -> str:
        retire_version(version=found, reason=reason, actor=actor_of(request), now=current_time())
        return f"{found} is retired."

    return _with_reason(request, act, do)


@console_page
def unretire(request: HttpRequest, model: str, number: int) -> HttpResponse:
    require(request, CHANGE_VERSION)
    found = find_version(model, number)
    act = Act(
        title=f"Take {found} back into use",
        label="Take it back",
        icon="again",
        effect=["It stands where it stood before; its approvals still count."],
        why_not="" if found.state == VersionState.RETIRED else f"{found} is not retired.",
        **_back(found),
    )

    def do(reason: str) -> str:
        unretire_version(version=found, reason=reason, actor=actor_of(request), now=current_time())
        return f"{found} is back in use."

    return _with_reason(request, act, do)


def _with_reason(request: HttpRequest, act: Act, do: Callable[[str], str]) -> HttpResponse:
    form = ReasonForm(request.POST or None, kept_with="version")
    return ask_and_do(request, act, form, lambda typed: do(typed["reason"]))


@console_page
def notes(request: HttpRequest, model: str, number: int) -> HttpResponse:
    """Labels that cannot be written one a line are left to the API."""
    require(request, CHANGE_VERSION)
    found = find_version(model, number)
    writable = PairsField.keeps(found.labels)
    act = Act(
        title=f"Labels and notes of {found}",
        label="Keep them",
        icon="check",
        effect=[
            "They say something about the version and change nothing of its bytes.",
            *([] if writable else ["Its labels hold line breaks: change those by the API."]),
        ],
        **_back(found),
    )
    # A form of empty fields is a form that was sent.
    form = NotesForm(
        request.POST if request.method == "POST" else None,
        labels_writable=writable,
        initial={"labels": PairsField.write(found.labels), "notes": found.notes},
    )

    def do(typed: dict[str, Any]) -> str:
        change_version(
            version=found,
            labels=typed.get("labels"),
            notes=typed["notes"].replace("\r\n", "\n"),
            actor=actor_of(request),
            now=current_time(),
        )
        return f"Labels and notes of {found} are kept."

    return ask_and_do(request, act, form, do)
