"""A report is taken whole or not at all; an older generation is history and never state."""

from dataclasses import replace
from datetime import datetime, timedelta

import pytest

from controlplane.audit.models import Event
from controlplane.domain.errors import Conflict, Unauthenticated
from controlplane.domain.rollout import ACTIVE_DEPLOYMENT, RolloutState
from controlplane.fleet.identity import authenticate_agent
from controlplane.fleet.inventory import AcceleratorFacts, MachineFacts, TritonFacts
from controlplane.fleet.models import Accelerator, Agent, Server
from controlplane.rollouts.models import Deployment, SiteModel
from controlplane.rollouts.queries import difference, site_may_read, site_statuses
from controlplane.rollouts.reports import Report, record_report
from controlplane.rollouts.services import advance_rollout
from controlplane.rollouts.turning_back import roll_back_rollout
from tests.factories import make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent
from tests.services.threads import at_once, failures


@pytest.fixture
def edge(now: datetime) -> FakeAgent:
    return make_joined_site("edge", now=now)


@pytest.fixture
def offered(edge: FakeAgent, now: datetime) -> Deployment:
    """Version 1 offered to `edge`."""
    rollout = make_rollout(
        RolloutState.RUNNING, version=make_version(now=now), agents=[edge], now=now
    )
    return rollout.deployments.get()


def state(deployment: Deployment) -> tuple[str, str]:
    deployment.refresh_from_db()
    return deployment.state, deployment.reason_code


PHASE_STATES = [
    ("pending", "offered"),
    ("downloading", "staging"),
    ("staged", "staged"),
    ("proving", "proving"),
    ("activating", "activating"),
    ("verifying", "verifying"),
    ("succeeded", "succeeded"),
    ("failed", "failed"),
]


@pytest.mark.parametrize(("phase", "expected"), PHASE_STATES)
def test_a_phase_moves_the_deployment(
    phase: str, expected: str, edge: FakeAgent, offered: Deployment, now: datetime
) -> None:
    edge.report("vad", phase, now=now)

    assert state(offered)[0] == expected
    wish = SiteModel.objects.get()
    assert (wish.reported_phase, wish.reported_at) == (phase, now)


def test_a_restarted_agent_may_go_through_phases_again(
    edge: FakeAgent, offered: Deployment, now: datetime
) -> None:
    for phase in ("proving", "downloading", "staged", "activating", "downloading", "succeeded"):
        edge.report("vad", phase, now=now)

    assert state(offered) == ("succeeded", "ok")


@pytest.mark.parametrize("end", ["succeeded", "failed"])
@pytest.mark.parametrize("phase", [phase for phase, _ in PHASE_STATES])
def test_an_end_never_reopens(
    end: str, phase: str, edge: FakeAgent, offered: Deployment, now: datetime
) -> None:
    edge.report("vad", end, now=now)
    before, finished = state(offered), offered.finished_at

    edge.report("vad", phase, now=now + timedelta(minutes=1))

    assert state(offered) == before
    assert offered.finished_at == finished


