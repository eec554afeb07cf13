"""Where tensors lie in model files, and that no file can make us read or believe too much."""

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlplane.domain import onnx_tensors as onnx_module
from controlplane.domain import protobuf_wire
from controlplane.domain.onnx_tensors import OnnxTensors, onnx_tensors
from controlplane.domain.tensors import NotOfTheFormat, Span, in_order, safetensors_spans
from tests.unit.model_files import (
    constant,
    inner,
    message,
    node,
    number,
    onnx,
    outer,
    safetensors,
    subgraph,
    varint,
)

A, B = b"a" * 24, b"b" * 10


class Source:
    """Bytes behind a `read`, with what was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.read_bytes = 0

    def read(self, offset: int, length: int) -> bytes:
        assert offset >= 0
        assert length >= 0
        self.read_bytes += length
        return self.data[offset : offset + length]


def spans_of(data: bytes) -> tuple[Span, ...]:
    return safetensors_spans(Source(data).read, len(data))


def tensors_of(data: bytes, path: str = "model.onnx") -> OnnxTensors:
    return onnx_tensors(Source(data).read, len(data), path)


class TestSafetensors:
    def test_each_tensor_is_found_where_it_lies(self) -> None:
        data = safetensors(
            {"layer.0": ("BF16", A), "é": ("F32", B), "q": ("F8_E4M3", A)},
            metadata={"format": "pt"},
        )
        found = spans_of(data)
        assert [(span.name, span.width) for span in found] == [("layer.0", 2), ("é", 4), ("q", 1)]
        assert [data[s.offset : s.offset + s.length] for s in found] == [A, B, A]

    def test_weights_are_not_read(self) -> None:
        source = Source(safetensors({"w": ("F32", bytes(1 << 20))}))
        safetensors_spans(source.read, len(source.data))
        assert source.read_bytes < 1024

    def test_an_empty_tensor_has_no_span(self) -> None:
        assert spans_of(safetensors({"none": ("F32", b"")})) == ()

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x02",
            b"\xff" * 8 + b"{}",
            (3).to_bytes(8, "little") + b"{}",
            (1 << 40).to_bytes(8, "little") + b"{}",
            (2).to_bytes(8, "little") + b"[]",
            (2).to_bytes(8, "little") + b"\xff\xff",
            (6).to_bytes(8, "little") + b'{"a":1}'[:6],
        ],
    )
    def test_a_header_that_is_none_is_refused(self, data: bytes) -> None:
        with pytest.raises(NotOfTheFormat):
            spans_of(data)

    @pytest.mark.parametrize(
        "entry",
        [
            None,
            [],
            {},
            {"data_offsets": None},
            {"data_offsets": [0]},
            {"data_offsets": [0, 1, 2]},
            {"data_offsets": [2, 1]},
            {"data_offsets": [-1, 1]},
            {"data_offsets": [0, True]},
            {"data_offsets": [0, 1.0]},
            {"data_offsets": [0, "1"]},
        ],
        ids=str,
    )
    def test_a_tensor_without_a_place_is_refused(self, entry: object) -> None:
        header = json.dumps({"w": entry}).encode()
        with pytest.raises(NotOfTheFormat):
            spans_of(len(header).to_bytes(8, "little") + header + bytes(8))

    def test_a_header_nested_without_end_is_refused(self) -> None:
        header = b'{"w":' + b"[" * 200_000
        with pytest.raises(NotOfTheFormat):
            spans_of(len(header).to_bytes(8, "little") + header)

    def test_a_number_with_a_million_digits_is_refused(self) -> None:
        header = b'{"w":{"data_offsets":[0,' + b"9" * 1_000_000 + b"]}}"
        with pytest.raises(NotOfTheFormat):
            spans_of(len(header).to_bytes(8, "little") + header)

    def test_a_tensor_past_the_end_is_left_out(self) -> None:
        data = safetensors({"a": ("F32", A), "b": ("F32", B)})
        assert [span.name for span in spans_of(data[:-1])] == ["a"]

    @given(st.binary(max_size=300))
    def test_noise_is_refused_or_lies_inside_the_file(self, noise: bytes) -> None:
        for data in (noise, min(len(noise), 40).to_bytes(8, "little") + noise):
            try:
                found = spans_of(data)
            except NotOfTheFormat:
                continue
            assert all(span.offset + span.length <= len(data) for span in found)


class TestOnnx:
    def test_raw_data_is_found_where_it_lies(self) -> None:
        data = onnx([inner("w", A), inner("b", B, data_type=10), inner("z", A, data_type=99)])
        found = tensors_of(data).own
        assert [(span.name, span.width) for span in found] == [("w", 4), ("b", 2), ("z", 1)]
        assert [data[s.offset : s.offset + s.length] for s in found] == [A, B, A]

    def test_external_data_is_found_by_its_path_in_the_version(self) -> None:
        data = onnx(
            [
                outer("w", "weights.bin", offset=4096, length=100, data_type=16),
                outer("b", "./weights.bin", length=8),
                outer("c", "more/c.bin", offset=0, length=1),
            ]
        )
        tensors = tensors_of(data, "net/model.onnx")
        assert tensors.own == ()
        assert tensors.external == {
            "net/weights.bin": (
                Span(name="w", width=2, offset=4096, length=100),
                Span(name="b", width=4, offset=0, length=8),
            ),
            "net/more/c.bin": (Span(name="c", width=4, offset=0, length=1),),
        }

    @pytest.mark.parametrize(
        "tensor",
        [
            outer("w", "w.bin"),
            outer("w", "w.bin", length="-1"),
            outer("w", "w.bin", length="1e3"),
            outer("w", "w.bin", length="9" * 19),
            outer("w", "w.bin", length="٣"),
            outer("w", "w.bin", offset="x", length=1),
            message(5, message(8, b"typed"), message(4, bytes(8))),
        ],
    )
    def test_a_tensor_whose_bytes_have_no_place_is_left_out(self, tensor: bytes) -> None:
        assert tensors_of(onnx([tensor])) == OnnxTensors(own=(), external={})

    @pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", ""])
    def test_a_place_outside_the_version_names_no_file_of_it(self, location: str) -> None:
        (place,) = tensors_of(onnx([outer("w", location, length=1)])).external
        assert place.startswith(("..", "/")) or place == "."

    def test_constants_and_the_graphs_inside_nodes_are_walked_too(self) -> None:
        branches = [subgraph(name, [inner("w", data)]) for name, data in (("then", A), ("else", B))]
        data = onnx([constant("k", A), node("if", *branches)])
        found = tensors_of(data).own
        assert [span.name for span in found] == ["k/value/", "if/then/w", "if/else/w"]
        assert [data[s.offset : s.offset + s.length] for s in found] == [A, A, B]

    def test_graphs_in_graphs_are_walked_to_a_depth(self) -> None:
        deep = inner("w", A)
        for _ in range(onnx_module.MAX_DEPTH + 1):
            deep = node("n", subgraph("g", [deep]))
        assert tensors_of(onnx([deep])).own == ()

    def test_weights_are_stepped_over(self) -> None:
        big = bytes(1 << 20)
        source = Source(onnx([constant("k", big), inner("w", big)]))
        found = onnx_tensors(source.read, len(source.data), "model.onnx").own
        assert [span.length for span in found] == [1 << 20] * 2
        assert source.read_bytes < 64 << 10

    @pytest.mark.parametrize(
        "data",
        [
            b"\xff" * 20,
            b"\x3a",
            b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            message(7, message(5, b"\x4a\x05abc")),
            message(7, b"\x2b"),
            b"\x00\x00",
            message(7, inner("n" * 2000, A)),
        ],
    )
    def test_what_is_no_message_is_refused(self, data: bytes) -> None:
        with pytest.raises(NotOfTheFormat):
            tensors_of(data)

    def test_a_file_of_nothing_but_fields_is_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(protobuf_wire, "MAX_FIELDS", 1000)
        with pytest.raises(NotOfTheFormat, match="more than 1000 fields"):
            tensors_of(number(1, 1) * 2000)

    def test_a_file_of_nothing_but_initialisers_is_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(onnx_module, "MAX_TENSORS", 10)
        with pytest.raises(NotOfTheFormat, match="more than 10 tensors"):
            tensors_of(onnx([inner("w", A)] * 11))

    @settings(max_examples=300)
    @given(at=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 200))
    def test_a_damaged_model_is_refused_or_stays_inside_the_file(
        self, at: int, byte: int, cut: int
    ) -> None:
        data = bytearray(onnx([inner("w", A), outer("v", "w.bin", length=8), inner("b", B)]))
        data[at % len(data)] = byte
        short = bytes(data[: len(data) - cut])
        try:
            found = tensors_of(short)
        except NotOfTheFormat:
            return
        assert all(span.offset + span.length <= len(short) for span in found.own)

    @given(st.binary(max_size=200))
    def test_noise_is_refused_or_stays_inside_the_file(self, noise: bytes) -> None:
        wrapped = message(7, varint(5 << 3 | 2) + varint(len(noise)) + noise)
        for data in (noise, wrapped):
            try:
                found = tensors_of(data)
            except NotOfTheFormat:
                continue
            assert all(span.offset + span.length <= len(data) for span in found.own)


def span(offset: int, length: int, name: str = "w") -> Span:
    return Span(name=name, width=1, offset=offset, length=length)


@pytest.mark.parametrize(
    ("given_spans", "kept"),
    [
        ([span(5, 5), span(0, 5)], [(0, 5), (5, 5)]),
        ([span(0, 5, "a"), span(0, 5, "tied")], [(0, 5)]),
        ([span(0, 5), span(4, 2)], [(0, 5)]),
        ([span(0, 0), span(9, 2), span(10, 1)], []),
        ([span(0, 1, "n" * 2000)], []),
    ],
)
def test_spans_are_put_in_order_and_those_that_do_not_fit_left_out(
    given_spans: list[Span], kept: list[tuple[int, int]]
) -> None:
    assert [(s.offset, s.length) for s in in_order(given_spans, 10)] == kept


@given(st.lists(st.builds(span, st.integers(0, 100), st.integers(0, 100)), max_size=20))
def test_spans_in_order_never_overlap(spans: list[Span]) -> None:
    found = in_order(spans, 100)
    assert all(a.offset + a.length <= b.offset for a, b in pairwise(found))


def nothing(offset: int, length: int) -> bytes:
    """A file that is shorter than its row says."""
    return b""


def test_a_file_that_lost_its_bytes_is_refused() -> None:
    with pytest.raises(NotOfTheFormat):
        safetensors_spans(nothing, 100)
    with pytest.raises(NotOfTheFormat):
        onnx_tensors(nothing, 100, "model.onnx")
