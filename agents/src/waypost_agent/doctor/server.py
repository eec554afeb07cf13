"""Judges this site's Triton: alive, safe by its version, under control, and closed to others."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from waypost_agent.config import TritonConfig
from waypost_agent.doctor.facts import (
    Check,
    Facts,
    ServerFacts,
    fail,
    not_applicable,
    ok,
    warn,
)
from waypost_agent.triton_flags import RESTRICTED_INTERFACES, TritonSettings, triton_command
from waypost_agent.triton_floor import FLOOR_RELEASE, below_floor, floor_warning

_NEEDED_EXTENSIONS = ("model_repository", "statistics")
_SECRET_OPTIONS = ("--http-restricted-api", "--grpc-restricted-protocol")
# Without these anybody on the network could change what a site serves.
_GRAVE = frozenset({"--model-control-mode", "--grpc-address", *_SECRET_OPTIONS})
_KNOWN_TO_SOME = frozenset({"--allow-client-shm", "--allow-sagemaker", "--allow-vertex-ai"})
_SPELLINGS = {"true": {"true", "1"}, "false": {"false", "0"}}
# What differs from site to site and is checked elsewhere, or not the agent's business.
_OWN_TO_A_SITE = (
    "--model-repository",
    "--http-port",
    "--grpc-port",
    "--metrics-port",
    "--exit-timeout-secs",
    "--load-model",
    "--model-load-gpu-limit",
    "--metrics-config",
    "--backend-config",
    "--backend-directory",
)


def server_checks(facts: Facts) -> tuple[Check, ...]:
    names = (
        "triton",
        "triton version",
        "triton control",
        "triton options",
        "triton ports",
        "triton extensions",
        "backends",
    )
    server = facts.server
    if facts.of is None or server is None:
        return tuple(not_applicable(name, "the configuration cannot be read") for name in names)
    triton = facts.of.triton
    if not server.live:
        return (
            live(triton, server),
            *(not_applicable(name, "Triton does not answer") for name in names[1:]),
        )
    return (
        live(triton, server),
        version(server),
        control(triton, server),
        options(triton, server),
        ports(triton, server),
        extensions(server),
        backends(facts, server),
    )


def live(triton: TritonConfig, server: ServerFacts) -> Check:
    if server.live:
        return ok("triton", f"answers at {triton.grpc_url}")
    if "restricted" in server.reason:
        return fail(
            "triton",
            f"does not take the agent's secret: {server.reason}",
            "let triton.secret_file and triton.secret_key say what its restricted protocol expects",
        )
    return fail(
        "triton",
        server.reason,
        "start Triton, and let triton.grpc_url name its --grpc-address and --grpc-port",
    )


def version(server: ServerFacts) -> Check:
    name = "triton version"
    if below_floor(server.version) is None:
        return warn(
            name, f"{server.version!r} is no version that is known", f"run {FLOOR_RELEASE} or newer"
        )
    if warning := floor_warning(server.version):
        return warn(name, warning, f"use the container {FLOOR_RELEASE} or newer")
    return ok(name, str(server.version))


def control(triton: TritonConfig, server: ServerFacts) -> Check:
    name = "triton control"
    if server.explicit is None:
        return fail(
            name,
            f"it cannot be told what to load: {server.control_reason}",
            "check triton.secret_file and Triton's log",
        )
    if not server.explicit:
        return fail(
            name,
            "it decides by itself what it loads",
            "start Triton with --model-control-mode=explicit",
        )
    if server.open_over_http:
        return fail(
            name,
            f"whoever reaches {triton.http_url} may load and unload models",
            f"start Triton with --http-restricted-api={','.join(RESTRICTED_INTERFACES)}:KEY=SECRET",
        )
    return ok(name, "explicit, over gRPC")


def options(triton: TritonConfig, server: ServerFacts) -> Check:
    """The options it runs with beside the one list of `triton_flags`."""
    name = "triton options"
    if server.command is None:
        return not_applicable(name, "its command line cannot be seen from here")
    wanted, seen = expected_options(), parse_options(server.command)
    repository = seen.get("--model-repository", seen.get("--model-store", ""))
    if not _same_folder(repository, triton.repository):
        return fail(
            name,
            f"it serves {repository or 'no repository'}, the agent writes to {triton.repository}",
            "let triton.repository and --model-repository name one folder",
        )
    differing = {
        option: _shown(option, seen.get(option))
        for option, value in wanted.items()
        if not _agrees(option, value, seen.get(option))
    }
    if not differing:
        return ok(name, "as this agent would start it")
    text = ", ".join(differing.values())
    cure = "start Triton with " + " ".join(_shown(each, wanted[each]) for each in differing)
    return fail(name, text, cure) if differing.keys() & _GRAVE else warn(name, text, cure)


def expected_options() -> dict[str, str]:
    """Option to value of the one list, without what differs from site to site."""
    settings = TritonSettings(
        binary=Path("tritonserver"),
        repository=Path("/"),
        http_port=1,
        grpc_port=1,
        metrics_port=1,
        secret="0123456789abcdef",
    )
    parsed = parse_options(tuple(triton_command(settings)))
    return {option: value for option, value in parsed.items() if option not in _OWN_TO_A_SITE}


def parse_options(command: tuple[str, ...]) -> dict[str, str]:
    """Option to value; an option without one has an empty text, a repeated one its last."""
    parsed: dict[str, str] = {}
    waiting: str | None = None
    for part in command[1:]:
        if part.startswith("--"):
            option, equals, value = part.partition("=")
            parsed[option] = value
            waiting = None if equals else option
        elif waiting is not None:  # written as two words
            parsed[waiting] = part
            waiting = None
    return parsed


def _agrees(option: str, wanted: str, seen: str | None) -> bool:
    if option in _SECRET_OPTIONS:
        closed = set((seen or "").partition(":")[0].split(","))
        return closed >= set(RESTRICTED_INTERFACES)
    if option.endswith("-address"):
        return seen is not None and _is_loopback(seen)
    if seen is None:
        # What is left out means the same, or this version does not know it: it would not start.
        return option in _KNOWN_TO_SOME or wanted == "true"
    return seen.lower() in _SPELLINGS.get(wanted, {wanted})


def _shown(option: str, value: str | None) -> str:
    if value is None:
        return f"{option} is not given"
    if option in _SECRET_OPTIONS:
        return f"{option}={value.partition(':')[0]}:KEY=SECRET"  # the secret is never shown
    return f"{option}={value}" if value else option


def _same_folder(seen: str, wanted: Path) -> bool:
    return bool(seen) and Path(seen) == wanted


def ports(triton: TritonConfig, server: ServerFacts) -> Check:
    name = "triton ports"
    if not server.listeners:
        return not_applicable(name, "what listens cannot be seen from here")
    open_at = {
        port: sorted(address for address in addresses if not _is_loopback(address))
        for port, addresses in server.listeners.items()
    }
    widely = {port: addresses for port, addresses in open_at.items() if addresses}
    if not widely:
        return ok(name, f"on loopback alone: {_ports(server.listeners)}")
    text = "; ".join(f"{port} on {', '.join(each)}" for port, each in sorted(widely.items()))
    cure = "start Triton with --grpc-address, --http-address and --metrics-address=127.0.0.1 and "
    cure += "let users in through a proxy"
    if port_of(triton.grpc_url) in widely:
        return fail(name, f"open beyond this machine, model control among them: {text}", cure)
    return warn(name, f"open beyond this machine: {text}", cure)


def _ports(listeners: Mapping[int, frozenset[str]]) -> str:
    return ", ".join(str(port) for port in sorted(listeners))


def port_of(url: str) -> int | None:
    """The port of `host:port` or of a URL."""
    parts = urlsplit(url if "//" in url else f"//{url}")
    try:
        return parts.port
    except ValueError:
        return None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def extensions(server: ServerFacts) -> Check:
    missing = [name for name in _NEEDED_EXTENSIONS if name not in server.extensions]
    if "model_repository" in missing:
        return fail(
            "triton extensions",
            "it does not offer model_repository, without which no version can be switched",
            "use NVIDIA's container, built with all its endpoints",
        )
    if missing:
        return warn(
            "triton extensions",
            f"it does not offer {', '.join(missing)}",
            "use NVIDIA's container, built with all its endpoints",
        )
    return ok("triton extensions", f"{', '.join(_NEEDED_EXTENSIONS)} and more")


def backends(facts: Facts, server: ServerFacts) -> Check:
    name = "backends"
    needed = {model.backend for model in facts.models if model.backend is not None}
    if not needed:
        return not_applicable(name, "no version here names one")
    proven = {each.backend for each in facts.models if each.serving == each.committed}
    if server.backends is None:
        if needed <= proven:
            return ok(name, f"{', '.join(sorted(needed))}: versions that need them serve")
        return not_applicable(name, "triton.backend_directory is not given, so it cannot be told")
    missing = sorted(needed - server.backends - proven)
    if missing:
        return fail(
            name,
            f"{', '.join(missing)} is not in triton.backend_directory",
            "use a Triton with this backend, or install it there",
        )
    return ok(name, f"{', '.join(sorted(needed))}")
