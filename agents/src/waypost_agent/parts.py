"""With what the steps at one server are carried out, and where in them tests let the agent die."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from waypost_agent.clock import Clock
from waypost_agent.config import Timeouts
from waypost_agent.files import Fetching
from waypost_agent.journal import Journal
from waypost_agent.learned import LearnedBook
from waypost_agent.leases import LeaseSource
from waypost_agent.limits import Limits
from waypost_agent.ports import BlobSource, ConfigCodec, ModelServer
from waypost_agent.preflight import MachineLook
from waypost_agent.probation import Probation
from waypost_agent.store import Store
from waypost_agent.triton_metrics import Scrape
from waypost_agent.trust import Trust

CHECKPOINTS = (
    "download-started",
    "file-verified",
    "staged",
    "recorded",
    "installed",
    "set-aside",
    "damage-noted",
    "mended",
    "attempt-journaled",
    "candidate-written",
    "candidate-loaded",
    "candidate-proven",
    "candidate-refused",
    "candidate-unloaded",
    "candidate-removed",
    "proven-journaled",
    "room-journaled",
    "room-made",
    "switched",
    "answer-journaled",
    "probation-begun",
    "verified",
    "config-committed",
    "committed",
    "verification-failed",
    "failed-journaled",
    "restored",
    "unloaded",
    "config-removed",
    "retired",
    "pruned",
)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the steps are carried out with."""

    triton: ModelServer
    codec: ConfigCodec
    store: Store
    journal: Journal
    blobs: BlobSource
    leases: LeaseSource
    clock: Clock
    timeouts: Timeouts
    machine: MachineLook
    learned: LearnedBook
    limits: Limits = field(default_factory=Limits)
    fetching: Fetching = field(default_factory=Fetching)
    scrape: Callable[[], Scrape | None] = lambda: None
    probation: Probation = Probation()  # noqa: RUF009  # frozen values
    corrects_drift: bool = True
    allow_executable: bool = False
    trust: Trust = field(default_factory=Trust)
