"""Which build of a version each site would get now, from what is known of the sites and of what is
loaded there. Reads only; a constant number of queries, however many sites there are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from controlplane.catalog.fit import asks_machines, facts_by_site, offered_builds
from controlplane.catalog.footprints import footprints_of, hardware_key
from controlplane.catalog.models import Variant, Version
from controlplane.domain.fit_facts import Footprint, Loaded, Machine, Profile, SiteFacts
from controlplane.domain.variants import Choice, Chooser
from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts.models import SiteModel

_NOTHING_KNOWN = (SiteFacts(profile=Profile(machine=Machine())),)
REASON_LENGTH = 500  # the column's


@dataclass(frozen=True, kw_only=True)
class Given:
    """The build for a site and why it is that one. `refused` says why it cannot live there, where
    no build can; it is then the one that is preferred."""

    variant: Variant
    why: str
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """The builds of a version against sites. Sites of which nothing was read are ones of which
    nothing is known. `held`: the builds of this very version that sites have already, by site id;
    they keep them, since going back from another one would lead to that other one."""

    rows: Mapping[str, Variant]
    chooser: Chooser
    facts: Mapping[int, Sequence[SiteFacts]]
    held: Mapping[int, str] = field(default_factory=dict)

    @property
    def several(self) -> bool:
        return len(self.rows) > 1

    def choice(self, site_id: int) -> Choice:
        return self.chooser.choose(self.facts.get(site_id) or _NOTHING_KNOWN)

    def given(self, site_id: int) -> Given:
        if site_id in self.held:
            return self.kept(self.held[site_id])
        choice = self.choice(site_id)
        name = choice.variant or self.chooser.builds[0].name
        return Given(
            variant=self.rows[name],
            why=choice.why[:REASON_LENGTH],
            refused="" if choice.variant else choice.why[:REASON_LENGTH],
        )

    def kept(self, name: str) -> Given:
        """That build, though another might fit now: its bytes are there already."""
        return Given(variant=self.rows[name], why="the build of this version that it was given")


def fitting_of(
    version: Version,
    site_ids: Iterable[int] | None = None,
    *,
    hardware: Mapping[int, str] | None = None,
    thorough: bool = False,
) -> Fitting | None:
    """For all sites that are not retired, or for these; None for a version that has no build in the
    catalogue. `hardware` by site id, where the caller has read it already.

    The facts of sites are read only where something depends on them (or if `thorough`): a version
    of one build that asks for nothing goes wherever its bytes find room.
    """
    offered, rows = offered_builds(version)
    if not offered:
        return None
    site_ids = None if site_ids is None else list(site_ids)
    facts: Mapping[int, Sequence[SiteFacts]] = {}
    if thorough or len(offered) > 1 or asks_machines(offered):
        if hardware is None:
            hardware = {pk: traits.hardware for pk, traits in traits_by_site(site_ids).items()}
        facts = facts_by_site(site_ids, loaded=_loaded(site_ids, hardware))
    held = _held(version, site_ids) if len(offered) > 1 else {}
    return Fitting(rows=rows, chooser=Chooser.of(offered), facts=facts, held=held)


def _held(version: Version, site_ids: Iterable[int] | None) -> dict[int, str]:
    rows = SiteModel.objects.filter(desired=version, desired_variant__isnull=False).order_by()
    if site_ids is not None:
        rows = rows.filter(site__in=list(site_ids))
    return dict(rows.values_list("site_id", "desired_variant__name"))


def _loaded(
    site_ids: Sequence[int] | None, hardware: Mapping[int, str]
) -> dict[int, tuple[Loaded, ...]]:
    """What sites said they serve, with what loading it takes on their hardware."""
    rows = SiteModel.objects.filter(reported_serving__isnull=False).order_by("site_id", "model_id")
    if site_ids is not None:
        rows = rows.filter(site__in=site_ids)
    said = list(
        rows.values_list(
            "site_id",
            "model__name",
            "reported_serving",
            "desired__number",
            "desired_variant__manifest_digest",
            "previous__number",
            "previous_variant__manifest_digest",
        )
    )
    served = [
        (site_id, model, wished if serving == number else (kept if serving == before else None))
        for site_id, model, serving, number, wished, before, kept in said
    ]
    known = footprints_of(digest for _, _, digest in served if digest)
    found: dict[int, tuple[Loaded, ...]] = {}
    for site_id, model, digest in served:
        seen = known.get(digest or "", {}).get(hardware_key(hardware.get(site_id, "")), Footprint())
        found[site_id] = (
            *found.get(site_id, ()),
            Loaded(
                model=model,
                memory_bytes=seen.memory_bytes,
                accelerator_memory_bytes=seen.accelerator_memory_bytes,
            ),
        )
    return found
