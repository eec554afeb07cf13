"""`waypost golden record` and `check` against a server over real HTTP."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Ran, Waypost
from fake_kserve import FakeKserve
from waypost_cli.errors import CliError
from waypost_cli.golden_document import write_whole

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 2.0]}


@pytest.fixture
def server() -> Iterator[FakeKserve]:
    server = FakeKserve()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    path = tmp_path / "inputs.json"
    path.write_text(json.dumps([{"name": "one", "inputs": [X]}]))
    return path


def output(*data: object, datatype: str = "FP32", name: str = "y") -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": [len(data)], "data": list(data)}


def answers(server: FakeKserve, *each: list[dict[str, Any]]) -> None:
    """In turn, the last one for all that come later."""
    server.answer = lambda request, before: {"outputs": each[min(before, len(each) - 1)]}


class Record:
    def __init__(self, waypost: Waypost, server: FakeKserve, folder: Path, inputs: Path) -> None:
        self.out = folder / "golden.json"
        self._waypost = waypost
        self._always = (
            "golden", "record", "--url", server.url, "--model", "m", "--out", str(self.out),
        )  # fmt: skip
        self._inputs = inputs

    def __call__(self, *arguments: str, inputs: bool = True) -> Ran:
        given = ("--inputs", str(self._inputs)) if inputs else ()
        return self._waypost(*self._always, *given, *arguments)

    @property
    def requests(self) -> list[dict[str, Any]]:
        document = json.loads(self.out.read_text())
        assert document["schema"] == "waypost.golden/1"
        requests: list[dict[str, Any]] = document["requests"]
        return requests


@pytest.fixture
def golden(waypost: Waypost, server: FakeKserve, tmp_path: Path, inputs: Path) -> Record:
    return Record(waypost, server, tmp_path, inputs)


def test_what_the_reference_answers_is_recorded(golden: Record, server: FakeKserve) -> None:
    answers(server, [output(0.25, 1.0), output(3, datatype="INT64", name="n"),
                     output("cat", datatype="BYTES", name="label")])  # fmt: skip
    ran = golden("--output", "json")
    assert ran.exit_code == 0, ran.stderr
    assert [path for path, _ in server.asked] == ["/v2/models/m/infer"] * 3
    assert server.asked[0][1]["inputs"] == [X]
    (request,) = golden.requests
    assert (request["name"], request["inputs"]) == ("one", [X])
    assert request["outputs"] == [
        {**output(0.25, 1.0), "tolerance": {"absolute": 1e-5, "relative": 1e-3}},
        output(3, datatype="INT64", name="n"),
        output("cat", datatype="BYTES", name="label"),
    ]
    assert [each["repeats_differ_by"] for each in json.loads(ran.stdout)["outputs"]] == ["0"] * 3


def test_a_named_version_is_asked(golden: Record, server: FakeKserve) -> None:
    assert golden("--version", "7", "--repeat", "1", "--max-latency-ms", "60000").exit_code == 0
    assert [path for path, _ in server.asked] == ["/v2/models/m/versions/7/infer"]
    assert golden.requests[0]["max_latency_ms"] == 60000


@pytest.mark.parametrize(
    ("given", "recorded"),
    [
        ("y=absolute:1e-4", {"absolute": 1e-4}),
        ("y=absolute:0.1,relative:0.01", {"absolute": 0.1, "relative": 0.01}),
        ("y=cosine:0.999", {"cosine": 0.999}),
        ("y=exact", {"exact": True}),
        ("y=top_k:2", {"top_k": 2}),
    ],
)
def test_a_tolerance_that_was_asked_for(
    golden: Record, server: FakeKserve, given: str, recorded: dict[str, Any]
) -> None:
    answers(server, [output(0.25, 1.0)])
    assert golden("--tolerance", given).exit_code == 0
    assert golden.requests[0]["outputs"][0]["tolerance"] == recorded


def test_repeats_that_differ_widen_the_default(golden: Record, server: FakeKserve) -> None:
    answers(server, [output(0.0, 1.0)], [output(0.03125, 1.0)], [output(0.0, 1.0)])
    ran = golden()
    assert ran.exit_code == 0
    assert "wider as the repeats differ" in ran.stdout
    assert "0.0312 at 0" in ran.stdout
    tolerance = golden.requests[0]["outputs"][0]["tolerance"]
    assert tolerance == {"absolute": 0.07, "relative": 1e-3}


@pytest.mark.parametrize(
    ("given", "proposal"),
    [
        ("y=absolute:0.01", "absolute:0.2 would hold"),
        ("y=exact", "cosine:"),
        ("y=top_k:2", "top_k:1"),
        ("y=cosine:0.9999999", "cosine:0.9"),
    ],
)
def test_a_tolerance_tighter_than_the_repeats_is_refused_with_numbers(
    golden: Record, server: FakeKserve, given: str, proposal: str
) -> None:
    answers(server, [output(1.0, 0.5, 0.4375)], [output(1.0, 0.4375, 0.5)])
    ran = golden("--tolerance", given)
    assert ran.exit_code == 1
    assert "repeats of the reference differ by 0.0625 at 1 (0.125 relative)" in ran.stderr
    assert f"{given.removeprefix('y=')} is tighter" in ran.stderr
    assert proposal in ran.stderr
    assert not golden.out.exists()


@pytest.mark.parametrize("datatype", ["INT32", "BYTES"])
def test_whole_numbers_and_texts_that_change_are_refused(
    golden: Record, server: FakeKserve, datatype: str
) -> None:
    one, other = (1, 4) if datatype == "INT32" else ("a", "b")
    answers(server, [output(one, datatype=datatype)], [output(other, datatype=datatype)])
    ran = golden()
    assert ran.exit_code == 1
    assert ("absolute:3 would hold" if datatype == "INT32" else "--without") in ran.stderr
    assert golden("--tolerance", "y=absolute:3").exit_code == (1 if datatype == "BYTES" else 0)


def test_an_output_may_be_left_out(golden: Record, server: FakeKserve) -> None:
    answers(server, [output(1.0), output("a", datatype="BYTES", name="when")],
            [output(1.0), output("b", datatype="BYTES", name="when")])  # fmt: skip
    assert golden().exit_code == 1
    assert golden("--without", "when").exit_code == 0
    assert [each["name"] for each in golden.requests[0]["outputs"]] == ["y"]


def test_every_reason_is_told_at_once(golden: Record, server: FakeKserve) -> None:
    answers(server, [output(1.0)], [output(1.0, 2.0)])
    ran = golden("--tolerance", "z=exact", "--max-latency-ms", "0.001")
    assert ran.exit_code == 1
    assert "--tolerance names 'z'; the outputs are y" in ran.stderr
    assert "y changes its shape" in ran.stderr
    assert "--max-latency-ms is 0.001" in ran.stderr


def test_what_proves_nothing_is_refused(golden: Record, server: FakeKserve) -> None:
    answers(server, [output(0.0, 0.0)])
    assert "not all 0" in golden("--tolerance", "y=cosine:0.9").stderr
    assert "2 values to choose from" in golden("--tolerance", "y=top_k:3").stderr


def test_nothing_is_written_over_unless_told(golden: Record, server: FakeKserve) -> None:
    golden.out.write_text("mine")
    ran = golden()
    assert (ran.exit_code, golden.out.read_text(), server.asked) == (1, "mine", [])
    assert "--force" in ran.stderr
    assert golden("--force").exit_code == 0
    assert len(golden.requests) == 1
    assert sorted(path.name for path in golden.out.parent.iterdir()) == [
        "golden.json",
        "inputs.json",
    ]


def test_a_file_that_came_meanwhile_is_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "golden.json"
    path.write_bytes(b"mine")
    with pytest.raises(CliError, match="is there already"):
        write_whole(path, b"other", force=False)
    assert path.read_bytes() == b"mine"
    write_whole(path, b"other", force=True)
    assert path.read_bytes() == b"other"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CliError, match="cannot be written"):
        write_whole(tmp_path / "no" / "golden.json", b"", force=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tolerance", "y"), "names no output"),
        (("--tolerance", "y=absolute:much"), "has no number"),
        (("--tolerance", "x=ssim:1"), "exactly one of"),
        (("--tolerance", "x=absolute:-1"), "a number from 0"),
        (("--random", "2"), "inputs of one sort"),
    ],
)
def test_a_mistake_in_the_call(golden: Record, arguments: tuple[str, ...], said: str) -> None:
    ran = golden(*arguments)
    assert ran.exit_code == 1
    assert said in ran.stderr
    assert not golden.out.exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[]", "no requests"),
        ('[{"inputs": []}]', "1 to 64 tensors"),
        ("[1]", "must be an object"),
        ('[{"inputs": [{"name": "x", "datatype": "FP32", "shape": [2], "data": [1]}]}]', "holds 2"),
        ('[{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [NaN]}]}]', "NaN"),
        ('[{"inputs": [{"name": "x", "datatype": "BF16", "shape": [1]}]}]', "datatype"),
    ],
)
def test_inputs_that_cannot_be_asked(golden: Record, inputs: Path, text: str, said: str) -> None:
    inputs.write_text(text)
    ran = golden()
    assert ran.exit_code == 1
    assert said in ran.stderr


def test_a_refusal_of_the_server_is_told(golden: Record, server: FakeKserve) -> None:
    server.status = 400
    server.answer = lambda request, before: {"error": "unexpected shape for input 'x'"}
    ran = golden()
    assert ran.exit_code == 1
    assert "request 'one': the server refuses it (HTTP 400): unexpected shape" in ran.stderr


@pytest.mark.parametrize(
    "answer", [{}, {"outputs": []}, {"outputs": [1]}, {"outputs": [{**X, "data": None}]}, [1]]
)
def test_an_answer_that_is_none(golden: Record, server: FakeKserve, answer: Any) -> None:
    server.answer = lambda request, before: answer
    assert golden().exit_code == 1
    assert not golden.out.exists()


def test_nobody_answers(waypost: Waypost, inputs: Path, tmp_path: Path) -> None:
    common = ("--model", "m", "--inputs", str(inputs), "--out", str(tmp_path / "g.json"))
    ran = waypost("golden", "record", "--url", "http://127.0.0.1:9", *common)
    assert ran.exit_code == 1
    assert "give --url the HTTP address" in ran.stderr


class TestRandom:
    METADATA = {
        "inputs": [
            {"name": "x", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "n", "datatype": "INT64", "shape": [1]},
            {"name": "t", "datatype": "BYTES", "shape": [1]},
            {"name": "b", "datatype": "BOOL", "shape": [2]},
        ]
    }

    def test_a_seed_makes_the_same_inputs_again(self, golden: Record, server: FakeKserve) -> None:
        server.metadata = self.METADATA
        chosen = ("--random", "2", "--shape", "x=4,3", "--fill", "n=16000", "--force")
        made = []
        for seed in ("1", "1", "2"):
            assert golden(*chosen, "--seed", seed, inputs=False).exit_code == 0
            made.append([each["inputs"] for each in golden.requests])
        assert made[0] == made[1] != made[2]
        assert made[0][0] != made[0][1]
        x, n, t, b = made[0][0]
        assert (x["shape"], len(x["data"]), n["data"]) == ([4, 3], 12, [16000])
        assert all(-1 <= value <= 1 for value in x["data"])
        assert (len(t["data"]), len(b["data"])) == (1, 2)

    def test_an_open_size_is_one(self, golden: Record, server: FakeKserve) -> None:
        server.metadata = self.METADATA
        assert golden("--random", "1", inputs=False).exit_code == 0
        assert golden.requests[0]["inputs"][0]["shape"] == [1, 3]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--shape", "x=4,4"), "does not fit [-1, 3]"),
            (("--shape", "x=a"), "is no shape"),
            (("--shape", "z=1"), "names 'z'"),
            (("--fill", "n=much"), "no INT64 value"),
            (("--fill", "b"), "is not INPUT=VALUE"),
        ],
    )
    def test_a_mistake(
        self, golden: Record, server: FakeKserve, arguments: tuple[str, ...], said: str
    ) -> None:
        server.metadata = self.METADATA
        ran = golden("--random", "1", *arguments, inputs=False)
        assert ran.exit_code == 1
        assert said in ran.stderr

    def test_a_server_that_says_nothing(self, golden: Record) -> None:
        assert "give --inputs" in golden("--random", "1", inputs=False).stderr


class TestCheck:
    @pytest.fixture
    def recorded(self, golden: Record, server: FakeKserve) -> Path:
        answers(server, [output(0.25, 1.0), output(3, datatype="INT64", name="n")])
        assert golden("--max-latency-ms", "60000").exit_code == 0
        server.asked.clear()
        return golden.out

    def test_the_same_answers_pass(
        self, waypost: Waypost, server: FakeKserve, recorded: Path
    ) -> None:
        (recorded.parent / "config.pbtxt").write_text('name: "vad"\nbackend: "python"\n')
        ran = waypost("golden", "check", str(recorded), "--url", server.url)
        assert ran.exit_code == 0, ran.stderr
        assert "3 of 3 passed" in ran.stderr
        assert server.asked[0][0] == "/v2/models/vad/infer"

    def test_what_is_off_is_told_by_how_much(
        self, waypost: Waypost, server: FakeKserve, recorded: Path
    ) -> None:
        answers(server, [output(0.25, 1.5)])
        command = ("golden", "check", str(recorded), "--url", server.url, "--model", "m")
        ran = waypost(*command, "--output", "json")
        assert ran.exit_code == 1
        document = json.loads(ran.stdout)
        assert document["outcome"] == "fails"
        assert [each["fault"] for each in document["results"]] == [
            "is 1.5 at 1 where 1.0 was expected (1 of 2 values)",
            "is not in the answer",
            None,
        ]
        assert document["results"][0]["off_by"] == "0.5 at 1 (0.5 relative)"
        assert "FAILS" in waypost(*command).stdout
        suite = ElementTree.fromstring(waypost(*command, "--output", "junit").stdout)[0]
        assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
        assert "off by 0.5" in (suite[0][0].get("message") or "")

    def test_a_slow_answer_fails_after_three_tries(
        self, waypost: Waypost, server: FakeKserve, recorded: Path
    ) -> None:
        document = json.loads(recorded.read_text())
        document["requests"][0]["max_latency_ms"] = 0.0001
        recorded.write_text(json.dumps(document))
        ran = waypost("golden", "check", str(recorded), "--url", server.url, "--model", "m")
        assert ran.exit_code == 1
        assert "the fastest of 3" in ran.stdout
        assert len(server.asked) == 3

    def test_which_model_must_be_known(
        self, waypost: Waypost, server: FakeKserve, recorded: Path
    ) -> None:
        assert (
            "give --model" in waypost("golden", "check", str(recorded), "--url", server.url).stderr
        )
        recorded.write_text('{"schema": "other"}')
        ran = waypost("golden", "check", str(recorded), "--url", server.url, "--model", "m")
        assert "waypost.golden/1" in ran.stderr
