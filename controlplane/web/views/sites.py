"""Sites: the list, one site, adding one, and the token its agent joins with."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Page, Paginator
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed
from django.shortcuts import redirect, render
from django.utils.timezone import now as current_time

from controlplane.audit.queries import events_of
from controlplane.domain.errors import Conflict, InvalidInput
from controlplane.domain.health import SiteHealth
from controlplane.fleet.models import Site, Tier
from controlplane.fleet.queries import (
    active_agent,
    find_site,
    redundancy_peers,
    regions,
    servers_of,
    sites,
    windows_by_site,
)
from controlplane.fleet.services import create_enrolment_token, create_site
from controlplane.rollouts.corrections import holds_of
from controlplane.rollouts.models import SiteModel
from controlplane.rollouts.queries import (
    SiteStatus,
    deployments_at,
    difference,
    site_statuses,
)
from controlplane.web.access import (
    ADD_SITE,
    ENROL,
    PIN,
    RETIRE_SITE,
    STEER_AGENT,
    WAIVE_FLOOR,
    actor_of,
    console_page,
    refusal,
    require,
)
from controlplane.web.events import event_lines
from controlplane.web.forms import SiteForm, add_faults
from controlplane.web.live import respond
from controlplane.web.site_facts import agent_warnings, allowed_at, measured, server_lines
from controlplane.web.windows import window_lines

PER_PAGE = 50
EVENTS_SHOWN = 20
DEPLOYMENTS_SHOWN = 10


@console_page
def site_list(request: HttpRequest) -> HttpResponse:
    now = current_time()
    chosen = {key: request.GET.get(key, "") for key in ("tier", "region", "health")}
    page, statuses = _page_of(chosen, request.GET.get("page"), now)
    context = {
        "page": page,
        "statuses": [(status, _models_of(status)) for status in statuses],
        "chosen": chosen,
        "tiers": Tier.values,
        "regions": regions(),
        "healths": [health.value for health in SiteHealth],
        "filtered": any(chosen.values()),
        "may_not_add": refusal(request, ADD_SITE),
    }
    return respond(
        request,
        page="sites/list.html",
        fragment="parts/sites_live.html",
        context=context,
        shows=(page.paginator.count, [_shown(status) for status in statuses]),
    )


def _page_of(
    chosen: dict[str, str], number: str | None, now: datetime
) -> tuple[Page[Any], list[SiteStatus]]:
    """Health is worked out from reports and the time, so only that filter has to look at every
    site; the others stay with the database."""
    rows = sites()
    if chosen["tier"]:
        rows = rows.filter(tier=chosen["tier"])
    if chosen["region"]:
        rows = rows.filter(region=chosen["region"])
    if chosen["health"]:
        fitting = [s for s in site_statuses(rows, now=now) if s.verdict.health == chosen["health"]]
        found = Paginator(fitting, PER_PAGE).get_page(number)
        return found, list(found)
    page = Paginator(rows, PER_PAGE).get_page(number)
    start = (page.number - 1) * PER_PAGE
    return page, site_statuses(rows[start : start + PER_PAGE], now=now)


def _models_of(status: SiteStatus) -> list[tuple[SiteModel, str]]:
    return [(row, difference(row)) for row in status.models]


def _shown(status: SiteStatus) -> tuple[object, ...]:
    """What a row of the list shows, for its tag. Not the health's sentence, which counts
    seconds: the list does not show it."""
    models = [(r.pk, r.desired_id, r.reported_serving, difference(r)) for r in status.models]
    return status.site.pk, status.verdict.health, status.last_seen_at, models


@console_page
def detail(request: HttpRequest, name: str) -> HttpResponse:
    now = current_time()
    site = find_site(name)
    status = site_statuses(sites().filter(pk=site.pk), now=now)[0]
    agent = active_agent(site)
    holds = holds_of([row for row in status.models if row.drifted_since], now)
    servers = list(servers_of(site))
    deployments = list(deployments_at(site.pk, limit=DEPLOYMENTS_SHOWN))
    windows = window_lines(windows_by_site([site.pk]).get(site.pk, ()), now)
    peers = len(redundancy_peers(site))
    may_not_pin = refusal(request, PIN)
    figures = measured(site, servers, now)
    newest = list(events_of(object_type="site", object_id=name, limit=EVENTS_SHOWN))
    warnings = agent_warnings(agent, newest, now)
    allowed = allowed_at(agent)
    may_not_waive = refusal(request, WAIVE_FLOOR)
    events = event_lines(newest)
    return respond(
        request,
        page="sites/detail.html",
        fragment="parts/site_live.html",
        context={
            "site": site,
            "status": status,
            "agent": agent,
            "models": [(row, word, holds.get(row.pk, "")) for row, word in _models_of(status)],
            "servers": server_lines(servers),
            "measured": figures,
            "agent_warnings": warnings,
            "allowed": allowed,
            "may_not_waive": may_not_waive,
            "deployments": deployments,
            "events": events,
            "envelope": envelope(site),
            "windows": windows,
            "peers": peers,
            "may_not_enrol": refusal(request, ENROL),
            "may_not_retire": refusal(request, RETIRE_SITE),
            "may_not_pin": may_not_pin,
            "may_not_steer_agent": refusal(request, STEER_AGENT),
        },
        shows=(
            (_shown(status), status.verdict.reason),
            [(r.reported_phase, r.reported_reason, r.reported_at) for r in status.models],
            [(r.pinned_by, r.pinned_reason, r.drifted_since) for r in status.models],
            sorted(holds.items()),
            (windows, peers, site.redundancy_group, may_not_pin),
            (allowed, site.floor_waiver, site.floor_waiver_by, may_not_waive),
            agent and (agent.pk, agent.agent_version, agent.observed_generation),
            agent and (agent.locked_at, agent.rotate_by, agent.key_changed_at),
            (warnings, [(signal.state, signal.reason) for signal in status.signals]),
            figures and (figures.interval.pk, figures.is_old),
            [(s.pk, s.reported_at) for s in servers],
            [(d.pk, d.state, d.reason) for d in deployments],
            [line.event.pk for line in events],
        ),
    )


def envelope(site: Site) -> list[tuple[str, object, str]]:
    """What the building allows: name, value (None: not stated), unit."""
    return [
        ("Power limit", site.power_limit_kw, "kW"),
        ("Cooling limit", site.cooling_limit_kw, "kW"),
        ("Water limit", site.water_limit_l_per_hour, "l/h"),
        ("Power usage effectiveness", site.power_usage_effectiveness, ""),
        ("Water used", site.water_usage_l_per_kwh, "l/kWh"),
        ("Energy price", site.energy_price_per_kwh, "per kWh"),
        ("Carbon", site.carbon_g_per_kwh, "g/kWh"),
        ("Uplink", site.uplink_mbit_per_s, "Mbit/s"),
        ("Downlink", site.downlink_mbit_per_s, "Mbit/s"),
        ("Egress price", site.egress_price_per_gb, "per GB"),
    ]


@console_page
def add(request: HttpRequest) -> HttpResponse:
    require(request, ADD_SITE)
    form = SiteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            site = create_site(
                fields=form.cleaned_data, actor=actor_of(request), now=current_time()
            )
        except Conflict as error:
            form.add_error("name", error.detail)
        except InvalidInput as error:
            add_faults(form, error)
        else:
            messages.success(request, f"Site {site.name} is added. Now let its agent join.")
            return redirect("site", name=site.name)
    return render(request, "sites/add.html", {"form": form}, status=422 if form.errors else 200)


@console_page
def enrolment_token(request: HttpRequest, name: str) -> HttpResponse:
    """Asks first, then shows the secret once; nothing that is kept could show it again."""
    require(request, ENROL)
    site = find_site(name)
    if request.method not in ("GET", "HEAD", "POST"):
        return HttpResponseNotAllowed(["GET", "POST"])
    context: dict[str, object] = {"site": site, "agent": active_agent(site)}
    if request.method == "POST":
        token, secret = create_enrolment_token(
            site=site, actor=actor_of(request), now=current_time()
        )
        command = f"waypost-agent join {settings.PUBLIC_URL} --token {secret}"
        context |= {"token": token, "command": command}
    response = render(request, "sites/token.html", context)
    response["Cache-Control"] = "no-store"
    return response
