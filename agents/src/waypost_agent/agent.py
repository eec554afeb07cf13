"""Puts the parts of one agent together and runs its threads: one per server, one for the centre.

Decides which thread owns which client, and that the end of one is the end of all: a supervisor
starts the process anew. Knows nothing of command lines.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from waypost_agent.accelerators import Gpus
from waypost_agent.board import Board
from waypost_agent.centre import Centre
from waypost_agent.clock import SystemClock
from waypost_agent.config import Config, move_records
from waypost_agent.deliveries import Deliveries
from waypost_agent.downloads import make_mirrors, serving_mirror
from waypost_agent.errors import ConfigError
from waypost_agent.identity import Identity, Membership
from waypost_agent.inventory import reported_facts, server_facts
from waypost_agent.link import Link
from waypost_agent.measurement_queue import MeasurementQueue
from waypost_agent.measurements import Collector, Measuring
from waypost_agent.meter import MeasuredCentre, Meter
from waypost_agent.metrics import MetricsServer, metrics_text
from waypost_agent.pace import Bucket
from waypost_agent.phases import Plan
from waypost_agent.ports import Checkpoint
from waypost_agent.protocol import SUCCEEDED, ModelReport
from waypost_agent.server import Server, Shared, make_store
from waypost_agent.servers import owner
from waypost_agent.systemd import Turning, TurningClock, notifier_from
from waypost_agent.triton_metrics import TritonMetrics
from waypost_agent.trust import make_trust

_log = logging.getLogger(__name__)
_PREPARE_SECONDS = 1.0
_JOIN_SECONDS = 0.5


class Agent:
    """All parts of one agent, put together from its configuration."""

    def __init__(
        self,
        config: Config,
        membership: Membership,
        checkpoint: Checkpoint = lambda name: None,
    ) -> None:
        _check_layout(config)
        self.config = config
        self.board = Board(
            config.shares, {server.name: server.triton.http_url for server in config.servers}
        )
        self.meter = Meter(SystemClock())
        self._trust = make_trust(config.trust)
        self._notifier = notifier_from(os.environ)
        self._said: dict[str, tuple[ModelReport, ...]] = {}
        self._died: list[str] = []
        self._stopping = False
        url = config.centre_url or membership.centre_url
        shared = Shared(
            config=config,
            board=self.board,
            meter=self.meter,
            belongs_to=f"{membership.site} at {url}",
            checkpoint=checkpoint,
            say=self._say,
            bucket=Bucket(config.limits.bytes_per_second),
            mirrors=make_mirrors(config),
        )
        # The link's thread turns in its own time: a centre that is slow is no fault of the agent.
        turning = Turning(self._notifier, [server.name for server in config.servers])
        self.servers = tuple(
            Server(
                server,
                shared,
                centre=make_centre(config, url, self.meter),
                clock=TurningClock(SystemClock(), turning.of(server.name)),
            )
            for server in config.servers
        )
        waiting = MeasurementQueue(config.state_dir / "measurements", SystemClock())
        self._measuring = Measuring(
            Collector(
                {
                    server.name: TritonMetrics(server.triton.metrics_url).scrape
                    for server in config.servers
                },
                Gpus().read,
                SystemClock(),
            ),
            waiting,
            every_seconds=config.measure_seconds,
        )
        self.link = Link(
            make_centre(config, url, self.meter),
            Identity(config.state_dir),
            membership,
            self.board,
            inventory=self._inventory,
            clock=SystemClock(),
            uniform=random.uniform,
            timeouts=config.timeouts,
            deliveries=Deliveries(waiting, SystemClock(), random.uniform),
        )

    def prepare(self) -> None:
        """Read what was kept of every server. Raises `ConfigError` for folders that do not fit."""
        for server in self.servers:
            server.loop.prepare()

    def cycle(self) -> float:
        """One look at every server and at most one step at each; the seconds until the next."""
        return min(server.loop.cycle() for server in self.servers)

    def plan_wished(self) -> list[tuple[str, list[Plan]]]:
        """The next step of each model by server, with the newest wishes."""
        return [(server.name, server.loop.plan_wished()) for server in self.servers]

    def server_of(self, model: str) -> Server | None:
        """The server that a model belongs to, None when it belongs to none."""
        name = owner(model, self.config.shares)
        return next((server for server in self.servers if server.name == name), None)

    def reports(self) -> tuple[ModelReport, ...]:
        """The states of the last cycles."""
        return self.board.snapshot().models

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT; both let the current step finish.

        Raises `RuntimeError` when a thread died: a supervisor then starts the process anew.
        """
        prepared = self._prepare_what_can()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        # A daemon: a centre that hangs in a read must not hold up the end of the process.
        link = threading.Thread(
            target=self._run_thread, args=("link", self.link.run), name="link", daemon=True
        )
        loops = [
            threading.Thread(
                target=self._run_thread,
                args=(server.name or "loop", lambda s=server: self._serve(s, s in prepared)),
                name=server.name or "loop",
            )
            for server in self.servers
        ]
        link.start()
        if self.config.measure_seconds:
            self._measuring.start()
        for thread in loops:
            thread.start()
        self._notifier.ready()
        try:
            with self._metrics(), self._mirror():
                for thread in loops:
                    # In slices: a signal that comes as the wait begins would not end it.
                    while thread.is_alive():
                        thread.join(_JOIN_SECONDS)
        finally:
            self._notifier.stopping()
            self.link.stop()
            link.join(timeout=2.0)
            for server in self.servers:
                server.close()
        if self._died:
            raise RuntimeError(f"the thread {self._died[0]} died; its log line says why")
        _log.info("stopped; Triton goes on serving")

    def _prepare_what_can(self) -> list[Server]:
        """A disk that is missing keeps its own server waiting, and no other."""
        faults = {server.name: fault for server in self.servers if (fault := _prepare(server))}
        for name, fault in faults.items():
            _log.error("server %s has to wait: %s", name, fault)
        if len(faults) == len(self.servers):
            raise next(iter(faults.values()))
        return [server for server in self.servers if server.name not in faults]

    def _serve(self, server: Server, is_prepared: bool) -> None:
        while not is_prepared and not self._stopping:
            server.clock.monotonic()  # it turns, though there is nothing it can do
            server.clock.sleep(_PREPARE_SECONDS)
            is_prepared = _prepare(server) is None
        if is_prepared:
            server.loop.run()

    def _run_thread(self, name: str, run: Callable[[], None]) -> None:
        try:
            run()
        except Exception:
            # Half an agent is worse than one that ends and is started anew.
            _log.critical("the thread %s ended", name, exc_info=True)
            self._died.append(name)
            self.stop()

    def _inventory(self) -> dict[str, Any]:
        link = self.meter.read()
        facts = reported_facts(
            [server.triton.repository for server in self.config.servers],
            download_bytes_per_second=link.download_bytes_per_second,
            round_trip_seconds=link.round_trip_seconds,
        )
        seen = dict(self.board.snapshot().servers)
        servers = [
            server_facts(
                each,
                live=seen[each.name].live,
                version=seen[each.name].version,
                extensions=seen[each.name].extensions,
            )
            for each in self.config.servers
        ]
        policy = {"allow_executable": self.config.allow_executable}
        return {**facts, "servers": servers, "policy": policy, "trust": self._trust.document()}

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

    def _mirror(self) -> AbstractContextManager[None]:
        """Let neighbours fetch what is here, where they may; over stores of its own threads."""
        return serving_mirror(
            self.config, [make_store(self.config, server) for server in self.config.servers]
        )

    def _say(self, name: str, reports: tuple[ModelReport, ...]) -> None:
        self._said[name] = reports
        said = [report for name in self.config.shares for report in self._said.get(name, ())]
        self._notifier.status(sentence_of(tuple(said)))

    def stop(self) -> None:
        self._stopping = True
        self._measuring.stop()
        for server in self.servers:
            server.loop.stop()
        self.link.stop()


def _check_layout(config: Config) -> None:
    """Records of before in another folder would be no records: refuse, and say what to move."""
    if fault := config.left_behind:
        raise ConfigError(f"state_dir: {fault}; {move_records(config)}")


def _prepare(server: Server) -> ConfigError | OSError | None:
    try:
        server.loop.prepare()
    except (ConfigError, OSError) as error:
        return error
    return None


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
