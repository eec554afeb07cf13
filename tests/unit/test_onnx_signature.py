"""What an ONNX model takes, gives and asks for, and that no bytes can make us believe too much."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.catalog.config_text import parse_config
from controlplane.domain.config_lint import lint
from controlplane.domain.config_view import ConfigView
from controlplane.domain.errors import InvalidInput
from controlplane.domain.onnx_config import (
    content_findings,
    generate_config,
    referenced_files,
    signature_findings,
)
from controlplane.domain.onnx_signature import OnnxSignature, OnnxTensor, read_signature
from controlplane.domain.tensors import NotOfTheFormat
from tests.unit.model_files import constant, inner, message, number, outer, subgraph
from tests.unit.onnx_models import (
    COMPLEX,
    INT64,
    STRING,
    Dims,
    function,
    model,
    operator,
    sequence_value,
    value,
)


def read(data: bytes) -> OnnxSignature:
    return read_signature(memoryview(data))


def shown(tensor: OnnxTensor) -> tuple[str, str | None, tuple[int, ...] | None, int | None]:
    return tensor.name, tensor.data_type, tensor.dims, tensor.batch_dim


class TestInputsAndOutputs:
    @pytest.mark.parametrize(
        ("dims", "found", "batch"),
        [
            (("batch", 4), (-1, 4), 0),
            ((None, 4), (-1, 4), 0),
            ((2, "N", 128), (2, -1, 128), 1),
            (("seq", "batch_size"), (-1, -1), 1),
            ((1, 4), (1, 4), None),
            ((-1, 4), (-1, 4), 0),
            ((0, 4), (-1, 4), 0),
            ((), (), None),
            (None, None, None),
        ],
    )
    def test_dims_and_the_one_that_looks_like_a_batch(
        self, dims: Dims, found: tuple[int, ...], batch: int | None
    ) -> None:
        signature = read(model(inputs=[value("x", INT64, dims)]))
        assert [shown(each) for each in signature.inputs] == [("x", "TYPE_INT64", found, batch)]

    @pytest.mark.parametrize(
        ("number", "data_type"),
        [(1, "TYPE_FP32"), (8, "TYPE_STRING"), (9, "TYPE_BOOL"), (16, "TYPE_BF16"), (17, None)],
    )
    def test_data_types(self, number: int, data_type: str | None) -> None:
        assert read(model(inputs=[value("x", number)])).inputs[0].data_type == data_type

    def test_what_is_no_tensor_says_what_it_is(self) -> None:
        (found,) = read(model(outputs=[sequence_value("probabilities")])).outputs
        assert (found.kind, found.data_type) == ("sequence", None)

    def test_an_input_with_a_value_in_the_model_is_none(self) -> None:
        data = model(inner("w", b"1234"), inputs=[value("x"), value("w")])
        assert [each.name for each in read(data).inputs] == ["x"]

    def test_a_batch_is_first_in_every_tensor_or_nowhere(self) -> None:
        assert read(model()).can_batch
        assert not read(model(outputs=[value("y", dims=(1, 2))])).can_batch


class TestOperators:
    def test_own_domains_and_those_of_functions_in_the_model_are_known(self) -> None:
        data = model(
            opsets=("", "ai.onnx.ml", "com.microsoft", "pkg.torch"),
            after=function("f", "pkg.torch", message(4, b"Relu")),
        )
        assert read(data).custom_domains == frozenset()

    @pytest.mark.parametrize(
        "data",
        [
            model(opsets=("", "ai.onnx.contrib")),
            model(after=function("f", "mine", message(4, b"Op"), opset="ai.onnx.contrib")),
        ],
    )
    def test_a_custom_domain_is_a_fault(self, data: bytes) -> None:
        signature = read(data)
        assert signature.custom_domains == {"ai.onnx.contrib"}
        found = content_findings(signature, file="model.onnx", sizes={})
        assert [each.field for each in found] == ["opset_import"]

    @pytest.mark.parametrize(
        "data",
        [
            model(operator("EPContext", domain="com.microsoft")),
            model(operator("If", subgraph("then", [operator("EPContext")]))),
            model(after=function("f", "mine", message(4, b"EPContext"))),
        ],
    )
    def test_an_engine_built_elsewhere_is_a_fault(self, data: bytes) -> None:
        found = content_findings(read(data), file="model.onnx", sizes={})
        assert [each.field for each in found] == ["graph"]


def sparse(field: int, tensor: bytes) -> bytes:
    """`tensor` is an initialiser; its bytes are those of the sparse tensor's values."""
    return message(field, message(1, tensor[2:]))


