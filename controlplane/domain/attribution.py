"""Who is to blame for a failing stage: the version, a variant, a site, the network, a shared cause.

Only what the version itself gets wrong, where the one before it does well, may roll back; where the
evidence is thin nobody is blamed. It must not know rows, the clock, or how a gate judges."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from controlplane.domain.sentences import count_sites, name_sites
from controlplane.domain.standings import (
    LINK_CODES,
    LOCAL_CODES,
    FailureClass,
    SiteOutcome,
    Standing,
    failure_class,
)
from controlplane.domain.views import SiteNote


class Cause(StrEnum):
    """`variant` is also the hardware that a version runs on."""

    VERSION = "version"
    VARIANT = "variant"
    SITE = "site"
    NETWORK = "network"
    SHARED = "shared"
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """`fresh_within` is how old evidence may be, `before_within` what a site of the stage showed of
    the old version, which need not serve any more. Failures that began within `at_once` have one
    beginning. So many `others` must do well for a difference to be one. The share `most` of a group
    must fail for it to be the group, and `stray` outside of it may too."""

    fresh_within: timedelta = timedelta(minutes=10)
    before_within: timedelta = timedelta(hours=24)
    at_once: timedelta = timedelta(minutes=10)
    others: int = 2
    most: float = 0.5
    stray: float = 0.05


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """`where` is the variant, accelerator, link or region; `sites` are those that the cause
    explains, `others` those that fail for another reason; `failing` of `known` sites of the stage
    fail. `reason_code` tells one unknown from another."""

    cause: Cause
    reason_code: str
    sentence: str
    failing: int
    known: int
    where: str = ""
    sites: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def may_roll_back(self) -> bool:
        """Whether `sites` may be sent back for it; anything else pauses."""
        return self.cause in (Cause.VERSION, Cause.VARIANT)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A site with what is fresh of it."""

    outcome: SiteOutcome
    new: Standing
    old: Standing

    @property
    def fails(self) -> bool:
        return self.new.ok is False

    @property
    def fails_alike(self) -> bool:
        """The same failure with the old version and the new."""
        return self.old.ok is False and self.fails and self.new.failure == self.old.failure

    @property
    def cleared(self) -> bool:
        """The old version did well here after the new one had begun to fail: nothing around it was
        at fault."""
        began, seen = self.new.began_at, self.old.seen_at
        return self.old.ok is True and began is not None and seen is not None and seen > began

    @property
    def note(self) -> SiteNote:
        said = self.new if self.outcome.new else self.old
        return SiteNote(site=self.outcome.site, note=said.note or said.failure)


@dataclass(frozen=True, kw_only=True)
class _Case:
    """The stage and the controls beside it."""

    stage: Sequence[_Place]
    controls: Sequence[_Place]
    rules: Rules

    @property
    def known(self) -> int:
        return sum(place.new.ok is not None for place in self.stage)

    @property
    def failing(self) -> list[_Place]:
        return [place for place in self.stage if place.fails]

    def blames(
        self, cause: Cause, places: Sequence[_Place], code: str, text: str, where: str = ""
    ) -> Attribution:
        explained = {place.outcome.site for place in places}
        return Attribution(
            cause=cause,
            reason_code=code,
            sentence=text,
            failing=len(self.failing),
            known=self.known,
            where=where,
            sites=tuple(sorted(explained)),
            others=tuple(sorted({p.outcome.site for p in self.failing} - explained)),
        )


def attribute(
    outcomes: Iterable[SiteOutcome], *, now: datetime, rules: Rules | None = None
) -> Attribution:
    """The cause that the evidence of a stage and its controls speaks for, in one sentence.

    What explains more without the version comes first: a shared cause, the site, the hardware, the
    network; the version is blamed for what is left, where the old one does well.
    """
    rules = rules or Rules()
    places = [_place(outcome, now, rules) for outcome in outcomes]
    stage = [place for place in places if place.outcome.new is not None]
    case = _Case(
        stage=stage,
        controls=[place for place in places if place.outcome.new is None],
        rules=rules,
    )
    failing = case.failing
    if not failing:
        text = f"no site of {len(stage)} fails on evidence that is fresh"
        return case.blames(Cause.UNKNOWN, [], "no-failure", text)
    if shared := _everywhere(case):
        return shared
    if not (own := [p for p in failing if failure_class(p.new.failure) is FailureClass.VERSION]):
        return _surroundings(case, failing)
    if not (left := [place for place in own if not place.fails_alike]):
        return _sites(case, own)
    judged = _group(case, left) or _version(case, left)
    aside = len(failing) - len(left)
    if not aside:
        return judged
    note = f"; {count_sites(aside)} more for reasons of their own"
    return case.blames(
        judged.cause,
        [place for place in left if place.outcome.site in judged.sites],
        judged.reason_code,
        judged.sentence + note,
        judged.where,
    )


