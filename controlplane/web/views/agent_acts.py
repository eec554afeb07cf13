"""What is done to a site's agent by its page: a new key asked for, a locked one let in again."""

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.fleet.keys import ROTATION_DEADLINE, ask_for_new_key, unlock_agent
from controlplane.fleet.queries import active_agent, find_site
from controlplane.web.access import STEER_AGENT, actor_of, console_page, require
from controlplane.web.acts import Act, ask_and_do
from controlplane.web.forms import ConsoleForm, ReasonForm


@console_page
def new_key(request: HttpRequest, name: str) -> HttpResponse:
    require(request, STEER_AGENT)
    site = find_site(name)
    act = Act(
        title=f"Ask the agent of {name} for a new key",
        label="Ask for it",
        icon="key",
        effect=[
            "The agent makes a new key when it next logs in, within the hour, and signs it with "
            "the old one. Nobody has to go there.",
            "From then on the old key opens nothing.",
            f"Until it is done this page says so; after {ROTATION_DEADLINE.days} days it warns.",
        ],
        back=reverse("site", args=[name]),
        back_label=name,
        why_not="" if active_agent(site) else f"No agent has joined {name}.",
    )

    def do(typed: dict[str, str]) -> str:
        ask_for_new_key(site=site, by=None, actor=actor_of(request), now=current_time())
        return f"The agent of {name} is asked for a new key."

    # It has no field of its own, so that a form that was sent may be empty.
    form = ConsoleForm(request.POST if request.method == "POST" else None)
    return ask_and_do(request, act, form, do)


@console_page
def unlock(request: HttpRequest, name: str) -> HttpResponse:
    require(request, STEER_AGENT)
    site = find_site(name)
    agent = active_agent(site)
    act = Act(
        title=f"Unlock the agent of {name}",
        label="Unlock",
        icon="key",
        danger=True,
        effect=[
            "Two agents held the same key, as after a disk was copied. Make sure that the copy is "
            "gone, or one of the two will lock both again.",
            "If the disk was put back from a backup, unlocking does not help: let the site join "
            "with a new token.",
        ],
        back=reverse("site", args=[name]),
        back_label=name,
        why_not="" if agent and agent.locked_at else f"The agent of {name} is not locked.",
    )

    def do(typed: dict[str, str]) -> str:
        unlock_agent(site=site, reason=typed["reason"], actor=actor_of(request), now=current_time())
        return f"The agent of {name} may log in again."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="site"), do)
