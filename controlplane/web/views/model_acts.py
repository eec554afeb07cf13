"""What is done to a model by its page: its policy, its channels, a look at its registry."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.catalog.channels import find_channel, move_channel, remove_channel
from controlplane.catalog.model_settings import change_model
from controlplane.catalog.models import Channel, ImportState, Model
from controlplane.catalog.queries import find_model, find_version
from controlplane.catalog.registry.linking import (
    find_import,
    find_link,
    import_version,
    look_soon,
)
from controlplane.catalog.registry.sources import mlflow_source
from controlplane.rollouts.channel_moves import strategy_named
from controlplane.web.access import (
    IMPORT,
    MOVE_CHANNEL,
    SET_MODEL,
    START,
    actor_of,
    console_page,
    person_of,
    refusal,
    require,
)
from controlplane.web.acts import Act, Back, ask_and_do
from controlplane.web.catalog_forms import MoveForm, PolicyForm
from controlplane.web.forms import ConsoleForm, ReasonForm
from controlplane.web.model_facts import approved_numbers


def _back(model: Model) -> Back:
    return {"back": reverse("model", args=[model.name]), "back_label": model.name}


@console_page
def policy(request: HttpRequest, model: str) -> HttpResponse:
    require(request, SET_MODEL)
    found = find_model(model)
    act = Act(
        title=f"Policy of {found}",
        label="Keep it",
        icon="check",
        effect=[
            "Versions that wait for an approval or a signature are looked at again at once.",
            "What is approved already stays approved.",
        ],
        **_back(found),
    )

    def do(typed: dict[str, Any]) -> str:
        reason = typed.pop("reason")
        change_model(
            model=found, changes=typed, reason=reason, actor=actor_of(request), now=current_time()
        )
        return f"The policy of {found} is kept."

    form = PolicyForm(request.POST or None, initial=PolicyForm.initial_of(found))
    return ask_and_do(request, act, form, do)


@console_page
def new_channel(request: HttpRequest, model: str) -> HttpResponse:
    require(request, MOVE_CHANNEL)
    return _move(request, find_model(model), None)


@console_page
def move(request: HttpRequest, model: str, channel: str) -> HttpResponse:
    require(request, MOVE_CHANNEL)
    found = find_model(model)
    return _move(request, found, find_channel(found, channel))


def _move(request: HttpRequest, model: Model, channel: Channel | None) -> HttpResponse:
    numbers = approved_numbers(model)
    act = Act(
        title=f"Move {channel}" if channel else f"New channel of {model}",
        label="Move" if channel else "Make it",
        icon="forward",
        effect=[
            "Only approved versions can be pointed at.",
            "With a strategy the engine starts the rollout soon after, once no other rollout of "
            "the model is at work.",
        ],
        why_not="" if numbers else f"{model} has no approved version yet.",
        **_back(model),
    )
    initial: dict[str, object] = {"version": numbers[0] if numbers else ""}
    if channel is not None:
        initial = {
            "version": channel.version.number if channel.version else "",
            "strategy": channel.strategy,
        }
    form = MoveForm(
        request.POST or None,
        numbers=numbers,
        stored=channel.strategy if channel else None,
        initial=initial,
    )

    def do(typed: dict[str, Any]) -> str:
        if typed["strategy"]:
            strategy_named(typed["strategy"])
        row, _ = move_channel(
            model=model,
            name=channel.name if channel else typed["name"],
            version=find_version(model.name, typed["version"]),
            strategy=typed["strategy"],
            reason=typed["reason"],
            actor=actor_of(request),
            person=person_of(request),
            may_roll_out=not refusal(request, START),
            now=current_time(),
        )
        return f"{row} points at version {typed['version']}."

    return ask_and_do(request, act, form, do)


@console_page
def drop_channel(request: HttpRequest, model: str, channel: str) -> HttpResponse:
    require(request, MOVE_CHANNEL)
    found = find_model(model)
    row = find_channel(found, channel)
    act = Act(
        title=f"Remove channel {row}",
        label="Remove",
        icon="stop",
        danger=True,
        effect=["The name is free again; what its moves started goes on, and versions stay."],
        **_back(found),
    )

    def do(typed: dict[str, str]) -> str:
        remove_channel(
            model=found,
            name=channel,
            reason=typed["reason"],
            actor=actor_of(request),
            now=current_time(),
        )
        return f"Channel {channel} of {found} is removed."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="channel"), do)


@console_page
def look_now(request: HttpRequest, model: str, link_id: int) -> HttpResponse:
    require(request, IMPORT)
    found = find_model(model)
    link = find_link(found, link_id)
    act = Act(
        title=f"Look at {link.remote_name} in {link.registry} now",
        label="Look now",
        icon="again",
        effect=["A worker asks the registry for what its aliases and stages lead to, and imports."],
        **_back(found),
    )

    def do(typed: dict[str, str]) -> str:
        look_soon(link=link, actor=actor_of(request), now=current_time())
        return f"{link.remote_name} is looked at soon."

    form = ConsoleForm(request.POST if request.method == "POST" else None)
    return ask_and_do(request, act, form, do)


@console_page
def import_again(request: HttpRequest, model: str, import_id: int) -> HttpResponse:
    require(request, IMPORT)
    found = find_model(model)
    row = find_import(found, import_id)
    failed = row.state == ImportState.FAILED
    act = Act(
        title=f"Import {row.link.remote_name} {row.remote_version} again",
        label="Try again",
        icon="again",
        effect=["It is fetched anew; what failed before is left where it still holds."],
        why_not="" if failed else f"It is {row.state}, not failed.",
        **_back(found),
    )

    def do(typed: dict[str, str]) -> str:
        import_version(
            link=row.link,
            version=row.remote_version,
            source=mlflow_source(),
            actor=actor_of(request),
            person=person_of(request),
            now=current_time(),
        )
        return f"Version {row.remote_version} of {row.link.remote_name} is imported anew."

    form = ConsoleForm(request.POST if request.method == "POST" else None)
    return ask_and_do(request, act, form, do)
