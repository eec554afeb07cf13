"""A stage as a picture: bar segments with counts, soak progress, its sites with trouble first."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, DeploymentState, StageState
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, Stage
from controlplane.rollouts.queries import DeploymentCounts

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
class StagePanel:
    """`hidden` is how many sites the rows leave out."""

    stage: Stage
    sites: int
    segments: tuple[Segment, ...]
    rows: tuple[Deployment, ...]
    hidden: int

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
        noun = "1 site" if self.sites == 1 else f"{self.sites} sites"
        return f"{noun}: {parts}" if parts else noun

    @property
    def selects(self) -> str:
        """What the stage was asked to take, in words."""
        select = self.stage.select
        words = [f"tier {select['tier']}"] if select.get("tier") else []
        words += [f"{key}={value}" for key, value in select.get("labels", {}).items()]
        if "sites" in select:
            words.append(f"{len(select['sites'])} named")
        if select.get("percent"):
            words.append(f"{select['percent']} %")
        return ", ".join(words) or "all that are left"


def stage_panels(
    rollout: Rollout, counts: DeploymentCounts, rows: Iterable[Deployment] = ()
) -> list[StagePanel]:
    """The stages of a rollout in order, from data that was read beforehand."""
    by_stage: dict[int, list[Deployment]] = defaultdict(list)
    for row in rows:
        by_stage[row.stage_id].append(row)
    return [
        _panel(
            stage,
            counts.get((stage.pk, DeploymentKind.FORWARD), {}),
            counts.get((stage.pk, DeploymentKind.ROLLBACK), {}),
            by_stage[stage.pk],
        )
        for stage in rollout.stages.all()
    ]


def _panel(
    stage: Stage,
    forward: Mapping[DeploymentState, int],
    back: Mapping[DeploymentState, int],
    rows: list[Deployment],
) -> StagePanel:
    total = sum(forward.values())
    parts = _returning(back, total) if back else _going(forward)
    return StagePanel(
        stage=stage,
        sites=total,
        segments=tuple(_segments(parts, total)),
        rows=tuple(rows),
        hidden=total - len(rows),
    )


def _going(counts: Mapping[DeploymentState, int]) -> list[tuple[str, str, int]]:
    return [
        ("verified", "good", counts.get(D.SUCCEEDED, 0)),
        ("failed", "bad", counts.get(D.FAILED, 0)),
        ("under way", "busy", sum(counts.get(s, 0) for s in ACTIVE_DEPLOYMENT)),
        ("waiting", "idle", counts.get(D.PENDING, 0)),
        ("called off", "off", counts.get(D.CANCELLED, 0)),
    ]


def _returning(counts: Mapping[DeploymentState, int], total: int) -> list[tuple[str, str, int]]:
    """Sites without a way back were never reached."""
    return [
        ("returned", "warn", counts.get(D.ROLLED_BACK, 0)),
        ("could not return", "bad", counts.get(D.ROLLBACK_FAILED, 0)),
        ("returning", "busy", sum(counts.get(s, 0) for s in ACTIVE_DEPLOYMENT)),
        ("not reached", "off", total - sum(counts.values())),
    ]


def _segments(parts: list[tuple[str, str, int]], total: int) -> Iterable[Segment]:
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
