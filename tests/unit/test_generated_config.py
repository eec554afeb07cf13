"""`waypost push --generate-config` writes word for word what the control plane would, though they
share no code; and what is no ONNX model is told, whatever the bytes are."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from waypost_cli.errors import CliError
from waypost_cli.onnx_config import config_of, write_config

from controlplane.catalog.validation import config_from_onnx
from controlplane.domain.errors import InvalidInput
from tests.unit.model_files import inner
from tests.unit.test_onnx_signature import (
    COMPLEX,
    INT64,
    STRING,
    model,
    sequence_value,
    sparse,
    value,
)

MODELS = {
    "plain": model(),
    "scalars and quotes": model(
        inputs=[value("a:0", INT64, ()), value('q"\\é', STRING, (3,))],
    ),
    "a batch": model(inputs=[value("x", dims=("batch",))]),
    "many": model(inputs=[value(f"in.{n}", dims=("b", None, 7)) for n in range(40)]),
    "a weight among the inputs": model(
        inner("w", bytes(64)), inputs=[value("x"), value("w", dims=(4, 4))]
    ),
    "a sparse weight among the inputs": model(
        sparse(15, inner("w", bytes(8))[1:]), inputs=[value("x"), value("w")]
    ),
    "a sequence": model(outputs=[sequence_value("p")]),
    "a complex number": model(inputs=[value("x", COMPLEX)]),
    "no dimensions": model(inputs=[value("x", dims=None)]),
    "no name": model(inputs=[value("")]),
    "no inputs": model(inputs=[]),
}


def of_the_centre(data: bytes, batch: int) -> str | None:
    """None where it makes none."""
    try:
        return config_from_onnx(data, model_name="vad", max_batch_size=batch, file="net.onnx")
    except InvalidInput:
        return None


def of_the_command(folder: Path, data: bytes, batch: int) -> str | None:
    file = folder / "net.onnx"
    file.write_bytes(data)
    try:
        return config_of(file, model="vad", max_batch_size=batch)
    except CliError:
        return None


@pytest.mark.parametrize("batch", [0, 8])
@pytest.mark.parametrize("name", MODELS)
def test_they_write_the_same(tmp_path: Path, name: str, batch: int) -> None:
    text = of_the_command(tmp_path, MODELS[name], batch)
    assert text == of_the_centre(MODELS[name], batch)
    assert (text is None) >= (name in ("a sequence", "a complex number", "no dimensions"))


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.sampled_from(sorted(MODELS.values())), at=st.integers(0, 1 << 12), put=st.binary())
def test_whatever_the_bytes_are(tmp_path: Path, data: bytes, at: int, put: bytes) -> None:
    """The centre looks at more of a model, so it may refuse what the command takes."""
    at %= len(data)
    changed = data[:at] + put + data[at + len(put) :]
    text = of_the_command(tmp_path, changed, 0)
    if (judged := of_the_centre(changed, 0)) is not None:
        assert text == judged


@pytest.mark.parametrize("data", [b"", b"\x7fELF" + bytes(99), b"PK\x03\x04", b"text"])
def test_what_is_no_model_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "net.onnx").write_bytes(data)
    with pytest.raises(CliError, match=r"net\.onnx is no ONNX model"):
        config_of(tmp_path / "net.onnx", model="vad")


def test_one_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(model())
    made = write_config(tmp_path, model="vad", max_batch_size=0)
    assert made == tmp_path / "config.pbtxt"
    assert made.read_text() == config_from_onnx(model(), model_name="vad")
    made.write_text("mine")
    assert write_config(tmp_path, model="vad", max_batch_size=0) is None
    assert made.read_text() == "mine"


@pytest.mark.parametrize("count", [0, 2])
def test_it_must_be_plain_which_model_is_meant(tmp_path: Path, count: int) -> None:
    for number in range(count):
        (tmp_path / f"{number}.onnx").write_bytes(model())
    with pytest.raises(CliError, match=f"holds {count} at its top") as caught:
        write_config(tmp_path, model="vad", max_batch_size=0)
    assert "write config.pbtxt by hand" in caught.value.cure
