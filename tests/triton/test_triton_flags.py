"""The one list of Triton's options: what it must hold, and what a version may lack."""

from __future__ import annotations

from pathlib import Path

import pytest
from waypost_agent.triton_flags import (
    RESTRICTED_INTERFACES,
    TritonSettings,
    UnsupportedTriton,
    keep_supported,
    supported_options,
    triton_command,
)

_SECRET = "0123456789abcdef-SECRET"
_HELP = """
Usage: tritonserver [options]
  --help
\tPrint usage
  --model-repository <string>
\tPath to the repository; --model-store is an older name.
  --load-model <string>
  --disable-auto-complete-config
"""


def command(**changes: object) -> list[str]:
    settings: dict[str, object] = {
        "binary": Path("/opt/tritonserver/bin/tritonserver"),
        "repository": Path("/srv/models"),
        "http_port": 8000,
        "grpc_port": 8001,
        "metrics_port": 8002,
        "secret": _SECRET,
    }
    return triton_command(TritonSettings(**(settings | changes)))  # type: ignore[arg-type]  # a test's shorthand


def names(flags: list[str]) -> frozenset[str]:
    return frozenset(flag.partition("=")[0] for flag in flags[1:])


def test_every_listener_is_bound_to_loopback():
    flags = command()
    for listener in ("http", "grpc", "metrics"):
        assert f"--{listener}-address=127.0.0.1" in flags


@pytest.mark.parametrize("option", ["--http-restricted-api", "--grpc-restricted-protocol"])
def test_every_controlling_interface_needs_the_secret(option: str):
    [fence] = [flag for flag in command() if flag.startswith(option)]
    interfaces, _, key = fence.partition("=")[2].partition(":")
    assert set(interfaces.split(",")) == set(RESTRICTED_INTERFACES)
    assert key == f"x-waypost-triton={_SECRET}"
    assert "inference" not in interfaces.split(",")


def test_each_last_good_model_is_loaded_from_the_start():
    flags = command(load_models=("vad", "detector"))
    loads = [flag for flag in flags if flag.startswith("--load-model=")]
    assert loads == ["--load-model=vad", "--load-model=detector"]


def test_a_broken_model_may_neither_end_the_server_nor_mark_it_unready():
    assert {"--exit-on-error=false", "--strict-readiness=false"} <= set(command())


@pytest.mark.parametrize(
    "secret", ["short", "", "with:colon-and-more-of-it", "with=equals-and-more"]
)
def test_a_secret_that_triton_would_misread_is_refused(secret: str):
    with pytest.raises(ValueError, match="secret for Triton"):
        command(secret=secret)


def test_options_are_read_from_the_help_text_and_not_from_its_prose():
    assert supported_options(_HELP) == {
        "--help",
        "--model-repository",
        "--load-model",
        "--disable-auto-complete-config",
    }


def test_a_text_without_options_is_an_error_and_not_a_triton_without_options():
    with pytest.raises(ValueError, match="no options found"):
        supported_options("error while loading shared libraries: libfoo.so")


def test_a_version_that_knows_everything_gets_everything_without_notes():
    flags = command()
    assert keep_supported(flags, names(flags)) == (flags, ())


def test_an_unknown_option_is_left_out_with_one_note_that_does_not_tell_its_value():
    flags = command()
    kept, notes = keep_supported(flags, names(flags) - {"--http-restricted-api"})
    assert [flag for flag in flags if flag not in kept] == [
        flag for flag in flags if flag.startswith("--http-restricted-api")
    ]
    assert notes == ("left out --http-restricted-api: this tritonserver does not know it",)
    assert _SECRET not in " ".join(notes)


@pytest.mark.parametrize("option", ["--metrics-address", "--model-control-mode", "--grpc-address"])
def test_a_version_that_could_not_be_kept_closed_is_refused(option: str):
    flags = command()
    with pytest.raises(UnsupportedTriton, match=option):
        keep_supported(flags, names(flags) - {option})
