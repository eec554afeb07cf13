"""An agent without a network or a Triton: it keeps its own key and session, reads its wishes and
reports through the services. What it cannot serve is said in `broken`."""

import base64
import uuid
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from controlplane.fleet.identity import (
    Caller,
    Session,
    authenticate_agent,
    issue_challenge,
    open_session,
    touch_lease,
)
from controlplane.fleet.inventory import TritonFacts
from controlplane.fleet.models import Site
from controlplane.rollouts.queries import desired_document
from controlplane.rollouts.reports import ModelReport, Receipt, Report, record_report

PHASES = ("downloading", "staged", "proving", "activating", "verifying")


@dataclass(kw_only=True)
class FakeAgent:
    """`serving` is what its Triton would answer with; `broken` the (model, version) that fail."""

    site: Site
    agent_id: uuid.UUID
    key: Ed25519PrivateKey
    counter: int = 0
    seq: int = 0
    secret: str = ""
    serving: dict[str, int | None] = field(default_factory=dict)
    broken: set[tuple[str, int | None]] = field(default_factory=set)

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
        return session

    def caller(self, *, now: datetime) -> Caller:
        """Authenticated as a request would be; opens a session when there is none."""
        if not self.secret:
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
        }
        return ModelReport(**{**facts, **changes})  # type: ignore[arg-type]  # the test's own keys

    def report(
        self, model: str, phase: str, *, now: datetime, seq: int | None = None, **changes: object
    ) -> Receipt:
        """Reports one model; `seq` repeats an older report instead of making a new one."""
        return self.send(self.said(model, phase, now=now, **changes), now=now, seq=seq)

    def send(self, *models: ModelReport, now: datetime, seq: int | None = None) -> Receipt:
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
            sent_at=now,
            triton=TritonFacts(live=True),
            models=models,
        )
        return record_report(caller=caller, report=report, now=now)

    def obey(self, *, now: datetime) -> None:
        """Goes all the way with every wish, and says how each ended."""
        for model, wish in self.wishes(now=now).items():
            target = int(str(wish["version"])) if wish["version"] else None
            phase = "failed" if (model, target) in self.broken else "succeeded"
            self.report(model, phase, now=now)
