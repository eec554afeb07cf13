"""One Triton of the site with all that keeps it: client, journal, store, orders, loop.

Decides which folder belongs to it. Knows no other server and owns no thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waypost_agent.board import Board
from waypost_agent.centre import Blobs, Centre
from waypost_agent.clock import Clock
from waypost_agent.config import DRIFT, Config, ServerConfig
from waypost_agent.downloads import make_fetching
from waypost_agent.journal import Journal
from waypost_agent.learned import LearnedBook
from waypost_agent.lease_desk import LeaseDesk
from waypost_agent.loop import Loop
from waypost_agent.machine import MachineFacts
from waypost_agent.meter import Meter
from waypost_agent.mirrors import Mirror, MirroredBlobs
from waypost_agent.pace import Bucket
from waypost_agent.parts import Parts
from waypost_agent.ports import Checkpoint
from waypost_agent.protocol import ModelReport
from waypost_agent.rollback import RollbackDesk
from waypost_agent.said import Said
from waypost_agent.store import Store
from waypost_agent.triton_look import HttpLook
from waypost_agent.triton_metrics import TritonMetrics
from waypost_agent.triton_remote import RemoteTriton, TritonProcess
from waypost_agent.trust import make_trust

if TYPE_CHECKING:
    from waypost_agent.triton import Triton


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What the servers of a site have in common. `belongs_to` names centre and site; `say` is
    called with a server's name and the states of its models."""

    config: Config
    board: Board
    meter: Meter
    belongs_to: str
    checkpoint: Checkpoint
    say: Callable[[str, tuple[ModelReport, ...]], None]
    bucket: Bucket
    mirrors: tuple[Mirror, ...]


class Server:
    """`centre` and `clock` are this server's own: each of them belongs to one thread."""

    def __init__(
        self, server: ServerConfig, shared: Shared, *, centre: Centre, clock: Clock
    ) -> None:
        config, board = shared.config, shared.board
        self.config = server
        self.name = server.name
        self.clock = clock
        self.journal = make_journal(server.state_dir)
        self._triton = make_remote(config, server, clock)
        self._said = Said(server.state_dir, clock)
        self._say_aloud = shared.say
        store = make_store(config, server)
        self.rollbacks = RollbackDesk(server.state_dir, self.journal, store, shared.checkpoint)
        blobs = Blobs(centre, token=board.token, reject_token=board.reject_token)
        machine = MachineFacts(clock, backend_directory=server.triton.backend_directory)
        self.loop = Loop(
            Parts(
                triton=self._triton,
                codec=self._triton,
                store=store,
                journal=self.journal,
                blobs=MirroredBlobs(blobs, shared.mirrors),
                fetching=make_fetching(config, blobs, shared.bucket),
                leases=LeaseDesk(
                    centre,
                    token=board.token,
                    reject_token=board.reject_token,
                    call_for_poll=board.call_for_poll,
                ),
                clock=clock,
                timeouts=config.timeouts,
                machine=machine,
                learned=LearnedBook(
                    server.state_dir / "journal" / "learned.json", machine.hardware
                ),
                limits=config.limits,
                scrape=TritonMetrics(server.triton.metrics_url).scrape,
                probation=config.probation,
                corrects_drift=config.drift == DRIFT[0],
                allow_executable=config.allow_executable,
                trust=make_trust(config.trust),
            ),
            board=board.seat(server.name),
            belongs_to=shared.belongs_to,
            uniform=random.uniform,
            checkpoint=shared.checkpoint,
            said=self._say,
            retried=shared.meter.retried,
            orders=self.rollbacks,
        )

    def close(self) -> None:
        self._triton.close()

    def _say(self, reports: tuple[ModelReport, ...]) -> None:
        self._said.write(reports)
        self._say_aloud(self.name, reports)


def make_journal(state_dir: Path) -> Journal:
    return Journal(state_dir / "journal")


def make_triton(config: Config, server: ServerConfig) -> Triton:
    """For a command that asks once, in its own process."""
    from waypost_agent.triton import Triton  # what it brings along is not for an agent at peace

    return Triton(**_options(config, server))


def make_remote(config: Config, server: ServerConfig, clock: Clock) -> RemoteTriton:
    """For an agent, which stays."""
    its = server.triton
    return RemoteTriton(
        TritonProcess(**_options(config, server)),
        HttpLook(url=its.http_url, secret_key=its.secret_key, secret_file=its.secret_file),
        clock=clock,
        timeouts=config.timeouts,
    )


def _options(config: Config, server: ServerConfig) -> dict[str, Any]:
    return {
        "url": server.triton.grpc_url,
        "secret_key": server.triton.secret_key,
        "secret_file": server.triton.secret_file,
        "call_timeout_seconds": config.timeouts.call_timeout_seconds,
        "infer_timeout_seconds": config.timeouts.infer_timeout_seconds,
    }


def make_store(config: Config, server: ServerConfig) -> Store:
    return Store(
        root=server.state_dir,
        repository=server.triton.repository,
        limits=config.limits,
    )
