"""Decides the one list of options a Triton at a site is started with, and why each is there.

Pure: it starts nothing, reads no file and asks no binary; the caller brings the text of
`tritonserver --help` and keeps the secret. It must not know who runs the server, nor where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

# The interfaces that change or reveal what a server does. Inference, health and metadata stay
# open to the site's clients; metrics cannot be restricted and are bound to loopback instead.
RESTRICTED_INTERFACES = (
    "model-repository",
    "model-config",
    "shared-memory",
    "statistics",
    "trace",
    "logging",
)

SECRET_HEADER = "x-waypost-triton"
# Over gRPC Triton expects the same key behind a prefix of its own.
GRPC_SECRET_HEADER = f"triton-grpc-protocol-{SECRET_HEADER}"

# Without these a server would listen on all interfaces or serve whatever lies in the folder:
# a version that lacks one of them is refused, not started without it.
_REQUIRED = frozenset(
    {
        "--model-repository",
        "--model-control-mode",
        "--http-address",
        "--http-port",
        "--grpc-address",
        "--grpc-port",
        "--metrics-address",
        "--metrics-port",
    }
)

_OPTION = re.compile(r"^ {1,8}(--[a-z0-9-]+)(?: <.*)?\s*$", re.MULTILINE)
_SECRET = re.compile(r"[A-Za-z0-9_-]{16,}")


class UnsupportedTriton(Exception):
    """This tritonserver lacks an option without which it must not be started."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GpuLoadLimit:
    """Refuse to load a model once `fraction` (0 to 1) of the device's memory is in use."""

    device: int
    fraction: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TritonSettings:
    """What differs between one Triton and the next; everything else is the same everywhere.

    `secret` is made anew for every boot (it can be read in the process list, which is why it is
    only the second fence behind the loopback address); letters, digits, `-` and `_`, 16 or more.
    `load_models` are served from the start, as their `config.pbtxt` on disk says.
    `shared_memory_prefix` names the python backend's shared memory, so that its owner can remove
    what a killed server leaves in /dev/shm.
    """

    binary: Path
    repository: Path
    http_port: int
    grpc_port: int
    metrics_port: int
    secret: str
    address: str = "127.0.0.1"
    load_models: tuple[str, ...] = ()
    backend_directory: Path | None = None
    shared_memory_prefix: str | None = None
    gpu_load_limits: tuple[GpuLoadLimit, ...] = (GpuLoadLimit(device=0, fraction=0.9),)
    exit_timeout_seconds: int = 5

    def __post_init__(self) -> None:
        if not _SECRET.fullmatch(self.secret):
            raise ValueError(
                "the secret for Triton must be 16 or more letters, digits, '-' or '_' "
                "(':' ',' and '=' would end it inside Triton's option)"
            )


def triton_command(settings: TritonSettings) -> list[str]:
    """The binary and every option, one per element; `keep_supported` narrows it to a version."""
    return [
        str(settings.binary),
        *_model_flags(settings),
        *_listener_flags(settings),
        *_fence_flags(settings.secret),
        *[
            f"--model-load-gpu-limit={limit.device}:{limit.fraction}"
            for limit in settings.gpu_load_limits
        ],
    ]


def _model_flags(settings: TritonSettings) -> list[str]:
    flags = [
        f"--model-repository={settings.repository}",
        "--model-control-mode=explicit",
        # One broken model must not keep a whole site down, neither at start ...
        "--exit-on-error=false",
        # ... nor by making the server "not ready" for as long as a failed load is remembered.
        "--strict-readiness=false",
        # What is approved is what is loaded: Triton may not complete a configuration by itself.
        "--disable-auto-complete-config",
        f"--exit-timeout-secs={settings.exit_timeout_seconds}",
    ]
    flags += [f"--load-model={name}" for name in settings.load_models]
    if settings.backend_directory is not None:
        flags.append(f"--backend-directory={settings.backend_directory}")
    if settings.shared_memory_prefix is not None:
        flags.append(
            f"--backend-config=python,shm-region-prefix-name={settings.shared_memory_prefix}"
        )
    return flags


def _listener_flags(settings: TritonSettings) -> list[str]:
    return [
        "--allow-http=true",
        f"--http-address={settings.address}",
        f"--http-port={settings.http_port}",
        # Models are controlled over gRPC: a load over HTTP stalls all HTTP inference meanwhile.
        "--allow-grpc=true",
        f"--grpc-address={settings.address}",
        f"--grpc-port={settings.grpc_port}",
        "--allow-metrics=true",
        f"--metrics-address={settings.address}",
        f"--metrics-port={settings.metrics_port}",
        "--metrics-config=histogram_latencies=true",
    ]


def _fence_flags(secret: str) -> list[str]:
    fence = f"{','.join(RESTRICTED_INTERFACES)}:{SECRET_HEADER}={secret}"
    return [
        f"--http-restricted-api={fence}",
        f"--grpc-restricted-protocol={fence}",
        "--allow-client-shm=false",
        # Both are side doors to the same models that the restrictions above do not cover.
        "--allow-sagemaker=false",
        "--allow-vertex-ai=false",
    ]


def supported_options(help_text: str) -> frozenset[str]:
    """The option names in the text of `tritonserver --help`.

    Raises `ValueError` when the text is not such a text, rather than calling every option unknown.
    """
    options = frozenset(_OPTION.findall(help_text))
    if "--model-repository" not in options:
        raise ValueError("this is not the output of `tritonserver --help`: no options found in it")
    return options


def keep_supported(
    command: list[str], supported: frozenset[str]
) -> tuple[list[str], tuple[str, ...]]:
    """`(command, notes)`: the command without options this version does not know, one note each.

    Triton exits on an option it does not know. Notes name the option, never its value (it may be
    the secret). Raises `UnsupportedTriton` when a missing option would leave the server open.
    """
    binary, *flags = command
    missing = [flag for flag in flags if _name(flag) not in supported]
    if lost := sorted({_name(flag) for flag in missing} & _REQUIRED):
        raise UnsupportedTriton(
            f"this tritonserver does not know {', '.join(lost)}, without which it must not run; "
            "use Triton 2.35 (23.06) or newer"
        )
    notes = tuple(
        f"left out {name}: this tritonserver does not know it"
        for name in dict.fromkeys(_name(flag) for flag in missing)
    )
    return [binary, *[flag for flag in flags if _name(flag) in supported]], notes


def _name(flag: str) -> str:
    return flag.partition("=")[0]
