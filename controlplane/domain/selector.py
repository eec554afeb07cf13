"""Which sites are meant: by tier, region, hardware, labels or name; conditions narrow each other.

It must not know rows, or what the sites are chosen for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from controlplane.domain.errors import FieldError

TIERS = ("hyperscale", "regional", "edge")
NO_HARDWARE = "none"
# A site with several kinds of accelerator carries all their names, in order, joined by this.
AND = " + "
SELECTOR_KEYS = ("tier", "region", "hardware", "labels", "sites", "exclude")


@dataclass(frozen=True, kw_only=True)
class SiteTraits:
    """What a site can be chosen by. `hardware` is its accelerator's name, or `NO_HARDWARE`."""

    name: str
    tier: str
    region: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    hardware: str = NO_HARDWARE


@dataclass(frozen=True, kw_only=True)
class SiteSelector:
    """Every condition that is set must hold; with none set it matches every site.

    `sites` and `exclude` are names. One kind of accelerator matches a site that has it among
    others.
    """

    tier: str | None = None
    region: str | None = None
    hardware: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    sites: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()

    def matches(self, traits: SiteTraits) -> bool:
        return (
            (self.tier is None or traits.tier == self.tier)
            and (self.region is None or traits.region == self.region)
            and (self.hardware is None or self._has_hardware(traits.hardware))
            and (self.sites is None or traits.name in self.sites)
            and traits.name not in self.exclude
            and all(traits.labels.get(key) == value for key, value in self.labels.items())
        )

    def conditions(self) -> tuple["SiteSelector", ...]:
        """Each condition that is set, by itself."""
        nothing = SiteSelector()
        values = {entry.name: getattr(self, entry.name) for entry in fields(SiteSelector)}
        return tuple(
            replace(nothing, **{key: value})
            for key, value in values.items()
            if value != getattr(nothing, key)
        )

    def _has_hardware(self, hardware: str) -> bool:
        return self.hardware == hardware or self.hardware in hardware.split(AND)

    def document(self) -> dict[str, object]:
        """In the form the API takes it; only the conditions that are set."""
        document: dict[str, object] = {}
        for key in ("tier", "region", "hardware"):
            if (value := getattr(self, key)) is not None:
                document[key] = value
        if self.labels:
            document["labels"] = dict(self.labels)
        if self.sites is not None:
            document["sites"] = sorted(self.sites)
        if self.exclude:
            document["exclude"] = sorted(self.exclude)
        return document


def parse_selector(
    document: object, where: str, faults: list[FieldError], *, also: tuple[str, ...] = ()
) -> SiteSelector | None:
    """The selector, or None with every fault added to `faults`. `also` are keys that the caller
    reads itself."""
    allowed = SELECTOR_KEYS + also
    if not isinstance(document, Mapping):
        message = f"must be an object with some of {', '.join(allowed)}"
        faults.append(FieldError(field=where, message=message))
        return None
    before = len(faults)

    def fault(key: str, message: str) -> None:
        faults.append(FieldError(field=f"{where}.{key}", message=message))

    for key in sorted(set(map(str, document)) - set(allowed)):
        fault(key, f"is not known; allowed are {', '.join(allowed)}")
    tier = document.get("tier")
    if tier is not None and tier not in TIERS:
        fault("tier", f"must be one of {', '.join(TIERS)}")
    words: dict[str, str | None] = {}
    for key in ("region", "hardware"):
        words[key] = value = document.get(key)
        if value is not None and not (isinstance(value, str) and value):
            fault(key, f"must be the name of a {key}")
    labels = document.get("labels", {})
    if not isinstance(labels, Mapping) or not all(
        isinstance(key, str) and isinstance(value, str) for key, value in labels.items()
    ):
        fault("labels", 'must map names to values, such as {"ring": "0"}')
    sites = _names(document, "sites", fault)
    exclude = _names(document, "exclude", fault)
    if len(faults) > before:
        return None
    return SiteSelector(
        tier=tier, labels=dict(labels), sites=sites, exclude=exclude or frozenset(), **words
    )


def _names(
    document: Mapping[str, object], key: str, fault: Callable[[str, str], None]
) -> frozenset[str] | None:
    names = document.get(key)
    if names is None:
        return None
    if not isinstance(names, list) or not names or not all(n and isinstance(n, str) for n in names):
        fault(key, "must be a list of site names")
        return None
    return frozenset(names)
