"""The steps that stories about rollouts are told in. Time is an argument."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from controlplane.catalog.models import Version
from controlplane.domain.gates import Verdict
from controlplane.domain.policy import StagePolicy
from controlplane.domain.stages import StageSpec
from controlplane.rollouts.approvals import approve_rollout, record_verdict
from controlplane.rollouts.evidence import fresh_within
from controlplane.rollouts.models import Deployment, DeploymentKind, GateVerdict, Rollout
from controlplane.rollouts.services import advance_rollout, start_rollout
from tests.factories import ACTOR, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent

BY: dict[str, Any] = {"actor": "user:ann", "reason": "because"}
TURN = timedelta(seconds=5)
LATE = timedelta(hours=1)


def one_stage(*, soak_seconds: float = 0, **policy: Any) -> tuple[StageSpec, ...]:
    """All sites at once, under this policy."""
    return (StageSpec(name="all", soak_seconds=soak_seconds, policy=StagePolicy(**policy)),)


def canary_then_rest(*, soak_seconds: float = 0, **policy: Any) -> tuple[StageSpec, ...]:
    """The edge first, under this policy; then all others."""
    return (
        StageSpec(
            name="canary", tier="edge", soak_seconds=soak_seconds, policy=StagePolicy(**policy)
        ),
        StageSpec(name="rest", soak_seconds=0),
    )


def start(
    version: Version, stages: Sequence[StageSpec] | None = None, *, now: datetime, **asked: Any
) -> Rollout:
    """Planned, and not touched by the engine yet. All sites at once, unless said otherwise."""
    if "strategy" not in asked:
        asked["stages"] = one_stage() if stages is None else stages
    return start_rollout(
        model_name=version.model.name,
        version_number=version.number,
        **{"actor": ACTOR, **asked},
        now=now,
    )


def turn(rollout: Rollout, *agents: FakeAgent, now: datetime) -> Rollout:
    """These agents obey, then the engine turns once; the rollout as it is then."""
    for agent in agents:
        agent.obey(now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    rollout.refresh_from_db()
    return rollout


def running(
    version: Version, stages: Sequence[StageSpec] | None = None, *, now: datetime, **asked: Any
) -> Rollout:
    """After the engine's first turn."""
    return turn(start(version, stages, now=now, **asked), now=now)


def serving(agents: Sequence[FakeAgent], *, now: datetime, model: str = "vad") -> Version:
    """Brings a new version to all of them; they have just said that they serve it well."""
    version = make_version(model, now=now)
    settle(make_rollout(version=version, agents=agents, now=now), agents, now=now)
    for agent in agents:
        agent.obey(now=now)
    return version


def parts(rollout: Rollout, kind: str = DeploymentKind.FORWARD) -> dict[str, str]:
    """What counts now of each site's part."""
    rows = Deployment.objects.filter(rollout=rollout, kind=kind, superseded=False)
    return dict(rows.order_by("site__name").values_list("site__name", "state"))


def part(rollout: Rollout, agent: FakeAgent, kind: str = DeploymentKind.FORWARD) -> Deployment:
    return Deployment.objects.get(rollout=rollout, site=agent.site, kind=kind, superseded=False)


def stages_of(rollout: Rollout) -> dict[str, str]:
    return dict(rollout.stages.order_by("index").values_list("name", "state"))


def silence() -> timedelta:
    """Long enough that a site is no longer fresh."""
    return 2 * fresh_within()


def approve(*, rollout_id: int, **by: Any) -> Rollout:
    rollout = Rollout.objects.get(pk=rollout_id)
    return approve_rollout(rollout_id=rollout_id, plan_digest=rollout.plan_digest, **by)


def fail(agent: FakeAgent, *, now: datetime, code: str = "golden-mismatch") -> None:
    agent.begin("vad", now=now)
    agent.report("vad", "failed", now=now, reason_code=code, reason=f"{code} it is")


def judge(
    rollout: Rollout,
    verdict: Verdict,
    *,
    now: datetime,
    stage: str = "canary",
    gate: str = "latency",
    fresh_seconds: float | None = None,
    reason: str = "p99 of 80 ms",
) -> GateVerdict:
    return record_verdict(
        rollout_id=rollout.pk,
        stage_name=stage,
        gate=gate,
        verdict=verdict,
        reason=reason,
        evidence={"requests": 5000},
        fresh_seconds=fresh_seconds,
        actor="token:judge",
        now=now,
    )
