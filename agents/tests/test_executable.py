"""A site runs a version's own code only where its own configuration says so, whatever is wished."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from versions import Version, make_version
from waypost_agent import decide as d
from waypost_agent.ports import Config
from waypost_agent.protocol import ModelReport
from waypost_agent.situation import Failure, Fit, Observed, Record, Target, Wish
from world import World


def plain(number: str, **extra: bytes) -> Version:
    """The same as an ONNX model; the fake server reads what it answers from either file."""
    made = make_version(number, backend="onnxruntime")
    files = {**made.files, **extra}
    files["model.onnx"] = files.pop("model.py")
    return Version(number=number, files={**files, **extra})


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.allow_executable = False
    world.start()
    return world


def told(world: World, allow: bool) -> None:
    """The operator changes agent.toml and restarts the agent."""
    world.allow_executable = allow
    world.start()
    world.poll()


def outcome(world: World) -> ModelReport:
    report = world.converge()
    assert report is not None
    return report


def test_plain_data_needs_no_opt_in(world: World) -> None:
    world.publish(plain("1"))
    assert outcome(world).phase == "succeeded"
    assert world.triton.ready("echo") == {"1"}


def test_code_is_refused_before_the_first_byte_and_what_serves_goes_on(world: World) -> None:
    world.publish(plain("1"))
    world.converge()
    opened, loads = len(world.blobs.opened), list(world.triton.loads)
    world.lease_required = True
    world.publish(make_version("2"), previous="1")
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "executable-refused")
    assert (report.serving, report.healthy) == ("1", True)
    assert "has model.py" in report.reason
    assert "allow_executable = true in agent.toml" in report.reason
    assert len(world.blobs.opened) == opened
    assert world.leases.questions == []
    assert world.triton.loads == loads


def test_code_that_no_name_shows_is_refused_before_the_first_load(world: World) -> None:
    world.publish(plain("1"))
    world.converge()
    loads = list(world.triton.loads)
    made = make_version("2")
    hidden = {**made.files, "model.txt": made.files["model.py"]}
    del hidden["model.py"]
    config = hidden["config.pbtxt"] + b'default_model_filename: "model.txt"\n'
    world.lease_required = True
    for switch in ("surge", "replace"):
        version = Version(number="2", files={**hidden, "config.pbtxt": config})
        world.publish(version, previous="1", also={"switch": switch})
        report = outcome(world)
        assert (report.phase, report.reason_code) == ("failed", "executable-refused")
        assert "has the backend 'python'" in report.reason
        assert (report.serving, report.healthy) == ("1", True)
    assert world.triton.loads == loads
    assert "room-made" not in world.passed_checkpoints
    assert world.leases.questions == []


def test_a_planted_library_is_refused_whatever_is_allowed(world: World) -> None:
    told(world, allow=True)
    world.publish(plain("1"))
    world.converge()
    opened = len(world.blobs.opened)
    world.publish(plain("2", **{"libtriton_onnxruntime.so": b"\x7fELF"}), previous="1")
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "bundle-refused")
    assert "libtriton_onnxruntime.so" in report.reason
    assert len(world.blobs.opened) == opened
    world.publish(plain("3", **{"model.py": b"import os\n"}), previous="1")
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "bundle-refused")
    assert world.triton.ready("echo") == {"1"}


@pytest.mark.parametrize(
    "line",
    [
        b'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/tmp/e.tar.gz" } }',
        b'parameters { key: "TRITON_BATCH_STRATEGY_PATH" value { string_value: "/tmp/b.so" } }',
        b'runtime: "libtriton_x.so"',
        b'model_operations { op_library_filename: "/tmp/ops.so" }',
        b'model_repository_agents { agents { name: "checksum" } }',
        b'cc_model_filenames { key: "8.9" value: "other.onnx" }',
    ],
)
def test_a_configuration_that_runs_code_is_refused_whatever_is_allowed(
    world: World, line: bytes
) -> None:
    told(world, allow=True)
    world.publish(make_version("1"))
    world.converge()
    loads = list(world.triton.loads)
    made = make_version("2")
    files = {**made.files, "config.pbtxt": made.files["config.pbtxt"] + line + b"\n"}
    world.publish(Version(number="2", files=files), previous="1")
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "config-invalid")
    assert (report.serving, report.healthy) == ("1", True)
    assert world.triton.loads == loads


@pytest.mark.parametrize("allow", [False, True])
def test_plain_data_names_no_library_to_load(world: World, allow: bool) -> None:
    """OpenVINO would load it into the server, whoever wrote it."""
    told(world, allow=allow)
    world.publish(plain("1"))
    world.converge()
    loads = list(world.triton.loads)
    made = plain("2")
    line = b'\nparameters { key: "CPU_EXTENSION_PATH" value { string_value: "/tmp/e.so" } }\n'
    files = {**made.files, "config.pbtxt": made.files["config.pbtxt"] + line}
    world.publish(Version(number="2", files=files), previous="1")
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "config-invalid")
    assert "CPU_EXTENSION_PATH" in report.reason
    assert (report.serving, report.healthy) == ("1", True)
    assert world.triton.loads == loads


def test_with_the_opt_in_code_is_loaded(world: World) -> None:
    told(world, allow=True)
    world.publish(make_version("1"))
    assert outcome(world).phase == "succeeded"


def test_a_plan_counts_as_code_unless_a_release_key_signed_it(world: World) -> None:
    made = make_version("1", backend="tensorrt")
    files = {**made.files, "model.plan": made.files["model.py"]}
    del files["model.py"]
    world.publish(Version(number="1", files=files))
    report = outcome(world)
    assert (report.phase, report.reason_code) == ("failed", "executable-refused")
    assert "no release key of this site signed" in report.reason


# The opt-in is taken away


@pytest.fixture
def without(world: World) -> World:
    """Version 2 serves, 1 before it, both code; then the opt-in is gone."""
    told(world, allow=True)
    for number in ("1", "2"):
        world.publish(make_version(number), previous="1")
        world.converge()
    told(world, allow=False)
    return world


def test_what_serves_goes_on_and_the_report_says_so(without: World) -> None:
    loads = list(without.triton.loads)
    report = outcome(without)
    assert (report.phase, report.serving, report.healthy) == ("succeeded", "2", True)
    assert report.reason_code == "ok"
    assert "it has model.py" in report.reason
    assert "no such version is taken any more, this one stays" in report.reason
    assert without.triton.loads == loads


def test_what_served_comes_back_after_a_restart_of_triton(without: World) -> None:
    without.triton.restart()
    report = outcome(without)
    assert (report.phase, report.serving) == ("succeeded", "2")


def test_the_way_back_stays_open(without: World) -> None:
    without.publish(make_version("1"), previous="2")
    report = outcome(without)
    assert (report.phase, report.serving) == ("succeeded", "1")


def test_a_new_version_is_refused_and_the_old_one_stays(without: World) -> None:
    without.publish(make_version("3"), previous="2")
    report = outcome(without)
    assert (report.phase, report.reason_code) == ("failed", "executable-refused")
    assert (report.serving, report.healthy) == ("2", True)


@pytest.mark.parametrize("at", ["proven-journaled", "switched"])
def test_one_that_was_proven_or_switched_to_but_never_verified_is_refused(
    world: World, at: str
) -> None:
    told(world, allow=True)
    world.publish(plain("1"))
    world.converge()

    def die(name: str) -> None:
        if name == at:
            world.at_checkpoint = lambda name: None
            world.allow_executable = False
            world.die_now()

    world.at_checkpoint = die
    world.publish(make_version("2"), previous="1")
    report = outcome(world)
    assert not world.allow_executable
    assert (report.phase, report.reason_code) == ("failed", "executable-refused")
    assert (report.serving, report.healthy) == ("1", True)
    assert world.triton.ready("echo") == {"1"}


# Whatever happens (I3: no executable version at a site without its own opt-in)

VERSIONS = {
    **{number: make_version(number) for number in ("1", "3", "5")},
    **{number: plain(number) for number in ("2", "4")},
}
_STEPS: Any = st.one_of(
    st.tuples(st.just("wish"), st.sampled_from(sorted(VERSIONS))),
    st.tuples(st.just("allow"), st.booleans()),
    st.tuples(st.just("restart server"), st.none()),
    st.tuples(st.just("run"), st.integers(1, 30)),
    st.tuples(st.just("die"), st.integers(1, 30)),
)


def watch_loads(world: World) -> None:
    """No load of code that did not serve here before, but with the opt-in."""
    load: Callable[..., None] = world.triton.load

    def watched(model: str, config: Config, *, timeout_seconds: float) -> None:
        (number,) = config["version_policy"]["specific"]["versions"]
        record = world.record()
        served = {each.version for each in (record.committed, record.previous) if each is not None}
        is_code = "model.py" in VERSIONS[number].files
        assert world.allow_executable or not is_code or number in served, (model, number)
        load(model, config, timeout_seconds=timeout_seconds)

    world.triton.load = watched  # type: ignore[method-assign]  # the same, watched


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.booleans(), st.lists(_STEPS, min_size=1, max_size=12))
def test_whatever_happens_no_code_is_loaded_without_the_opt_in(
    allowed: bool, steps: list[tuple[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        watch_loads(world)
        told(world, allowed)
        for kind, value in steps:
            if kind == "wish":
                world.publish(VERSIONS[value])
            elif kind == "allow":
                told(world, value)
            elif kind == "restart server":
                world.triton.restart()
            else:
                world.cycles(value if kind == "run" else 12, value if kind == "die" else None)
        report = world.converge() if world.wishes else None
        committed = world.record().committed
        if report is not None and committed is not None:
            assert world.triton.ready("echo") == {committed.version}


# In the decision alone, without the second look that comes right before a load

ONE, TWO = (Target(version=str(n), digest=f"sha256:{n}") for n in (1, 2))
RULE = Fit(reason_code="executable-refused", reason="it has model.py", is_rule=True)


def seen(ready: str | None, **facts: Any) -> Observed:
    return Observed(
        triton_live=True,
        states={} if ready is None else {ready: "READY"},
        candidate_states={},
        candidate_on_disk=False,
        installed={"1": "sha256:1", "2": "sha256:2"},
        recorded=frozenset({"1", "2"}),
        fit=RULE,
        **facts,
    )


@pytest.mark.parametrize("ready", ["1", "2", None])
def test_a_rule_bars_what_was_proven_and_puts_back_what_served(ready: str | None) -> None:
    wish = Wish(model="m", epoch=1, generation=1, target=TWO)
    record = Record(committed=ONE, proven=frozenset({TWO.digest, ONE.digest}))
    action = d.decide(wish, record, seen(ready))
    if ready == "1":
        assert isinstance(action, d.GiveUp)
        assert (action.target, action.reason_code) == (TWO, "executable-refused")
    else:
        assert isinstance(action, d.Switch)
        assert action.target == ONE


def test_a_rule_unloads_nothing_that_serves_though_its_record_is_lost() -> None:
    wish = Wish(model="m", epoch=1, generation=1, target=TWO)
    given_up = d.decide(wish, Record(), seen("2"))
    assert isinstance(given_up, d.GiveUp)
    failed = Failure(epoch=1, generation=1, target=TWO, reason_code=RULE.reason_code, reason="x")
    assert not isinstance(d.decide(wish, Record(failed=failed), seen("2")), d.Unload)
