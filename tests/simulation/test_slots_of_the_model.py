"""When the simulated centre gives a slot to another site: the cases that chance seldom makes."""

from controlplane.domain.admission import Instant
from controlplane.domain.policy import StagePolicy
from controlplane.domain.rollout import DeploymentState as D
from controlplane.ops.simulation.centre import Centre, PlannedStage
from controlplane.ops.simulation.rows import Leave, Question, Report, Said
from controlplane.ops.simulation.versions import Version

MODEL = "vad"


def staged() -> Centre:
    """Two sites have the files, one of them may be away."""
    centre = Centre(sites=2, fresh_seconds=185, patience=10)
    stage = PlannedStage(sites=[0, 1], policy=StagePolicy(max_unavailable=1))
    rollout = centre.plan(Version(model=MODEL, number=2), [stage])
    centre.steps(rollout, 1)
    for site in (0, 1):
        say(centre, site, seq=1, at=10)
    return centre


def say(centre: Centre, site: int, *, seq: int, at: float, lease: int | None = None) -> None:
    said = Said(model=MODEL, generation=1, phase="staged", serving=None, healthy=None, lease=lease)
    centre.report(
        Report(
            site=site, session=1, seq=seq, models=(said,), sent_at=at, boot="1", uptime=at
        ),
        at,
    )  # fmt: skip


def ask(centre: Centre, site: int, *, asked: float, now: float) -> Leave | None:
    at = Instant(boot="1", uptime=asked)
    question = Question(site=site, session=1, model=MODEL, generation=1, asked=at)
    return centre.request_lease(question, now)


def test_an_older_question_that_comes_late_does_not_age_the_lease() -> None:
    centre = staged()
    assert ask(centre, 0, asked=100, now=100) == Leave(lease=1)
    assert ask(centre, 0, asked=30, now=101) == Leave(lease=1)
    say(centre, 0, seq=2, at=102, lease=1)
    held = centre.rows[0][MODEL].offer
    assert held is not None
    assert (held.state, held.holds_lease) == (D.STAGED, True)
    refused = ask(centre, 1, asked=103, now=103)
    assert refused is not None
    assert refused.code == "max-unavailable"


def test_a_report_from_after_the_lease_gives_the_slot_to_another_site() -> None:
    centre = staged()
    assert ask(centre, 0, asked=100, now=100) == Leave(lease=1)
    say(centre, 0, seq=2, at=161)
    assert ask(centre, 1, asked=162, now=162) == Leave(lease=1)