class TestSuccess:
    @pytest.mark.parametrize(
        ("serving", "healthy"), [(None, None), (7, True), (1, None), (1, False)]
    )
    def test_is_not_believed_without_proof(
        self,
        serving: int | None,
        healthy: bool | None,
        edge: FakeAgent,
        offered: Deployment,
        now: datetime,
    ) -> None:
        edge.report("vad", "succeeded", now=now, serving=serving, healthy=healthy)

        assert state(offered) == ("verifying", "success-unproven")
        assert "reports success" in offered.reason

    def test_of_serving_nothing_is_proven_by_serving_nothing(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        roll_back_rollout(rollout_id=offered.rollout_id, reason="x", actor="user:ann", now=now)
        back = Deployment.objects.get(kind="rollback")

        edge.report("vad", "succeeded", now=now, serving=1, healthy=True)
        assert state(back) == ("verifying", "success-unproven")
        edge.report("vad", "succeeded", now=now)
        assert state(back)[0] == "rolled_back"


class TestFence:
    def test_an_older_generation_is_history_and_never_state(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        late = edge.said("vad", "succeeded", now=now)
        roll_back_rollout(rollout_id=offered.rollout_id, reason="x", actor="user:ann", now=now)

        receipt = edge.send(late, now=now)

        assert (receipt.duplicate, receipt.superseded) == (False, ["vad"])
        assert state(offered)[0] == "cancelled"
        assert state(Deployment.objects.get(kind="rollback"))[0] == "offered"
        assert SiteModel.objects.get().reported_at is None
        event = Event.objects.get(action="report.superseded")
        assert "succeeded for generation 1.1" in event.reason

    def test_a_generation_that_was_never_made_keeps_nothing_of_the_report(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        edge.caller(now=now)
        before = (
            list(Agent.objects.values()),
            list(SiteModel.objects.values()),
            Event.objects.count(),
        )

        with pytest.raises(Conflict) as caught:
            edge.report("vad", "succeeded", now=now, generation=99)

        assert caught.value.code == "generation-unknown"
        assert "backup" in caught.value.detail
        after = (
            list(Agent.objects.values()),
            list(SiteModel.objects.values()),
            Event.objects.count(),
        )
        assert after == before
        assert state(offered)[0] == "offered"

    def test_a_refused_report_can_be_sent_again_under_its_number(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        with pytest.raises(Conflict):
            edge.report("vad", "staged", now=now, generation=99)

        receipt = edge.report("vad", "staged", now=now, seq=edge.seq)

        assert not receipt.duplicate
        assert state(offered)[0] == "staged"

    def test_a_newer_epoch_is_unknown_here(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        said = edge.said("vad", "staged", now=now)
        with pytest.raises(Conflict) as caught:
            record_report(caller=edge.caller(now=now), report=report(said, epoch=2), now=now)
        assert caught.value.code == "generation-unknown"

    def test_an_older_epoch_is_history(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        said = edge.said("vad", "succeeded", now=now, generation=10_000)

        receipt = record_report(caller=edge.caller(now=now), report=report(said, epoch=0), now=now)

        assert receipt.superseded == ["vad"]
        assert state(offered)[0] == "offered"

    def test_a_model_that_was_never_wished_for_here_is_passed_over(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        said = replace(edge.said("vad", "staged", now=now), model="stranger")

        receipt = edge.send(said, now=now)

        assert (receipt.duplicate, list(receipt.superseded)) == (False, [])
        assert state(offered)[0] == "offered"
        assert SiteModel.objects.count() == 1


def report(*models: object, seq: int = 1, epoch: int = 1, **changes: object) -> Report:
    facts: dict[str, object] = {
        "seq": seq,
        "epoch": epoch,
        "observed_generation": 0,
        "agent_version": "0.1.0",
        "sent_at": None,
        "triton": TritonFacts(live=True),
        "models": models,
    }
    return Report(**{**facts, **changes})  # type: ignore[arg-type]  # the test's own keys


class TestSequence:
    def test_the_same_report_twice_changes_nothing_the_second_time(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        edge.report("vad", "staged", now=now)
        events = Event.objects.count()

        receipt = edge.report("vad", "failed", now=now + timedelta(seconds=9), seq=edge.seq)

        assert receipt.duplicate
        assert state(offered)[0] == "staged"
        assert SiteModel.objects.get().reported_at == now
        assert Event.objects.count() == events

    def test_a_report_that_was_overtaken_is_a_duplicate(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        edge.report("vad", "succeeded", now=now, seq=5)

        assert edge.report("vad", "downloading", now=now, seq=4).duplicate
        assert state(offered)[0] == "succeeded"
        assert SiteModel.objects.get().reported_phase == "succeeded"

    def test_numbers_begin_again_with_a_new_session(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        edge.report("vad", "downloading", now=now, seq=500)
        edge.open_session(now=now)

        assert not edge.report("vad", "staged", now=now).duplicate
        assert state(offered)[0] == "staged"

    @pytest.mark.usefixtures("transactional_db")
    def test_of_two_copies_that_race_one_is_taken(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        said, caller = edge.said("vad", "staged", now=now), edge.caller(now=now)
        for seq in range(1, 11):
            results = at_once(
                lambda _, seq=seq: record_report(
                    caller=caller, report=report(said, seq=seq), now=now
                ),
                range(4),
            )
            assert failures(results) == []
            assert sorted(receipt.duplicate for receipt in results) == [False, True, True, True]  # type: ignore[union-attr]  # no failure among them

    @pytest.mark.usefixtures("transactional_db")
    def test_of_two_reports_that_race_the_newer_one_stands(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        caller = edge.caller(now=now)
        phases = {0: "downloading", 1: "staged", 2: "proving"}
        said = {n: edge.said("vad", phase, now=now) for n, phase in phases.items()}
        for turn in range(8):
            first = 3 * turn + 1
            results = at_once(
                lambda n, first=first: record_report(
                    caller=caller, report=report(said[n], seq=first + n), now=now
                ),
                phases,
            )
            assert failures(results) == []
            assert SiteModel.objects.get().reported_phase == "proving"
            assert state(offered)[0] == "proving"
            assert Agent.objects.get().report_seq == first + 2


class TestMachine:
    GPU = AcceleratorFacts(uuid="GPU-1", name="L4", memory_bytes=24 << 30)

    def test_what_is_reported_replaces_what_was_known(self, edge: FakeAgent, now: datetime) -> None:
        caller = edge.caller(now=now)
        first = MachineFacts(hostname="h", cpu_count=8, accelerators=(self.GPU,))
        second = MachineFacts(hostname="h", disk_free_bytes=5, accelerators=())

        record_report(caller=caller, report=report(machine=first), now=now)
        assert Accelerator.objects.get().server.cpu_count == 8
        record_report(caller=caller, report=report(seq=2, machine=second), now=now)

        server = Server.objects.get()
        assert (server.cpu_count, server.disk_free_bytes) == (None, 5)
        assert not Accelerator.objects.exists()

    def test_an_agent_that_could_not_look_leaves_the_accelerators(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        caller = edge.caller(now=now)
        first = MachineFacts(hostname="h", accelerators=(self.GPU,))
        record_report(caller=caller, report=report(machine=first), now=now)
        blind = MachineFacts(hostname="h", accelerators=None)
        record_report(caller=caller, report=report(seq=2, machine=blind), now=now)

        assert Accelerator.objects.get().name == "L4"

    def test_a_report_without_a_machine_leaves_it(self, edge: FakeAgent, now: datetime) -> None:
        caller = edge.caller(now=now)
        machine = MachineFacts(hostname="h", cpu_count=8)
        record_report(caller=caller, report=report(machine=machine), now=now)
        dead = report(seq=2, triton=TritonFacts(live=False, version="2.51.0"))
        record_report(caller=caller, report=dead, now=now)

        server = Server.objects.get()
        assert (server.cpu_count, server.triton_live, server.triton_version) == (8, False, "2.51.0")

    def test_the_clock_of_the_agent_is_kept_for_show_alone(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        caller = edge.caller(now=now)
        said = report(sent_at=now + timedelta(days=700))
        record_report(caller=caller, report=said, now=now)

        agent = Agent.objects.get()
        assert agent.clock_skew_seconds == timedelta(days=700).total_seconds()
        assert authenticate_agent(secret=edge.secret, now=now)


def test_a_session_that_is_not_there_can_not_report(edge: FakeAgent, now: datetime) -> None:
    edge.secret = "wps_unknown"
    with pytest.raises(Unauthenticated):
        edge.send(now=now)


class TestWhatASiteMayRead:
    def test_is_what_is_wished_and_what_is_kept_for_a_rollback(
        self, edge: FakeAgent, now: datetime
    ) -> None:
        other = make_joined_site("other", now=now)
        versions = []
        for _ in range(3):
            versions.append(make_version(now=now))
            rollout = make_rollout(version=versions[-1], agents=[edge, other], now=now)
            if len(versions) < 3:
                settle(rollout, [edge, other], now=now)
        one, two, three = (version.files.get(path="model.py") for version in versions)

        assert site_may_read(site_id=edge.site.pk, sha256=two.sha256) == two.size_bytes
        assert site_may_read(site_id=edge.site.pk, sha256=one.sha256) == one.size_bytes
        assert site_may_read(site_id=edge.site.pk, sha256=three.sha256) is None

    def test_is_nothing_of_another_site(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        other = make_joined_site("other", now=now)
        assert offered.to_version
        file = offered.to_version.files.get(path="model.py")
        assert site_may_read(site_id=edge.site.pk, sha256=file.sha256) == file.size_bytes
        assert site_may_read(site_id=other.site.pk, sha256=file.sha256) is None


class TestDifference:
    def test_follows_the_site_from_offer_to_end(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        seen = [difference(SiteModel.objects.get())]
        for phase in ("staged", "succeeded"):
            edge.report("vad", phase, now=now)
            seen.append(difference(SiteModel.objects.get()))
        edge.report("vad", "succeeded", now=now, serving=7)
        seen.append(difference(SiteModel.objects.get()))
        edge.report("vad", "failed", now=now)
        seen.append(difference(SiteModel.objects.get()))

        assert seen == ["unknown", "moving", "equal", "ahead", "failed"]

    def test_a_site_that_was_just_offered_a_version_is_updating_not_degraded(
        self, edge: FakeAgent, offered: Deployment, now: datetime
    ) -> None:
        settle(offered.rollout, [edge], now=now)
        rollout = make_rollout(version=make_version(now=now), agents=[edge], now=now)

        advance_rollout(rollout_id=rollout.pk, now=now)

        (status,) = site_statuses(now=now)
        assert status.verdict.health == "updating"


def test_every_active_state_is_one_that_a_phase_leads_to() -> None:
    assert {state for _, state in PHASE_STATES} >= {s.value for s in ACTIVE_DEPLOYMENT}
