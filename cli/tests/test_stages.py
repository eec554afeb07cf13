"""The grammars of stages, durations and labels."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waypost_cli.durations import format_seconds, parse_seconds
from waypost_cli.errors import CliError
from waypost_cli.labels import parse_labels
from waypost_cli.stages import parse_stage, plan_from_options, read_stages_file


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        (
            "canary tier=edge soak=30s",
            {"name": "canary", "select": {"tier": "edge"}, "soak_seconds": 30},
        ),
        ("rest", {"name": "rest", "select": {}, "soak_seconds": 60}),
        (
            "half percent=50% label.ring=0 label.rack='row 4'",
            {
                "name": "half",
                "select": {"percent": 50, "labels": {"ring": "0", "rack": "row 4"}},
                "soak_seconds": 60,
            },
        ),
        (
            "each per=region count=2 region=eu hardware=L4",
            {
                "name": "each",
                "select": {"per": "region", "count": 2, "region": "eu", "hardware": "L4"},
                "soak_seconds": 60,
            },
        ),
        (
            "two sites=edge-1,edge-2 soak=0",
            {"name": "two", "select": {"sites": ["edge-1", "edge-2"]}, "soak_seconds": 0},
        ),
    ],
)
def test_a_stage_is_read_into_the_form_of_the_api(text: str, stage: dict[str, object]) -> None:
    assert parse_stage(text) == stage


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "does not begin with a name"),
        ("tier=edge", "does not begin with a name"),
        ("Canary tier=edge", "does not begin with a name"),
        ("canary edge", "'edge', which is not key=value"),
        ("canary tier=", "'tier=', which is not key=value"),
        ("canary teir=edge", "unknown key 'teir'"),
        ("canary tier=edge tier=regional", "gives tier twice"),
        ("canary soak=1s soak=2s", "gives soak twice"),
        ("canary label.a=1 label.a=2", "gives label.a twice"),
        ("canary label.=1", "label without a key"),
        ("canary percent=0", "percent=0"),
        ("canary percent=101", "percent=101"),
        ("canary percent=ten", "percent=ten"),
        ("canary count=0", "count=0"),
        ("canary count=many", "count=many"),
        ("canary soak=soon", "'soon' is not a duration"),
        ("canary sites=a,,b", "empty name"),
        ("canary label.a='x", "cannot be read"),
    ],
)
def test_a_stage_that_cannot_be_read_is_named_with_its_fault(text: str, says: str) -> None:
    with pytest.raises(CliError) as caught:
        parse_stage(text)

    assert says in caught.value.message


def test_a_stages_file_is_a_list_or_an_object_with_one(tmp_path: Path) -> None:
    stages = [{"name": "canary", "select": {"tier": "edge"}, "soak_seconds": 30}]
    path = tmp_path / "stages.json"
    for document in (stages, {"stages": stages}):
        path.write_text(json.dumps(document))
        assert read_stages_file(path) == stages


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no list of stages"),
        ('{"stages": 3}', "holds no list of stages"),
        ("[1]", "stage 1 in"),
        ('[{"name": "a"}, {"select": {}}]', "stage 2 in"),
    ],
)
def test_a_stages_file_that_cannot_be_used_is_named(
    tmp_path: Path, content: str, says: str
) -> None:
    path = tmp_path / "stages.json"
    path.write_text(content)

    with pytest.raises(CliError) as caught:
        read_stages_file(path)

    assert says in caught.value.message


def test_a_stages_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CliError, match="No such file"):
        read_stages_file(tmp_path / "none.json")


def test_a_plan_comes_from_one_place(tmp_path: Path) -> None:
    assert plan_from_options([], None) is None
    with pytest.raises(CliError, match="both given"):
        plan_from_options(["canary"], tmp_path / "stages.json")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("45", 45), ("30s", 30), ("10m", 600), ("1h30m", 5400), ("2d", 172800), ("0s", 0)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: int) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "10x", "-5s", "1.5h", "5m1h", "10 m", "٣s"])
def test_a_duration_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(CliError, match="is not a duration"):
        parse_seconds(text)


@given(st.integers(min_value=0, max_value=10**7))
def test_a_formatted_duration_reads_back_as_the_same_seconds(seconds: int) -> None:
    assert parse_seconds(format_seconds(seconds)) == seconds


def test_a_label_may_hold_an_equals_sign_and_be_empty() -> None:
    assert parse_labels(["query=a=b", "flag="]) == {"query": "a=b", "flag": ""}
    with pytest.raises(CliError, match="is not key=value"):
        parse_labels(["=x"])
