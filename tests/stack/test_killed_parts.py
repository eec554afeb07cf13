"""The parts of a running control plane are killed in mid-rollout, one at a time."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.models import MODEL_NAME
from deploy.demo.traffic import Traffic, expectation
from tests.stack.conftest import Stack
from tests.stack.processes import children_of, wait_until

pytestmark = pytest.mark.stack
ROLLOUT_SECONDS = 90


@pytest.fixture(scope="module")
def serving(stack: Stack, demo_versions: dict[str, Path]) -> Iterator[Traffic]:
    """Both sites serve version 1, and clients ask all through the tests of this module."""
    finish(stack, stack.start_rollout("1"))
    expected = expectation({number: demo_versions[number] for number in ("1", "2")})
    urls = {site.spec.name: site.http_url for site in stack.sites}
    traffic = Traffic(urls=urls, model=MODEL_NAME, expected=expected)
    traffic.start()
    yield traffic
    traffic.stop()


def finish(stack: Stack, number: int) -> None:
    wait_until(
        lambda: stack.rollout(number)["final"],
        seconds=ROLLOUT_SECONDS,
        what=f"rollout {number} ends",
        end=stack.logs,
    )


@pytest.mark.parametrize("component", ["worker", "broker", "web", "beat"])
def test_a_rollout_ends_as_if_nothing_had_happened_when_a_part_is_killed(
    stack: Stack, serving: Traffic, component: str
) -> None:
    version = "2" if stack.rolled_out[-1] == "1" else "1"
    number = stack.start_rollout(version)
    wait_until(
        lambda: stack.rollout(number)["stages"][0]["state"] == "running",
        seconds=30,
        what="the canary has started",
        end=stack.logs,
    )
    killed = stack.pid(component)
    os.kill(killed, signal.SIGKILL)
    wait_until(
        lambda: killed not in _pids(stack) and stack.status_of("/healthz/ready") == 200,
        seconds=30,
        what=f"{component} is started again",
        end=stack.logs,
    )

    finish(stack, number)

    rollout = stack.rollout(number)
    assert rollout["state"] == "succeeded", rollout["reason"]
    assert [stage["state"] for stage in rollout["stages"]] == ["passed", "passed"]
    assert stack.count_events(number, "rollout.stage_started") == 2
    assert stack.count_events(number, "deployment.succeeded") == 2
    assert stack.pid(component) != killed
    assert serving.failed == 0, serving.faults()


def test_every_request_was_answered_rightly_through_all_of_it(serving: Traffic) -> None:
    serving.stop()
    assert serving.failed == 0, serving.faults()
    assert serving.requests > 500
    answered = {version for tally in serving.tallies.values() for version in tally.by_version}
    assert answered == {"1", "2"}


def test_engine_health_fails_while_no_worker_lives_and_recovers(stack: Stack) -> None:
    worker = stack.pid("worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        wait_until(
            lambda: stack.status_of("/healthz/engine") == 503,
            seconds=60,
            what="a stopped worker is noticed",
            end=stack.logs,
        )
        assert stack.status_of("/healthz/live") == 200
        assert stack.status_of("/healthz/ready") == 200
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_until(
        lambda: stack.status_of("/healthz/engine") == 200,
        seconds=60,
        what="the engine is seen alive again",
        end=stack.logs,
    )


def _pids(stack: Stack) -> set[int]:
    return set(children_of(stack.supervisor.pids()["control-plane"]))
