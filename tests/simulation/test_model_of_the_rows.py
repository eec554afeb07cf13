"""The simulated centre is no second opinion: whatever is decided, reported or pressed, its rows say
what those of the database say."""

from collections import defaultdict
from datetime import datetime, timedelta
from random import Random

import pytest

from controlplane.domain.rollout import FINAL_ROLLOUT, allowed_verbs
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.selection import StageSpec
from controlplane.fleet.identity import touch_lease
from controlplane.ops.simulation import rows
from controlplane.ops.simulation.centre import Centre
from controlplane.ops.simulation.versions import Version
from controlplane.rollouts import services
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel
from controlplane.rollouts.snapshots import PATIENCE, fresh_within
from tests.factories import ACTOR, make_joined_site, make_version
from tests.fake_agent import FakeAgent

PHASES = ("downloading", "staged", "proving", "activating", "verifying", "succeeded", "failed")
STAGES = (
    StageSpec(name="first", sites=frozenset({"site-a"}), soak_seconds=20),
    StageSpec(name="second", sites=frozenset({"site-b", "site-c"}), soak_seconds=0),
    StageSpec(name="rest", soak_seconds=5),
)
BY = {"reason": "the test wants it", "actor": ACTOR}


class Twins:
    """The database and its model, told the same."""

    def __init__(self, now: datetime) -> None:
        self.start, self.seconds = now, 0.0
        self.agents = [make_joined_site(f"site-{letter}", now=now) for letter in "abcde"]
        self.sites = {agent.site.pk: index for index, agent in enumerate(self.agents)}
        self.centre = Centre(
            sites=len(self.agents),
            fresh_seconds=fresh_within().total_seconds(),
            patience=PATIENCE,
        )
        self.row: Rollout
        self.model: rows.Rollout

    @property
    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def begin(self) -> None:
        for index, agent in enumerate(self.agents):  # who is silent is not planned for
            caller = agent.caller(now=self.now)
            touch_lease(caller=caller, now=self.now, at_most_every=timedelta(0))
            self.centre.seen(index, self.seconds)
        version = make_version(now=self.now)
        self.row = services.start_rollout(
            model_name="vad", version_number=version.number, stages=STAGES, actor=ACTOR,
            now=self.now,
        )  # fmt: skip
        plan: dict[int, list[int]] = defaultdict(list)
        for deployment in Deployment.objects.filter(rollout=self.row).select_related("stage"):
            plan[deployment.stage.index].append(self.sites[deployment.site_id])
        stages = [(spec.soak_seconds, plan[index]) for index, spec in enumerate(STAGES)]
        self.model = self.centre.plan(Version(model="vad", number=version.number), stages)

    def turn(self) -> None:
        services.advance_rollout(rollout_id=self.row.pk, now=self.now)
        if self.model.state not in FINAL_ROLLOUT:
            self.centre.steps(self.model, self.seconds)

    def press(self, verb: str) -> None:
        act = {
            "pause": services.pause_rollout,
            "resume": services.resume_rollout,
            "abort": services.abort_rollout,
            "rollback": services.roll_back_rollout,
        }[verb]
        act(rollout_id=self.row.pk, now=self.now, **BY)
        if verb == "rollback":
            self.centre.roll_back(self.model, self.seconds, "by a person")
        else:
            getattr(self.centre, verb)(self.model, self.seconds)

    def say(self, rng: Random) -> None:
        """A report, at times of an older wish, or one that was overtaken."""
        index = rng.randrange(len(self.agents))
        agent: FakeAgent = self.agents[index]
        if "vad" not in agent.wishes(now=self.now):
            return
        older = 1 if rng.random() < 0.1 else 0
        phase = rng.choices(PHASES, (1, 1, 1, 1, 1, 9, 1))[0]
        said = agent.said("vad", phase, now=self.now)
        generation = max(0, said.generation - older)
        healthy = said.healthy if rng.random() < 0.8 else False
        seq = max(1, agent.seq) if rng.random() < 0.1 else None
        changes = {"generation": generation, "healthy": healthy}
        agent.report("vad", said.phase, now=self.now, seq=seq, **changes)
        self.centre.seen(index, self.seconds)
        self.centre.report(
            rows.Report(
                site=index,
                session=1,
                seq=agent.seq if seq is None else seq,
                models=(
                    rows.Said(
                        model="vad", generation=generation, phase=said.phase,
                        serving=said.serving, healthy=healthy,
                    ),
                ),
                sent_at=self.seconds,
            ),
            self.seconds,
        )  # fmt: skip

    def in_the_database(self) -> object:
        self.row.refresh_from_db()
        deployments = Deployment.objects.filter(rollout=self.row).select_related("to_version")
        return (
            self.row.state,
            [(s.state, round(s.soaked_seconds, 3)) for s in self.row.stages.order_by("index")],
            sorted(
                (
                    self.sites[d.site_id],
                    d.kind == DeploymentKind.ROLLBACK,
                    str(d.state),
                    d.to_version.number if d.to_version else 0,
                    d.generation or 0,
                )
                for d in deployments
            ),
            sorted(
                (
                    self.sites[w.site_id],
                    w.generation,
                    w.desired.number if w.desired else 0,
                    w.previous.number if w.previous else 0,
                )
                for w in SiteModel.objects.select_related("desired", "previous")
            ),
        )

    def in_the_model(self) -> object:
        return (
            self.model.state.value,
            [(stage.state.value, round(stage.soaked_seconds, 3)) for stage in self.model.stages],
            sorted(
                (
                    d.site,
                    d.is_rollback,
                    d.state.value,
                    d.to_version.number if d.to_version else 0,
                    d.generation or 0,
                )
                for d in self.model.forward + self.model.rollback
            ),
            sorted(
                (
                    site,
                    wish.generation,
                    wish.desired.number if wish.desired else 0,
                    wish.previous.number if wish.previous else 0,
                )
                for site, wishes in enumerate(self.centre.rows)
                for wish in wishes.values()
            ),
        )


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(6))
def test_the_simulated_rows_are_those_of_the_database(seed: int, now: datetime) -> None:
    rng, twins, ended = Random(seed), Twins(now), set()
    twins.begin()
    for step in range(100):
        chance = rng.random()
        verbs = allowed_verbs(twins.model.state)
        if twins.model.state in FINAL_ROLLOUT:
            ended.add(twins.model.state)
            twins.begin()
        elif chance < 0.06 and verbs and twins.model.state is not R.PLANNED:
            twins.press(rng.choice(verbs))
        elif chance < 0.35:
            twins.seconds += rng.choice((1.0, 10.0, 30.0))
            twins.turn()
        elif chance < 0.36 and twins.seconds < 1500:
            twins.seconds += 1000.0
        else:
            twins.say(rng)
        assert twins.in_the_model() == twins.in_the_database(), f"step {step}"
    assert ended
