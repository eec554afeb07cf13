"""What a site serves, as its disk, its journal and its Triton say it now. Changes nothing."""

from __future__ import annotations

from typing import Any

from waypost_agent import protocol as p
from waypost_agent.agent import make_store, make_triton
from waypost_agent.config import Config
from waypost_agent.identity import Identity
from waypost_agent.inventory import describe_host
from waypost_agent.journal import Journal
from waypost_agent.observe import observe_model, observe_server
from waypost_agent.said import read_said
from waypost_agent.triton_floor import floor_warning


def describe_site(config: Config) -> dict[str, Any]:
    """`site`, `triton` (live, version, extensions, warning), `host`, and of each model what serves,
    is kept, failed, and what the agent last said of it (`said`: phase, reason, lease, when)."""
    store, journal = make_store(config), Journal(config.state_dir / "journal")
    triton = make_triton(config)
    server = observe_server(triton)
    triton.close()
    membership = Identity(config.state_dir).membership()
    said = read_said(config.state_dir)
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
        "site": None if membership is None else membership.site,
        "triton": {
            "live": server.live,
            "version": server.version,
            "reason": server.reason,
            "extensions": sorted(server.extensions) if server.live else None,
            "warning": floor_warning(server.version),
        },
        "host": describe_host(config.triton.repository),
        "models": models,
    }


def status_lines(document: dict[str, Any]) -> list[str]:
    """The same for people."""
    triton = document["triton"]
    lines = [
        f"site {document['site'] or 'not joined'}, "
        f"Triton {triton['version'] if triton['live'] else 'not reachable'}"
    ]
    if triton["warning"]:
        lines.append(f"warning: {triton['warning']}")
    for model in document["models"]:
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
