"""The simulated centre is no second opinion: whatever is decided, reported, asked for or pressed,
its rows say what those of the database say."""

from collections import defaultdict
from datetime import datetime, timedelta
from random import Random

import pytest
from django.test import override_settings

from controlplane.domain.admission import Instant
from controlplane.domain.errors import Conflict
from controlplane.domain.policy import OnFailure, OnSilent, StagePolicy
from controlplane.domain.rollout import (
    FINAL_ROLLOUT,
    NOTHING_SOUND,
    ResumeChoice,
    allowed_verbs,
    resume_choices,
)
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.stages import StageSpec
from controlplane.fleet.identity import touch_lease
from controlplane.fleet.inventory import TritonFacts
from controlplane.fleet.services import retire_site
from controlplane.ops.simulation import rows
from controlplane.ops.simulation.centre import Centre, PlannedStage
from controlplane.ops.simulation.versions import Version
from controlplane.rollouts import freezes, quarantine, services, turning_back, verbs
from controlplane.rollouts.evidence import PATIENCE, fresh_within
from controlplane.rollouts.leases import LeaseQuestion, request_lease
from controlplane.rollouts.models import Deployment, DeploymentKind, Rollout, SiteModel
from controlplane.rollouts.reports import ModelReport, Report, record_report
from tests.factories import ACTOR, make_joined_site, make_version
from tests.fake_agent import FakeAgent

PHASES = ("downloading", "staged", "proving", "activating", "verifying", "succeeded", "failed")
CODES = ("golden-mismatch", "golden-mismatch", "disk-full")
BY = {"reason": "the test wants it", "actor": ACTOR}
LETTERS = "abcdefg"
NOTHING_TO_DO = ("nothing-soaks", "nothing-failed", "nothing-to-return", NOTHING_SOUND)


def _policy(rng: Random) -> StagePolicy:
    return StagePolicy(
        max_concurrent=rng.choice((None, 1, "50%")),
        max_unavailable=rng.choice((1, "50%", "100%")),
        failures_tolerated=rng.choice((0, 1, "34%")),
        stale_tolerated=rng.choice((0, "50%")),
        on_failure=rng.choice(tuple(OnFailure)),
        progress_deadline_seconds=60,
        on_silent=rng.choice(tuple(OnSilent)),
        retries=rng.choice((0, 1)),
        retry_after_seconds=20,
        inconclusive_seconds=100,
    )


def _stages(rng: Random, gone: set[str]) -> tuple[StageSpec, ...]:
    named = [
        StageSpec(
            name="first", sites=frozenset({"site-a", "site-b"} - gone), soak_seconds=20,
            policy=_policy(rng),
        ),
        StageSpec(
            name="second", sites=frozenset({"site-c", "site-d"} - gone), soak_seconds=0,
            policy=_policy(rng),
        ),
        StageSpec(name="rest", soak_seconds=5, policy=_policy(rng)),
    ]  # fmt: skip
    if rng.random() < 0.5:
        named.append(StageSpec(name="late", sites=frozenset(), soak_seconds=0, trailing=True))
    return tuple(named)


