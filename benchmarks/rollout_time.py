"""Measures a rollout from its start to its last verified site, driven through the real services by
agents that do everything at once, and how that grows with the number of sites.

python -m benchmarks.rollout_time SITES TITLE    on the configured database; prints the figures
"""

import itertools
import json
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import databases, fleet_rows
from benchmarks.costs import Meter
from benchmarks.databases import Database
from benchmarks.errors import BenchmarkVoid
from benchmarks.options import Options
from benchmarks.rounds import NOISY_SHARE
from benchmarks.servers import run_python, server_environment
from benchmarks.tables import align

if TYPE_CHECKING:
    from controlplane.fleet.models import Site

NAME = "rollout_time"
MODEL = "bench"
PRODUCT = "controlplane.config.settings"
POLL_SECONDS = 15
TICK_SECONDS = 5
# The sites' polls are spread over the ticks of one poll interval.
TICKS_PER_POLL = POLL_SECONDS // TICK_SECONDS
MOST_TICKS = 200
PEER_REQUESTS = 1000
_PARTS = ("start", "tick", "poll", "report", "lease")
_HEADINGS = ("sites", "virtual s", "requests", "asks", "wall s", "cpu ms/site", *_PARTS)
_GROWTH_HEADINGS = ("db", "x peer", "growth")


def run(options: Options, say: Callable[[str], None]) -> tuple[str, dict[str, Any]]:
    """The tables and the document, a row for each number of sites."""
    texts, results = [], {}
    for name, opened in {"sqlite": databases.sqlite, "postgresql": databases.postgresql}.items():
        if name in options.databases:
            text, results[name] = _on_database(opened, options, say)
            texts.append(text)
    return "\n\n".join(texts), {"poll_seconds": POLL_SECONDS, "results": results}


def _on_database(
    opened: Callable[[Path], AbstractContextManager[Database | str]],
    options: Options,
    say: Callable[[str], None],
) -> tuple[str, dict[str, Any]]:
    figures: list[dict[str, Any]] = []
    for sites in options.sizes:
        with (
            tempfile.TemporaryDirectory(prefix="waypost-bench-") as folder,
            opened(Path(folder)) as database,
        ):
            if isinstance(database, str):
                return f"skipped: {database}", {"skipped": database}
            say(f"{database.described}: a rollout to {sites} sites")
            env = server_environment(data_dir=Path(folder) / "data", database_url=database.url)
            run_python(["manage.py", "migrate", "--verbosity=0"], settings=PRODUCT, env=env)
            command = ["-m", "benchmarks.rollout_time", str(sites), database.title or ""]
            figures.append(json.loads(run_python(command, settings=PRODUCT, env=env)))
            described = database.described
    for before, after in itertools.pairwise(figures):
        after["growth"] = _per_site(after) / _per_site(before)
    return _table(described, figures), {"database": described, "by_sites": figures}


def _measure(sites: int, title: str) -> dict[str, Any]:
    """In a process of its own, on the database that the environment names."""
    import django

    django.setup()

    from django.utils import timezone

    now = timezone.now()
    fleet = _make_rows(sites, now)
    fleet_rows.gather_statistics()
    drive = _Drive(fleet, title)
    started = now
    rollout_id = drive.start(now)
    for number in range(MOST_TICKS):
        drive.tick(now)
        drive.polls(number % TICKS_PER_POLL, now)
        if drive.verified == sites:
            break
        now += timedelta(seconds=TICK_SECONDS)
        fleet_rows.hear_of_all(now)
    verified_after = (now - started).total_seconds()
    drive.tick(now)
    _check(rollout_id, sites)
    peer = _peer(fleet, title)
    cost = drive.meter.total
    return {
        "sites": sites,
        "virtual_seconds": verified_after,
        "rounds": verified_after / POLL_SECONDS,
        "requests": dict(drive.requests),
        "wall_seconds": cost.wall,
        "cpu_seconds": cost.cpu,
        "database_cpu_seconds": cost.database,
        "cpu_by_part": dict(drive.cpu),
        "peer_cpu_seconds_per_request": peer,
        "foreign_share": cost.foreign_share,
    }


