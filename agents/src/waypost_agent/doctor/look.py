"""Looks at this site's Triton and at what serves there. Judges nothing.

What Triton does not tell itself is read from this machine: its command line and what it listens
on, where both can be seen (not from another container).
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import uuid
from collections.abc import Collection, Mapping
from hashlib import sha256
from pathlib import Path

import urllib3
from urllib3.exceptions import HTTPError

from waypost_agent.clock import SystemClock
from waypost_agent.config import Config, ServerConfig, TritonConfig
from waypost_agent.doctor.facts import ModelFacts, ServerFacts
from waypost_agent.doctor.server import parse_options, port_of
from waypost_agent.errors import GOLDEN_MISMATCH, Permanent, Retryable
from waypost_agent.golden import parse_golden
from waypost_agent.journal import Journal
from waypost_agent.manifest import CONFIG_FILE, GOLDEN_FILE, Manifest
from waypost_agent.model_control import ModelControl
from waypost_agent.observe import ServerView, observe_model, observe_server
from waypost_agent.server import make_store, make_triton
from waypost_agent.store import Store
from waypost_agent.triton import PbtxtCodec, Triton

_NOT_EXPLICIT = "explicit model load / unload is not allowed"
_LISTENS = "0A"
_PLATFORMS = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "pytorch_libtorch": "pytorch",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
}
_HTTP_SECONDS = 5.0


def look_at_triton(
    config: Config, its: ServerConfig, journal: Journal, unreadable: Collection[str]
) -> tuple[ServerFacts, tuple[ModelFacts, ...]]:
    """The server, and each model on record; `unreadable` names records that are left alone."""
    triton = make_triton(config, its)
    try:
        seen = observe_server(triton)
        store = make_store(config, its)
        names = {name for name in journal.models() if f"{name}.json" not in unreadable}
        models = tuple(
            _look_at_model(config, its, triton, journal, store, seen, name)
            for name in sorted(names)
        )
        if not seen.live:
            return ServerFacts(live=False, reason=seen.reason), models
        return _look_at_server(its.triton, triton), models
    finally:
        triton.close()


def _look_at_server(its: TritonConfig, triton: Triton) -> ServerFacts:
    try:
        facts = triton.facts()
    except Retryable as error:
        return ServerFacts(live=False, reason=error.reason)
    explicit, control_reason = _ask_for_control(triton)
    command = command_line(port_of(its.grpc_url))
    wanted = {port_of(its.grpc_url), port_of(its.http_url)}
    if command is not None:
        wanted.add(port_of("h:" + parse_options(command).get("--metrics-port", "8002")))
    return ServerFacts(
        live=True,
        version=facts.version,
        extensions=facts.extensions,
        explicit=explicit,
        control_reason=control_reason,
        command=command,
        listeners=listeners({port for port in wanted if port is not None}),
        open_over_http=_is_open_over_http(its.http_url),
        backends=_backends(its.backend_directory),
    )


def _ask_for_control(triton: Triton) -> tuple[bool | None, str]:
    """Unload what cannot exist: a server that is told what to load does so without a word."""
    try:
        triton.unload(f"waypost-doctor-{uuid.uuid4().hex}")
    except Retryable as error:
        return (False if _NOT_EXPLICIT in error.reason else None), error.reason
    return True, ""


def _is_open_over_http(http_url: str) -> bool | None:
    """Whether the index, which is as closed as all of model control, answers without the secret."""
    with urllib3.PoolManager(retries=False, timeout=_HTTP_SECONDS) as pool:
        try:
            url = f"{http_url.rstrip('/')}/v2/repository/index"
            return bool(pool.request("POST", url, body=b"{}", redirect=False).status == 200)
        except (HTTPError, OSError):
            return None


def _backends(folder: Path | None) -> frozenset[str] | None:
    try:
        return None if folder is None else frozenset(entry.name for entry in folder.iterdir())
    except OSError:
        return None


def command_line(grpc_port: int | None, processes: Path = Path("/proc")) -> tuple[str, ...] | None:
    """The command line of the tritonserver that listens on this port, where it can be seen."""
    for path in sorted(processes.glob("[0-9]*/cmdline")):
        try:
            words = tuple(path.read_bytes().decode(errors="replace").rstrip("\0").split("\0"))
        except OSError:
            continue
        if Path(words[0]).name != "tritonserver":
            continue
        if parse_options(words).get("--grpc-port", "8001") == str(grpc_port):
            return words
    return None


def listeners(
    ports: Collection[int], folder: Path = Path("/proc/net")
) -> Mapping[int, frozenset[str]] | None:
    """The addresses on which each of these ports listens; None where nothing can be seen."""
    found: dict[int, set[str]] = {}
    for name in ("tcp", "tcp6"):
        try:
            lines = (folder / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == _LISTENS and int(port, 16) in ports:
                found.setdefault(int(port, 16), set()).add(_address(address))
    return {port: frozenset(addresses) for port, addresses in found.items()} or None


def _address(text: str) -> str:
    """The kernel writes words of four bytes in the machine's order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    if len(words) == 1:
        return socket.inet_ntoa(packed)
    address = ipaddress.IPv6Address(packed)
    return str(address.ipv4_mapped or address)


