"""Which sites are meant: conditions narrow each other, and every fault of a selector is named."""

import pytest

from controlplane.domain.errors import FieldError
from controlplane.domain.selector import SiteSelector, SiteTraits, parse_selector

SITE = SiteTraits(
    name="edge-1",
    tier="edge",
    region="eu-west",
    labels={"ring": "0", "country": "de"},
    hardware="NVIDIA H100 + NVIDIA L4",
)


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        (SiteSelector(), True),
        (SiteSelector(tier="edge"), True),
        (SiteSelector(tier="regional"), False),
        (SiteSelector(region="eu-west"), True),
        (SiteSelector(region="eu"), False),
        (SiteSelector(hardware="NVIDIA L4"), True),
        (SiteSelector(hardware="NVIDIA H100 + NVIDIA L4"), True),
        (SiteSelector(hardware="NVIDIA"), False),
        (SiteSelector(hardware="none"), False),
        (SiteSelector(labels={"ring": "0"}), True),
        (SiteSelector(labels={"ring": "0", "country": "fr"}), False),
        (SiteSelector(labels={"rack": ""}), False),
        (SiteSelector(sites=frozenset({"edge-1", "edge-2"})), True),
        (SiteSelector(sites=frozenset({"edge-2"})), False),
        (SiteSelector(exclude=frozenset({"edge-1"})), False),
        (SiteSelector(sites=frozenset({"edge-1"}), exclude=frozenset({"edge-1"})), False),
        (SiteSelector(tier="edge", region="eu-west", labels={"country": "de"}), True),
        (SiteSelector(tier="edge", region="us-east", labels={"country": "de"}), False),
    ],
)
def test_a_site_is_meant_when_every_condition_fits(selector: SiteSelector, matches: bool) -> None:
    assert selector.matches(SITE) is matches


def test_a_site_without_an_accelerator_is_found_by_the_word_none() -> None:
    bare = SiteTraits(name="a", tier="edge")

    assert SiteSelector(hardware="none").matches(bare)
    assert not SiteSelector(hardware="NVIDIA L4").matches(bare)


def test_a_selector_is_read_as_it_is_written() -> None:
    document = {
        "tier": "edge",
        "region": "eu-west",
        "hardware": "NVIDIA L4",
        "labels": {"ring": "0"},
        "sites": ["a", "b"],
        "exclude": ["c"],
    }
    faults: list[FieldError] = []
    selector = parse_selector(document, "select", faults)

    assert selector is not None
    assert selector.document() == document
    assert parse_selector({}, "select", faults) == SiteSelector()
    assert SiteSelector().document() == {}
    assert faults == []


def test_a_selector_falls_into_its_conditions() -> None:
    both = SiteSelector(tier="edge", labels={"ring": "0", "country": "de"}, exclude=frozenset("a"))

    assert both.conditions() == (
        SiteSelector(tier="edge"),
        SiteSelector(labels={"ring": "0", "country": "de"}),
        SiteSelector(exclude=frozenset("a")),
    )
    assert SiteSelector().conditions() == ()


@pytest.mark.parametrize(
    ("document", "fields"),
    [
        (None, ["s"]),
        (["edge"], ["s"]),
        ({"teir": "edge"}, ["s.teir"]),
        ({"percent": 10}, ["s.percent"]),
        ({"tier": "cloud", "sites": []}, ["s.tier", "s.sites"]),
        ({"region": "", "hardware": 4}, ["s.region", "s.hardware"]),
        ({"labels": {"a": 1}, "exclude": [""]}, ["s.labels", "s.exclude"]),
    ],
)
def test_a_bad_selector_is_refused_with_the_place_of_its_fault(
    document: object, fields: list[str]
) -> None:
    faults: list[FieldError] = []

    assert parse_selector(document, "s", faults) is None
    assert [fault.field for fault in faults] == fields
