"""`waypost-agent rollback`: who carries the order out and what is shown, without any centre."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fake_centre import TOKEN, FakeCentre
from versions import make_version
from waypost_agent.cli import main, only_one
from waypost_agent.errors import ROLLED_BACK
from waypost_agent.rollback import Refused
from waypost_agent.rollback_command import Outcome, await_agent, carry_out, give_order
from waypost_agent.said import Said
from world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    """It serves version 2 and has 1 behind it; the centre is gone."""
    world = World(tmp_path)
    for number in ("1", "2"):
        world.publish(make_version(number), previous="1")
        world.converge()
    world.blobs.reachable = False
    return world


def server_of(world: World) -> Any:
    """What the command sees of the server in this folder."""
    config = SimpleNamespace(state_dir=world.folder / "state")
    return SimpleNamespace(
        config=config, journal=world.journal, loop=world.loop, rollbacks=world.orders
    )


def test_where_no_agent_runs_the_command_carries_it_out(world: World) -> None:
    server = server_of(world)
    order = give_order(server, "echo", "users complain")
    outcome = carry_out(server, order, world.clock, busy_seconds=0.2)
    assert outcome.done
    assert "users complain" in outcome.sentence
    assert world.triton.ready("echo") == {"1"}


def test_while_triton_is_away_the_order_stands_and_says_why_it_waits(world: World) -> None:
    server = server_of(world)
    world.triton.running = False
    order = give_order(server, "echo", "")
    outcome = carry_out(server, order, world.clock, busy_seconds=0.2)
    assert (outcome.done, outcome.waits) == (False, True)
    assert "Triton does not answer" in outcome.sentence
    world.triton.restart()
    report = world.converge()
    assert report is not None
    assert (report.reason_code, report.serving) == (ROLLED_BACK, "1")


def test_a_model_nobody_wished_is_refused(world: World) -> None:
    with pytest.raises(Refused, match="never wished anything of 'other'"):
        give_order(server_of(world), "other", "")
    assert not world.orders.waiting()


def watched(world: World, *, turns: bool = True) -> tuple[Outcome, list[str]]:
    """Give the order and watch; the agent turns once in each pause of the command."""
    server = server_of(world)
    said = Said(world.folder / "state", world.clock)
    told: list[str] = []

    def turn() -> None:
        if turns:
            world.clock.while_asleep = lambda: None  # the agent sleeps by the same clock
            world.cycles(1)
            said.write(world.loop.reports())
            world.clock.while_asleep = turn

    order = give_order(server, "echo", "users complain")
    world.clock.while_asleep = turn
    outcome = await_agent(server, order, world.clock, seconds=60.0, tell=told.append)
    world.clock.while_asleep = lambda: None
    return outcome, told


def test_where_an_agent_runs_its_progress_is_shown_to_the_end(world: World) -> None:
    outcome, told = watched(world)
    assert outcome.done
    assert [line.partition(":")[0] for line in told] == ["activating", "verifying"]


def test_an_agent_that_does_not_take_it_up_in_time_is_no_failure(world: World) -> None:
    outcome, told = watched(world, turns=False)
    assert (outcome.done, outcome.waits) == (False, True)
    assert "waits for the agent" in outcome.sentence
    assert world.orders.waiting()
    assert told == []


def test_a_refusal_of_the_agent_is_shown(world: World) -> None:
    world.publish(make_version("2"), previous="1")  # newer by the time the agent looks
    outcome, _ = watched(world)
    assert (outcome.done, outcome.waits) == (False, False)
    assert "something newer" in outcome.sentence


# The command itself


@pytest.fixture
def config(tmp_path: Path, centre: FakeCentre) -> list[str]:
    """A site that joined, whose Triton is not running, and whose centre is gone."""
    (tmp_path / "models").mkdir()
    path = tmp_path / "agent.toml"
    path.write_text(
        f'state_dir = "{tmp_path}/state"\n'
        f'[triton]\nrepository = "{tmp_path}/models"\ngrpc_url = "127.0.0.1:1"\n'
        "[timeouts]\ncall_timeout_seconds = 1.0\n"
    )
    options = ["--config", str(path)]
    assert main(["join", centre.url, "--token", TOKEN, *options]) == 0
    centre.close()
    return options


@pytest.mark.parametrize("agent_runs", [False, True])
def test_an_order_without_anything_to_go_back_to_ends_with_one(
    config: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], agent_runs: bool
) -> None:
    if agent_runs:
        with only_one(tmp_path / "state"):
            assert main(["rollback", "vad", *config]) == 1
    else:
        assert main(["rollback", "vad", *config]) == 1
    assert "the centre never wished anything of 'vad' here" in capsys.readouterr().err
