"""Which sites can take a version, in which build, and why not: for a person who asks before they
plan. Reads only; a constant number of queries, however many sites there are."""

from collections.abc import Callable
from dataclasses import dataclass

from controlplane.catalog.models import Version
from controlplane.domain.errors import Conflict
from controlplane.domain.fit_facts import Answer
from controlplane.domain.selector import SiteTraits
from controlplane.domain.variants import Choice
from controlplane.fleet.queries import traits_by_site
from controlplane.rollouts.fitting import fitting_of


@dataclass(frozen=True, kw_only=True)
class SiteFit:
    """A site and what was chosen for it; without a build the answer is no."""

    traits: SiteTraits
    choice: Choice

    @property
    def verdict(self) -> Answer:
        return self.choice.judged.verdict


def site_fits(version: Version, matches: Callable[[SiteTraits], bool]) -> list[SiteFit]:
    """By name, each site in service that fits `matches`. Raises `Conflict` (`version-unbuilt`)."""
    traits = traits_by_site()
    hardware = {pk: site.hardware for pk, site in traits.items()}
    fitting = fitting_of(version, hardware=hardware, thorough=True)
    if fitting is None:
        raise Conflict("version-unbuilt", f"{version} has no build; push it again.")
    chosen = [(pk, site) for pk, site in traits.items() if matches(site)]
    return [
        SiteFit(traits=site, choice=fitting.choice(pk))
        for pk, site in sorted(chosen, key=lambda each: each[1].name)
    ]
