"""Options that choose sites, and the selector of the API that they mean. Which sites those are is
for the control plane to say."""

from collections.abc import Sequence

from waypost_cli.errors import CliError
from waypost_cli.labels import parse_labels

Selector = dict[str, object]


def selector_of(
    *,
    sites: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    tier: str | None = None,
    region: str | None = None,
) -> Selector:
    """Conditions narrow each other; without any it means every site."""
    selector: Selector = {}
    if tier:
        selector["tier"] = tier
    if region:
        selector["region"] = region
    if labels:
        selector["labels"] = parse_labels(labels)
    if sites:
        selector["sites"] = list(sites)
    return selector


def exclusion_of(sites: Sequence[str] | None, labels: Sequence[str] | None) -> Selector | None:
    """Whom a rollout leaves out. Both kinds at once would leave out only those that match both,
    which nobody would expect."""
    if sites and labels:
        raise CliError(
            "--exclude-site and --exclude-label are both given",
            cure="give one kind; label the sites that are named, or name those that are labelled",
        )
    return selector_of(sites=sites, labels=labels) or None
