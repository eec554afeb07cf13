"""Every read of the fleet: sites, what stands there, and when they may be changed."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime

from django.conf import settings
from django.db.models import Min, OuterRef, QuerySet, Subquery

from controlplane.domain.errors import NotFound
from controlplane.domain.selector import (
    AND,
    NO_HARDWARE,
    SiteSelector,
    SiteTraits,
    parse_selector,
)
from controlplane.domain.windows import (
    DAYS,
    Window,
    WindowKind,
    next_opening,
    of_kind,
)
from controlplane.fleet.models import Accelerator, Agent, Lease, MaintenanceWindow, Server, Site


def sites(*, retired: bool | None = False) -> QuerySet[Site]:
    """Sites, each with `last_seen_at` of its active agent, `agent_id` (None: not joined) and
    `agent_locked_at`.

    Those that take part in the fleet; `retired=True` gives the others, None gives all.
    """
    active = Agent.objects.filter(site=OuterRef("pk"), revoked_at=None)
    lease = Lease.objects.filter(agent__site=OuterRef("pk"), agent__revoked_at=None)
    rows = Site.objects.annotate(
        agent_id=Subquery(active.values("id")[:1]),
        agent_locked_at=Subquery(active.values("locked_at")[:1]),
        last_seen_at=Subquery(lease.values("last_seen_at")[:1]),
    ).order_by("name")
    return rows if retired is None else rows.filter(retired_at__isnull=not retired)


def find_site(name: str, *, retired: bool = False) -> Site:
    """Raises `NotFound` (`site-unknown`; `site-retired`, unless `retired` ones may be meant)."""
    # PostgreSQL refuses to be asked for NUL, which a path may hold; no name does.
    site = sites(retired=None).filter(name=name).first() if "\0" not in name else None
    if site is None:
        raise NotFound("site-unknown", f"No site is called {name!r}.")
    if site.retired_at and not retired:
        raise NotFound(
            "site-retired",
            f"Site {name!r} was retired on {site.retired_at:%Y-%m-%d}; restore it to use it again.",
        )
    return site


def active_agent(site: Site) -> Agent | None:
    return Agent.objects.filter(site=site, revoked_at=None).first()


def regions() -> list[str]:
    rows = Site.objects.filter(retired_at=None).order_by("region")
    return list(rows.values_list("region", flat=True).distinct())


def servers_of(site: Site) -> QuerySet[Server]:
    return Server.objects.filter(site=site).prefetch_related("accelerators").order_by("hostname")


def free_disk_by_site() -> dict[int, int]:
    """Free bytes by site id, where reported; with several servers the fullest one's."""
    rows = Server.objects.filter(disk_free_bytes__isnull=False).order_by()
    return dict(rows.values_list("site_id").annotate(free=Min("disk_free_bytes")))


def traits_by_site(site_ids: Iterable[int] | None = None) -> dict[int, SiteTraits]:
    """What sites can be chosen by, by site id: all that are not retired, or these of them. Two
    queries, however many sites."""
    rows = Site.objects.filter(retired_at=None).order_by()
    if site_ids is not None:
        rows = rows.filter(pk__in=list(site_ids))
    hardware: dict[int, set[str]] = defaultdict(set)
    accelerators = Accelerator.objects.order_by().values_list("server__site_id", "name").distinct()
    if site_ids is not None:
        accelerators = accelerators.filter(server__site__in=rows)
    for site_id, name in accelerators:
        hardware[site_id].add(name)
    return {
        pk: SiteTraits(
            name=name,
            tier=tier,
            region=region,
            labels=labels,
            hardware=AND.join(sorted(hardware[pk])) if pk in hardware else NO_HARDWARE,
        )
        for pk, name, tier, region, labels in rows.values_list(
            "pk", "name", "tier", "region", "labels"
        )
    }


def redundancy_peers(site: Site) -> list[int]:
    """Ids of the other sites of its redundancy group; none when it is in no group."""
    if not site.redundancy_group:
        return []
    rows = Site.objects.filter(redundancy_group=site.redundancy_group, retired_at=None)
    return list(rows.exclude(pk=site.pk).order_by("pk").values_list("pk", flat=True))


def stale_limit_seconds(site: Site) -> float:
    """How old this site's last report may be and still be evidence."""
    return _stale_limit(site.poll_seconds)


