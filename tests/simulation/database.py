"""The centre of a simulated history as it is in earnest: rows of the test database, the services.

What the services wrote is read back after each call into the plain rows that people, engine and
judge of the simulation look at; whatever is decided, granted or moved, the services did."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from controlplane.domain.admission import Instant
from controlplane.domain.errors import WaypostError
from controlplane.domain.gates import GateResult
from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import (
    OnConflict,
    ResumeChoice,
)
from controlplane.domain.rollout import RolloutState as R
from controlplane.domain.stages import StageSpec
from controlplane.domain.windows import DAYS, Window
from controlplane.fleet.identity import touch_lease
from controlplane.fleet.inventory import TritonFacts
from controlplane.fleet.models import Site
from controlplane.fleet.services import create_window, delete_window, retire_site
from controlplane.ops.simulation import notes as n
from controlplane.ops.simulation import rows
from controlplane.ops.simulation.centre import NotPlanned, PlannedStage
from controlplane.ops.simulation.clock import Clock, moment
from controlplane.ops.simulation.versions import Version
from controlplane.ops.simulation.world import late_sites
from controlplane.rollouts import (
    approvals,
    freezes,
    models,
    quarantine,
    services,
    turning_back,
    verbs,
    wishes,
)
from controlplane.rollouts.leases import LeaseQuestion, request_lease
from controlplane.rollouts.queries import desired_document
from controlplane.rollouts.reports import ModelReport, Report, record_report
from tests.factories import ACTOR, make_joined_site, make_version
from tests.simulation.database_reading import ReadsBack

BY: Mapping[str, Any] = {"reason": "the simulation wants it", "actor": ACTOR}


class DatabaseCentre(ReadsBack):
    """Its rows are read, never reckoned: `read_back` brings them up to date."""

    def __init__(self, *, sites: int, **given: Any) -> None:
        super().__init__(sites=sites, **given)
        self.clock = Clock()
        self._keys: dict[Version, int] = {}
        self._asked_at: dict[tuple[int, str, int], tuple[str, int | None]] = {}
        self._floor: dict[int, tuple[int, int]] = {}
        self._callers: dict[int, Any] = {}
        late = late_sites(sites)
        for site in range(sites):
            if site not in late:
                self._admit_site(site)

    @property
    def at(self) -> datetime:
        return moment(self.clock.now)

    def _admit_site(self, site: int) -> None:
        agent = self._agents[site] = make_joined_site(f"site-{site:03}", now=self.at)
        self._index[agent.site.pk] = site

    def _names(self, sites: Collection[int]) -> list[str]:
        return [self._agents[site].site.name for site in sorted(sites) if site in self._agents]

    def _key(self, version: Version) -> int:
        if version not in self._keys:
            made = make_version(version.model, version.number, now=self.at)
            self._keys[version], self._versions[made.pk] = made.pk, version
        return self._keys[version]

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """A verb that is refused changes nothing; what was written is read back."""
        try:
            with transaction.atomic():
                yield
        except WaypostError:
            pass
        self.read_back()

    # Before the history begins

    def serves_already(self, site: int, version: Version) -> int:
        made = models.Version.objects.get(pk=self._key(version))
        pk = self._agents[site].site.pk
        wishes.change_wishes(model_id=made.model_id, wishes={pk: made}, keep_previous=False)
        self.read_back()
        self.notes.clear()
        return self.generations[site]

    def pair(self, one: int, other: int) -> None:
        super().pair(one, other)
        pks = [self._agents[site].site.pk for site in (one, other) if site in self._agents]
        Site.objects.filter(pk__in=pks).update(redundancy_group=f"group-{one}")

    def set_window(self, site: int, window: Window) -> None:
        if site not in self._agents:
            return
        super().set_window(site, window)
        fields = {
            "name": f"window-{site}",
            "kind": window.kind.value,
            "selector": {"sites": self._names([site])},
            "days": list(DAYS),
            "start": window.start,
            "minutes": window.minutes,
            "timezone": window.timezone,
        }
        create_window(fields=fields, actor=ACTOR, now=self.at)

    def open_windows(self) -> None:
        for site in self.windows:
            delete_window(name=f"window-{site}", actor=ACTOR, now=self.at)
        super().open_windows()

    # People

    def plan(
        self,
        version: Version,
        stages: Sequence[PlannedStage],
        now: float = 0.0,
        *,
        barrier: bool = False,
        welcomes: bool = False,
        approval_required: bool = False,
        on_conflict: OnConflict = OnConflict.REFUSE,
    ) -> rows.Rollout:
        self._key(version)
        taken: set[int] = set()
        specs = []
        for index, stage in enumerate(stages):
            sites = set(stage.sites) - self.retired - taken
            taken |= sites
            specs.append(
                StageSpec(
                    name=f"stage-{index}",
                    sites=frozenset(self._names(sites)),
                    soak_seconds=stage.soak_seconds,
                    policy=stage.policy,
                    trailing=stage.trailing,
                )
            )
        try:
            row = services.start_rollout(
                model_name=version.model,
                version_number=version.number,
                stages=tuple(specs),
                barrier=barrier,
                on_conflict=on_conflict,
                actor=ACTOR,
                now=self.at,
            )
        except WaypostError as refused:
            raise NotPlanned(str(refused)) from refused
        rollout = rows.Rollout(
            id=row.pk,
            version=version,
            created_at=now,
            barrier=barrier,
            state=R(row.state),
        )
        for spec in models.Stage.objects.filter(rollout=row).order_by("index"):
            stage = rows.Stage(
                index=spec.index,
                name=spec.name,
                soak_seconds=spec.soak_seconds,
                policy=policy_of(spec.policy),
                trailing=spec.trailing,
            )
            rollout.stages.append(stage)
            self._stages[spec.pk] = stage
        self.rollouts.append(rollout)
        self.read_back()
        return rollout

    def approve(self, rollout: rows.Rollout, stage: rows.Stage | None) -> None:
        row = models.Rollout.objects.get(pk=rollout.id)
        with self._asking():
            approvals.approve_rollout(
                rollout_id=rollout.id,
                plan_digest=row.plan_digest,
                stage_name=stage.name if stage else None,
                reason="looks well",
                actor="user:another",
                person="another",
                now=self.at,
            )
            super().approve(rollout, stage)

    def take_verdict(self, rollout: rows.Rollout, stage: rows.Stage, result: GateResult) -> None:
        fresh = result.fresh_until
        with self._asking():
            approvals.record_verdict(
                rollout_id=rollout.id,
                stage_name=stage.name,
                gate=result.gate,
                verdict=result.verdict,
                reason=result.reason,
                evidence={},
                fresh_seconds=(fresh - result.judged_at).total_seconds() if fresh else None,
                actor=ACTOR,
                now=self.at,
            )

    def pause(self, rollout: rows.Rollout, now: float) -> None:
        with self._asking():
            verbs.pause_rollout(rollout_id=rollout.id, now=self.at, **BY)

    def resume(self, rollout: rows.Rollout, now: float, choice: ResumeChoice | None = None) -> None:
        with self._asking():
            verbs.resume_rollout(
                rollout_id=rollout.id, choice=choice, may_while_frozen=True, now=self.at, **BY
            )

    def promote(self, rollout: rows.Rollout, now: float) -> None:
        with self._asking():
            verbs.promote_rollout(rollout_id=rollout.id, now=self.at, **BY)

    def retry_failed(self, rollout: rows.Rollout, now: float) -> None:
        with self._asking():
            verbs.retry_failed(rollout_id=rollout.id, now=self.at, **BY)

    def abort(self, rollout: rows.Rollout, now: float, superseded_by: int | None = None) -> None:
        with self._asking():
            verbs.abort_rollout(rollout_id=rollout.id, now=self.at, **BY)

    def roll_back(
        self, rollout: rows.Rollout, now: float, reason: str, failed_stages: Sequence[int] = ()
    ) -> None:
        with self._asking():
            turning_back.roll_back_rollout(
                rollout_id=rollout.id, may_while_frozen=True, now=self.at, **BY
            )

    def return_part(self, rollout: rows.Rollout, sites: Collection[int], now: float) -> bool:
        for name in self._names(sites):
            with self._asking():
                turning_back.roll_back_rollout(
                    rollout_id=rollout.id, site_name=name, may_while_frozen=True, now=self.at, **BY
                )
        return True

    def quarantine(self, version: Version, now: float, *, roll_back: bool) -> None:
        with self._asking():
            quarantine.quarantine_version(
                model_name=version.model, number=version.number, roll_back=roll_back,
                may_while_frozen=True, now=self.at, **BY,
            )  # fmt: skip
            self.quarantined.add(version)

    def release(self, version: Version) -> None:
        with self._asking():
            quarantine.release_version(
                model_name=version.model, number=version.number, now=self.at, **BY
            )
            self.quarantined.discard(version)

    def freeze(self, sites: frozenset[int] | None) -> int:
        selector = {} if sites is None else {"sites": self._names(sites)}
        row = freezes.freeze_sites(selector=selector, until=None, now=self.at, **BY)
        self.freezes[row.pk] = sites
        return row.pk

    def lift(self, number: int) -> None:
        freezes.lift_freeze(freeze_id=number, now=self.at, **BY)
        super().lift(number)

    def set_budget(self, percent: int | None) -> None:
        super().set_budget(percent)
        freezes.set_budget(changing_percent=percent, now=self.at, **BY)

    def pin(self, site: int, model: str) -> bool:
        if site not in self._agents or model not in self.rows[site]:
            return False
        name = self._agents[site].site.name
        quarantine.pin_model(site_name=name, model_name=model, now=self.at, **BY)
        return super().pin(site, model)

    def unpin(self, site: int, model: str) -> None:
        name = self._agents[site].site.name
        quarantine.unpin_model(site_name=name, model_name=model, now=self.at, **BY)
        super().unpin(site, model)

    def retire(self, site: int) -> None:
        retire_site(site=self._agents[site].site, now=self.at, **BY)
        super().retire(site)

    def join(self, site: int, now: float) -> None:
        self._admit_site(site)
        super().join(site, now)

    # Sites

    def seen(self, site: int, session: int, now: float) -> bool:
        agent = self._agents.get(site)
        if agent is None or not super().seen(site, session, now):
            return False
        if agent.counter < session:
            agent.open_session(now=self.at)
            agent.counter = session
        self._callers[site] = self._authenticate(site)
        return True

    def _caller(self, site: int) -> Any:
        """Who was let in for this request."""
        return self._callers.pop(site)

    def _authenticate(self, site: int) -> Any:
        """With the open session. A new one makes what was said under the old one void."""
        agent, before = self._agents[site], self._agents[site].secret
        caller = agent.caller(now=self.at)
        if agent.secret != before:
            self._floor[site] = self.heard[site]
        touch_lease(caller=caller, now=self.at, at_most_every=timedelta(0))
        return caller

    def answer(self, site: int, held: int) -> rows.Answer | None:
        caller = self._caller(site)
        if caller.generation == held:
            return None
        document: Any = desired_document(
            site_id=caller.site_id,
            site_name=caller.site_name,
            epoch=caller.epoch,
            generation=caller.generation,
        )
        wished = []
        for wish in document["models"]:
            model, generation = wish["model"], wish["generation"]
            number = int(wish["version"]) if wish["version"] else None
            self._asked_at[site, model, generation] = (wish["manifest_digest"] or "", number)
            row = models.SiteModel.objects.get(site=caller.site_id, model__name=model)
            wished.append(
                rows.Wished(
                    model=model,
                    generation=generation,
                    version=self._versions[row.desired_id] if row.desired_id else None,
                    previous=int(wish["previous"]) if wish["previous"] else None,
                    lease_required=wish["lease_required"],
                )
            )
        return rows.Answer(generation=caller.generation, wishes=tuple(wished))

    def request_lease(self, question: rows.Question, now: float) -> rows.Leave | None:
        site, model = question.site, question.model
        digest, _ = self._asked_at[site, model, question.generation]
        caller = self._caller(site)
        asked = LeaseQuestion(
            model=model, epoch=caller.epoch, generation=question.generation,
            manifest_digest=digest, asked=question.asked,
        )  # fmt: skip
        try:
            answer = request_lease(caller=caller, question=asked, now=self.at)
        except WaypostError:
            return None
        if not answer.granted:
            return rows.Leave(
                lease=None, code=answer.reason_code, retry_seconds=float(answer.retry_seconds or 0)
            )
        deployment = self.rows[site][model].offer
        before = deployment.lease if deployment else 0
        limit = deployment.stage.limits.max_unavailable if deployment else 0
        self._read_site(site)
        if deployment is not None and deployment.lease > before:
            self.notes.append(n.Granted(deployment, limit))
        return rows.Leave(lease=answer.lease)

    def report(self, report: rows.Report, now: float) -> list[rows.Rollout]:
        site = report.site
        place = (report.session, report.seq)
        caller = self._caller(site)
        if place <= self._floor.get(site, (0, 0)):
            return []
        if place > self.heard[site]:
            self.heard[site] = place
        record_report(
            caller=caller,
            report=Report(
                seq=report.seq,
                epoch=caller.epoch,
                observed_generation=max((said.generation for said in report.models), default=0),
                agent_version="0.1.0",
                sent_at=None,
                triton=TritonFacts(live=report.live),
                models=tuple(self._spoken(site, said) for said in report.models),
                made=Instant(boot=report.boot, uptime=report.uptime),
            ),
            now=self.at,
        )
        before = {pk: d.state for pk, d in self._deployments.items() if d.site == site}
        self._read_site(site)
        moved = [self._deployments[pk] for pk, was in before.items()]
        moved = [d for d, was in zip(moved, before.values(), strict=True) if d.state is not was]
        return list({d.rollout.id: d.rollout for d in moved}.values())

    def _spoken(self, site: int, said: rows.Said) -> ModelReport:
        _, target = self._asked_at.get((site, said.model, said.generation), ("", said.serving))
        return ModelReport(
            model=said.model, generation=said.generation, phase=said.phase, target=target,
            serving=said.serving, healthy=said.healthy, reason_code=said.reason_code,
            lease=said.lease,
        )  # fmt: skip