OUT = outer("w", "../../etc/passwd", offset=0, length=8)
BODY = OUT[2:]  # the tensor without its field and its length, which is under 128
HIDDEN = {
    "initialiser": model(OUT),
    "constant": model(operator("Constant", message(5, message(5, BODY)))),
    "list of tensors": model(operator("Op", message(5, message(10, BODY)))),
    "graph of a node": model(operator("If", subgraph("then", [OUT]))),
    "list of graphs": model(operator("If", message(5, message(11, OUT)))),
    "graph in a graph": model(
        operator("If", subgraph("a", [operator("If", subgraph("b", [OUT]))]))
    ),
    "sparse initialiser": model(sparse(15, OUT)),
    "sparse attribute": model(operator("Op", message(5, sparse(22, OUT)))),
    "sparse attributes": model(operator("Op", message(5, sparse(23, OUT)))),
    "function": model(after=function("f", "d", message(5, message(5, BODY)))),
    "default of a function": model(after=message(25, message(11, message(5, BODY)))),
    "training": model(after=message(20, message(1, OUT))),
}


class TestExternalData:
    @pytest.mark.parametrize("place", sorted(HIDDEN))
    def test_it_is_found_wherever_it_hides(self, place: str) -> None:
        assert len(BODY) < 128
        signature = read(HIDDEN[place])
        assert [each.location for each in signature.external] == ["../../etc/passwd"]
        (found,) = content_findings(signature, file="model.onnx", sizes={"model.onnx": 1})
        assert found.field == "external_data"

    @pytest.mark.parametrize(
        "location",
        [
            "../../etc/passwd",
            "/etc/passwd",
            "a/../../b",
            "..",
            "",
            "./w.data",
            "w.data ",
            "W\\w.data",
            "w\x00.data",
            "missing.data",
            "config.pbtxt",
            "golden.json",
            "w.data\u202e",
        ],
    )
    def test_a_location_outside_the_version_is_a_fault(self, location: str) -> None:
        sizes = {"w.data": 8, "config.pbtxt": 100, "golden.json": 100}
        found = content_findings(read(model(outer("w", location))), file="model.onnx", sizes=sizes)
        assert [each.field for each in found] == ["external_data"]

    @pytest.mark.parametrize("location", ["../w.data", "/w.data", "a/../w.data"])
    def test_it_is_no_better_where_the_manifest_has_that_name(self, location: str) -> None:
        signature = read(model(outer("w", location)))
        (found,) = content_findings(signature, file="model.onnx", sizes={location: 8})
        assert "outside the version" in found.message

    def test_a_file_of_the_version_is_right(self) -> None:
        signature = read(model(outer("w", "w.data", offset=4, length=4)))
        assert content_findings(signature, file="model.onnx", sizes={"w.data": 8}) == ()
        assert referenced_files(signature, "model.onnx") == {"w.data"}

    def test_it_is_relative_to_the_models_folder(self) -> None:
        signature = read(model(outer("w", "w.data")))
        sizes = {"model.onnx/w.data": 1}
        assert content_findings(signature, file="model.onnx/model.onnx", sizes=sizes) == ()
        assert content_findings(signature, file="model.onnx", sizes=sizes) != ()

    @pytest.mark.parametrize(("offset", "length"), [(4, 5), (9, 0), ("x", 1), (0, "-1")])
    def test_weights_lie_inside_their_file(self, offset: object, length: object) -> None:
        signature = read(model(outer("w", "w.data", offset=offset, length=length)))
        found = content_findings(signature, file="model.onnx", sizes={"w.data": 8})
        assert [each.field for each in found] == ["external_data"]

    def test_of_two_locations_each_is_judged(self) -> None:
        entry = message(13, message(1, b"location"), message(2, b"/etc/passwd"))
        twice = message(5, BODY.replace(b"../../etc/passwd", b"w.data__________"), entry)
        locations = {each.location for each in read(model(twice)).external}
        assert "/etc/passwd" in locations


