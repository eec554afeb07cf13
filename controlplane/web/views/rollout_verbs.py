"""What is done to a rollout: one address asks (GET) and does (POST), as a dialog or as a page."""

from datetime import datetime
from http import HTTPStatus
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.timezone import now as current_time

from controlplane.domain.errors import Conflict, Forbidden, InvalidInput
from controlplane.domain.rollout import DeploymentState
from controlplane.rollouts.models import Rollout
from controlplane.rollouts.queries import find_rollout, forward_deployments
from controlplane.rollouts.verb_parts import find_stage
from controlplane.web.access import FREEZE, STEER, actor_of, console_page, refusal, require
from controlplane.web.approvals import approval_lines
from controlplane.web.choices import choices
from controlplane.web.facts import RolloutFacts, Totals, rollout_facts
from controlplane.web.forms import add_faults
from controlplane.web.live import wants_fragment
from controlplane.web.rollout_forms import VerbForm
from controlplane.web.situations import situation_of
from controlplane.web.verbs import (
    VERB_BY_NAME,
    Situation,
    Verb,
    offers,
    part_effect,
    why_not,
)


@console_page
def act(request: HttpRequest, rollout_id: int, verb: str) -> HttpResponse:
    chosen = VERB_BY_NAME.get(verb)
    if chosen is None:
        raise Http404(f"{verb} is not something that can be done to a rollout.")
    require(request, STEER)
    now = current_time()
    rollout = find_rollout(rollout_id)
    sent = request.POST if request.method == "POST" else request.GET
    part = _part(chosen, sent.get("stage", ""), sent.get("site", ""))
    situation = _situation(request, rollout, chosen, part, now)
    if request.method != "POST":
        first = {"plan_digest": rollout.plan_digest, "choice": sent.get("choice", "")}
        if chosen.name == "approve" and not part["stage"]:
            part["stage"] = next(iter(situation.missing), "")
        form = VerbForm(chosen, situation, initial={**first, **part})
        return _ask(request, rollout, chosen, part, situation, form)
    form = VerbForm(chosen, situation, request.POST)
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    if form.is_valid():
        try:
            chosen.service(
                rollout_id=rollout_id,
                actor=actor_of(request),
                now=now,
                **form.asked(chosen, may_while_frozen=not refusal(request, FREEZE)),
            )
        except InvalidInput as error:
            add_faults(form, error)
        except (Conflict, Forbidden) as error:
            refused = isinstance(error, Forbidden)
            status = HTTPStatus.FORBIDDEN if refused else HTTPStatus.CONFLICT
            rollout = find_rollout(rollout_id)  # somebody was faster
            situation = _situation(request, rollout, chosen, part, now)
            form = VerbForm(chosen, situation, request.POST)
            form.add_error(None, error.detail)
        else:
            messages.success(request, _done(rollout_id, chosen, part))
            return _back_to(request, rollout_id)
    return _ask(request, rollout, chosen, part, situation, form, status)


def _part(verb: Verb, stage: str, site: str) -> dict[str, str]:
    """Only some verbs are about a part."""
    if verb.name == "rollback":
        return {"stage": "" if site else stage, "site": site}
    return {"stage": stage if verb.name == "approve" else "", "site": ""}


def _situation(
    request: HttpRequest, rollout: Rollout, verb: Verb, part: dict[str, str], now: datetime
) -> Situation:
    facts = rollout_facts(rollout, now)
    totals = _totals_of(rollout, facts, part) if verb.name == "rollback" else None
    return situation_of(
        rollout,
        facts,
        approval_lines(rollout, facts.approvals, now),
        actor=actor_of(request),
        may_freeze=not refusal(request, FREEZE),
        now=now,
        part=totals,
    )


def _totals_of(rollout: Rollout, facts: RolloutFacts, part: dict[str, str]) -> Totals | None:
    if part["site"]:
        states = forward_deployments(rollout).filter(site__name=part["site"])
        return {DeploymentState(row.state): 1 for row in states}
    if part["stage"]:
        return facts.totals(find_stage(rollout, part["stage"]).pk)
    return None


def _title(rollout: Rollout, verb: Verb, part: dict[str, str]) -> str:
    what = f"rollout {rollout.pk}"
    if part["site"]:
        what = f"site {part['site']} of {what}"
    elif part["stage"]:
        what = f"stage {part['stage']} of {what}"
    return f"{verb.label} {what}: {rollout.model.name} to version {rollout.version.number}"


def _done(rollout_id: int, verb: Verb, part: dict[str, str]) -> str:
    if part["site"]:
        return f"Site {part['site']} of rollout {rollout_id} is {verb.done}."
    if part["stage"]:
        return f"Stage {part['stage']} of rollout {rollout_id} is {verb.done}."
    return f"Rollout {rollout_id} is {verb.done}."


def _ask(
    request: HttpRequest,
    rollout: Rollout,
    verb: Verb,
    part: dict[str, str],
    situation: Situation,
    form: VerbForm,
    status: HTTPStatus = HTTPStatus.OK,
) -> HttpResponse:
    template = "parts/verb_form.html" if wants_fragment(request) else "rollouts/verb.html"
    of_part = verb.name == "rollback" and any(part.values())
    impossible = why_not(verb, situation)
    concerned = situation.reached or situation.count(DeploymentState.PENDING)
    if not impossible and of_part and not concerned:
        impossible = "No site of it has this version or is to get it."
    context: dict[str, Any] = {
        "rollout": rollout,
        "verb": verb,
        "title": _title(rollout, verb, part),
        "form": form,
        "effect": part_effect(situation) if of_part else verb.effect(situation),
        "choices": choices(situation) if verb.name == "resume" else [],
        "chosen": form["choice"].value() if "choice" in form.fields else "",
        "why_not": impossible,
        "possible": [offer.verb for offer in offers(situation, "") if not offer.why_not],
        "in_dialog": wants_fragment(request),
    }
    response = render(request, template, context, status=status)
    response["Cache-Control"] = "no-store"
    return response


def _back_to(request: HttpRequest, rollout_id: int) -> HttpResponse:
    if not wants_fragment(request):
        return redirect("rollout", rollout_id=rollout_id)
    response = HttpResponse(status=HTTPStatus.NO_CONTENT)
    response["HX-Redirect"] = reverse("rollout", args=[rollout_id])
    return response