def _look_at_model(
    config: Config,
    its: ServerConfig,
    triton: Triton,
    journal: Journal,
    store: Store,
    server: ServerView,
    model: str,
) -> ModelFacts:
    record = journal.load(model)
    seen = observe_model(model, server, store, None)
    committed = record.committed
    if committed is None:
        return ModelFacts(
            model=model,
            committed=None,
            serving=seen.serving,
            golden_reason="nothing was verified here yet",
        )
    manifest = store.manifest(model, committed.version)
    folder = its.state_dir / "versions" / model / committed.version
    golden, reason = None, f"version {committed.version} does not serve"
    if seen.serving == committed.version:
        golden, reason = _replay(config, triton, model, committed.version, manifest, folder)
    return ModelFacts(
        model=model,
        committed=committed.version,
        serving=seen.serving,
        committed_on_disk=seen.holds(committed),
        config_names=_named_version(its.triton.repository / model / CONFIG_FILE),
        backend=_backend(_read(folder, CONFIG_FILE, manifest)),
        golden=golden,
        golden_reason=reason,
    )


def _replay(
    config: Config,
    triton: Triton,
    model: str,
    version: str,
    manifest: Manifest | None,
    folder: Path,
) -> tuple[bool | None, str]:
    data = _read(folder, GOLDEN_FILE, manifest)
    if data is None:
        return None, f"the golden requests of version {version} cannot be read"
    control = ModelControl(
        triton, clock=SystemClock(), timeouts=config.timeouts, is_stopping=lambda: False
    )
    try:
        requests = parse_golden(data)
        for request in requests:
            control.replay(request, model, None, GOLDEN_MISMATCH, expected=version)
    except Permanent as error:
        return False, error.reason
    except Retryable as error:
        return None, error.reason
    return True, f"version {version} answers {len(requests)} rightly"


def _read(folder: Path, name: str, manifest: Manifest | None) -> bytes | None:
    """A recorded file whose bytes are those of its manifest. The store would set a damaged one
    aside; this is only a look."""
    try:
        data = (folder / name).read_bytes()
    except OSError:
        return None
    wanted = [file.sha256 for file in manifest.files if file.path == name] if manifest else []
    return data if wanted == [sha256(data).hexdigest()] else None


def _backend(config_text: bytes | None) -> str | None:
    if config_text is None:
        return None
    try:
        fields = PbtxtCodec().parse(config_text.decode())
    except (ValueError, UnicodeDecodeError):
        return None
    return fields.get("backend") or _PLATFORMS.get(fields.get("platform", ""))


def _named_version(path: Path) -> str | None:
    """The one version that a config.pbtxt names, None where it names none or several."""
    try:
        fields = PbtxtCodec().parse(path.read_text())
    except (OSError, ValueError):
        return None
    versions = fields.get("version_policy", {}).get("specific", {}).get("versions", [])
    return str(versions[0]) if len(versions) == 1 else None