class TestWhatIsNoModel:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00cposix\nsystem\n.",
            b"\x7fELF\x02\x01\x01",
            b"PK\x03\x04\x14\x00",
            b"<?xml version='1.0'?>",
            b"{}",
            b"\x00" * 64,
            model()[:-1],
            model()[:10],
            model()[2:],
            number(1, 8),
            number(1, 8) + message(8, number(2, 17)),
            model() + message(7),
            model() + b"\x0b",
            model(inputs=[value("x"), value("x", INT64)]),
            model(message(1, message(4, b"If")) * 2, after=b"\xff"),
        ],
    )
    def test_it_is_told(self, data: bytes) -> None:
        with pytest.raises(NotOfTheFormat):
            read(data)

    def test_graphs_in_graphs_have_an_end(self) -> None:
        graph = operator("If")
        for _ in range(200):
            graph = operator("If", message(5, message(6, graph)))
        with pytest.raises(NotOfTheFormat, match="nested"):
            read(model(graph))

    @pytest.mark.parametrize("cut", range(1, len(model(inner("w", b"12345678"))), 7))
    def test_a_model_cut_anywhere_is_none(self, cut: int) -> None:
        whole = model(inner("w", b"12345678"))
        with pytest.raises(NotOfTheFormat):
            read(whole[:cut])

    @given(st.binary(max_size=400))
    @settings(max_examples=300)
    def test_arbitrary_bytes_raise_nothing_else(self, data: bytes) -> None:
        with contextlib.suppress(NotOfTheFormat):
            read(data)

    @given(st.sampled_from(sorted(HIDDEN)), st.integers(0, 400), st.binary(max_size=6))
    @settings(max_examples=300)
    def test_a_changed_model_raises_nothing_else(self, which: str, at: int, put: bytes) -> None:
        data = HIDDEN[which]
        try:
            signature = read(data[:at] + put + data[at + len(put) :])
        except NotOfTheFormat:
            return
        content_findings(signature, file="model.onnx", sizes={})


def test_weights_are_stepped_over() -> None:
    """The reader slices the view; a slice over the weights would be as long as they are."""
    data = model(inner("w", bytes(4 << 20)))

    class Counting:
        read_bytes = 0

        def __len__(self) -> int:
            return len(data)

        def __getitem__(self, part: slice) -> bytes:
            found = data[part]
            self.read_bytes += len(found)
            return found

    counting = Counting()
    read_signature(counting)  # type: ignore[arg-type]  # all that it asks of a memoryview
    assert counting.read_bytes < 64 << 10


