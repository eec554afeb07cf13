"""The agent is killed by SIGKILL at every point where it changes something; a new one converges.

A user asks the real model all the while: only verified versions may ever answer him.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from real_site import Site, Users, exit_status
from versions import MODEL, Version, make_version
from waypost_agent.parts import CHECKPOINTS

pytestmark = [pytest.mark.triton, pytest.mark.timeout(240)]

GOOD = (
    "download-started",
    "file-verified",
    "staged",
    "recorded",
    "installed",
    "attempt-journaled",
    "candidate-written",
    "candidate-loaded",
    "candidate-proven",
    "candidate-unloaded",
    "candidate-removed",
    "proven-journaled",
    "switched",
    "verified",
    "config-committed",
    "committed",
    "pruned",
)
BROKEN_AS_CANDIDATE = (
    "candidate-loaded",
    "candidate-refused",
    "failed-journaled",
    "candidate-unloaded",
    "candidate-removed",
)
BROKEN_WHEN_SERVED = ("switched", "verification-failed", "failed-journaled", "restored")
NOTHING_WISHED = ("unloaded", "config-removed", "retired")
ROTTEN_WHILE_SERVED = ("damage-noted", "mended")
ROTTEN_BEFORE_LOAD = ("set-aside",)
REPLACED = (
    "room-journaled",
    "room-made",
    "candidate-loaded",
    "proven-journaled",
    "answer-journaled",
)
ON_PROBATION = ("probation-begun",)
QUICK_SCRUB = {"scrub_first_seconds": 0.2, "scrub_turn_seconds": 0.1}


def test_the_walks_visit_every_checkpoint() -> None:
    broken = {*BROKEN_AS_CANDIDATE, *BROKEN_WHEN_SERVED}
    walked = {*GOOD, *broken, *NOTHING_WISHED, *ROTTEN_WHILE_SERVED, *ROTTEN_BEFORE_LOAD}
    walked |= {*REPLACED, *ON_PROBATION}
    assert walked == set(CHECKPOINTS)


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[None]]]:
    """All walks side by side, each at a site of its own: most of the time is Triton unloading."""
    bodies: dict[str, Callable[[Path], None]] = {
        "good-1": lambda folder: walk_good(folder, GOOD[0::3]),
        "good-2": lambda folder: walk_good(folder, GOOD[1::3]),
        "good-3": lambda folder: walk_good(folder, GOOD[2::3]),
        "broken-as-candidate": walk_broken_as_candidate,
        "broken-when-served": walk_broken_when_served,
        "nothing-wished": walk_nothing_wished,
        "rotten": walk_rotten,
        "replaced": walk_replaced,
        "on-probation": walk_on_probation,
    }
    with ThreadPoolExecutor(max_workers=len(bodies)) as pool:
        yield {
            name: pool.submit(body, tmp_path_factory.mktemp(name)) for name, body in bodies.items()
        }


def test_killed_anywhere_the_agent_converges_to_the_wished_version(
    walks: dict[str, Future[None]],
) -> None:
    for third in ("good-1", "good-2", "good-3"):
        walks[third].result()


def test_killed_anywhere_a_broken_version_leaves_the_old_one_serving(
    walks: dict[str, Future[None]],
) -> None:
    walks["broken-as-candidate"].result()


def test_killed_anywhere_a_version_that_fails_only_when_served_is_taken_back(
    walks: dict[str, Future[None]],
) -> None:
    walks["broken-when-served"].result()


def test_killed_anywhere_a_model_that_is_not_wished_is_unloaded(
    walks: dict[str, Future[None]],
) -> None:
    walks["nothing-wished"].result()


def test_killed_anywhere_while_files_rot_on_disk_the_version_goes_on_serving(
    walks: dict[str, Future[None]],
) -> None:
    walks["rotten"].result()


def test_killed_anywhere_while_one_version_makes_room_for_the_next_one_of_both_comes_to_serve(
    walks: dict[str, Future[None]],
) -> None:
    walks["replaced"].result()


def test_killed_while_a_version_is_on_probation_it_is_still_judged(
    walks: dict[str, Future[None]],
) -> None:
    walks["on-probation"].result()


def walk_good(folder: Path, checkpoints: tuple[str, ...]) -> None:
    with Site(folder) as site:
        versions = numbered()
        previous = serve_first(site, next(versions))
        for checkpoint in checkpoints:
            version = next(versions)
            with Users(site, pause_seconds=0.005) as users:
                die_at(site, checkpoint, version, previous)
                with site.agent():
                    site.centre.wait_for_phase("succeeded", site.centre.generation)
            allowed = {answer_of(previous), answer_of(version)}
            assert users.failures == [], checkpoint
            assert users.answers <= allowed, checkpoint
            assert site.ask() == answer_of(version), checkpoint
            previous = version


def walk_replaced(folder: Path) -> None:
    """With the downtime that is declared; but whoever is answered is answered rightly."""
    with Site(folder) as site:
        versions = numbered()
        previous = serve_first(site, next(versions))
        for checkpoint in REPLACED:
            version = next(versions)
            with Users(site, pause_seconds=0.005) as users:
                die_at(site, checkpoint, version, previous, {"switch": "replace"})
                with site.agent():
                    site.centre.wait_for_phase("succeeded", site.centre.generation)
            assert users.answers <= {answer_of(previous), answer_of(version)}, checkpoint
            assert site.ask() == answer_of(version), checkpoint
            previous = version


def walk_on_probation(folder: Path) -> None:
    with Site(folder) as site:
        versions = numbered()
        previous = serve_first(site, next(versions))
        for checkpoint in ON_PROBATION:
            version = next(versions)
            with Users(site, pause_seconds=0.005) as users:
                die_at(site, checkpoint, version, previous, {"probation": {"seconds": 2}})
                with site.agent():
                    entry = site.centre.wait_for_phase("verifying", site.centre.generation)
                    config = (site.repository / MODEL / "config.pbtxt").read_text()
                    assert f"versions: {previous.number}" in config
                    site.centre.wait_for_phase("succeeded", site.centre.generation)
            assert (entry["serving"], users.failures) == (version.number, [])
            assert site.ask() == answer_of(version), checkpoint


def walk_broken_as_candidate(folder: Path) -> None:
    with Site(folder) as site:
        versions = numbered()
        old = serve_first(site, next(versions))
        for checkpoint in BROKEN_AS_CANDIDATE:
            broken = make_version(next(versions).number, answer=-1.0, golden=1.0)
            with Users(site, pause_seconds=0.005) as users:
                die_at(site, checkpoint, broken, old)
                with site.agent():
                    entry = site.centre.wait_for_phase("failed", site.centre.generation)
            assert entry["reason_code"] == "golden-mismatch", checkpoint
            assert entry["serving"] == old.number, checkpoint
            assert users.failures == [], checkpoint
            assert users.answers == {answer_of(old)}, checkpoint
            assert not list(site.repository.glob("*--candidate")), checkpoint


def walk_broken_when_served(folder: Path) -> None:
    with Site(folder) as site:
        versions = numbered()
        old = serve_first(site, next(versions))
        for checkpoint in BROKEN_WHEN_SERVED:
            number = next(versions).number
            two_faced = make_version(number, answer=1.0, wrong_when_real=True)
            with Users(site, pause_seconds=0.005) as users:
                die_at(site, checkpoint, two_faced, old)
                with site.agent():
                    entry = site.centre.wait_for_phase("failed", site.centre.generation)
            assert (entry["serving"], entry["healthy"]) == (old.number, True), checkpoint
            assert users.failures == [], checkpoint
            assert site.ask() == answer_of(old), checkpoint


def walk_nothing_wished(folder: Path) -> None:
    with Site(folder) as site:
        for checkpoint, version in zip(NOTHING_WISHED, numbered(), strict=False):
            serve_first(site, version)
            die_at(site, checkpoint, None, version)
            with site.agent():
                entry = site.centre.wait_for_phase("succeeded", site.centre.generation)
            assert entry["serving"] is None, checkpoint
            assert isinstance(site.ask(), str), checkpoint


def walk_rotten(folder: Path) -> None:
    with Site(folder) as site:
        versions = numbered()
        for checkpoint in ROTTEN_WHILE_SERVED:
            serve_first(site, next(versions))  # what rotted before is no longer kept, nor mended
            version = serve_first(site, next(versions))
            rot(site, version)
            with Users(site, pause_seconds=0.005) as users:
                await_death(site, site.start_agent(checkpoint, QUICK_SCRUB), checkpoint)
                with site.agent():
                    site.centre.wait_for_report(
                        lambda each: any(
                            "a sound copy lies beside" in entry["reason"]
                            for entry in each["models"]
                        )
                    )
            assert users.failures == [], checkpoint
            assert users.answers == {answer_of(version)}, checkpoint
        for checkpoint in ROTTEN_BEFORE_LOAD:
            version = serve_first(site, next(versions))
            rot(site, version)
            site.triton.kill()
            site.triton.start()
            site.triton.wait_live()
            await_death(site, site.start_agent(checkpoint), checkpoint)
            with site.agent():
                wait_for_answer(site, version, checkpoint)


def rot(site: Site, version: Version) -> None:
    """One bit of what serves flips on the disk."""
    file = site.repository / MODEL / version.number / "model.py"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)


def wait_for_answer(site: Site, version: Version, checkpoint: str) -> None:
    deadline = time.monotonic() + 30.0
    while site.ask() != answer_of(version):
        assert time.monotonic() < deadline, checkpoint
        time.sleep(0.05)


def numbered() -> Iterator[Version]:
    return (make_version(str(number)) for number in itertools.count(1))


def answer_of(version: Version) -> tuple[str, float]:
    return version.number, float(version.number)


def serve_first(site: Site, version: Version) -> Version:
    generation = site.centre.publish(version)
    with site.agent():
        site.centre.wait_for_phase("succeeded", generation)
    return version


def die_at(
    site: Site,
    checkpoint: str,
    version: Version | None,
    previous: Version,
    also: dict[str, Any] | None = None,
) -> None:
    """Wish the version and let an agent die at the checkpoint; it must get that far."""
    # Under a lease: it is in memory only, so each agent that comes after must ask anew.
    site.centre.publish(
        version,
        previous=None if version is None else previous.number,
        lease_required=True,
        also=also,
    )
    await_death(site, site.start_agent(die_at=checkpoint), checkpoint)


def await_death(site: Site, process: BaseProcess, checkpoint: str) -> None:
    status = exit_status(process, timeout_seconds=60)
    if status is None:
        process.kill()
        exit_status(process, timeout_seconds=30)
        log = (site.folder / "agent.log").read_text()[-3000:]
        pytest.fail(f"the agent never came to {checkpoint}\n{log}")
    assert status == -9, checkpoint
