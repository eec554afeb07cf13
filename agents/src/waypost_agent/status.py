"""What a site serves, as its disk, its journal and its Triton say it now. Changes nothing."""

from __future__ import annotations

from typing import Any

from waypost_agent import protocol as p
from waypost_agent.config import Config, ServerConfig
from waypost_agent.identity import Identity
from waypost_agent.inventory import describe_host
from waypost_agent.observe import observe_model, observe_server
from waypost_agent.said import read_said
from waypost_agent.server import make_journal, make_store, make_triton
from waypost_agent.triton_floor import floor_warning


def describe_site(config: Config) -> dict[str, Any]:
    """`site`, `host`, and of each server `triton` (live, version, extensions, warning) and of each
    model what serves, is kept, failed, and what the agent last said of it (`said`: phase, reason,
    lease, when). `server` is empty where there is only one."""
    membership = Identity(config.state_dir).membership()
    return {
        "site": None if membership is None else membership.site,
        "host": describe_host(config.servers[0].triton.repository),
        "servers": [_describe_server(config, server) for server in config.servers],
    }


def _describe_server(config: Config, its: ServerConfig) -> dict[str, Any]:
    store, journal = make_store(config, its), make_journal(its.state_dir)
    triton = make_triton(config, its)
    server = observe_server(triton)
    triton.close()
    said = read_said(its.state_dir)
    models = []
    for model in sorted(store.known_models() | journal.models()):
        seen = observe_model(model, server, store, None)
        record = journal.load(model)
        models.append(
            {
                "model": model,
                "serving": seen.serving,
                "committed": None if record.committed is None else record.committed.version,
                "previous": None if record.previous is None else record.previous.version,
                "installed": sorted(seen.installed, key=int),
                "failed": None
                if record.failed is None
                else {
                    "version": record.failed.target.version,
                    "reason_code": record.failed.reason_code,
                    "reason": record.failed.reason,
                },
                "said": said.get(model),
            }
        )
    return {
        "server": its.name,
        "triton": {
            "live": server.live,
            "version": server.version,
            "reason": server.reason,
            "extensions": sorted(server.extensions) if server.live else None,
            "warning": floor_warning(server.version),
        },
        "models": models,
    }


def status_lines(document: dict[str, Any]) -> list[str]:
    """The same for people."""
    lines = [f"site {document['site'] or 'not joined'}"]
    for server in document["servers"]:
        triton, name = server["triton"], server["server"]
        says = f"Triton {triton['version'] if triton['live'] else 'not reachable'}"
        if name:
            lines.append(f"server {name}, {says}")
        else:
            lines[0] += f", {says}"
        if triton["warning"]:
            lines.append(f"warning: {triton['warning']}")
        for model in server["models"]:
            lines += _model_lines(model)
    return lines


def _model_lines(model: dict[str, Any]) -> list[str]:
    lines = [
        f"{model['model']}: serving {model['serving'] or 'nothing'}, "
        f"committed {model['committed'] or 'nothing'}, "
        f"on disk {', '.join(model['installed']) or 'nothing'}"
    ]
    if model["failed"]:
        lines.append(f"  version {model['failed']['version']} failed: {model['failed']['reason']}")
    said = model["said"]
    if said and said["phase"] not in (p.SUCCEEDED, p.FAILED):
        lines.append(
            f"  {said['phase']} ({said['reason_code']}), as of {said['at']}: {said['reason']}"
        )
    return lines
