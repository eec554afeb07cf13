"""A stage as a picture: bar segments with counts, soak progress, its sites with trouble first, and
what holds in it: limits, waits, verdicts."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from controlplane.domain.policy import limit_sentences, policy_of
from controlplane.domain.rollout import (
    ACTIVE_DEPLOYMENT,
    OUT_OF_STAGE,
    DeploymentState,
    RolloutState,
    StageState,
)
from controlplane.domain.views import SiteNote
from controlplane.rollouts.models import Deployment, DeploymentKind, GateVerdict, Rollout, Stage
from controlplane.rollouts.queries import DeploymentCounts
from controlplane.web.facts import HELD_SHOWN, RolloutFacts
from controlplane.web.look import look_of
from controlplane.web.words import site_count, stage_selects

D = DeploymentState
ROWS_PER_STAGE = 25


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Part of a bar. `start` and `width` are percentages of it."""

    word: str
    tone: str
    count: int
    start: str
    width: str


@dataclass(frozen=True, kw_only=True)
class GateLine:
    """A gate of a stage; `verdict` None: it has not said anything. `old`: its word has aged."""

    gate: str
    verdict: GateVerdict | None
    required: bool
    old: bool

    @property
    def evidence(self) -> str:
        if self.verdict is None or not self.verdict.evidence:
            return ""
        return json.dumps(self.verdict.evidence, indent=2, sort_keys=True, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class StagePanel:
    """`hidden` is how many sites the rows leave out. Only a page about one rollout has the rest."""

    stage: Stage
    sites: int
    segments: tuple[Segment, ...]
    rows: tuple[Deployment, ...] = ()
    hidden: int = 0
    limits: tuple[str, ...] = ()
    earlier: str = ""
    resting_until: datetime | None = None
    held: tuple[SiteNote, ...] = ()
    held_more: int = 0
    gates: tuple[GateLine, ...] = ()
    reached: int = 0

    @property
    def soaking(self) -> bool:
        return self.stage.state == StageState.SOAKING

    @property
    def soaked_seconds(self) -> float:
        """The engine may count a whole interval past the end."""
        return min(self.stage.soaked_seconds, self.stage.soak_seconds)

    @property
    def summary(self) -> str:
        """The bar in words, for those who do not see it."""
        parts = ", ".join(f"{part.count} {part.word}" for part in self.segments)
        return f"{site_count(self.sites)}: {parts}" if parts else site_count(self.sites)

    @property
    def selects(self) -> str:
        """What the stage was asked to take, in words."""
        return stage_selects(self.stage.select, trailing=self.stage.trailing)


def stage_strips(rollout: Rollout, counts: DeploymentCounts) -> list[StagePanel]:
    """Only the bars, for lists; from data that was read beforehand."""
    return [
        StagePanel(
            stage=stage,
            sites=sum(counts.get((stage.pk, DeploymentKind.FORWARD), {}).values()),
            segments=_bar(rollout, stage, counts),
        )
        for stage in rollout.stages.all()
    ]


def stage_panels(
    rollout: Rollout, facts: RolloutFacts, rows: Iterable[Deployment], now: datetime
) -> list[StagePanel]:
    """The stages of a rollout in order, with all that its own page shows."""
    by_stage: dict[int, list[Deployment]] = defaultdict(list)
    for row in rows:
        by_stage[row.stage_id].append(row)
    return [
        _panel(rollout, stage, facts, by_stage[stage.pk], now) for stage in rollout.stages.all()
    ]


def _panel(
    rollout: Rollout,
    stage: Stage,
    facts: RolloutFacts,
    rows: Sequence[Deployment],
    now: datetime,
) -> StagePanel:
    forward = facts.counts.get((stage.pk, DeploymentKind.FORWARD), {})
    total = sum(forward.values())
    resting = facts.waiting.resting.get(stage.pk, 0)
    held = facts.waiting.held.get(stage.pk, [])
    policy = policy_of(stage.policy)
    counting = total - sum(forward.get(state, 0) for state in OUT_OF_STAGE)
    return StagePanel(
        stage=stage,
        sites=total,
        segments=_bar(rollout, stage, facts.counts, resting, len(held)),
        rows=tuple(rows),
        hidden=total - len(rows),
        limits=tuple(limit_sentences(policy, counting)),
        earlier=_attempts(facts.earlier.get(stage.pk, {})),
        resting_until=facts.waiting.until.get(stage.pk),
        held=tuple(held[:HELD_SHOWN]),
        held_more=max(0, len(held) - HELD_SHOWN),
        gates=tuple(_gates(policy.gates, facts.verdicts.get(stage.pk, ()), now)),
        reached=sum(forward.get(state, 0) for state in REACHED),
    )


# Where the version was wished for, and may be on disk or in use.
REACHED = frozenset({D.SUCCEEDED, D.FAILED, D.TIMED_OUT}) | ACTIVE_DEPLOYMENT


_TURNED_BACK = (
    RolloutState.ROLLING_BACK, RolloutState.ROLLED_BACK, RolloutState.ROLLBACK_INCOMPLETE,
)  # fmt: skip


def _bar(
    rollout: Rollout, stage: Stage, counts: DeploymentCounts, resting: int = 0, held: int = 0
) -> tuple[Segment, ...]:
    forward = counts.get((stage.pk, DeploymentKind.FORWARD), {})
    back = counts.get((stage.pk, DeploymentKind.ROLLBACK), {})
    total = sum(forward.values())
    if back and rollout.state in _TURNED_BACK:
        return tuple(bar(_returning(back, total), total))
    return tuple(bar(_going(forward, sum(back.values()), resting, held), total))


def _going(
    counts: Mapping[DeploymentState, int], sent_back: int, resting: int, held: int
) -> list[tuple[str, str, int]]:
    """Who was sent back by itself has left the stage as called off."""
    return [
        ("verified", "good", counts.get(D.SUCCEEDED, 0)),
        ("failed", "bad", counts.get(D.FAILED, 0)),
        ("timed out", "bad", counts.get(D.TIMED_OUT, 0)),
        ("under way", "busy", sum(counts.get(s, 0) for s in ACTIVE_DEPLOYMENT)),
        ("in the penalty box", "warn", resting),
        ("held", "warn", held),
        ("waiting", "idle", max(0, counts.get(D.PENDING, 0) - resting - held)),
        ("put off", "off", counts.get(D.DEFERRED, 0)),
        ("with other hardware now", "off", counts.get(D.REJECTED, 0)),
        ("retired", "off", counts.get(D.REMOVED, 0)),
        ("sent back", "warn", sent_back),
        ("called off", "off", max(0, counts.get(D.CANCELLED, 0) - sent_back)),
    ]


def _returning(counts: Mapping[DeploymentState, int], total: int) -> list[tuple[str, str, int]]:
    """Sites without a way back were never reached."""
    return [
        ("returned", "warn", counts.get(D.ROLLED_BACK, 0)),
        ("could not return", "bad", counts.get(D.ROLLBACK_FAILED, 0)),
        ("returning", "busy", sum(counts.get(s, 0) for s in ACTIVE_DEPLOYMENT)),
        ("not reached", "off", max(0, total - sum(counts.values()))),
    ]


def bar(parts: Iterable[tuple[str, str, int]], total: int) -> Iterable[Segment]:
    """Segments of a bar that stands for `total`, by word, tone and count; empty ones left out."""
    start = 0
    for word, tone, count in parts:
        if not count:
            continue
        yield Segment(
            word=word,
            tone=tone,
            count=count,
            start=f"{100 * start / total:.3f}%",
            width=f"{100 * count / total:.3f}%",
        )
        start += count


def _attempts(counts: Mapping[DeploymentState, int]) -> str:
    """Attempts that were followed by another one."""
    if not counts:
        return ""
    total = sum(counts.values())
    ends = ", ".join(f"{n} {look_of('deployment', s).word}" for s, n in sorted(counts.items()))
    return f"{total} earlier attempt{'s' if total > 1 else ''}: {ends}"


def _gates(
    required: Sequence[str], verdicts: Sequence[GateVerdict], now: datetime
) -> Iterable[GateLine]:
    said = {row.gate: row for row in verdicts}
    for gate in [*required, *(name for name in said if name not in required)]:
        row = said.get(gate)
        old = bool(row and row.fresh_until is not None and row.fresh_until < now)
        yield GateLine(gate=gate, verdict=row, required=gate in required, old=old)