def _place(outcome: SiteOutcome, now: datetime, rules: Rules) -> _Place:
    is_control = outcome.new is None
    return _Place(
        outcome=outcome,
        new=_fresh(outcome.new, now, rules, rules.fresh_within),
        old=_fresh(
            outcome.old, now, rules, rules.fresh_within if is_control else rules.before_within
        ),
    )


def _fresh(standing: Standing | None, now: datetime, rules: Rules, within: timedelta) -> Standing:
    """What is too old, or from a clock ahead, is not known."""
    if standing is None or standing.seen_at is None:
        return Standing()
    is_fresh = now - within <= standing.seen_at <= now + rules.fresh_within
    return standing if is_fresh else Standing()


# What is not the version's


def _everywhere(case: _Case) -> Attribution | None:
    """Also at sites that the rollout has not reached, and all at once."""
    codes = {place.new.failure for place in case.failing}
    controls = [p for p in case.controls if p.old.ok is False and p.old.failure in codes]
    heard = sum(place.old.ok is not None for place in case.controls)
    if len(controls) < case.rules.others or len(controls) < case.rules.most * heard:
        return None
    if len(case.failing) < case.rules.most * case.known:
        return None
    if not _at_once([place.new for place in case.failing] + [p.old for p in controls], case.rules):
        return None
    text = (
        f"{len(case.failing)} of {case.known} sites of the stage and {len(controls)} of {heard} "
        f"outside of it began to fail within {_minutes(case.rules.at_once)}: a shared cause "
        f"({', '.join(sorted(codes))})"
    )
    return case.blames(Cause.SHARED, case.failing, "everywhere-at-once", text)


def _surroundings(case: _Case, failing: Sequence[_Place]) -> Attribution:
    """Every failure says something of the sites, and nothing of the version."""
    counts = Counter(place.new.failure for place in failing)
    code, most = counts.most_common(1)[0]
    if counts.keys() <= LINK_CODES and (network := _behind_one(case, failing, ())):
        return network
    named = name_sites([place.note for place in failing], len(failing))
    outer = failure_class(code) is FailureClass.SURROUNDINGS
    if outer and most >= max(case.rules.others, case.rules.most * case.known):
        text = (
            f"{most} of {case.known} sites fail with {code}, which says nothing of the version: "
            f"a shared cause ({named})"
        )
        return case.blames(Cause.SHARED, failing, "surroundings-at-many", text)
    text = f"{named}: {', '.join(sorted(counts))} says nothing of the version"
    return case.blames(Cause.SITE, failing, "surroundings", text)


def _sites(case: _Case, alike: Sequence[_Place]) -> Attribution:
    """The old version fails there just as the new one does."""
    many = len(alike) >= max(case.rules.others, case.rules.most * case.known)
    named = name_sites([place.note for place in alike], len(alike))
    if many and _at_once([place.new for place in alike], case.rules):
        text = (
            f"the old version fails like the new one at {len(alike)} of {case.known} sites, since "
            f"the same {_minutes(case.rules.at_once)}: a shared cause ({named})"
        )
        return case.blames(Cause.SHARED, alike, "alike-at-many", text)
    text = f"the old version fails like the new one at {count_sites(len(alike))}: {named}"
    return case.blames(Cause.SITE, alike, "alike", text)


# One kind of hardware, one link


def _group(case: _Case, failing: Sequence[_Place]) -> Attribution | None:
    hardware = _on_one(case, failing)
    # Where the old version did well since, the link is sound.
    not_the_link = any(place.new.failure in LOCAL_CODES or place.cleared for place in failing)
    network = None if not_the_link else _behind_one(case, failing, case.controls)
    if hardware and network:
        text = (
            f"{hardware.where} and {network.where} both set the {count_sites(len(failing))} that "
            "fail apart from those that do well; it may be either"
        )
        return case.blames(Cause.UNKNOWN, [], "two-explanations", text)
    return hardware or network


