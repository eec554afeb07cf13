"""Puts the parts of one agent together and runs its two threads.

Decides which thread owns which client; knows nothing of command lines.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from waypost_agent.act import Parts
from waypost_agent.board import Board
from waypost_agent.centre import Blobs, Centre
from waypost_agent.clock import SystemClock
from waypost_agent.config import Config
from waypost_agent.identity import Identity, Membership
from waypost_agent.inventory import reported_facts
from waypost_agent.journal import Journal
from waypost_agent.lease_desk import LeaseDesk
from waypost_agent.link import Link
from waypost_agent.loop import Loop
from waypost_agent.meter import MeasuredCentre, Meter
from waypost_agent.metrics import MetricsServer, metrics_text
from waypost_agent.ports import Checkpoint
from waypost_agent.protocol import SUCCEEDED, ModelReport
from waypost_agent.rollback import RollbackDesk
from waypost_agent.said import Said
from waypost_agent.store import Store
from waypost_agent.systemd import TurningClock, notifier_from
from waypost_agent.triton import PbtxtCodec, Triton

_log = logging.getLogger(__name__)


class Agent:
    """All parts of one agent, put together from its configuration."""

    def __init__(
        self,
        config: Config,
        membership: Membership,
        checkpoint: Checkpoint = lambda name: None,
    ) -> None:
        self.config = config
        self.board = Board()
        self._notifier = notifier_from(os.environ)
        # Each thread has a clock of its own: only the main thread's turning is a sign of life.
        clock = TurningClock(SystemClock(), self._notifier)
        self.meter = Meter(SystemClock())
        self._link_failed = False
        url = config.centre_url or membership.centre_url
        self._triton = make_triton(config)
        # Two clients: the link thread's and, for downloads and leases, the main thread's.
        centre = make_centre(config, url, self.meter)
        blobs = Blobs(centre, token=self.board.token, reject_token=self.board.reject_token)
        leases = LeaseDesk(
            centre,
            token=self.board.token,
            reject_token=self.board.reject_token,
            call_for_poll=self.board.call_for_poll,
        )
        store = make_store(config)
        journal = Journal(config.state_dir / "journal")
        self.rollbacks = RollbackDesk(config.state_dir, journal, store, checkpoint)
        self._said = Said(config.state_dir, clock)
        parts = Parts(
            triton=self._triton,
            codec=PbtxtCodec(),
            store=store,
            journal=journal,
            blobs=blobs,
            leases=leases,
            clock=clock,
            timeouts=config.timeouts,
            limits=config.limits,
        )
        self.loop = Loop(
            parts,
            board=self.board,
            belongs_to=f"{membership.site} at {url}",
            uniform=random.uniform,
            checkpoint=checkpoint,
            said=self._say,
            retried=self.meter.retried,
            orders=self.rollbacks,
        )
        self.link = Link(
            make_centre(config, url, self.meter),
            Identity(config.state_dir),
            membership,
            self.board,
            http_url=config.triton.http_url,
            inventory=lambda: reported_facts(config.triton.repository),
            clock=SystemClock(),
            uniform=random.uniform,
            timeouts=config.timeouts,
        )

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; both let the current step finish.

        Raises `RuntimeError` when the link thread died: a supervisor then starts the process anew.
        """
        self.loop.prepare()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        # A daemon: a centre that hangs in a read must not hold up the end of the process.
        thread = threading.Thread(target=self._run_link, name="link", daemon=True)
        thread.start()
        self._notifier.ready()
        try:
            with self._metrics():
                self.loop.run()
        finally:
            self._notifier.stopping()
            self.link.stop()
            thread.join(timeout=2.0)
            self._triton.close()
        if self._link_failed:
            raise RuntimeError("the thread that talks to the centre died; its log line says why")
        _log.info("stopped; Triton goes on serving")

    def metrics_text(self) -> str:
        return metrics_text(self.board.snapshot(), self.meter.read())

    @contextmanager
    def _metrics(self) -> Iterator[None]:
        """Answer for metrics meanwhile, where they are asked for."""
        port = self.config.metrics_port
        if port == 0:
            yield
            return
        try:
            server = MetricsServer(port, self.metrics_text)
        except OSError as error:
            # A site that serves matters more than being measured.
            _log.error("no metrics: port %d of 127.0.0.1: %s", port, error.strerror)
            yield
            return
        with server:
            yield

    def _say(self, reports: tuple[ModelReport, ...]) -> None:
        self._said.write(reports)
        self._notifier.status(sentence_of(reports))

    def stop(self) -> None:
        self.loop.stop()
        self.link.stop()

    def _run_link(self) -> None:
        try:
            self.link.run()
        except Exception:
            # Without it the site is deaf and mute: better to end and be started anew.
            _log.critical("the link thread ended", exc_info=True)
            self._link_failed = True
            self.stop()


def make_triton(config: Config) -> Triton:
    return Triton(
        url=config.triton.grpc_url,
        secret_key=config.triton.secret_key,
        secret_file=config.triton.secret_file,
        call_timeout_seconds=config.timeouts.call_timeout_seconds,
        infer_timeout_seconds=config.timeouts.infer_timeout_seconds,
    )


def make_store(config: Config) -> Store:
    return Store(
        root=config.state_dir,
        repository=config.triton.repository,
        limits=config.limits,
    )


def make_centre(config: Config, url: str, meter: Meter) -> Centre:
    return MeasuredCentre(
        url,
        ca_file=config.ca_file,
        connect_timeout_seconds=config.timeouts.connect_timeout_seconds,
        read_timeout_seconds=config.timeouts.read_timeout_seconds,
        meter=meter,
    )


def sentence_of(reports: tuple[ModelReport, ...]) -> str:
    """The state of the whole site in one sentence."""
    if not reports:
        return "nothing is wished of this site"
    unsettled = [report for report in reports if report.phase != SUCCEEDED]
    well = f"{len(reports) - len(unsettled)} of {len(reports)} models as wished"
    words = [f"{report.model} {report.phase} ({report.reason_code})" for report in unsettled]
    return "; ".join([well, *words])[:500]
