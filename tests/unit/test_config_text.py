"""What can be read of a config.pbtxt, and that each field is found at its line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.catalog.config_text import MAX_CONFIG_BYTES, ParsedConfig, parse_config
from controlplane.catalog.text_positions import marks
from controlplane.domain.config_view import ConfigView, Parameter, TensorConfig
from controlplane.domain.findings import Level

WHOLE = """\
# A comment: { name: "not this" }
name: "vad"
platform: 'onnxruntime_onnx'; max_batch_size: 8
default_model_filename: "vad.onnx"
input [
  { name: "a" data_type: TYPE_FP32 dims: [ -1,
      576 ] },
  { name: "b"
    data_type: TYPE_INT64
    dims: 1
    dims: 2 reshape { shape: [ ] } optional: true }
]
output { name: "c" data_type: TYPE_STRING dims: [ 1 ] label_filename: "labels.txt" }
instance_group < count: 2
  kind: KIND_GPU gpus: [ 0, 1 ] >
parameters { key: "B" value { string_value: "two" } }
parameters [
  { key: "A"
    value { string_value: "o" "ne" } }
]
optimization { execution_accelerators {
  gpu_execution_accelerator [ { name: "cuda"
    parameters { key: "use_tf32"
      value: "1" } } ] } }
model_warmup {
  name: "w" batch_size: 2
  inputs { key: "a" value { data_type: TYPE_FP32 dims: [ 3, 4 ]
    input_data_file: "raw.bin" } }
}
dynamic_batching {
  max_queue_delay_microseconds: 100 }
"""


def read(text: str | bytes) -> ConfigView:
    parsed = parse_config(text)
    assert parsed.findings == ()
    assert parsed.view is not None
    return parsed.view


def only(parsed: ParsedConfig) -> str:
    (found,) = parsed.findings
    assert found.level is Level.FAULT
    assert found.file == "config.pbtxt"
    assert found.message
    assert found.cure
    return found.place


class TestWhatIsRead:
    def test_the_scalars(self) -> None:
        view = read(WHOLE)
        assert (view.name, view.platform, view.backend) == ("vad", "onnxruntime_onnx", "")
        assert (view.max_batch_size, view.default_model_filename) == (8, "vad.onnx")

    def test_tensors_in_their_order(self) -> None:
        assert read(WHOLE).inputs == (
            TensorConfig(place="input[0]", name="a", data_type="TYPE_FP32", dims=(-1, 576)),
            TensorConfig(
                place="input[1]",
                name="b",
                data_type="TYPE_INT64",
                dims=(1, 2),
                reshape=(),
                optional=True,
            ),
        )

    def test_a_map_in_the_order_of_its_keys_each_where_it_stands(self) -> None:
        assert read(WHOLE).parameters == (
            Parameter(place="parameters[1]", key="A", value="one"),
            Parameter(place="parameters[0]", key="B", value="two"),
        )

    def test_files_accelerators_and_warm_up(self) -> None:
        view = read(WHOLE)
        assert [(each.folder, each.path) for each in view.files] == [
            ("", "labels.txt"),
            ("warmup", "raw.bin"),
        ]
        assert [each.name for each in view.accelerators] == ["cuda"]
        assert [each.values for each in view.warmups] == [24]
        assert view.queue_delays == (("dynamic_batching.max_queue_delay_microseconds", 100),)

    @pytest.mark.parametrize(
        ("place", "line"),
        [
            ("name", 2),
            ("max_batch_size", 3),
            ("input[0]", 6),
            ("input[0].dims[1]", 7),
            ("input[1].dims", 10),
            ("input[1].dims[1]", 11),
            ("input[1].reshape.shape", 11),
            ("output[0].label_filename", 13),
            ("instance_group[0].count", 14),
            ("instance_group[0].kind", 15),
            ("parameters[0]", 16),
            ("parameters[1]", 18),
            ("optimization.execution_accelerators.gpu_execution_accelerator[0].name", 22),
            ("model_warmup[0].inputs[0].value.input_data_file", 28),
            ("dynamic_batching.max_queue_delay_microseconds", 31),
            ("dynamic_batching.preserve_ordering", 30),
            ("runtime", None),
        ],
    )
    def test_each_field_has_its_line(self, place: str, line: int | None) -> None:
        assert read(WHOLE).line(place) == line

    def test_the_places_of_the_view_are_places_of_the_text(self) -> None:
        view = read(WHOLE)
        places = [each.place for each in (*view.inputs, *view.parameters, *view.files)]
        places += [each.place for a in view.accelerators for each in (a, *a.parameters)]
        assert [place for place in places if place not in view.lines] == []

    def test_windows_line_ends_count_as_one(self) -> None:
        assert read(WHOLE.replace("\n", "\r\n")).line("dynamic_batching") == 30


class TestWhatCannotBeRead:
    def test_every_unknown_field_is_told_with_line_and_cure_and_the_rest_is_read(self) -> None:
        text = 'name: "a"\ninstance_group [ { cnt: 1 } ]\nbackendd: "x"\nqqq { name { a: 1 } }'
        parsed = parse_config(text)
        assert [each.place for each in parsed.findings] == [
            "config.pbtxt:2 instance_group.cnt",
            "config.pbtxt:3 backendd",
            "config.pbtxt:4 qqq",
        ]
        assert [each.cure.split(";")[0] for each in parsed.findings] == [
            "Write count",
            "Write backend",
            "Leave it out",
        ]
        assert parsed.view is not None
        assert parsed.view.name == "a"

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ('name: "a"\nname: "b"', "config.pbtxt:2"),
            ("name: \n\n5", "config.pbtxt:3"),
            ('max_batch_size: "8"', "config.pbtxt:1"),
            ("max_batch_size: 99999999999", "config.pbtxt:1"),
            ("input {\n data_type: TYPE_FLOAT }", "config.pbtxt:2"),
            ("input [ {", "config.pbtxt:1"),
            ('name: "a\n"', "config.pbtxt:1"),
            ('name: "\\ud800"', "config.pbtxt:1"),
            ('name: "\\377"', "config.pbtxt:1"),
            (b'\n\nname: "\xff"', "config.pbtxt:3"),
            ("}\n" * 5, "config.pbtxt:1"),
            ('{"name": "a"}', "config.pbtxt:1"),
            ("\n" + "a {" * 10_000, "config.pbtxt:2"),
            ("#" * (MAX_CONFIG_BYTES + 1), "config.pbtxt"),
            (b"\x80\x04\x95", "config.pbtxt:1"),
        ],
    )
    def test_it_is_a_finding_with_its_line(self, text: str | bytes, place: str) -> None:
        assert only(parse_config(text)) == place

    def test_an_extension_is_no_field(self) -> None:
        parsed = parse_config("[type.googleapis.com/google.protobuf.Any] { value: 1 }")
        assert parsed.findings[0].place.startswith("config.pbtxt:1 [type.googleapis.com/")

    def test_a_lone_surrogate_is_no_utf_8(self) -> None:
        assert only(parse_config('name: "\ud800"')) == "config.pbtxt:1"


@given(st.one_of(st.text(), st.binary(), st.text(alphabet="{}[]<>:\"',;# \nname1")))
def test_whatever_comes_is_read_or_found_wrong(text: str | bytes) -> None:
    parsed = parse_config(text)
    assert parsed.view is not None or parsed.findings


@given(st.text(alphabet="{}[]<>:\"',;# \nab", max_size=60))
def test_marks_are_in_order_of_their_lines_and_inside_the_text(text: str) -> None:
    lines = [mark.line for mark in marks(text)]
    assert all(1 <= line <= text.count("\n") + 1 for line in lines)
