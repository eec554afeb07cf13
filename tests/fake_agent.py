"""An agent without a network or a Triton: it keeps its own key and session, reads its wishes, asks
for leases and reports through the services. What it cannot serve is said in `broken`."""

import base64
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.domain.admission import Instant
from controlplane.fleet.identity import (
    Caller,
    Session,
    authenticate_agent,
    issue_challenge,
    open_session,
    touch_lease,
)
from controlplane.fleet.inventory import MachineFacts, TritonFacts
from controlplane.fleet.models import Site
from controlplane.rollouts.leases import LeaseAnswer, LeaseQuestion, request_lease
from controlplane.rollouts.queries import desired_document
from controlplane.rollouts.reports import ModelReport, Receipt, Report, record_report

PHASES = ("downloading", "staged", "proving", "activating", "verifying")
# When every machine here was switched on: its clock since then is the test's own time.
BOOTED = datetime(2026, 11, 1, tzinfo=UTC)


@dataclass(kw_only=True)
class FakeAgent:
    """`serving` is what its Triton would answer with; `broken` the (model, version) that fail;
    `leases` the numbers it holds or has begun under, `begun` the generation it is switching for;
    `triton_live` whether Triton answers."""

    site: Site
    agent_id: uuid.UUID
    key: Ed25519PrivateKey
    counter: int = 0
    seq: int = 0
    secret: str = ""
    session_ends: datetime | None = None
    serving: dict[str, int | None] = field(default_factory=dict)
    broken: set[tuple[str, int | None]] = field(default_factory=set)
    leases: dict[str, int | None] = field(default_factory=dict)
    begun: dict[str, object] = field(default_factory=dict)
    boot: int = 1
    triton_live: bool = True

    def instant(self, *, now: datetime) -> Instant:
        """Now by its own clock, which counts from its boot and is set by nobody."""
        return Instant(boot=f"boot-{self.boot}", uptime=(now - BOOTED).total_seconds())

    def reboot(self) -> None:
        """The machine starts anew: leases and session were in memory only."""
        self.boot += 1
        self.secret = ""
        self.leases.clear()
        self.begun.clear()

    def sign(self, nonce: str, counter: int) -> str:
        lines = ["waypost-session-v1", str(self.agent_id), nonce, str(counter)]
        return base64.b64encode(self.key.sign("\n".join(lines).encode())).decode()

    def open_session(self, *, now: datetime) -> Session:
        self.counter += 1
        nonce = issue_challenge(agent_id=str(self.agent_id), now=now)
        session = open_session(
            agent_id=str(self.agent_id),
            nonce=nonce,
            session_counter=self.counter,
            signature=self.sign(nonce, self.counter),
            now=now,
        )
        self.secret, self.seq = session.secret, 0
        self.session_ends = now + timedelta(seconds=session.expires_seconds)
        return session

    def caller(self, *, now: datetime) -> Caller:
        """Authenticated as a request would be; opens a session when there is none any more."""
        if not self.secret or (self.session_ends and now >= self.session_ends):
            self.open_session(now=now)
        return authenticate_agent(secret=self.secret, now=now)

    def wishes(self, *, now: datetime) -> dict[str, dict[str, object]]:
        """The models of the desired state, by name."""
        caller = self.caller(now=now)
        document = desired_document(
            site_id=caller.site_id,
            site_name=caller.site_name,
            epoch=caller.epoch,
            generation=caller.generation,
        )
        models = document["models"]
        assert isinstance(models, list)
        return {wish["model"]: wish for wish in models}

    def said(self, model: str, phase: str, *, now: datetime, **changes: object) -> ModelReport:
        """What a truthful report of `phase` says; `changes` make it say something else."""
        wish = self.wishes(now=now)[model]
        target = int(str(wish["version"])) if wish["version"] else None
        if phase == "succeeded":
            self.serving[model] = target
        if phase in ("succeeded", "failed"):
            self.leases.pop(model, None)
        if phase in ("proving", "activating", "verifying"):
            self.begun[model] = wish["generation"]
        serving = self.serving.get(model)
        facts: dict[str, object] = {
            "model": model,
            "generation": wish["generation"],
            "phase": phase,
            "target": target,
            "serving": serving,
            "healthy": None if serving is None else True,
            "reason_code": "ok",
            "reason": f"{phase} {model}",
            "lease": self.leases.get(model),
        }
        return ModelReport(**{**facts, **changes})  # type: ignore[arg-type]  # the test's own keys

    def question(self, model: str, *, now: datetime, **changes: object) -> LeaseQuestion:
        """What it asks when the files of its present wish are verified; `changes` as in `said`."""
        wish = self.wishes(now=now)[model]
        facts: dict[str, object] = {
            "model": model,
            "epoch": self.caller(now=now).epoch,
            "generation": wish["generation"],
            "manifest_digest": wish["manifest_digest"],
            "asked": self.instant(now=now),
        }
        return LeaseQuestion(**{**facts, **changes})  # type: ignore[arg-type]  # the test's own keys

    def ask_lease(self, model: str, *, now: datetime, **changes: object) -> LeaseAnswer:
        """Asks whether it may put to work what is wished, and keeps the lease if it may."""
        question = self.question(model, now=now, **changes)
        answer = request_lease(caller=self.caller(now=now), question=question, now=now)
        if answer.granted:
            self.leases[model] = answer.lease
        return answer

    def begin(self, model: str, *, now: datetime) -> LeaseAnswer:
        """Stages, asks, and if it may begins: the site is then between two versions."""
        self.report(model, "staged", now=now)
        answer = self.ask_lease(model, now=now)
        if answer.granted:
            self.report(model, "activating", now=now)
        return answer

    def report(
        self, model: str, phase: str, *, now: datetime, seq: int | None = None, **changes: object
    ) -> Receipt:
        """Reports one model; `seq` repeats an older report instead of making a new one."""
        return self.send(self.said(model, phase, now=now, **changes), now=now, seq=seq)

    def send(
        self,
        *models: ModelReport,
        now: datetime,
        seq: int | None = None,
        machine: MachineFacts | None = None,
        made: Instant | None = None,
        sent_at: datetime | None = None,
    ) -> Receipt:
        """One report; `made` is when, if it was long under way, `sent_at` what its wall clock
        says."""
        caller = self.caller(now=now)
        if seq is None:
            self.seq += 1
            seq = self.seq
        touch_lease(caller=caller, now=now, at_most_every=now - now)
        report = Report(
            seq=seq,
            epoch=caller.epoch,
            observed_generation=caller.generation,
            agent_version="0.1.0",
            sent_at=sent_at or now,
            triton=TritonFacts(live=self.triton_live),
            models=models,
            machine=machine,
            made=made or self.instant(now=now),
        )
        return record_report(caller=caller, report=report, now=now)

    def obey(self, *, now: datetime) -> None:
        """Goes as far with every wish as it may, and says how it ended, or that it waits."""
        for model, wish in self.wishes(now=now).items():
            target = int(str(wish["version"])) if wish["version"] else None
            held_up = (
                wish["lease_required"]
                and self.serving.get(model) != target
                and self.begun.get(model) != wish["generation"]
                and not self.ask_lease(model, now=now).granted
            )
            ended = "failed" if (model, target) in self.broken else "succeeded"
            self.report(model, "staged" if held_up else ended, now=now)
