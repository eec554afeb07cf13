"""Puts the parts of one agent together and runs its two threads.

Decides which thread owns which client; knows nothing of command lines.
"""

from __future__ import annotations

import logging
import random
import signal
import threading

from waypost_agent.act import Parts
from waypost_agent.board import Board
from waypost_agent.centre import Blobs, Centre
from waypost_agent.clock import SystemClock
from waypost_agent.config import Config
from waypost_agent.identity import Identity, Membership
from waypost_agent.inventory import describe_host
from waypost_agent.journal import Journal
from waypost_agent.link import Link
from waypost_agent.loop import Loop
from waypost_agent.ports import Checkpoint
from waypost_agent.store import Store
from waypost_agent.triton import PbtxtCodec, Triton

_log = logging.getLogger(__name__)


class Agent:
    """All parts of one agent, put together from its configuration."""

    def __init__(
        self, config: Config, membership: Membership, checkpoint: Checkpoint = lambda name: None
    ) -> None:
        self.config = config
        self.board = Board()
        self._clock = SystemClock()
        self._link_failed = False
        url = config.centre_url or membership.centre_url
        self._triton = make_triton(config)
        # Two clients: the link thread's and, for downloads, the main thread's.
        blobs = Blobs(
            make_centre(config, url), token=self.board.token, reject_token=self.board.reject_token
        )
        parts = Parts(
            triton=self._triton,
            codec=PbtxtCodec(),
            store=make_store(config),
            journal=Journal(config.state_dir / "journal"),
            blobs=blobs,
            clock=self._clock,
            timeouts=config.timeouts,
        )
        self.loop = Loop(
            parts,
            board=self.board,
            belongs_to=f"{membership.site} at {url}",
            uniform=random.uniform,
            checkpoint=checkpoint,
        )
        self.link = Link(
            make_centre(config, url),
            Identity(config.state_dir),
            membership,
            self.board,
            http_url=config.triton.http_url,
            inventory=lambda: describe_host(config.triton.repository),
            clock=self._clock,
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
        try:
            self.loop.run()
        finally:
            self.link.stop()
            thread.join(timeout=2.0)
            self._triton.close()
        if self._link_failed:
            raise RuntimeError("the thread that talks to the centre died; its log line says why")
        _log.info("stopped; Triton goes on serving")

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
        reserve_bytes=config.disk_reserve_bytes,
    )


def make_centre(config: Config, url: str) -> Centre:
    return Centre(
        url,
        ca_file=config.ca_file,
        connect_timeout_seconds=config.timeouts.connect_timeout_seconds,
        read_timeout_seconds=config.timeouts.read_timeout_seconds,
    )