class TestTheConfigurationMadeOfIt:
    @pytest.mark.parametrize(
        ("data", "batch"),
        [
            (model(), 0),
            (model(), 16),
            (model(inputs=[value("a:0", INT64, ()), value('q"\\é', STRING, (3,))]), 0),
            (model(inputs=[value("x", dims=("batch",))]), 8),
            (model(inputs=[value(f"in.{n}", dims=("b", None, 7)) for n in range(40)]), 4),
        ],
    )
    def test_triton_parses_it_and_the_rules_accept_it(self, data: bytes, batch: int) -> None:
        signature = read(data)
        view = self.parsed(generate_config("m", signature, batch))
        files = {"model.onnx"}
        assert lint(view, model_name="m", paths=files, known_models=frozenset()) == ()
        assert signature_findings(view, signature, file="model.onnx") == ()
        assert (view.name, view.backend, view.max_batch_size) == ("m", "onnxruntime", batch)
        assert [each.name for each in view.inputs] == [each.name for each in signature.inputs]

    def test_another_file_is_named(self) -> None:
        text = generate_config("m", read(model()), file="net.onnx")
        assert self.parsed(text).default_model_filename == "net.onnx"

    def test_a_scalar_is_fed_as_one_value(self) -> None:
        view = self.parsed(generate_config("m", read(model(inputs=[value("sr", INT64, ())]))))
        assert (view.inputs[0].dims, view.inputs[0].reshape) == ((1,), None)

    def test_a_batch_of_single_numbers_is_reshaped(self) -> None:
        data = model(inputs=[value("x", dims=("batch",))])
        view = self.parsed(generate_config("m", read(data), 8))
        assert (view.inputs[0].dims, view.inputs[0].reshape) == ((1,), ())

    @pytest.mark.parametrize(
        ("data", "batch"),
        [
            (model(outputs=[sequence_value("p")]), 0),
            (model(inputs=[value("x", COMPLEX)]), 0),
            (model(inputs=[value("x", dims=None)]), 0),
            (model(inputs=[value("x", dims=(1, 4))]), 8),
            (model(inputs=[value("a\nb")]), 0),
            (model(inputs=[]), 0),
        ],
    )
    def test_what_triton_cannot_carry_has_none(self, data: bytes, batch: int) -> None:
        with pytest.raises(InvalidInput) as caught:
            generate_config("m", read(data), batch)
        assert caught.value.code == "config-not-derivable"
        assert caught.value.errors

    @staticmethod
    def parsed(text: str) -> ConfigView:
        found = parse_config(text)
        assert found.findings == ()
        assert found.view is not None
        return found.view


class TestAConfigurationBesideIt:
    OUTPUT = 'output { name: "y" data_type: TYPE_FP32 dims: [ -1, 4 ] }\n'

    def judge(self, inputs: str, more: str = "", data: bytes = b"") -> list[str]:
        view = parse_config(f'backend: "onnxruntime"\n{self.OUTPUT}{inputs}{more}').view
        assert view is not None
        found = signature_findings(view, read(data or model()), file="model.onnx")
        return [each.field for each in found]

    @pytest.mark.parametrize(
        ("inputs", "fields"),
        [
            ('input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }', []),
            ('input { name: "x" data_type: TYPE_FP32 dims: [ 1, 4 ] }', []),
            (
                'input { name: "x" data_type: TYPE_FP32 dims: 16 reshape { shape: [ 4, 4 ] } }',
                [],
            ),
            ('input { name: "z" data_type: TYPE_FP32 dims: [ -1, 4 ] }', ["input.name", "input"]),
            ('input { name: "x" data_type: TYPE_INT64 dims: [ -1, 4 ] }', ["input.data_type"]),
            ('input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }', ["input.dims"]),
            ('input { name: "x" data_type: TYPE_FP32 dims: [ -1, 5 ] }', ["input.dims"]),
            ('input { name: "x" data_type: TYPE_FP32 dims: [ -1, -1 ] }', ["input.dims"]),
        ],
    )
    def test_names_types_and_dims_agree(self, inputs: str, fields: list[str]) -> None:
        assert self.judge(inputs) == fields

    def test_a_batch_needs_a_first_dimension_of_any_size(self) -> None:
        data = model(inputs=[value("x", dims=(1, 4))], outputs=[value("y", dims=("b", -1, 4))])
        inputs = 'input { name: "x" data_type: TYPE_FP32 dims: [ 4 ] }'
        assert self.judge(inputs, "max_batch_size: 8", data) == ["max_batch_size"]

    def test_what_is_no_tensor_is_told_at_the_model(self) -> None:
        inputs = 'input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }'
        data = model(outputs=[value("y"), sequence_value("p")])
        assert self.judge(inputs, "", data) == ["output p"]


def test_the_models_of_the_other_tests_are_read() -> None:
    assert read(model(constant("c", b"1234"))).external == ()
