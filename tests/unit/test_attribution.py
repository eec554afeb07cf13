"""Who is to blame for a failing stage; only the version's own failure may roll back."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain.attribution import Attribution, Cause, Rules, attribute
from controlplane.domain.rollout import INFRASTRUCTURE_CODES
from controlplane.domain.standings import (
    FailureClass,
    SiteOutcome,
    Standing,
    by_error_rate,
    failure_class,
)

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
RATE, GOLDEN = "error-rate", "golden-mismatch"


def well(ago: timedelta = MINUTE) -> Standing:
    return Standing(ok=True, seen_at=NOW - ago)


def bad(
    failure: str = RATE, *, began: timedelta | None = 5 * MINUTE, ago: timedelta = MINUTE
) -> Standing:
    return Standing(
        ok=False,
        failure=failure,
        began_at=None if began is None else NOW - began,
        seen_at=NOW - ago,
    )


UNKNOWN = Standing(seen_at=NOW)
# Before the rollout came by: the usual evidence of the old version at a site of the stage.
BEFORE = well(30 * MINUTE)


def site(
    name: str, new: Standing | None, old: Standing | None = BEFORE, **facts: str
) -> SiteOutcome:
    return SiteOutcome(site=name, new=new, old=old, **facts)


def sites(
    prefix: str, count: int, new: Standing | None, old: Standing | None = BEFORE, **facts: str
) -> list[SiteOutcome]:
    return [site(f"{prefix}-{i}", new, old, **facts) for i in range(count)]


def controls(prefix: str, count: int, old: Standing, **facts: str) -> list[SiteOutcome]:
    return sites(prefix, count, None, old, **facts)


def worse_at_two_of(known: int, failure: str = RATE) -> str:
    return (
        f"the new version fails at 2 of {known} sites, the old one does well at 2 of them: "
        f"edge-0 ({failure}), edge-1 ({failure})"
    )


def blame(*outcomes: SiteOutcome) -> Attribution:
    return attribute(outcomes, now=NOW)


TABLE: list[tuple[str, Sequence[SiteOutcome], Cause, str, str]] = [
    (
        "the new version is bad where the old one is good",
        [*sites("edge", 3, bad()), *sites("hub", 1, well())],
        Cause.VERSION,
        "worse-than-before",
        "the new version fails at 3 of 4 sites, the old one does well at 3 of them: "
        "edge-0 (error-rate), edge-1 (error-rate), edge-2 (error-rate)",
    ),
    (
        "one canary answers wrongly and the old version was restored there",
        [site("edge", bad(GOLDEN), well())],
        Cause.VERSION,
        "worse-than-before",
        "the new version fails at 1 of 1 sites, the old one does well at 1 of them: "
        "edge (golden-mismatch)",
    ),
    (
        "nothing is known of the old version but controls of the same hardware do well",
        [
            site("edge", bad(), Standing(), accelerator="L4"),
            *controls("hub", 2, well(), accelerator="L4"),
        ],
        Cause.VERSION,
        "worse-than-before",
        "the new version fails at 1 of 1 sites, the old one does well at sites of their kind: "
        "edge (error-rate)",
    ),
    (
        "the old version fails in the same way at the one site",
        [site("edge", bad(), bad(began=60 * MINUTE)), *sites("hub", 3, well())],
        Cause.SITE,
        "alike",
        "the old version fails like the new one at 1 site: edge (error-rate)",
    ),
    (
        "the old version fails in the same way at many sites since one moment",
        [*sites("edge", 3, bad(), bad()), *sites("hub", 1, well())],
        Cause.SHARED,
        "alike-at-many",
        "the old version fails like the new one at 3 of 4 sites, since the same 10 min: a shared "
        "cause (edge-0 (error-rate), edge-1 (error-rate), edge-2 (error-rate))",
    ),
    (
        "both versions fail but differently",
        [site("edge", bad(GOLDEN), bad(RATE))],
        Cause.UNKNOWN,
        "both-fail",
        "both versions fail, and not in the same way: edge (golden-mismatch)",
    ),
    (
        "there was no version before and there are no controls",
        [site("edge", bad(GOLDEN), None)],
        Cause.UNKNOWN,
        "nothing-to-compare",
        "edge (golden-mismatch): nothing is known of the old version to compare with",
    ),
    (
        "only one control does well, which is too few to stand for the site",
        [site("edge", bad(), None), *controls("hub", 1, well())],
        Cause.UNKNOWN,
        "nothing-to-compare",
        "edge (error-rate): nothing is known of the old version to compare with",
    ),
    (
        "the controls that do well have other hardware",
        [
            site("edge", bad(), None, accelerator="L4"),
            *controls("hub", 5, well(), accelerator="H100"),
        ],
        Cause.UNKNOWN,
        "nothing-to-compare",
        "edge (error-rate): nothing is known of the old version to compare with",
    ),
    (
        "only one variant fails",
        [
            *sites("edge", 2, bad(GOLDEN), variant="int8"),
            *sites("hub", 3, well(), variant="fp16"),
        ],
        Cause.VARIANT,
        "one-hardware",
        "2 of 2 sites with variant int8 fail, 3 with another do well: edge-0 (golden-mismatch), "
        "edge-1 (golden-mismatch)",
    ),
    (
        "only one type of accelerator fails with the one variant there is",
        [
            *sites("edge", 2, bad(GOLDEN), variant="onnx", accelerator="T4"),
            *sites("hub", 3, well(), variant="onnx", accelerator="L4"),
        ],
        Cause.VARIANT,
        "one-hardware",
        "2 of 2 sites with accelerator T4 fail, 3 with another do well: edge-0 (golden-mismatch), "
        "edge-1 (golden-mismatch)",
    ),
    (
        "one other site does well, which is too few to clear the version",
        [
            *sites("edge", 2, bad(GOLDEN), accelerator="T4"),
            *sites("hub", 1, well(), accelerator="L4"),
        ],
        Cause.VERSION,
        "worse-than-before",
        worse_at_two_of(3, GOLDEN),
    ),
    (
        "two types of accelerator fail, so it is the version",
        [
            site("a", bad(GOLDEN), accelerator="T4"),
            site("b", bad(GOLDEN), accelerator="A10"),
            *sites("hub", 3, well(), accelerator="L4"),
        ],
        Cause.VERSION,
        "worse-than-before",
        "the new version fails at 2 of 5 sites, the old one does well at 2 of them: "
        "a (golden-mismatch), b (golden-mismatch)",
    ),
    (
        "the old version fails on that accelerator too, where the rollout has not been",
        [
            *sites("edge", 2, bad(), accelerator="T4"),
            *sites("hub", 3, well(), accelerator="L4"),
            *controls("far", 1, bad(), accelerator="T4"),
        ],
        Cause.SHARED,
        "hardware-everywhere",
        "2 sites of the stage with accelerator T4 fail, and so do 1 with the old version: not the "
        "version's doing",
    ),
    (
        "only sites behind one link fail",
        [*sites("edge", 2, bad(), link="isp-a"), *sites("hub", 3, well(), link="isp-b")],
        Cause.NETWORK,
        "one-link",
        "2 sites behind link isp-a fail, 3 elsewhere do well: edge-0 (error-rate), "
        "edge-1 (error-rate)",
    ),
    (
        "only one region fails, with the old version as well",
        [
            site("edge", bad(), region="eu"),
            *controls("near", 1, bad(), region="eu"),
            *sites("hub", 3, well(), region="us"),
        ],
        Cause.NETWORK,
        "one-link",
        "1 site and 1 with the old version behind region eu fail, 3 elsewhere do well: "
        "edge (error-rate)",
    ),
    (
        "one site alone fails behind its link",
        [site("edge", bad(), link="isp-a"), *sites("hub", 3, well(), link="isp-b")],
        Cause.VERSION,
        "worse-than-before",
        "the new version fails at 1 of 4 sites, the old one does well at 1 of them: "
        "edge (error-rate)",
    ),
    (
        "a control behind the same link does well, so the link is sound",
        [
            *sites("edge", 2, bad(), link="isp-a"),
            *controls("near", 1, well(), link="isp-a"),
            *sites("hub", 3, well(), link="isp-b"),
        ],
        Cause.VERSION,
        "worse-than-before",
        worse_at_two_of(5),
    ),
    (
        "the old version did well behind the link after the new one failed",
        [*sites("edge", 2, bad(), well(MINUTE), link="isp-a"), *sites("hub", 3, well(), link="b")],
        Cause.VERSION,
        "worse-than-before",
        worse_at_two_of(5),
    ),
    (
        "wrong answers that a site finds by itself are not the link's",
        [*sites("edge", 2, bad(GOLDEN), link="isp-a"), *sites("hub", 3, well(), link="isp-b")],
        Cause.VERSION,
        "worse-than-before",
        worse_at_two_of(5, GOLDEN),
    ),
    (
        "the hardware and the link set the same sites apart",
        [
            *sites("edge", 2, bad(), accelerator="T4", link="isp-a"),
            *sites("hub", 3, well(), accelerator="L4", link="isp-b"),
        ],
        Cause.UNKNOWN,
        "two-explanations",
        "accelerator T4 and link isp-a both set the 2 sites that fail apart from those that do "
        "well; it may be either",
    ),
    (
        "sites outside of the rollout fail at the same moment",
        [*sites("edge", 2, bad()), *controls("hub", 3, bad(began=8 * MINUTE))],
        Cause.SHARED,
        "everywhere-at-once",
        "2 of 2 sites of the stage and 3 of 3 outside of it began to fail within 10 min: a shared "
        "cause (error-rate)",
    ),
    (
        "sites outside of the rollout have failed for hours",
        [*sites("edge", 2, bad()), *controls("hub", 3, bad(began=300 * MINUTE))],
        Cause.VERSION,
        "worse-than-before",
        worse_at_two_of(2),
    ),
    (
        "nobody knows when the failures began",
        [*sites("edge", 2, bad(began=None)), *controls("hub", 3, bad(began=None))],
        Cause.VERSION,
        "worse-than-before",
        worse_at_two_of(2),
    ),
    (
        "the bytes cannot be fetched anywhere",
        sites("edge", 3, bad("download-failed"), well()),
        Cause.SHARED,
        "surroundings-at-many",
        "3 of 3 sites fail with download-failed, which says nothing of the version: a shared cause "
        "(edge-0 (download-failed), edge-1 (download-failed), edge-2 (download-failed))",
    ),
    (
        "the bytes cannot be fetched behind one link",
        [
            *sites("edge", 2, bad("download-failed"), well(), link="isp-a"),
            *sites("hub", 3, well(), link="isp-b"),
        ],
        Cause.NETWORK,
        "one-link",
        "2 sites behind link isp-a fail, 3 elsewhere do well: edge-0 (download-failed), "
        "edge-1 (download-failed)",
    ),
    (
        "one disk is full",
        [site("edge", bad("disk-full")), *sites("hub", 3, well())],
        Cause.SITE,
        "surroundings",
        "edge (disk-full): disk-full says nothing of the version",
    ),
    (
        "full disks behind one link are not the link's",
        [
            *sites("edge", 2, bad("disk-full"), link="isp-a"),
            *sites("hub", 3, well(), link="isp-b"),
        ],
        Cause.SITE,
        "surroundings",
        "edge-0 (disk-full), edge-1 (disk-full): disk-full says nothing of the version",
    ),
    (
        "one accelerator type has too little memory, which the site says of itself",
        [
            *sites("edge", 2, bad("memory-insufficient"), accelerator="T4"),
            *sites("hub", 3, well(), accelerator="L4"),
        ],
        Cause.SITE,
        "surroundings",
        "edge-0 (memory-insufficient), edge-1 (memory-insufficient): memory-insufficient says "
        "nothing of the version",
    ),
    (
        "the old evidence is a day old",
        [site("edge", bad(), well(25 * 60 * MINUTE))],
        Cause.UNKNOWN,
        "nothing-to-compare",
        "edge (error-rate): nothing is known of the old version to compare with",
    ),
    (
        "the failure is stale",
        [site("edge", bad(ago=11 * MINUTE), well())],
        Cause.UNKNOWN,
        "no-failure",
        "no site of 1 fails on evidence that is fresh",
    ),
    (
        "the failure comes from a clock ahead",
        [site("edge", bad(ago=-60 * MINUTE), well())],
        Cause.UNKNOWN,
        "no-failure",
        "no site of 1 fails on evidence that is fresh",
    ),
    (
        "there is no evidence at all",
        [],
        Cause.UNKNOWN,
        "no-failure",
        "no site of 0 fails on evidence that is fresh",
    ),
    (
        "stale controls clear nobody",
        [site("edge", bad(), None), *controls("hub", 5, well(11 * MINUTE))],
        Cause.UNKNOWN,
        "nothing-to-compare",
        "edge (error-rate): nothing is known of the old version to compare with",
    ),
]


@pytest.mark.parametrize(
    ("outcomes", "cause", "code", "sentence"), [pytest.param(*row[1:], id=row[0]) for row in TABLE]
)
def test_who_is_to_blame_when(
    outcomes: Sequence[SiteOutcome], cause: Cause, code: str, sentence: str
) -> None:
    said = attribute(outcomes, now=NOW)

    assert (said.cause, said.reason_code, said.sentence) == (cause, code, sentence)
    assert said.may_roll_back == (cause in (Cause.VERSION, Cause.VARIANT))


def test_every_infrastructure_code_of_the_engine_is_of_the_surroundings() -> None:
    assert {failure_class(code) for code in INFRASTRUCTURE_CODES} == {FailureClass.SURROUNDINGS}
    assert failure_class(GOLDEN) is FailureClass.VERSION
    assert failure_class("a-code-of-a-later-agent") is FailureClass.VERSION


def test_the_version_is_blamed_only_for_the_sites_that_its_failure_explains() -> None:
    said = blame(
        *sites("worse", 2, bad()),
        site("alike", bad(), bad(began=60 * MINUTE)),
        site("disk", bad("disk-full")),
    )

    assert said.cause is Cause.VERSION
    assert said.sites == ("worse-0", "worse-1")
    assert said.others == ("alike", "disk")
    assert (said.failing, said.known) == (4, 4)
    assert said.sentence.endswith("; 2 sites more for reasons of their own")


def test_a_blamed_variant_sends_back_its_own_sites_only() -> None:
    said = blame(
        *sites("edge", 20, bad(GOLDEN), variant="int8"),
        site("stray", bad(GOLDEN), variant="fp16"),
        *sites("hub", 40, well(), variant="fp16"),
    )

    assert (said.cause, said.where) == (Cause.VARIANT, "variant int8")
    assert len(said.sites) == 20
    assert said.others == ("stray",)


def test_a_variant_without_anything_to_compare_with_is_not_blamed() -> None:
    said = blame(
        *sites("edge", 2, bad(GOLDEN), None, variant="int8"),
        *sites("hub", 3, well(), None, variant="fp16"),
    )

    assert (said.cause, said.reason_code) == (Cause.UNKNOWN, "nothing-to-compare")


@pytest.mark.parametrize(
    ("requests", "failed", "ok"),
    [
        pytest.param(1000, 200, False, id="far over the limit"),
        pytest.param(1000, 0, True, id="far under the limit"),
        pytest.param(3, 1, None, id="a third of three requests says nothing"),
        pytest.param(10, 0, None, id="ten good ones do not prove five in a hundred"),
        pytest.param(1000, 55, None, id="at the limit it may be either"),
        pytest.param(0, 0, None, id="no requests"),
        pytest.param(10, 11, None, id="more failed than there were"),
        pytest.param(-5, -6, None, id="negative counts"),
        pytest.param(None, None, None, id="not reported"),
    ],
)
def test_an_error_rate_is_bad_or_good_only_beyond_chance(
    requests: int | None, failed: int | None, ok: bool | None
) -> None:
    assert by_error_rate(requests=requests, failed=failed, limit=0.05, seen_at=NOW).ok is ok


# Properties

STANDINGS = st.builds(
    Standing,
    ok=st.sampled_from([True, False, None]),
    failure=st.sampled_from([RATE, GOLDEN, "download-failed", "memory-insufficient"]),
    began_at=st.sampled_from([None, NOW - 5 * MINUTE, NOW - 90 * MINUTE]),
    seen_at=st.sampled_from([None, NOW - MINUTE, NOW - 60 * MINUTE, NOW + 60 * MINUTE]),
)
OUTCOMES = st.lists(
    st.builds(
        SiteOutcome,
        site=st.uuids().map(str),
        new=st.none() | STANDINGS,
        old=st.none() | STANDINGS,
        variant=st.sampled_from(["", "int8", "fp16"]),
        accelerator=st.sampled_from(["", "L4", "T4"]),
        link=st.sampled_from(["", "isp-a", "isp-b"]),
        region=st.sampled_from(["", "eu", "us"]),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(outcomes=OUTCOMES)
def test_nothing_rolls_back_without_a_new_version_that_is_worse(
    outcomes: list[SiteOutcome],
) -> None:
    said = attribute(outcomes, now=NOW)
    assert len({*said.sites, *said.others}) == said.failing
    if not said.may_roll_back:
        return

    def fresh(standing: Standing | None, within: timedelta) -> bool | None:
        if standing is None or standing.seen_at is None:
            return None
        is_fresh = NOW - within <= standing.seen_at <= NOW + Rules().fresh_within
        return standing.ok if is_fresh else None

    def is_worse(outcome: SiteOutcome) -> bool:
        new = outcome.new
        if new is None or fresh(new, Rules().fresh_within) is not False:
            return False
        if failure_class(new.failure) is not FailureClass.VERSION:
            return False
        if (old := fresh(outcome.old, Rules().before_within)) is not None:
            return old
        beside = [
            fresh(c.old, Rules().fresh_within)
            for c in outcomes
            if c.new is None and c.accelerator == outcome.accelerator
        ]
        return False not in beside and beside.count(True) >= Rules().others

    blamed = [outcome for outcome in outcomes if outcome.site in said.sites]
    assert any(is_worse(outcome) for outcome in blamed)
    assert all(outcome.new is not None and outcome.new.ok is False for outcome in blamed)


@settings(max_examples=80, deadline=None)
@given(outcomes=OUTCOMES)
def test_infrastructure_alone_never_rolls_back(outcomes: list[SiteOutcome]) -> None:
    surrounded = [
        replace(each, new=replace(each.new, failure="download-failed") if each.new else None)
        for each in outcomes
    ]
    assert not attribute(surrounded, now=NOW).may_roll_back
