"""Strategies: the built-in ones and people's own, read as sentences, written as a document."""

import json
from dataclasses import dataclass, replace
from http import HTTPStatus

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.strategies import BUILT_IN, StrategySpec
from controlplane.rollouts.models import Strategy
from controlplane.rollouts.strategies import (
    create_strategy,
    find_strategy,
    retire_strategy,
    strategies,
)
from controlplane.web.access import (
    KEEP_STRATEGY,
    RETIRE_STRATEGY,
    START,
    actor_of,
    console_page,
    refusal,
    require,
)
from controlplane.web.acts import Act, ask_and_do
from controlplane.web.forms import ReasonForm, StrategyForm
from controlplane.web.words import policy_words, spec_selects


@dataclass(frozen=True, kw_only=True)
class StageLine:
    """A stage of a strategy in words."""

    name: str
    selects: str
    soak_seconds: float
    bears: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StrategyLine:
    """A strategy in words."""

    spec: StrategySpec
    stages: tuple[StageLine, ...]
    terms: tuple[str, ...]


def _line(spec: StrategySpec) -> StrategyLine:
    terms = []
    if spec.barrier:
        terms.append("all sites fetch the bytes at once and activate in their stage")
    if spec.late_joiners:
        terms.append("sites that join late come last")
    if spec.approval_required:
        who = "somebody other than the author" if spec.approval_by_other else "anybody who may"
        terms.append(f"the plan is approved by {who}")
    return StrategyLine(
        spec=spec,
        terms=tuple(terms),
        stages=tuple(
            StageLine(
                name=stage.name,
                selects=spec_selects(stage),
                soak_seconds=stage.soak_seconds,
                bears=tuple(policy_words(stage.policy)),
            )
            for stage in spec.all_stages
        ),
    )


@console_page
def strategy_list(request: HttpRequest) -> HttpResponse:
    context = {
        "lines": [_line(spec) for spec in strategies()],
        "may_not_keep": refusal(request, KEEP_STRATEGY),
    }
    return render(request, "strategies/list.html", context)


@console_page
def detail(request: HttpRequest, name: str) -> HttpResponse:
    """One version; without saying which, the latest in use, or the latest of a retired one."""
    asked = request.GET.get("version", "")
    if asked and not (asked.isascii() and asked.isdigit() and len(asked) < 9):
        raise Http404(f"There is no version {asked!r} of strategy {name!r}.")
    kept = list(Strategy.objects.filter(name=name).order_by("-version"))
    latest = kept[0].version if kept else None
    spec = find_strategy(name, int(asked) if asked else latest)
    context = {
        "line": _line(spec),
        "document": json.dumps(spec.document(), indent=2, ensure_ascii=False),
        "kept": kept,
        "in_use": any(row.retired_at is None for row in kept),
        "may_not_keep": refusal(request, KEEP_STRATEGY),
        "may_not_retire": refusal(request, RETIRE_STRATEGY),
        "may_not_start": refusal(request, START),
    }
    return render(request, "strategies/detail.html", context)


@console_page
def new(request: HttpRequest) -> HttpResponse:
    """A strategy, or the next version of one: nothing that is kept is ever edited."""
    require(request, KEEP_STRATEGY)
    form = StrategyForm(request.POST or None, initial={"document": _draft(request)})
    status = HTTPStatus.OK
    if request.method == "POST":
        status = HTTPStatus.UNPROCESSABLE_ENTITY
        if form.is_valid():
            try:
                row = create_strategy(
                    document=form.cleaned_data["document"],
                    actor=actor_of(request),
                    now=current_time(),
                )
            except InvalidInput as error:
                for fault in error.errors:
                    form.add_error("document", f"{fault.field}: {fault.message}")
            except Conflict as error:
                status = HTTPStatus.CONFLICT
                form.add_error(None, error.detail)
            else:
                messages.success(request, f"Strategy {row.name} version {row.version} is kept.")
                return redirect("strategy", name=row.name)
    return render(request, "strategies/new.html", {"form": form}, status=status)


def _draft(request: HttpRequest) -> str:
    """To begin with: the strategy it is to follow, without its number, or one to rename."""
    name = request.GET.get("from", "")
    spec = find_strategy(name) if name else BUILT_IN[0]
    if spec.built_in:
        spec = replace(spec, name=f"my-{spec.name}")
    document = {key: value for key, value in spec.document().items() if key != "version"}
    return json.dumps(document, indent=2, ensure_ascii=False)


@console_page
def retire(request: HttpRequest, name: str) -> HttpResponse:
    require(request, RETIRE_STRATEGY)
    spec = find_strategy(name)
    act = Act(
        title=f"Retire strategy {name}",
        label="Retire",
        icon="stop",
        danger=True,
        effect=[
            f"No rollout can be started by any of its {spec.version} versions any more."
            if spec.version > 1
            else "No rollout can be started by it any more.",
            "Rollouts that were planned by it go on as planned.",
            "A new version brings the name back.",
        ],
        back=reverse("strategies"),
        back_label="Strategies",
        why_not="It comes with the program and cannot be retired." if spec.built_in else "",
    )

    def do(typed: dict[str, str]) -> str:
        retire_strategy(
            name=name, reason=typed["reason"], actor=actor_of(request), now=current_time()
        )
        return f"Strategy {name} is retired."

    return ask_and_do(request, act, ReasonForm(request.POST or None, kept_with="strategy"), do)