def stale_limits() -> dict[int, float]:
    """By site id, the limit of those that may be silent for longer than the fleet's
    `WAYPOST_STALE_SECONDS`, which holds for all others."""
    rows = Site.objects.filter(poll_seconds__isnull=False, retired_at=None).order_by()
    limits = {pk: _stale_limit(poll) for pk, poll in rows.values_list("pk", "poll_seconds")}
    return {pk: limit for pk, limit in limits.items() if limit > settings.WAYPOST_STALE_SECONDS}


def _stale_limit(poll_seconds: int | None) -> float:
    """Three polls and some slack, as for the fleet; a site that asks more often than the fleet
    is given the fleet's patience."""
    fleet: float = settings.WAYPOST_STALE_SECONDS
    return fleet if poll_seconds is None else max(fleet, 3.0 * poll_seconds + 5.0)


def find_window(name: str) -> MaintenanceWindow:
    window = MaintenanceWindow.objects.filter(name=name).first() if "\0" not in name else None
    if window is None:
        raise NotFound("window-unknown", f"No maintenance window is called {name!r}.")
    return window


def windows_by_site(site_ids: Iterable[int] | None = None) -> dict[int, list[Window]]:
    """The windows of these sites (None: of all that are not retired), by site id; a site without
    any is left out. Four queries, however many sites and windows; one when there is no window."""
    rows = list(MaintenanceWindow.objects.all())
    if not rows:
        return {}
    site_ids = None if site_ids is None else list(site_ids)
    traits = traits_by_site(site_ids)
    sites_meant = Site.objects.all() if site_ids is None else Site.objects.filter(pk__in=site_ids)
    zones = dict(sites_meant.order_by().values_list("pk", "timezone"))
    found: dict[int, list[Window]] = defaultdict(list)
    for row in rows:
        selector = _selector(row)
        for site_id, site in traits.items():
            if selector.matches(site):
                found[site_id].append(_window(row, zones[site_id]))
    return dict(found)


def sites_closed(
    kind: WindowKind, *, now: datetime, site_ids: Iterable[int] | None = None
) -> dict[int, datetime]:
    """The sites (of these, or of all) whose windows of this kind are all closed now, by id, with
    their next opening."""
    # Sites under the same windows are worked out once.
    openings: dict[frozenset[Window], datetime | None] = {}
    closed: dict[int, datetime] = {}
    for site_id, windows in windows_by_site(site_ids).items():
        same = frozenset(of_kind(windows, kind))
        if same not in openings:
            openings[same] = next_opening(same, now)
        if opening := openings[same]:
            closed[site_id] = opening
    return closed


def window_warnings() -> list[str]:
    """What is likely not meant, as sentences."""
    return [sentence for said in warnings_by_window().values() for sentence in said]


def warnings_by_window() -> dict[str, list[str]]:
    """By the name of the window; windows without a warning are left out. Four queries."""
    rows = list(MaintenanceWindow.objects.all())
    traits = traits_by_site() if rows else {}
    polls = dict(
        Site.objects.filter(poll_seconds__isnull=False).order_by().values_list("pk", "poll_seconds")
    )
    found = {row.name: _warnings(row, traits, polls) for row in rows}
    return {name: said for name, said in found.items() if said}


def _warnings(
    row: MaintenanceWindow, traits: Mapping[int, SiteTraits], polls: Mapping[int, int | None]
) -> list[str]:
    selector = _selector(row)
    selected = {pk: site.name for pk, site in traits.items() if selector.matches(site)}
    if not selected:
        return [f"Window {row.name} selects no site at present."]
    default: float = settings.WAYPOST_POLL_SECONDS
    waits = {name: polls.get(pk) or default for pk, name in selected.items()}
    slow = sorted(name for name, wait in waits.items() if wait > row.minutes * 60)
    if not slow:
        return []
    others = f" and {len(slow) - 1} more" if len(slow) > 1 else ""
    return [
        f"Window {row.name} is open for {row.minutes} min, less than {slow[0]}{others} may wait "
        f"between two polls ({max(waits.values()):g} s): they are told to ask in time, but one "
        "lost poll misses the window. Make it longer, or lower poll_seconds there."
    ]


def _selector(row: MaintenanceWindow) -> SiteSelector:
    selector = parse_selector(row.selector, "selector", [])
    assert selector is not None, f"window {row.name} was kept with a selector that is none"
    return selector


def _window(row: MaintenanceWindow, zone: str) -> Window:
    return Window(
        kind=WindowKind(row.kind),
        days=frozenset(DAYS.index(day) for day in row.days),
        start=row.start,
        minutes=row.minutes,
        timezone=row.timezone or zone,
    )
