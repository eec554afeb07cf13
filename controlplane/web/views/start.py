"""Starting a rollout: twice the same form. First it shows the plan, then it starts just the plan
that was shown."""

from datetime import datetime
from http import HTTPStatus

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.timezone import now as current_time

from controlplane.domain.errors import Conflict, InvalidInput, NotFound
from controlplane.domain.rollout import OnConflict
from controlplane.rollouts.planning import active_rollout, plan_rollout
from controlplane.rollouts.services import start_rollout
from controlplane.web.access import START, actor_of, console_page, require
from controlplane.web.forms import add_faults
from controlplane.web.plan import PlanPage, plan_page
from controlplane.web.rollout_forms import START_FIELDS, StartForm


@console_page
def start(request: HttpRequest) -> HttpResponse:
    require(request, START)
    first = {
        "version": request.GET.get("version", ""),
        "strategy": request.GET.get("strategy", ""),
    }
    form = StartForm(request.POST or None, initial=first)
    status, page = HTTPStatus.OK, None
    if request.method == "POST" and not form.is_valid():
        status = HTTPStatus.UNPROCESSABLE_ENTITY
    elif request.method == "POST":
        now = current_time()
        try:
            if request.POST.get("step") == "start":
                rollout = start_rollout(
                    **form.asked(now),
                    note=form.cleaned_data["note"],
                    on_conflict=form.conflict_rule,
                    expect_plan=request.POST.get("expect_plan", ""),
                    actor=actor_of(request),
                )
                return redirect("rollout", rollout_id=rollout.pk)
            page = _plan(form, now)
        except InvalidInput as error:
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            add_faults(form, error, START_FIELDS)
        except (Conflict, NotFound) as error:
            status = HTTPStatus.CONFLICT
            form.add_error(None, error.detail)
            if error.code == "plan-changed":
                page = _plan(form, now)
    return render(request, "rollouts/start.html", {"form": form, "plan": page}, status=status)


def _plan(form: StartForm, now: datetime) -> PlanPage:
    asked = form.asked(now)
    while_active = form.conflict_rule is not OnConflict.REFUSE
    return plan_page(
        plan_rollout(**asked, while_active=while_active),
        active=active_rollout(asked["model_name"]),
        on_conflict=form.conflict_rule,
    )
