"""What stands above all rollouts: freezes, and the budget of the fleet."""

from datetime import datetime
from http import HTTPStatus

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.domain.errors import InvalidInput
from controlplane.fleet.queries import regions
from controlplane.rollouts.freezes import (
    active_freezes,
    fleet_budget,
    freeze_sites,
    lift_freeze,
    set_budget,
)
from controlplane.rollouts.models import Freeze
from controlplane.web.access import (
    FREEZE,
    LIFT,
    SET_BUDGET,
    STEER,
    actor_of,
    console_page,
    refusal,
    require,
)
from controlplane.web.acts import Act, ask_and_do
from controlplane.web.forms import BudgetForm, FreezeForm, ReasonForm, add_faults
from controlplane.web.frozen import freeze_lines, whom
from controlplane.web.words import sites_do

PAST_SHOWN = 20
# What the service names is in one field of its own document, here in several.
_FIELDS = {"selector.tier": "tier", "selector.region": "region", "selector.sites": "sites"}


@console_page
def freezes(request: HttpRequest) -> HttpResponse:
    """Asks and does: the form of a new freeze stands on the page of those in force."""
    form = FreezeForm(request.POST or None, regions=regions())
    status = HTTPStatus.OK
    if request.method == "POST":
        require(request, STEER, FREEZE)
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        if form.is_valid():
            try:
                made = freeze_sites(
                    selector=form.selector(),
                    reason=form.cleaned_data["reason"],
                    until=form.cleaned_data["until"],
                    actor=actor_of(request),
                    now=current_time(),
                )
            except InvalidInput as error:
                add_faults(form, error, _FIELDS)
            else:
                messages.success(request, f"Frozen: {whom(made)}. Nothing starts there any more.")
                return redirect("freezes")
    now = current_time()
    context = {
        "form": form,
        "lines": freeze_lines(now),
        "past": [(freeze, whom(freeze)) for freeze in _past(now)],
        "budget": fleet_budget(),
        "may_not_freeze": refusal(request, STEER, FREEZE),
        "may_not_lift": refusal(request, STEER, LIFT),
        "may_not_set": refusal(request, SET_BUDGET),
    }
    return render(request, "freezes.html", context, status=status)


def _past(now: datetime) -> list[Freeze]:
    """Lifted or over, the newest first."""
    in_force = active_freezes(now).values("pk")
    return list(Freeze.objects.exclude(pk__in=in_force)[:PAST_SHOWN])


@console_page
def lift(request: HttpRequest, freeze_id: int) -> HttpResponse:
    require(request, STEER, LIFT)
    now = current_time()
    line = next((line for line in freeze_lines(now) if line.freeze.pk == freeze_id), None)
    if line is None and not Freeze.objects.filter(pk=freeze_id).exists():
        raise Http404(f"There is no freeze {freeze_id}.")
    act = Act(
        title=f"Lift freeze {freeze_id}",
        label="Lift the freeze",
        icon="play",
        effect=[
            f"{sites_do(line.held, 'is', 'are')} free again, unless another freeze holds them.",
            "Rollouts that wait there go on with the next tick.",
        ]
        if line
        else [],
        back=reverse("freezes"),
        back_label="Freeze and budget",
        why_not="" if line else f"Freeze {freeze_id} is over already.",
    )

    def do(typed: dict[str, str]) -> str:
        lift_freeze(
            freeze_id=freeze_id,
            reason=typed["reason"],
            actor=actor_of(request),
            now=now,
        )
        return f"Freeze {freeze_id} is lifted."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="freeze"), do)


@console_page
def budget(request: HttpRequest) -> HttpResponse:
    require(request, SET_BUDGET)
    present = fleet_budget().changing_percent
    act = Act(
        title="Budget of the fleet",
        label="Set the budget",
        icon="check",
        effect=[
            "A site that would go over it waits, and gets its turn as the hour moves on.",
            "Who turned back within the hour counts too; turning back itself never waits for it.",
        ],
        back=reverse("freezes"),
        back_label="Freeze and budget",
    )

    def do(typed: dict[str, object]) -> str:
        percent = typed["changing_percent"]
        assert percent is None or isinstance(percent, int)
        set_budget(
            changing_percent=percent,
            reason=str(typed["reason"]),
            actor=actor_of(request),
            now=current_time(),
        )
        if percent is None:
            return "There is no budget any more."
        return f"At most {percent} % of all sites change within an hour now."

    form = BudgetForm(request.POST or None, initial={"changing_percent": present})
    return ask_and_do(request, act, form, do)
