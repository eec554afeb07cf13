"""The freeze and the budget: what stands above all rollouts, and who set it.

A freeze holds offers and leases at the sites it selects, from the commit of its row; sites that
are switching finish. Whether a rollback may begin meanwhile is asked here too."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from django.db import transaction
from django.db.models import Q, QuerySet

from controlplane.audit.services import record_event
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.selector import SiteSelector, SiteTraits, parse_selector
from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts.models import Budget, Freeze

FLEET_BUDGET = "fleet"


class Hold(NamedTuple):
    """What keeps a site from being offered a version, and whether only a person ends it."""

    why: str
    by_person: bool


def active_freezes(now: datetime) -> QuerySet[Freeze]:
    """Neither lifted nor over."""
    return Freeze.objects.filter(Q(until=None) | Q(until__gt=now), lifted_at=None)


def sentence(freeze: Freeze) -> str:
    """Who froze it, when, why, and what ends it."""
    end = f"until {freeze.until:%Y-%m-%d %H:%M} UTC" if freeze.until else "until it is lifted"
    return (
        f"frozen by {freeze.created_by} since {freeze.created_at:%Y-%m-%d %H:%M} UTC {end}: "
        f"{freeze.reason}"
    )


def selector_of(freeze: Freeze) -> SiteSelector:
    selector = parse_selector(freeze.selector, "selector", [])
    return selector or SiteSelector()  # one that cannot be read any more freezes everything


def frozen_sites(now: datetime, site_ids: Iterable[int] | None = None) -> dict[int, str]:
    """Site id (of these, or of all) to the sentence of the freeze that holds it."""
    return {site_id: hold.why for site_id, hold in freeze_holds(now, site_ids).items()}


def freeze_holds(now: datetime, site_ids: Iterable[int] | None = None) -> dict[int, Hold]:
    """Of several freezes the first is told, unless a later one has no end. Empty, after one query,
    while nothing is frozen."""
    freezes = sorted(active_freezes(now), key=lambda freeze: freeze.until is not None)
    if not freezes:
        return {}
    found: dict[int, Hold] = {}
    traits = traits_by_site(site_ids)
    for freeze in freezes:
        selector = selector_of(freeze)
        hold = Hold(sentence(freeze), by_person=freeze.until is None)
        for site_id, site in traits.items():
            if selector.matches(site):
                found.setdefault(site_id, hold)
    return found


def held(freeze: Freeze, traits: Mapping[int, SiteTraits]) -> int:
    """How many sites a freeze holds."""
    selector = selector_of(freeze)
    return sum(selector.matches(site) for site in traits.values())


@transaction.atomic
def freeze_sites(
    *, selector: object, reason: str, until: datetime | None, actor: str, now: datetime
) -> Freeze:
    """Holds offers and activations at once. An empty selector holds the whole fleet.

    Raises `InvalidInput` (`reason-required`, `freeze-invalid`).
    """
    faults: list[FieldError] = []
    if not reason.strip():
        faults.append(FieldError(field="reason", message="say why; everybody who waits reads it"))
    if until is not None and until <= now:
        faults.append(FieldError(field="until", message="must be in the future"))
    parsed = parse_selector(selector if selector is not None else {}, "selector", faults)
    if faults or parsed is None:
        code = "reason-required" if not reason.strip() else "freeze-invalid"
        raise InvalidInput(code, "The freeze cannot be made as given.", errors=faults)
    # Behind every lease that is being granted at this moment, and before the next.
    fleet_budget(lock=True)
    freeze = Freeze.objects.create(
        selector=parsed.document(),
        reason=reason[:400],
        created_by=actor,
        created_at=now,
        until=until,
    )
    record_event(
        now=now,
        actor=actor,
        action="freeze.created",
        object_type="freeze",
        object_id=str(freeze.pk),
        reason=reason,
        data={"selector": freeze.selector, "until": until.isoformat() if until else None},
    )
    return freeze


@transaction.atomic
def lift_freeze(*, freeze_id: int, reason: str, actor: str, now: datetime) -> Freeze:
    """Ends a freeze; what waits goes on with the next tick."""
    freeze = Freeze.objects.select_for_update().filter(pk=freeze_id).first()
    if freeze is None:
        raise NotFound("freeze-unknown", f"There is no freeze {freeze_id}.")
    if freeze.lifted_at is not None or (freeze.until and freeze.until <= now):
        raise Conflict("freeze-over", f"Freeze {freeze_id} is over already.")
    freeze.lifted_at, freeze.lifted_by = now, actor
    freeze.save(update_fields=["lifted_at", "lifted_by"])
    record_event(
        now=now,
        actor=actor,
        action="freeze.lifted",
        object_type="freeze",
        object_id=str(freeze.pk),
        reason=reason,
    )
    return freeze


def fleet_budget(*, lock: bool = False) -> Budget:
    """The one row. With `lock` (inside a transaction) leases are granted one after the other, so
    that two of them cannot both take the last place."""
    Budget.objects.get_or_create(name=FLEET_BUDGET)
    rows = Budget.objects.select_for_update() if lock else Budget.objects
    return rows.get(name=FLEET_BUDGET)


@transaction.atomic
def set_budget(*, changing_percent: int | None, reason: str, actor: str, now: datetime) -> Budget:
    """How many per cent of all sites may activate something within an hour; None: no limit."""
    if changing_percent is not None and not 1 <= changing_percent <= 100:
        fault = FieldError(
            field="changing_percent", message="must be a whole number from 1 to 100, or null"
        )
        raise InvalidInput("budget-invalid", "The budget cannot be set so.", errors=[fault])
    budget = fleet_budget(lock=True)
    before, budget.changing_percent = budget.changing_percent, changing_percent
    budget.save(update_fields=["changing_percent"])
    record_event(
        now=now,
        actor=actor,
        action="budget.changed",
        object_type="budget",
        object_id=FLEET_BUDGET,
        reason=reason,
        data={"changing_percent": {"before": before, "after": changing_percent}},
    )
    return budget
