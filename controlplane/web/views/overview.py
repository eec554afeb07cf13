"""The first page: is the fleet well, what is going on, what happened last."""

from collections import Counter

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.timezone import now as current_time

from controlplane.audit.queries import recent_events
from controlplane.domain.health import SiteHealth
from controlplane.rollouts.queries import deployment_counts, running_rollouts, site_statuses
from controlplane.web.access import ADD_SITE, START, console_page, refusal
from controlplane.web.events import event_lines
from controlplane.web.live import respond
from controlplane.web.stages import stage_strips
from controlplane.web.views.rollouts import waiting_word

EVENTS_SHOWN = 10
# What needs a person stands first.
_ORDER = (
    SiteHealth.DEGRADED, SiteHealth.STALE, SiteHealth.UPDATING, SiteHealth.HEALTHY, SiteHealth.NEW,
)  # fmt: skip


@console_page
def overview(request: HttpRequest) -> HttpResponse:
    now = current_time()
    by_health = Counter(status.verdict.health for status in site_statuses(now=now))
    counters = [(health.value, by_health[health]) for health in _ORDER]
    running = list(running_rollouts())
    counts = deployment_counts(rollout.pk for rollout in running)
    events = event_lines(recent_events(limit=EVENTS_SHOWN))
    return respond(
        request,
        page="overview.html",
        fragment="parts/overview_live.html",
        context={
            "counters": counters,
            "sites_total": by_health.total(),
            "running": [
                (rollout, stage_strips(rollout, counts), waiting_word(rollout))
                for rollout in running
            ],
            "events": events,
            "public_url": settings.PUBLIC_URL,
            "may_not_add": refusal(request, ADD_SITE),
            "may_not_start": refusal(request, START),
        },
        shows=(
            counters,
            [(rollout.pk, rollout.revision) for rollout in running],
            sorted(counts.items()),
            [line.event.pk for line in events],
        ),
    )
