"""What is done to a site by its page: a model pinned or let go, the site retired."""

from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.domain.triton_floor import FLOOR_RELEASE
from controlplane.fleet.queries import find_site
from controlplane.fleet.services import retire_site
from controlplane.fleet.waivers import restore_triton_floor, waive_triton_floor
from controlplane.rollouts.models import SiteModel
from controlplane.rollouts.quarantine import pin_model, unpin_model
from controlplane.rollouts.queries import wishes_of
from controlplane.web.access import (
    PIN,
    RETIRE_SITE,
    WAIVE_FLOOR,
    actor_of,
    console_page,
    require,
)
from controlplane.web.acts import Act, ask_and_do
from controlplane.web.forms import ReasonForm


def _wish(site: str, model: str) -> SiteModel:
    row = wishes_of(find_site(site).pk).filter(model__name=model).first()
    if row is None:
        raise Http404(f"Nothing is wished of {model} at {site}.")
    return row


@console_page
def pin(request: HttpRequest, name: str, model: str) -> HttpResponse:
    require(request, PIN)
    row = _wish(name, model)
    held = f"version {row.desired.number}" if row.desired else "not being served"
    act = Act(
        title=f"Pin {model} at {name}",
        label="Pin",
        icon="pin",
        effect=[
            f"It is held at {held}: plans leave the site out for this model.",
            "Drift from it is no longer corrected. A rollout under way is not stopped.",
        ],
        back=reverse("site", args=[name]),
        back_label=name,
    )

    def do(typed: dict[str, str]) -> str:
        pin_model(
            site_name=name,
            model_name=model,
            reason=typed["reason"],
            actor=actor_of(request),
            now=current_time(),
        )
        return f"{model} is pinned at {name}."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="pin"), do)


@console_page
def unpin(request: HttpRequest, name: str, model: str) -> HttpResponse:
    require(request, PIN)
    row = _wish(name, model)
    act = Act(
        title=f"Unpin {model} at {name}",
        label="Unpin",
        icon="pin",
        effect=["Rollouts reach the site again, and drift is dealt with as for any other."],
        back=reverse("site", args=[name]),
        back_label=name,
        why_not="" if row.pinned_by else f"{model} is not pinned at {name}.",
    )

    def do(typed: dict[str, str]) -> str:
        unpin_model(
            site_name=name,
            model_name=model,
            reason=typed["reason"],
            actor=actor_of(request),
            now=current_time(),
        )
        return f"{model} is no longer pinned at {name}."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="site"), do)


@console_page
def retire(request: HttpRequest, name: str) -> HttpResponse:
    require(request, RETIRE_SITE)
    site = find_site(name)
    act = Act(
        title=f"Retire site {name}",
        label="Retire",
        icon="stop",
        danger=True,
        effect=[
            "Its agent is revoked, and it leaves every rollout it takes part in.",
            "What it serves is not touched, and nobody here changes it any more.",
            "Its name stays taken; the API can take the site back.",
        ],
        back=reverse("sites"),
        back_label="Sites",
    )

    def do(typed: dict[str, str]) -> str:
        retire_site(site=site, reason=typed["reason"], actor=actor_of(request), now=current_time())
        return f"Site {name} is retired."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="site"), do)


@console_page
def waive_floor(request: HttpRequest, name: str) -> HttpResponse:
    require(request, WAIVE_FLOOR)
    site = find_site(name)
    act = Act(
        title=f"Waive the security floor of Triton at {name}",
        label="Waive it",
        icon="flag",
        danger=True,
        effect=[
            "Versions that run their author's code may go there though its Triton is below "
            f"{FLOOR_RELEASE}, or of a version that nobody knows: it has known critical faults.",
            "It is for this rule alone, and holds until somebody takes it back.",
        ],
        back=reverse("site", args=[name]),
        back_label=name,
        why_not=f"{name} is retired." if site.retired_at else "",
    )

    def do(typed: dict[str, str]) -> str:
        waive_triton_floor(
            site=site, reason=typed["reason"], actor=actor_of(request), now=current_time()
        )
        return f"The floor is waived at {name}."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="site"), do)


@console_page
def restore_floor(request: HttpRequest, name: str) -> HttpResponse:
    require(request, WAIVE_FLOOR)
    site = find_site(name)
    act = Act(
        title=f"Take back the waiver of the security floor at {name}",
        label="Take it back",
        icon="undo",
        effect=[
            "What serves there goes on; no version that runs its author's code comes anew while "
            f"its Triton is below {FLOOR_RELEASE}."
        ],
        back=reverse("site", args=[name]),
        back_label=name,
        why_not="" if site.floor_waiver else f"The floor is not waived at {name}.",
    )

    def do(typed: dict[str, str]) -> str:
        restore_triton_floor(
            site=site, reason=typed["reason"], actor=actor_of(request), now=current_time()
        )
        return f"The floor holds again at {name}."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="site"), do)
