"""Which sites can take a version, as a page shows it: counts with a bar, the reasons of those that
cannot in groups.

Decides nothing: each answer is `domain/fit.py`'s."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from controlplane.domain.fit_facts import Answer, Check, Verdict
from controlplane.rollouts.site_fits import SiteFit
from controlplane.web.look import look_of
from controlplane.web.stages import Segment, bar
from controlplane.web.words import PER_GROUP, LeftOut, site_count

GROUPS_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class FitSummary:
    """Of all sites that are asked about. `builds` says how many would get which."""

    total: int
    segments: tuple[Segment, ...]
    builds: tuple[tuple[str, int], ...]
    only_by_replace: int
    reasons: tuple[LeftOut, ...]

    @property
    def words(self) -> str:
        """The bar, for those who do not see it."""
        parts = ", ".join(f"{part.count} {part.word}" for part in self.segments)
        return f"{site_count(self.total)}: {parts}" if parts else site_count(self.total)


@dataclass(frozen=True, kw_only=True)
class FitRow:
    """A site. `speaks` are the answers that a person looks at first: what refuses it, or what is
    not known; `fine` the others. `passed_over` says of builds of a higher priority why not."""

    fit: SiteFit
    speaks: tuple[Check, ...]
    fine: tuple[Check, ...]
    passed_over: tuple[tuple[str, str], ...]


def fit_summary(found: Sequence[SiteFit]) -> FitSummary:
    verdicts = Counter(fit.verdict for fit in found)
    parts = []
    for answer in (Answer.OK, Answer.UNKNOWN, Answer.NO):
        look = look_of("fit", answer.value)
        parts.append((look.word, look.tone, verdicts[answer]))
    builds = Counter(fit.choice.variant for fit in found if fit.choice.variant)
    return FitSummary(
        total=len(found),
        segments=tuple(bar(parts, len(found))),
        builds=tuple(sorted(builds.items(), key=lambda each: (-each[1], each[0]))),
        only_by_replace=sum(fit.choice.judged.only_by_replace for fit in found),
        reasons=_reasons(found),
    )


def fit_rows(found: Iterable[SiteFit]) -> list[FitRow]:
    return [_row(fit) for fit in found]


def _row(fit: SiteFit) -> FitRow:
    choice = fit.choice
    taken = choice.judged.checks if choice.variant else ()
    rejected = [(name, judged.against) for name, judged in choice.rejected]
    alone = len(rejected) == 1 and choice.variant is None
    if alone:  # one build, and its answers say more than one sentence
        taken, rejected = choice.judged.checks, []
    return FitRow(
        fit=fit,
        speaks=tuple(check for check in taken if check.verdict is not Answer.OK),
        fine=tuple(check for check in taken if check.verdict is Answer.OK),
        passed_over=tuple(rejected),
    )


def _reasons(found: Iterable[SiteFit]) -> tuple[LeftOut, ...]:
    """Why sites get none of the builds, the most frequent first. A site stands in each group that
    it has a reason of; a group is one question to one build, whatever the figures."""
    groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
    several = False
    for fit in found:
        if fit.choice.variant is None:
            several = several or len(fit.choice.rejected) > 1
            for build, judged in fit.choice.rejected:
                for check in _against(judged):
                    named = (fit.traits.name, check.sentence)
                    groups.setdefault((build, check.name), []).append(named)
    ranked = sorted(groups.items(), key=lambda each: (-len(each[1]), each[0]))[:GROUPS_SHOWN]
    return tuple(_group(build if several else "", entries) for (build, _), entries in ranked)


def _against(judged: Verdict) -> list[Check]:
    return [check for check in judged.checks if check.verdict is Answer.NO]


def _group(build: str, entries: list[tuple[str, str]]) -> LeftOut:
    """Said with the sentence that most of them have; the others bring their own."""
    ((usual, count),) = Counter(sentence for _, sentence in entries).most_common(1)
    entries.sort(key=lambda each: (each[1] != usual, each[0]))
    of_build = f"{build} " if build else ""
    shown = [(name, f"{of_build}{sentence}") for name, sentence in entries[:PER_GROUP]]
    reason = f"{of_build}{usual}"
    if count < len(entries):
        reason = f"{reason} ({count} of them; the others with other figures)"
        # Those with the usual sentence need not repeat it.
        shown = [
            (name, reason if sentence == f"{of_build}{usual}" else sentence)
            for name, sentence in shown
        ]
    return LeftOut(
        reason=reason,
        count=len(entries),
        entries=tuple(shown),
        more=max(0, len(entries) - PER_GROUP),
    )
