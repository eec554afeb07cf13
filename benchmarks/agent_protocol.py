"""Measures the agents' hot path, unchanged polls and reports, against bare Django views that do the
same token check in the same server: what our code costs over the least a view can do."""

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import databases
from benchmarks.agents import FIRST_REASON, HEADERS, Member, admit, report_body
from benchmarks.databases import Database
from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.rounds import NOISY_SHARE, Round, play, summary
from benchmarks.servers import Server, run_python, server_environment, web_server
from benchmarks.tables import protocol_table

NAME = "agent_protocol"
REASON = "served as wished"
PRODUCT = "controlplane.config.settings"
OUR_APPLICATION, PEER_APPLICATION = "controlplane.config.asgi", "benchmarks.bare_asgi"
BARE = "benchmarks.bare_settings"
THIN = "benchmarks.thin_settings"
# An agent's lease is renewed once a third of this has passed: at a millisecond, by every poll.
EVERY_POLL_WRITES = {"WAYPOST_POLL_SECONDS": "0.001"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One line of the table: which request goes to which server, and which line is its peer."""

    name: str
    kind: str
    settings: str
    extra: tuple[tuple[str, str], ...] = ()
    peer: str | None = None


CASES = (
    Case(name="bare poll, no middleware", kind="poll", settings=THIN),
    Case(name="bare poll", kind="poll", settings=BARE),
    Case(name="poll 304", kind="poll", settings=PRODUCT, peer="bare poll"),
    Case(
        name="poll 304 + lease",
        kind="poll",
        settings=PRODUCT,
        extra=tuple(EVERY_POLL_WRITES.items()),
        peer="bare poll",
    ),
    Case(name="bare report", kind="report", settings=BARE),
    Case(name="report 200", kind="report", settings=PRODUCT, peer="bare report"),
)


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The tables and the document, for each database that is there."""
    texts, results = [], {}
    for name, opened in {"sqlite": databases.sqlite, "postgresql": databases.postgresql}.items():
        if name not in options.databases:
            continue
        text, results[name] = _on_database(opened, options, say)
        texts.append(text)
    return "\n\n".join(texts), {"databases": results}


def _on_database(
    opened: Callable[[Path], AbstractContextManager[Database | str]],
    options: Options,
    say: Callable[[str], None],
) -> tuple[str, dict[str, Any]]:
    with (
        tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder,
        opened(Path(folder)) as database,
    ):
        if isinstance(database, str):
            return f"skipped: {database}", {"skipped": database}
        result = _measure(database, Path(folder), options, say)
        return protocol_table(result), result


def _measure(
    database: Database, folder: Path, options: Options, say: Callable[[str], None]
) -> dict[str, Any]:
    say(f"{database.described}: {options.agents} sites join")
    env = server_environment(data_dir=folder / "data", database_url=database.url)
    run_python(["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=env)
    made = ["-m", "benchmarks.sites", "make", str(options.agents)]
    tokens = json.loads(run_python(made, settings=PRODUCT, env=env))
    kept: dict[str, list[Round]] = {case.name: [] for case in CASES}
    with _servers(env, folder / "web.log") as servers:
        members = admit(servers[CASES[2]].port, tokens)
        run = _Run(database=database, servers=servers, members=members, options=options)
        # The first pass warms every server up and is not counted.
        for number in range(options.rounds + 1):
            say(f"{database.described}: {f'round {number}' if number else 'warm-up'}")
            seconds = options.seconds if number else options.warm_up_seconds
            for case in CASES if number % 2 else reversed(CASES):
                figures = run.play(case, seconds)
                if number:
                    kept[case.name].append(figures)
    stored = run_python(["-m", "benchmarks.sites", "reported"], settings=PRODUCT, env=env)
    run.check_stored(json.loads(stored))
    return _document(database, kept)


@contextmanager
def _servers(env: Mapping[str, str], log: Path) -> Iterator[dict[Case, Server]]:
    """One server for each pair of settings and environment; those not measured stand idle."""
    with ExitStack() as stack:
        running: dict[tuple[object, ...], Server] = {}
        for case in CASES:
            key = (case.settings, case.extra)
            if key not in running:
                server = web_server(
                    application=OUR_APPLICATION if case.settings == PRODUCT else PEER_APPLICATION,
                    settings=case.settings,
                    env=env,
                    log=log,
                    extra=dict(case.extra),
                )
                running[key] = stack.enter_context(server)
        yield {case: running[case.settings, case.extra] for case in CASES}


class _Run:
    """The agents of one database, and how far their reports have come."""

    def __init__(
        self,
        *,
        database: Database,
        servers: Mapping[Case, Server],
        members: list[Member],
        options: Options,
    ) -> None:
        self._database, self._servers, self._options = database, servers, options
        self._members = members
        self._seqs = [1] * len(members)  # joining took the first
        self._reported: set[int] = set()

    def play(self, case: Case, seconds: float) -> Round:
        """One round of one case; later rounds go on from its last reports."""
        server = self._servers[case]
        figures, seqs = play(
            self._plan(case, server, seconds),
            server_pid=server.pid,
            database_title=self._database.title,
        )
        if case.kind == "report" and case.settings == PRODUCT:
            pairs = enumerate(zip(self._seqs, seqs, strict=True))
            self._reported |= {index for index, (before, after) in pairs if after > before}
        self._seqs = seqs
        return figures

    def check_stored(self, stored: Mapping[str, list[object]]) -> None:
        """An answer is not yet a row: what was acknowledged must be what the database holds."""
        for index, member in enumerate(self._members):
            reason = REASON if index in self._reported else FIRST_REASON
            if stored[member.agent] != [self._seqs[index], reason]:
                raise BenchmarkVoid(
                    f"report {self._seqs[index]} of agent {member.agent} was acknowledged as "
                    f"stored ({reason!r}), but the database holds {stored[member.agent]}"
                )

    def _plan(self, case: Case, server: Server, seconds: float) -> dict[str, Any]:
        return {
            "kind": case.kind,
            "port": server.port,
            "connections": self._options.connections,
            "seconds": seconds,
            "headers": HEADERS,
            "agents": [
                {
                    "token": member.token,
                    "etag": member.etag,
                    "epoch": member.epoch,
                    "generation": member.generation,
                    "body": report_body(member, reason=REASON),
                    "seq": seq,
                }
                for member, seq in zip(self._members, self._seqs, strict=True)
            ],
        }


def _document(database: Database, kept: Mapping[str, list[Round]]) -> dict[str, Any]:
    cases = {name: summary(rounds) for name, rounds in kept.items()}
    for case in CASES:
        if case.peer is not None:
            mine, peer = cases[case.name], cases[case.peer]
            cases[case.name]["against_peer"] = {
                "cpu": _ratio(mine, peer, "server_cpu_us"),
                "requests_per_second": _ratio(mine, peer, "requests_per_second"),
            }
    foreign = max(one.foreign_share for rounds in kept.values() for one in rounds)
    return {
        "database": database.described,
        "foreign_share_max": round(foreign, 3),
        "noisy": foreign > NOISY_SHARE,
        "peers": {case.name: case.peer for case in CASES},
        "cases": cases,
    }


def _ratio(
    mine: Mapping[str, Mapping[str, float]], peer: Mapping[str, Mapping[str, float]], name: str
) -> float:
    return round(mine[name]["median"] / max(peer[name]["median"], 1e-9), 2)