class Twins:
    """The database and its model, told the same."""

    def __init__(self, now: datetime, rng: Random) -> None:
        self.start, self.seconds, self.rng = now, 0.0, rng
        self.agents = [make_joined_site(f"site-{letter}", now=now) for letter in LETTERS]
        self.sites = {agent.site.pk: index for index, agent in enumerate(self.agents)}
        self.freeze: tuple[int, int] | None = None
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
            if index not in self.centre.retired:
                caller = agent.caller(now=self.now)
                touch_lease(caller=caller, now=self.now, at_most_every=timedelta(0))
                self.centre.seen(index, 1, self.seconds)
        version, specs = make_version(now=self.now), _stages(self.rng, self._gone())
        barrier = self.rng.random() < 0.3
        self.version = version
        self.row = services.start_rollout(
            model_name="vad", version_number=version.number, stages=specs, actor=ACTOR,
            barrier=barrier, now=self.now,
        )  # fmt: skip
        plan: dict[int, list[int]] = defaultdict(list)
        planned = Deployment.objects.filter(rollout=self.row).select_related("stage")
        for deployment in planned.order_by("pk"):
            plan[deployment.stage.index].append(self.sites[deployment.site_id])
        stages = [
            PlannedStage(
                sites=plan[index],
                soak_seconds=spec.soak_seconds,
                policy=spec.policy,
                trailing=spec.trailing,
            )
            for index, spec in enumerate(specs)
        ]
        self.model = self.centre.plan(
            Version(model="vad", number=version.number), stages, self.seconds, barrier=barrier
        )

    def _gone(self) -> set[str]:
        return {self.agents[index].site.name for index in self.centre.retired}

    def turn(self) -> None:
        services.advance_rollout(rollout_id=self.row.pk, now=self.now)
        if self.model.state not in FINAL_ROLLOUT:
            self.centre.steps(self.model, self.seconds)

    # People

    def _choice(self) -> ResumeChoice | None:
        """One of those that lead somewhere, where one is asked for."""
        if not self.model.pause_code:
            return None
        if self.model.version in self.centre.quarantined:
            return ResumeChoice.ROLLBACK
        return self.rng.choice(resume_choices(self.model.pause_code))

    def press(self, verb: str) -> None:
        pressed: dict[str, object] = {"rollout_id": self.row.pk, "now": self.now, **BY}
        try:
            if verb == "resume":
                choice = self._choice()
                verbs.resume_rollout(**pressed, choice=choice, may_while_frozen=True)  # type: ignore[arg-type]
                self.centre.resume(self.model, self.seconds, choice)
            elif verb == "rollback" and self.rng.random() < 0.6:
                self._return_one(pressed)
            elif verb == "rollback":
                turning_back.roll_back_rollout(**pressed, may_while_frozen=True)  # type: ignore[arg-type]
                self.centre.roll_back(self.model, self.seconds, "by a person")
            elif verb == "pause":
                verbs.pause_rollout(**pressed)  # type: ignore[arg-type]
                self.centre.pause(self.model, self.seconds)
            elif verb == "promote":
                verbs.promote_rollout(**pressed)  # type: ignore[arg-type]
                self.centre.promote(self.model, self.seconds)
            elif verb == "retry-failed":
                verbs.retry_failed(**pressed)  # type: ignore[arg-type]
                self.centre.retry_failed(self.model, self.seconds)
            elif verb == "abort":
                verbs.abort_rollout(**pressed)  # type: ignore[arg-type]
                self.centre.abort(self.model, self.seconds)
        except Conflict as refused:
            if refused.code not in NOTHING_TO_DO:
                raise

    def _return_one(self, pressed: dict[str, object]) -> None:
        index = self.rng.randrange(len(self.agents))
        turning_back.roll_back_rollout(
            **pressed,  # type: ignore[arg-type]
            site_name=self.agents[index].site.name,
            may_while_frozen=True,
        )
        self.centre.return_part(self.model, [index], self.seconds)

    def hold(self) -> None:
        """A freeze of some sites, a quarantine or a retirement; or what lifts the former."""
        if self.freeze is not None:
            number, twin = self.freeze
            freezes.lift_freeze(freeze_id=number, now=self.now, **BY)
            self.centre.lift(twin)
            self.freeze = None
        elif self.rng.random() < 0.6:
            some = frozenset(self.rng.sample(range(len(self.agents)), 3))
            names = sorted(self.agents[index].site.name for index in some)
            frozen = freezes.freeze_sites(selector={"sites": names}, until=None, now=self.now, **BY)
            self.freeze = (frozen.pk, self.centre.freeze(some))
        elif self.rng.random() < 0.5:
            roll_back = self.rng.random() < 0.5
            if self.model.version in self.centre.quarantined:
                quarantine.release_version(
                    model_name="vad", number=self.version.number, now=self.now, **BY
                )
                self.centre.release(self.model.version)
                return
            quarantine.quarantine_version(
                model_name="vad", number=self.version.number, roll_back=roll_back, now=self.now,
                **BY,
            )  # fmt: skip
            self.centre.quarantine(self.model.version, self.seconds, roll_back=roll_back)
        elif len(self.centre.retired) < 2:
            index = self.rng.randrange(len(self.agents))
            retire_site(site=self.agents[index].site, now=self.now, **BY)
            self.centre.retire(index)

    # Sites

    def instant(self) -> Instant:
        """At times from before: a message that was late."""
        late = self.rng.choice((0.0, 0.0, 0.0, 70.0, 20.0))
        return Instant(boot="1", uptime=max(0.0, self.seconds - late))

    def _anyone(self) -> tuple[int, FakeAgent] | None:
        index = self.rng.randrange(len(self.agents))
        agent = self.agents[index]
        if index in self.centre.retired or "vad" not in agent.wishes(now=self.now):
            return None
        return index, agent

    def say(self) -> None:
        """A report, at times of an older wish, or one that was overtaken."""
        rng, chosen = self.rng, self._anyone()
        if chosen is None:
            return
        index, agent = chosen
        phase = rng.choices(PHASES, (1, 2, 1, 1, 1, 9, 1))[0]
        told = agent.said("vad", phase, now=self.now)
        generation = max(0, told.generation - (rng.random() < 0.1))
        offer = self.centre.rows[index]["vad"].offer
        said = rows.Said(
            model="vad",
            generation=generation,
            phase=told.phase,
            serving=told.serving,
            healthy=told.healthy if rng.random() < 0.8 else False,
            reason_code=rng.choice(CODES) if phase == "failed" else "",
            lease=offer.lease if offer is not None and rng.random() < 0.3 else None,
        )
        agent.seq += 1
        seq, at = max(1, agent.seq - (rng.random() < 0.1)), self.instant()
        caller = agent.caller(now=self.now)
        touch_lease(caller=caller, now=self.now, at_most_every=timedelta(0))
        spoken = ModelReport(
            model="vad", generation=generation, phase=said.phase, target=told.target,
            serving=said.serving, healthy=said.healthy, reason_code=said.reason_code,
            lease=said.lease,
        )  # fmt: skip
        record_report(
            caller=caller,
            report=Report(
                seq=seq, epoch=caller.epoch, observed_generation=caller.generation,
                agent_version="0.1.0", sent_at=self.now, triton=TritonFacts(live=True),
                models=(spoken,), made=at,
            ),
            now=self.now,
        )  # fmt: skip
        self.centre.seen(index, 1, self.seconds)
        self.centre.report(
            rows.Report(
                site=index,
                session=1,
                seq=seq,
                models=(said,),
                sent_at=self.seconds,
                boot=at.boot,
                uptime=at.uptime,
            ),
            self.seconds,
        )

    def ask(self) -> None:
        """For a lease; both must answer the same."""
        chosen = self._anyone()
        if chosen is None:
            return
        index, agent = chosen
        wish, at, caller = agent.wishes(now=self.now)["vad"], self.instant(), None
        caller = agent.caller(now=self.now)
        generation = int(str(wish["generation"]))
        question = LeaseQuestion(
            model="vad", epoch=caller.epoch, generation=generation,
            manifest_digest=str(wish["manifest_digest"]), asked=at,
        )  # fmt: skip
        try:
            found = request_lease(caller=caller, question=question, now=self.now)
        except Conflict as refused:
            if refused.code != "wish-superseded":
                raise
            found = None
        twin = self.centre.request_lease(
            rows.Question(site=index, session=1, model="vad", generation=generation, asked=at),
            self.seconds,
        )
        assert (found is None) == (twin is None)
        if found is not None and twin is not None:
            assert (found.lease, found.reason_code) == (twin.lease, twin.code)

    # What both say

    def in_the_database(self) -> object:
        self.row.refresh_from_db()
        deployments = Deployment.objects.filter(rollout=self.row).select_related("to_version")
        return (
            self.row.state,
            self.row.pause_code,
            [
                (s.state, round(s.soaked_seconds, 3), round(s.inconclusive_seconds, 3),
                 s.accepted_failures)
                for s in self.row.stages.order_by("index")
            ],
            sorted(
                (
                    self.sites[d.site_id],
                    d.kind == DeploymentKind.ROLLBACK,
                    d.attempt,
                    d.superseded,
                    str(d.state),
                    d.to_version.number if d.to_version else 0,
                    d.generation or 0,
                    d.lease,
                    d.holds_lease,
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
        )  # fmt: skip

    def in_the_model(self) -> object:
        return (
            self.model.state.value,
            self.model.pause_code,
            [
                (s.state.value, round(s.soaked_seconds, 3), round(s.inconclusive_seconds, 3),
                 s.accepted_failures)
                for s in self.model.stages
            ],
            sorted(
                (
                    d.site,
                    d.is_rollback,
                    d.attempt,
                    d.superseded,
                    d.state.value,
                    d.to_version.number if d.to_version else 0,
                    d.generation or 0,
                    d.lease,
                    d.holds_lease,
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
        )  # fmt: skip


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(6))
@override_settings(WAYPOST_POLL_SECONDS=60)
def test_the_simulated_rows_are_those_of_the_database(seed: int, now: datetime) -> None:
    rng = Random(seed)
    twins, ended = Twins(now, rng), set()
    twins.begin()
    for step in range(160):
        chance = rng.random()
        pressable = [verb for verb in allowed_verbs(twins.model.state) if verb != "approve"]
        if twins.model.state in FINAL_ROLLOUT:
            ended.add(twins.model.state)
            if len(twins.centre.retired) > 1:
                break
            twins.begin()
        elif chance < 0.06 and pressable and twins.model.state is not R.PLANNED:
            twins.press(rng.choice(pressable))
        elif chance < 0.09:
            twins.hold()
        elif chance < 0.35:
            twins.seconds += rng.choice((1.0, 10.0, 30.0))
            twins.turn()
        elif chance < 0.36 and twins.seconds < 1500:
            twins.seconds += 1000.0
        elif chance < 0.55:
            twins.ask()
        else:
            twins.say()
        assert twins.in_the_model() == twins.in_the_database(), f"step {step}"
    assert ended