class _Drive:
    """The centre's services, called as its web process and its engine would call them. Everything
    inside `meter` is the centre's work; what the agents do between is not measured."""

    def __init__(self, fleet: "Sequence[Site]", title: str) -> None:
        self.meter = Meter(title=title)
        self.requests: Counter[str] = Counter()
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self.agents = [_Agent(site) for site in fleet]

    @property
    def verified(self) -> int:
        return sum(agent.served == 2 for agent in self.agents)

    def start(self, now: datetime) -> int:
        from controlplane.domain.stages import DEFAULT_STAGES
        from controlplane.rollouts.services import start_rollout

        stages = [replace(stage, soak_seconds=0) for stage in DEFAULT_STAGES]
        with self.meter.running():
            return int(
                self.spend(
                    "start",
                    lambda: start_rollout(
                        model_name=MODEL, version_number=2, stages=stages, actor="bench", now=now
                    ),
                ).pk
            )

    def tick(self, now: datetime) -> None:
        from controlplane.rollouts.services import tick

        with self.meter.running():
            self.spend("tick", lambda: tick(now=now))

    def polls(self, turn: int, now: datetime) -> None:
        """Each agent whose turn it is does what there is to do, if there is anything."""
        from controlplane.fleet.models import Generation

        wished = dict(Generation.objects.values_list("site_id", "generation"))
        with self.meter.running():
            for agent in self.agents[turn::TICKS_PER_POLL]:
                if agent.busy or wished[agent.site.pk] != agent.generation:
                    agent.act(self, now)

    def spend(self, part: str, work: Callable[[], Any]) -> Any:
        self.requests[part] += 1
        before = time.process_time()
        result = work()
        self.cpu[part] += time.process_time() - before
        return result


class _Agent:
    """A site's agent that fetches in no time, begins at once when it may, and has switched by its
    next poll."""

    def __init__(self, site: "Site") -> None:
        self.site = site
        self.generation = 1
        self.served = 1
        self.seq = 0
        self.wish: Mapping[str, Any] = {}
        self.lease: int | None = None
        self.uptime = 0.0

    @property
    def busy(self) -> bool:
        return bool(self.wish)

    def act(self, drive: _Drive, now: datetime) -> None:
        self.uptime = now.timestamp()
        if self.lease is not None:
            self.served, self.lease = int(self.wish["version"]), None
            self._report(drive, "succeeded", now)
            self.wish = {}
            return
        if not self.busy:
            self.wish = self._poll(drive, now)
            self._report(drive, "staged", now)
        self._ask(drive, now)

    def _caller(self, now: datetime) -> Any:
        from controlplane.fleet.identity import authenticate_agent

        return authenticate_agent(secret=fleet_rows.session_secret(self.site), now=now)

    def _poll(self, drive: _Drive, now: datetime) -> Mapping[str, Any]:
        from controlplane.rollouts.queries import desired_document

        def poll() -> Any:
            caller = self._caller(now)
            return desired_document(
                site_id=caller.site_id,
                site_name=caller.site_name,
                epoch=caller.epoch,
                generation=caller.generation,
            )

        document = drive.spend("poll", poll)
        self.generation = document["generation"]
        (wish,) = document["models"]
        if not wish["lease_required"]:
            raise BenchmarkVoid(f"{self.site} may begin without a lease")
        return dict(wish)

    def _report(self, drive: _Drive, phase: str, now: datetime) -> None:
        from controlplane.domain.admission import Instant
        from controlplane.fleet.inventory import TritonFacts
        from controlplane.rollouts.reports import ModelReport, Report, record_report

        self.seq += 1
        said = ModelReport(
            model=MODEL,
            generation=self.wish["generation"],
            phase=phase,
            target=int(self.wish["version"]),
            serving=self.served,
            healthy=True,
            lease=self.lease,
        )
        report = Report(
            seq=self.seq,
            epoch=1,
            observed_generation=self.generation,
            agent_version="bench",
            sent_at=now,
            triton=TritonFacts(live=True),
            models=(said,),
            made=Instant(boot="boot", uptime=self.uptime),
        )
        receipt = drive.spend(
            "report", lambda: record_report(caller=self._caller(now), report=report, now=now)
        )
        if receipt.duplicate or receipt.superseded:
            raise BenchmarkVoid(f"{self.site}: its report was not taken in: {receipt}")

    def _ask(self, drive: _Drive, now: datetime) -> None:
        from controlplane.domain.admission import Instant
        from controlplane.rollouts.leases import LeaseQuestion, request_lease

        question = LeaseQuestion(
            model=MODEL,
            epoch=1,
            generation=self.wish["generation"],
            manifest_digest=self.wish["manifest_digest"],
            asked=Instant(boot="boot", uptime=self.uptime),
        )
        answer = drive.spend(
            "lease", lambda: request_lease(caller=self._caller(now), question=question, now=now)
        )
        if not answer.granted and answer.reason_code != "max-unavailable":
            raise BenchmarkVoid(f"{self.site} was refused for {answer.reason}")
        self.lease = answer.lease


