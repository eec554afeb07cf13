"""The centre's process: ticks, rings, requests; it may be down, skip ticks or die before a commit.

What it commits, the judge sees."""

from random import Random

from controlplane.domain.rollout import FINAL_ROLLOUT, RolloutState
from controlplane.ops.simulation.book import IllegalStep
from controlplane.ops.simulation.centre import MAX_STEPS_PER_TURN, Centre
from controlplane.ops.simulation.clock import Clock
from controlplane.ops.simulation.judge import Judge
from controlplane.ops.simulation.options import Options
from controlplane.ops.simulation.rows import Answer, Leave, Question, Report, Rollout
from controlplane.ops.simulation.turns import step_not_committed

_RING_SECONDS = 0.5


class Engine:
    """`idle_until`: until then nothing turns, though requests are answered."""

    def __init__(
        self, *, options: Options, clock: Clock, rng: Random, centre: Centre, judge: Judge
    ) -> None:
        self.idle_until = 0.0
        self.calm = False
        self.turns = 0
        self._options = options
        self._clock = clock
        self._rng = rng
        self._centre = centre
        self._judge = judge
        self._rung: set[int] = set()

    def start(self) -> None:
        self._clock.after(self._options.tick_seconds, self._tick)

    def active(self) -> list[Rollout]:
        return [r for r in self._centre.rollouts if is_open(r)]

    def _tick(self) -> None:
        self._clock.after(self._options.tick_seconds, self._tick)
        for rollout in self.active():
            self.turn(rollout)

    def ring(self, rollout: Rollout) -> None:
        """A turn soon; several rings make one."""
        if rollout.id not in self._rung:
            self._rung.add(rollout.id)
            self._clock.after(_RING_SECONDS, self._ringing, rollout)

    def _ringing(self, rollout: Rollout) -> None:
        self._rung.discard(rollout.id)
        self.turn(rollout)

    def turn(self, rollout: Rollout) -> None:
        """As far as the rollout can go now, each decision in a transaction of its own: a worker may
        be killed before any of their commits, and what was committed before stands."""
        now = self._clock.now
        if now < self.idle_until or not is_open(rollout):
            return
        self.turns += 1
        for count in range(MAX_STEPS_PER_TURN):
            if not self.calm and self._rng.random() < self._options.turn_crash_share:
                where = "between two decisions" if count else "before the first commit"
                self._judge.faults[f"turns cut {where}"] += 1
                step_not_committed(self._centre, rollout, now)
                return
            rests = self._centre.step(rollout, now)
            self._clock.events += 1
            self.commit()
            if rests:
                break
        else:
            raise IllegalStep(f"{rollout} does not come to rest")
        if not is_open(rollout):
            self._ring_next(rollout)

    def _ring_next(self, ended: Rollout) -> None:
        """Who queued behind it need not wait for the next tick."""
        for rollout in self._centre.rollouts:
            same_model = rollout.version.model == ended.version.model
            if same_model and rollout.state is RolloutState.QUEUED:
                self.ring(rollout)
                return

    def commit(self) -> None:
        if not self._centre.notes:
            return
        notes, self._centre.notes = self._centre.notes, []
        for note in notes:
            self._judge.committed(note)

    # Requests

    def _lets_in(self, site: int, session: int) -> bool:
        """Not the agent of a retired site, nor one whose session another has followed."""
        centre = self._centre
        return site not in centre.retired and centre.seen(site, session, self._clock.now)

    def ask(self, site: int, session: int, held: int) -> Answer | None:
        return self._centre.answer(site, held) if self._lets_in(site, session) else None

    def lease(self, question: Question) -> Leave | None:
        if not self._lets_in(question.site, question.session):
            return None
        answer = self._centre.request_lease(question, self._clock.now)
        self.commit()
        return answer

    def take(self, report: Report) -> None:
        now = self._clock.now
        if not self._lets_in(report.site, report.session):
            return
        check = self._judge.before_report(report)
        moved = self._centre.report(report, now)
        self._judge.after_report(report, check)
        self.commit()
        for rollout in moved:
            self.ring(rollout)


def is_open(rollout: Rollout) -> bool:
    return rollout.state not in FINAL_ROLLOUT
