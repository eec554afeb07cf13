"""Changes what sites should serve: the wish, its generation, and what to keep for a rollback.

Call it inside the transaction of the decision. It locks generations first, then wishes; reports
lock wishes first, then deployments; nobody locks the other way round."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django.db.models import Exists, F, OuterRef

from controlplane.catalog.models import Version, VersionState
from controlplane.catalog.variants import variants_by_version
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import DeploymentState
from controlplane.fleet.services import lock_generations, raise_generations
from controlplane.rollouts.fitting import Given, fitting_of
from controlplane.rollouts.models import Deployment, DeploymentKind, SiteModel


@dataclass(frozen=True, kw_only=True)
class Change:
    """What the site had before (None: nothing) and the generation of the new wish. That is what was
    wished, but for a wish that a rollout had to leave standing where nobody saw it work.

    `given` is the build that is wished now, None with no version."""

    before: Version | None
    generation: int
    given: Given | None = None

    @property
    def variant(self) -> str:
        return self.given.variant.name if self.given else ""

    @property
    def variant_reason(self) -> str:
        return self.given.why if self.given else ""


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
    *,
    model_id: int,
    wishes: Mapping[int, Version | None],
    keep_previous: bool,
    policy: StagePolicy | None = None,
    given: Mapping[int, Given] | None = None,
) -> dict[int, Change]:
    """Sets the desired version per site id (None: serve nothing).

    `policy` is that of the stage that asks for it. A way back has none: it takes over as the way
    there did, since what did not fit beside the other does not either way, and is on no probation.

    `given` says which build each site gets. Where it says nothing, a site that goes back to what
    it had gets that very build, and any other the one that fits now.

    With `keep_previous` the version before stays on disk for a rollback; without it the site may
    forget it, as when it is the one being rolled back from. Raises `RuntimeError` for a quarantined
    version: a bug, which must not reach the sites.
    """
    for version in wishes.values():
        if version is not None and version.state == VersionState.QUARANTINED:
            raise RuntimeError(f"{version} is quarantined and cannot be wished of a site")
    generations = raise_generations(wishes)
    rows = {
        row.site_id: row
        for row in SiteModel.objects.select_for_update(of=("self",))
        .select_related("desired")
        .defer("desired__manifest")
        .filter(model_id=model_id, site_id__in=list(wishes))
        .order_by("site_id")
    }
    builds = _builds(wishes, rows, given or {})
    changes: dict[int, Change] = {}
    fresh = []
    stood = _left_standing(model_id, wishes) if keep_previous and rows else {}
    for site_id, version in wishes.items():
        row = rows.get(site_id)
        if row is None:
            row = SiteModel(site_id=site_id, model_id=model_id)
            fresh.append(row)
        before = stood.get(site_id, row.desired)
        build = builds.get(site_id)
        changes[site_id] = Change(before=before, generation=generations[site_id], given=build)
        if row.desired != version:
            kept = row.previous_variant_id if site_id in stood else row.desired_variant_id
            row.previous = before if keep_previous else None
            row.previous_variant_id = kept if row.previous is not None else None
        row.desired = version
        row.desired_variant = build.variant if build else None
        row.probation = None
        if policy is not None:
            row.switch = policy.switch.value
            row.probation = policy.probation and policy.probation.document()
        row.generation = generations[site_id]
        # What was reported was said of the wish before; of this one nothing is known yet.
        row.reported_phase = ""
    SiteModel.objects.bulk_create(fresh)
    SiteModel.objects.bulk_update(
        rows.values(),
        [
            "desired",
            "desired_variant",
            "previous",
            "previous_variant",
            "generation",
            "switch",
            "probation",
            "reported_phase",
        ],
        batch_size=500,
    )
    return changes


def _builds(
    wishes: Mapping[int, Version | None], rows: Mapping[int, SiteModel], given: Mapping[int, Given]
) -> dict[int, Given]:
    """By site id, the build that is wished. Facts of sites are read only for a version of several
    builds that some site did not have before."""
    found = {pk: given[pk] for pk, version in wishes.items() if version and pk in given}
    asked = {pk: version for pk, version in wishes.items() if version and pk not in given}
    versions = {version.pk: version for version in asked.values()}
    known = variants_by_version(versions) if versions else {}
    by_id = {build.pk: build for each in known.values() for build in each}
    anew: dict[int, list[int]] = {}
    for site_id, version in asked.items():
        row = rows.get(site_id)
        held = by_id.get(_held(row, version) or 0)
        builds = known.get(version.pk, [])
        if held is not None:
            found[site_id] = Given(variant=held, why="the build that it had of this version")
        elif len(builds) == 1:
            found[site_id] = Given(variant=builds[0], why="the only build")
        elif builds:
            anew.setdefault(version.pk, []).append(site_id)
    for version_id, site_ids in anew.items():
        fitting = fitting_of(versions[version_id], site_ids)
        assert fitting is not None  # it has several builds
        found |= {site_id: fitting.given(site_id) for site_id in site_ids}
    return found


def _held(row: SiteModel | None, version: Version) -> int | None:
    """The build of the version that the site has or had, by its id."""
    if row is None:
        return None
    if row.desired_id == version.pk and row.desired_variant_id is not None:
        return row.desired_variant_id
    return row.previous_variant_id if row.previous_id == version.pk else None


def _left_standing(model_id: int, site_ids: Iterable[int]) -> dict[int, Version | None]:
    """By site id, what was there before a wish whose part did not succeed: nothing sound was left
    to call the site back to, and it has not come to serve the wished version since."""
    ended = Deployment.objects.filter(
        site=OuterRef("site"),
        model=OuterRef("model"),
        generation=OuterRef("generation"),
        kind=DeploymentKind.FORWARD,
    ).exclude(state=DeploymentState.SUCCEEDED)
    rows = (
        SiteModel.objects.filter(Exists(ended), model=model_id, site__in=list(site_ids))
        .exclude(reported_phase="succeeded", reported_serving=F("desired__number"))
        .select_related("previous")
    )
    return {row.site_id: row.previous for row in rows}
