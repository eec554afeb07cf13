"""Each rule on golden.json: its form, its bounds, its tolerances, and what it says of tensors."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain import golden_document
from controlplane.domain.config_view import ConfigView, TensorConfig
from controlplane.domain.golden_document import golden_findings
from controlplane.domain.golden_tolerance import tolerance_faults


def tensor(
    name: str = "x", datatype: str = "FP32", shape: Any = (1, 2), data: Any = (0.5, 1)
) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": list(data)}


def request(**more: Any) -> dict[str, Any]:
    return {"name": "one", "inputs": [tensor()], "outputs": [tensor("y")], **more}


def document(*requests: Any, schema: str = "waypost.golden/1") -> dict[str, Any]:
    return {"schema": schema, "requests": list(requests or [request()])}


VIEW = ConfigView(
    inputs=(TensorConfig(place="input[0]", name="x", data_type="TYPE_FP32", dims=(-1, 2)),),
    outputs=(TensorConfig(place="output[0]", name="y", data_type="TYPE_FP32", dims=(1, 2)),),
)


def fields(golden: Any, view: ConfigView | None = VIEW) -> list[str]:
    body = golden if isinstance(golden, str | bytes) else json.dumps(golden)
    found = golden_findings(body, view)
    assert all(each.file == "golden.json" and each.message and each.cure for each in found)
    return [each.field for each in found]


class TestForm:
    @pytest.mark.parametrize(
        "golden",
        [
            document(),
            document(request(max_latency_ms=5)),
            document(request(), request(name="two")),
            document(request(inputs=[tensor(shape=(3, 2), data=range(6))])),
            document(request(outputs=[tensor("y", data=("NaN", "-Infinity"))])),
        ],
    )
    def test_what_is_right_has_no_findings(self, golden: Any) -> None:
        assert fields(golden) == []

    @pytest.mark.parametrize(
        ("golden", "field"),
        [
            ("", ""),
            ("{", ""),
            (b"\xff", ""),
            (b"\x80\x04\x95", ""),
            ('{"schema": 1, "schema": 2}', ""),
            ('{"schema": NaN}', ""),
            ("[" * 100_000, ""),
            ("1" * 5000, ""),
            ("[]", "schema"),
            (document(schema="waypost.golden/2"), "schema"),
            ({"schema": "waypost.golden/1"}, "requests"),
            ({"schema": "waypost.golden/1", "requests": []}, "requests"),
            (document(*[request()] * 257), "requests"),
            (document([]), "requests[0]"),
            (document(request(name="")), "requests[0].name"),
            (document(request(name="a\nb")), "requests[0].name"),
            (document(request(name="n" * 257)), "requests[0].name"),
            (document(request(max_latency_ms=0)), "requests[0].max_latency_ms"),
            (document(request(max_latency_ms=True)), "requests[0].max_latency_ms"),
            (document(request(max_latency_ms=10**400)), "requests[0].max_latency_ms"),
            (document(request(inputs=[])), "requests[0].inputs"),
            (document(request(outputs={})), "requests[0].outputs"),
            (document(request(inputs=[tensor()] * 65)), "requests[0].inputs"),
            (document(request(inputs=["x"])), "requests[0].inputs[0]"),
            (document(request(inputs=[tensor("a\nb")])), "requests[0].inputs[0].name"),
            (document(request(inputs=[tensor(), tensor()])), "requests[0].inputs[1]"),
            (
                document(request(), request(inputs=[tensor(datatype="BF16")])),
                "requests[1].inputs[0].datatype",
            ),
            (document(request(inputs=[tensor(shape=(1, -2))])), "requests[0].inputs[0].shape"),
            (document(request(inputs=[tensor(shape=(True, 2))])), "requests[0].inputs[0].shape"),
            (document(request(inputs=[tensor(shape=[1] * 17)])), "requests[0].inputs[0].shape"),
            (document(request(inputs=[tensor(shape=(3, 2))])), "requests[0].inputs[0].data"),
            (document(request(inputs=[tensor(shape=[10**15])])), "requests[0].inputs[0].shape"),
        ],
    )
    def test_each_fault_is_told_at_its_place(self, golden: Any, field: str) -> None:
        assert fields(golden)[0] == field

    def test_a_json_error_has_its_line(self) -> None:
        (found,) = golden_findings('{\n"schema": "x"\n"requests"', None)
        assert (found.place, found.line) == ("golden.json:3", 3)

    def test_an_unhashable_type_is_a_fault(self) -> None:
        bad = {**tensor(), "datatype": ["FP32"]}
        assert fields(document(request(inputs=[bad])))[0] == "requests[0].inputs[0].datatype"

    @pytest.mark.parametrize(
        ("datatype", "right", "wrong"),
        [
            ("BOOL", [True, False], [1, "true", None]),
            ("INT8", [-128, 127], [128, -129, 1.0, True, "1"]),
            ("UINT64", [0, 2**64 - 1], [-1, 2**64]),
            ("FP16", [65504, -0.5, "NaN"], [65505, "nan", None]),
            ("FP32", [3.4e38, "Infinity"], [3.5e38, 10**400, True]),
            ("FP64", [1.7e308, "-Infinity"], [10**309, [1.0]]),
            ("BYTES", ["", "é"], [1, None, "\ud800"]),
        ],
    )
    def test_values_fit_their_type(self, datatype: str, right: Any, wrong: Any) -> None:
        for value in right:
            assert (
                fields(document(request(inputs=[tensor("x", datatype, (1,), [value])])), None) == []
            )
        for value in wrong:
            golden = document(request(inputs=[tensor("x", datatype, (1,), [value])]))
            assert fields(golden, None) == ["requests[0].inputs[0].data"]

    def test_1e999_is_no_number(self) -> None:
        text = json.dumps(document()).replace("0.5", "1e999")
        assert "requests[0].inputs[0].data" in fields(text)

    def test_bytes_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(golden_document, "MAX_TENSOR_BYTES", 15)
        assert fields(document()) == ["requests"]
        monkeypatch.setattr(golden_document, "MAX_GOLDEN_BYTES", 15)
        assert fields(document()) == [""]

    def test_faults_are_counted_to_a_bound(self) -> None:
        assert len(fields(document(*[{}] * 256))) == golden_document.MAX_FAULTS


class TestAgainstTheConfiguration:
    @pytest.mark.parametrize(
        ("golden", "field"),
        [
            (document(request(inputs=[tensor("z"), tensor()])), "requests[0].inputs[0].name"),
            (document(request(outputs=[tensor("x")])), "requests[0].outputs[0].name"),
            (
                document(request(inputs=[tensor(datatype="FP64")])),
                "requests[0].inputs[0].datatype",
            ),
            (
                document(request(inputs=[tensor(shape=(2,))])),
                "requests[0].inputs[0].shape",
            ),
            (
                document(request(outputs=[tensor("y", shape=(2, 1))])),
                "requests[0].outputs[0].shape",
            ),
        ],
    )
    def test_what_it_does_not_state_is_a_fault(self, golden: Any, field: str) -> None:
        assert fields(golden) == [field]
        assert fields(golden, None) == []

    def test_every_input_that_is_not_optional_is_given(self) -> None:
        more = TensorConfig(place="input[1]", name="more", data_type="TYPE_BOOL", dims=(1,))
        view = ConfigView(inputs=(*VIEW.inputs, more), outputs=VIEW.outputs)
        assert fields(document(), view) == ["requests[0].inputs"]
        free = TensorConfig(place="", name="more", data_type="TYPE_BOOL", dims=(1,), optional=True)
        view = ConfigView(inputs=(*VIEW.inputs, free), outputs=VIEW.outputs)
        assert fields(document(), view) == []

    def test_an_output_may_be_left_out(self) -> None:
        more = TensorConfig(place="output[1]", name="more", data_type="TYPE_BOOL", dims=(1,))
        view = ConfigView(inputs=VIEW.inputs, outputs=(*VIEW.outputs, more))
        assert fields(document(), view) == []

    @pytest.mark.parametrize(
        ("shape", "right"), [((1, 2), True), ((4, 2), True), ((5, 2), False), ((2,), False)]
    )
    def test_with_a_batch_it_comes_first(self, shape: tuple[int, ...], right: bool) -> None:
        view = ConfigView(
            max_batch_size=4,
            inputs=(TensorConfig(place="", name="x", data_type="TYPE_STRING", dims=(2,)),),
        )
        count = 2 if len(shape) == 1 else shape[0] * 2
        x = tensor("x", "BYTES", shape, ["a"] * count)
        assert (fields(document(request(inputs=[x])), view) == []) is right

    @pytest.mark.parametrize(("batch", "dims"), [(0, (1, 2)), (4, (2,))])
    @pytest.mark.parametrize(
        ("shape", "right"), [((1, 2), True), ((7, 2), True), ((7, 3), False), ((2,), False)]
    )
    def test_all_responses_of_a_decoupled_model_lie_along_the_first_axis(
        self, batch: int, dims: tuple[int, ...], shape: tuple[int, ...], right: bool
    ) -> None:
        view = ConfigView(
            is_decoupled=True,
            max_batch_size=batch,
            outputs=(TensorConfig(place="", name="y", data_type="TYPE_FP32", dims=dims),),
        )
        y = tensor("y", shape=shape, data=range(math.prod(shape)))
        assert (fields(document(request(outputs=[y])), view) == []) is right


def tolerance(value: object, **more: Any) -> list[str]:
    given = {"datatype": "FP32", "shape": [2, 3], "values": [1, 2, 3, 4, 5, 6.5], **more}
    return list(tolerance_faults(value, **given))


class TestTolerance:
    @pytest.mark.parametrize(
        "value",
        [
            {},
            {"absolute": 0.1},
            {"relative": 1e-3},
            {"absolute": 0, "relative": 0.5},
            {"cosine": 0.999},
            {"cosine": 1},
            {"exact": True},
            {"top_k": 1},
            {"top_k": 3},
        ],
    )
    def test_one_kind_is_right(self, value: object) -> None:
        assert tolerance(value) == []

    @pytest.mark.parametrize(
        "value",
        [
            None,
            0.1,
            [],
            {"absolute": -1},
            {"absolute": "0.1"},
            {"absolute": True},
            {"relative": None},
            {"absolute": 10**400},
            {"absolute": float("nan")},
            {"absolute": float("inf")},
            {"cosine": 0},
            {"cosine": 1.01},
            {"cosine": True},
            {"cosine": float("nan")},
            {"exact": False},
            {"exact": 1},
            {"top_k": 0},
            {"top_k": 4},
            {"top_k": 1001},
            {"top_k": 2.0},
            {"top_k": True},
            {"absolut": 0.1},
            {"absolute": 0.1, "cosine": 0.9},
            {"exact": True, "relative": 0},
            {"top_k": 2, "cosine": 0.9},
            {"top_k": 2, "exact": True},
        ],
    )
    def test_anything_else_is_refused(self, value: object) -> None:
        assert len(tolerance(value)) == 1

    @pytest.mark.parametrize("datatype", ["BYTES", "BOOL"])
    @pytest.mark.parametrize("kind", ["absolute", "relative", "cosine", "top_k"])
    def test_what_is_equal_or_not_has_no_distance(self, datatype: str, kind: str) -> None:
        values = ["a"] * 6 if datatype == "BYTES" else [True] * 6
        assert len(tolerance({kind: 1}, datatype=datatype, values=values)) == 1
        assert tolerance({"exact": True}, datatype=datatype, values=values) == []

    @pytest.mark.parametrize(
        ("shape", "values"),
        [([1], [3.0]), ([2], [0, 0]), ([0], []), ([2], [1, "NaN"]), ([2], [1, "Infinity"])],
    )
    def test_a_cosine_needs_a_direction(self, shape: list[int], values: list[object]) -> None:
        assert len(tolerance({"cosine": 0.9}, shape=shape, values=values)) == 1

    @pytest.mark.parametrize(
        ("shape", "values"), [([], [1]), ([2, 0], []), ([0, 3], []), ([2], [1, "NaN"])]
    )
    def test_top_k_needs_values_to_rank(self, shape: list[int], values: list[object]) -> None:
        assert len(tolerance({"top_k": 1}, shape=shape, values=values)) == 1

    def test_an_infinity_can_be_ranked(self) -> None:
        assert tolerance({"top_k": 1}, shape=[2], values=["-Infinity", 0.5]) == []

    def test_it_is_told_at_its_output(self) -> None:
        bad = {**tensor("y"), "tolerance": {"top_k": 3}}
        assert fields(document(request(outputs=[bad]))) == ["requests[0].outputs[0].tolerance"]


CASES = json.loads(
    (Path(__file__).resolve().parents[2] / "docs/protocol/golden-tolerances.json").read_text()
)["cases"]
# An agent judges these documents; they are refused at the push, since they prove nothing.
PROVE_NOTHING = {
    "cosine: both zero",
    "cosine: both empty",
    "cosine: the expected one is zero",
    "cosine: not-a-number in both",
    "cosine: an infinity in both",
    "top_k: not-a-number in both",
    "top_k: no rows",
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_what_agents_call_invalid_is_refused_and_what_they_can_use_is_not(case: Any) -> None:
    refused = case["outcome"] == "invalid" or case["name"] in PROVE_NOTHING
    assert (fields(case["document"], None) != []) is refused


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["name", "inputs", "outputs", "datatype", "shape", "data", "tolerance", "top_k"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@given(st.lists(JSON, max_size=3))
def test_whatever_comes_is_judged(requests: list[Any]) -> None:
    golden_findings(json.dumps({"schema": "waypost.golden/1", "requests": requests}), VIEW)
    golden_findings(json.dumps(requests).encode(), None)


@given(st.binary() | st.text())
def test_any_bytes_are_judged(body: bytes | str) -> None:
    assert golden_findings(body, None)
