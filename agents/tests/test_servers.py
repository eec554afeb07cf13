"""Several Tritons at one site: which one a model belongs to, and what is wrong with a division."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from versions import make_version, wish
from waypost_agent import protocol as p
from waypost_agent.board import Board, TritonStatus
from waypost_agent.config import parse_config
from waypost_agent.errors import ConfigError
from waypost_agent.servers import common_name, is_match, owner

SHARES = {"cpu": ("vad", "detect-*"), "gpu": None}


@pytest.mark.parametrize(
    ("model", "name"),
    [("vad", "cpu"), ("detect-faces", "cpu"), ("detect-", "cpu"), ("vad2", "gpu"), ("x", "gpu")],
)
def test_a_model_belongs_to_the_server_that_names_it_else_to_the_one_that_names_none(
    model: str, name: str
) -> None:
    assert owner(model, SHARES) == name


def test_where_every_server_names_its_models_the_others_belong_to_none() -> None:
    shares = {"cpu": ("vad",), "gpu": ("detect-*",)}
    assert owner("noise", shares) is None


def test_one_server_alone_takes_everything() -> None:
    assert owner("whatever", {"": None}) == ""


PATTERNS = st.text("ab*?", min_size=1, max_size=5)


@given(PATTERNS, PATTERNS, st.text("abx", max_size=5))
def test_two_patterns_have_a_common_name_exactly_when_a_name_matches_both(
    one: str, other: str, name: str
) -> None:
    found = common_name(one, other)
    if found is None:
        assert not (is_match(one, name) and is_match(other, name))
    else:
        assert is_match(one, found)
        assert is_match(other, found)


# The configuration


def table(name: str, number: int, **keys: Any) -> dict[str, Any]:
    return {
        "name": name,
        "repository": f"/srv/{name}",
        "grpc_url": f"127.0.0.1:{number}1",
        "http_url": f"http://127.0.0.1:{number}0",
        "metrics_url": f"http://127.0.0.1:{number}2/metrics",
        **keys,
    }


def site(*tables: Any, **keys: Any) -> dict[str, Any]:
    return {"state_dir": "/state", "servers": list(tables), **keys}


def test_each_server_has_its_own_place_and_its_models() -> None:
    config = parse_config(site(table("cpu", 1, models=["vad", "detect-*"]), table("gpu", 2)))
    cpu, gpu = config.servers
    assert (cpu.name, cpu.models, gpu.name, gpu.models) == ("cpu", ("vad", "detect-*"), "gpu", None)
    assert str(cpu.state_dir) == "/state/servers/cpu"
    assert str(gpu.triton.repository) == "/srv/gpu"
    assert config.shares == SHARES


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("both kinds", site(table("a", 1), triton={}), r"triton: .* cannot stand beside \[\[servers\]"),
    ("no table", site("cpu"), r"servers: must be a list of tables, each written \[\[servers\]\]"),
    ("one table", {"state_dir": "/s", "servers": {}}, r"servers: must be a list of tables"),
    ("none", site(), r"servers: there is none; write one \[\[servers\]\]"),
    ("no name", site({"repository": "/m"}), r"servers\[0\]\.name: must be .* it is None"),
    ("a path as name", site(table("../x", 1)), r"servers\[0\]\.name: .*'\.\./x'"),
    (
        "unknown key",
        site(table("a", 1, modles=["x"])),
        r"servers\.a\.modles: unknown key; .*models",
    ),
    ("no repository", site({"name": "a"}), r"servers\.a\.repository: is missing"),
    ("text as models", site(table("a", 1, models="vad")), r"servers\.a\.models: must be a list"),
    ("no models", site(table("a", 1, models=[])), r'models: .* such as \["vad", "detect-\*"\]'),
    ("no pattern", site(table("a", 1, models=["de[a-z]"])), r"servers\.a\.models: must be a list"),
    ("same name", site(table("a", 1, models=["x"]), table("a", 2)), r"two have the name 'a'"),
    (
        "same gRPC",
        site(table("a", 1, models=["x"]), table("b", 2, grpc_url="127.0.0.1:11")),
        r"servers: two have the grpc_url '127\.0\.0\.1:11' .* its own",
    ),
    (
        "metrics left out",
        site(
            {"name": "a", "repository": "/a", "models": ["x"]},
            {"name": "b", "repository": "/b", "grpc_url": "h:1", "http_url": "http://h:2"},
        ),
        r"two have the metrics_url .*\(the default where none is given\)",
    ),
    (
        "same folder",
        site(table("a", 1, models=["x"]), table("b", 2, repository="/srv/a")),
        r"servers: the repository /srv/a of a lies in /srv/a of b",
    ),
    (
        "folder in folder",
        site(table("a", 1, models=["x"]), table("b", 2, repository="/srv/a/b")),
        r"the repository /srv/a/b of b lies in /srv/a of a",
    ),
    ("two take the rest", site(table("a", 1), table("b", 2)), r"servers: a and b have no models;"),
    (
        "overlap",
        site(table("a", 1, models=["vad", "detect-*"]), table("b", 2, models=["*-faces"])),
        r"'detect-\*' of a and '\*-faces' of b both take models such as 'detect-faces'",
    ),
]


@pytest.mark.parametrize(
    ("document", "message"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_a_wrong_division_is_named_with_its_cure(document: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config(document)


# The board


def report(model: str, **keys: Any) -> p.ModelReport:
    usual: dict[str, Any] = {"generation": 3, "deployment": None, "target": "1", "serving": "1"}
    usual |= {"phase": p.SUCCEEDED, "healthy": True, "reason_code": "ok", "reason": "well"}
    return p.ModelReport(model=model, **{**usual, **keys})


def desired(generation: int, *models: str) -> p.Desired:
    version = make_version("1")
    entries = [wish(version, generation=generation, model=model) for model in models]
    return p.parse_desired(
        {"epoch": 1, "generation": generation, "site": "edge-1", "models": entries}
    )


def test_the_report_of_a_site_names_servers_and_says_the_worst_of_them() -> None:
    board = Board(SHARES, {"cpu": "http://c", "gpu": "http://g"})
    up, down = TritonStatus(live=True, version="2.60.0"), TritonStatus(live=False)
    board.seat("cpu").show(observed=(1, 3), triton=up, models=(report("vad"),))
    assert board.snapshot().observed is None  # the other one follows nothing yet
    board.seat("gpu").show(observed=(1, 2), triton=down, models=(report("big"),))
    told = board.snapshot()
    assert told.observed == (1, 2)
    assert [(each.model, each.server) for each in told.models] == [("vad", "cpu"), ("big", "gpu")]
    assert (told.triton.live, told.triton.http_url) == (False, "http://g")
    assert [(name, each.live) for name, each in told.servers] == [("cpu", True), ("gpu", False)]
    board.seat("gpu").show(observed=(1, 3), triton=up, models=(report("big"),))
    assert board.snapshot().triton.http_url == "http://c"
    assert told.models[0].document()["server"] == "cpu"


def test_a_site_with_one_server_speaks_of_no_server() -> None:
    board = Board()
    up = TritonStatus(live=True)
    board.seat().show(observed=(1, 3), triton=up, models=(report("vad"),))
    (told,) = board.snapshot().models
    assert "server" not in told.document()


def test_each_server_is_given_its_own_models() -> None:
    board = Board(SHARES)
    cpu, gpu = board.seat("cpu"), board.seat("gpu")
    assert [cpu.takes(model) for model in ("vad", "detect-x", "big")] == [True, True, False]
    assert [gpu.takes(model) for model in ("vad", "detect-x", "big")] == [False, False, True]


def test_a_model_that_no_server_takes_has_failed_and_the_patterns_are_told() -> None:
    board = Board({"cpu": ("vad", "detect-*"), "gpu": ("big",)})
    board.offer(desired(3, "vad", "noise"))
    (told,) = board.snapshot().models
    assert (told.model, told.phase, told.reason_code) == ("noise", p.FAILED, "no-server")
    assert (told.generation, told.target, told.serving, told.healthy) == (3, "1", None, None)
    assert "cpu takes vad, detect-*; gpu takes big" in told.reason


def test_the_newest_of_what_the_journals_kept_holds() -> None:
    board = Board(SHARES)
    for generation in (3, 5, 4):
        board.seat("cpu").offer_kept(desired(generation, "vad"))
    held = board.desired()
    assert held is not None
    assert held.generation == 5
