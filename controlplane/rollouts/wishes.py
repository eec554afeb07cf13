"""Changes what sites should serve: the wish, its generation, and what to keep for a rollback.

Call it inside the transaction of the decision. It locks generations first, then wishes; reports
lock wishes first, then deployments; nobody locks the other way round."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.catalog.models import Version
from controlplane.fleet.services import lock_generations, raise_generations
from controlplane.rollouts.models import SiteModel


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a wish was (`before`, None: nothing) and the generation of the new one."""

    before: Version | None
    generation: int


def hold_wishes(*, model_id: int, site_ids: Iterable[int]) -> None:
    """Keeps reports of these sites waiting until the transaction ends. Take it before reading the
    states of deployments that are to be ended or called back: else a report could move one in
    between, and its end would be written over."""
    ids = lock_generations(site_ids)
    rows = SiteModel.objects.select_for_update(of=("self",)).filter(
        model_id=model_id, site_id__in=ids
    )
    list(rows.order_by("site_id").values_list("pk", flat=True))


def change_wishes(
    *, model_id: int, wishes: Mapping[int, Version | None], keep_previous: bool
) -> dict[int, Change]:
    """Sets the desired version per site id (None: serve nothing).

    With `keep_previous` the version before stays on disk for a rollback; without it the site may
    forget it, as when it is the one being rolled back from.
    """
    generations = raise_generations(wishes)
    rows = {
        row.site_id: row
        for row in SiteModel.objects.select_for_update(of=("self",))
        .select_related("desired")
        .filter(model_id=model_id, site_id__in=list(wishes))
        .order_by("site_id")
    }
    changes: dict[int, Change] = {}
    fresh = []
    for site_id, version in wishes.items():
        row = rows.get(site_id)
        if row is None:
            row = SiteModel(site_id=site_id, model_id=model_id)
            fresh.append(row)
        changes[site_id] = Change(before=row.desired, generation=generations[site_id])
        if row.desired != version:
            row.previous = row.desired if keep_previous else None
        row.desired = version
        row.generation = generations[site_id]
        # What was reported was said of the wish before; of this one nothing is known yet.
        row.reported_phase = ""
    SiteModel.objects.bulk_create(fresh)
    SiteModel.objects.bulk_update(
        rows.values(), ["desired", "previous", "generation", "reported_phase"], batch_size=500
    )
    return changes