def _peer(fleet: "Sequence[Site]", title: str) -> float:
    """CPU seconds of the least a request can be: a transaction that reads one row by its key and
    writes it."""
    from django.db import transaction

    from controlplane.fleet.models import Generation

    meter = Meter(title=title)
    with meter.running():
        for number in range(PEER_REQUESTS):
            with transaction.atomic():
                rows = Generation.objects.filter(site_id=fleet[number % len(fleet)].pk)
                generation = rows.values_list("generation", flat=True).get()
                rows.update(generation=generation + 1)
    return meter.total.centre / PEER_REQUESTS


def _make_rows(sites: int, now: datetime) -> "list[Site]":
    """Every site serves version 1, well; version 2 is there to be rolled out."""
    from controlplane.rollouts.models import SiteModel

    fleet = fleet_rows.make_fleet(sites, now)
    first = fleet_rows.make_version(MODEL, 1, now)
    fleet_rows.make_version(MODEL, 2, now)
    SiteModel.objects.bulk_create(
        [
            SiteModel(
                site=site,
                model_id=first.model_id,
                desired=first,
                generation=1,
                reported_phase="succeeded",
                reported_serving=1,
                reported_healthy=True,
                reported_at=now,
            )
            for site in fleet
        ],
        batch_size=1000,
    )
    return fleet


def _check(rollout_id: int, sites: int) -> None:
    from controlplane.rollouts.models import Deployment, Rollout

    rollout = Rollout.objects.get(pk=rollout_id)
    done = Deployment.objects.filter(rollout=rollout, state="succeeded", superseded=False).count()
    if (rollout.state, done) != ("succeeded", sites):
        raise BenchmarkVoid(
            f"the rollout is {rollout.state} with {done} of {sites} verified: {rollout.reason}"
        )


def _per_site(figures: Mapping[str, Any]) -> float:
    """CPU seconds of the centre and its database."""
    total: float = figures["cpu_seconds"] + figures["database_cpu_seconds"]
    sites: int = figures["sites"]
    return total / sites


def _table(described: str, figures: Sequence[Mapping[str, Any]]) -> str:
    rows: list[tuple[str, ...]] = [(*_HEADINGS, *_GROWTH_HEADINGS)]
    for each in figures:
        requests, sites = each["requests"], each["sites"]
        asked = requests["poll"] + requests["report"] + requests["lease"]
        peer = each["peer_cpu_seconds_per_request"] * asked / sites
        rows.append(
            (
                f"{sites:,}",
                f"{each['virtual_seconds']:,.0f}",
                f"{asked:,}",
                f"{requests['lease'] / sites:.1f}/site",
                f"{each['wall_seconds']:,.1f}",
                f"{_per_site(each) * 1000:,.1f}",
                *(f"{each['cpu_by_part'][part] / sites * 1000:,.1f}" for part in _PARTS),
                f"{each['database_cpu_seconds'] / sites * 1000:,.1f}",
                f"{_per_site(each) / peer:.1f}",
                f"{each['growth']:.2f}" if "growth" in each else "",
            )
        )
    foreign = max(each["foreign_share"] for each in figures)
    noisy = "NOISY, " if foreign > NOISY_SHARE else ""
    title = f"{described}: {noisy}others used up to {foreign:.0%} of the machine"
    return "\n".join([title, *align(rows)])


def main() -> None:
    json.dump(_measure(int(sys.argv[1]), sys.argv[2]), sys.stdout)


if __name__ == "__main__":
    main()