def _on_one(case: _Case, failing: Sequence[_Place]) -> Attribution | None:
    for key in ("variant", "accelerator"):
        value = _setting_apart(case, failing, key, case.stage)
        if not value:
            continue
        inside = [p for p in failing if getattr(p.outcome, key) == value]
        there = [p for p in case.controls if getattr(p.outcome, key) == value]
        sick = sum(place.old.ok is False for place in there)
        well = _well(case.stage, key, value)
        if sick:
            text = (
                f"{len(inside)} sites of the stage with {key} {value} fail, and so do {sick} with "
                "the old version: not the version's doing"
            )
            return case.blames(Cause.SHARED, inside, "hardware-everywhere", text, f"{key} {value}")
        if not any(_compares_well(case, place) for place in inside):
            return None
        text = (
            f"{len(inside)} of {_heard(case.stage, key, value)} sites with {key} {value} fail, "
            f"{well} with another do well: {name_sites([p.note for p in inside], len(inside))}"
        )
        return case.blames(Cause.VARIANT, inside, "one-hardware", text, f"{key} {value}")
    return None


def _behind_one(
    case: _Case, failing: Sequence[_Place], controls: Sequence[_Place]
) -> Attribution | None:
    """One site alone is no link, and a control that does well behind it clears it."""
    places = [*case.stage, *controls]
    for key in ("link", "region"):
        value = _setting_apart(case, failing, key, places)
        if not value:
            continue
        inside = [p for p in failing if getattr(p.outcome, key) == value]
        beside = [p for p in controls if getattr(p.outcome, key) == value]
        sick = sum(place.old.ok is False for place in beside)
        if len(inside) + sick < 2 or any(place.old.ok for place in beside):
            continue
        also = f" and {sick} with the old version" if sick else ""
        text = (
            f"{count_sites(len(inside))}{also} behind {key} {value} fail, "
            f"{_well(places, key, value)} elsewhere do well: "
            f"{name_sites([p.note for p in inside], len(inside))}"
        )
        return case.blames(Cause.NETWORK, inside, "one-link", text, f"{key} {value}")
    return None


def _setting_apart(
    case: _Case, failing: Sequence[_Place], key: str, places: Sequence[_Place]
) -> str:
    """The one value that most of its sites fail with, while hardly any other does and enough of
    them do well."""
    values = {getattr(place.outcome, key) for place in failing} - {""}
    for value in sorted(values):
        inside = sum(getattr(place.outcome, key) == value for place in failing)
        outside = len(failing) - inside
        well = _well(places, key, value)
        if (
            inside >= case.rules.most * _heard(places, key, value)
            and outside <= case.rules.stray * (well + outside)
            and well >= case.rules.others
        ):
            return str(value)
    return ""


def _state(place: _Place) -> bool | None:
    return place.new.ok if place.outcome.new else place.old.ok


def _well(places: Sequence[_Place], key: str, value: str) -> int:
    """How many do well of those that are known to have another value."""
    return sum(
        _state(place) is True and getattr(place.outcome, key) not in ("", value) for place in places
    )


def _heard(places: Sequence[_Place], key: str, value: str) -> int:
    return sum(
        _state(place) is not None and getattr(place.outcome, key) == value for place in places
    )


# The version's own


def _version(case: _Case, failing: Sequence[_Place]) -> Attribution:
    worse = [place for place in failing if _compares_well(case, place)]
    named = name_sites([place.note for place in failing], len(failing))
    if worse:
        paired = sum(place.old.ok is True for place in worse)
        where = (
            f"the old one does well at {paired} of them"
            if paired
            else "the old one does well at sites of their kind"
        )
        text = (
            f"the new version fails at {len(failing)} of {case.known} sites, {where}: "
            f"{name_sites([place.note for place in worse], len(worse))}"
        )
        return case.blames(Cause.VERSION, worse, "worse-than-before", text)
    if any(place.old.ok is False for place in failing):
        text = f"both versions fail, and not in the same way: {named}"
        return case.blames(Cause.UNKNOWN, [], "both-fail", text)
    text = f"{named}: nothing is known of the old version to compare with"
    return case.blames(Cause.UNKNOWN, [], "nothing-to-compare", text)


def _compares_well(case: _Case, place: _Place) -> bool:
    """The old version does well here, or where that is not known, at enough controls of the same
    hardware and at none badly."""
    if place.old.ok is not None:
        return place.old.ok
    kind = [
        control.old.ok
        for control in case.controls
        if control.outcome.accelerator == place.outcome.accelerator
    ]
    return False not in kind and kind.count(True) >= case.rules.others


def _at_once(standings: Sequence[Standing], rules: Rules) -> bool:
    """Whether three of four of them began within one window; a beginning nobody knows is none."""
    begun = sorted(each.began_at for each in standings if each.began_at)
    most = max(
        (sum(first <= at <= first + rules.at_once for at in begun) for first in begun), default=0
    )
    return most >= 0.75 * len(standings)


def _minutes(span: timedelta) -> str:
    return f"{span.total_seconds() / 60:g} min"
