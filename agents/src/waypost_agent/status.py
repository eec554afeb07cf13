"""What a site serves, as its disk, its journal and its Triton say it now. Changes nothing."""

from __future__ import annotations

from typing import Any

from waypost_agent.agent import make_store, make_triton
from waypost_agent.config import Config
from waypost_agent.identity import Identity
from waypost_agent.journal import Journal
from waypost_agent.observe import observe_model, observe_server


def describe_site(config: Config) -> dict[str, Any]:
    """`site`, `triton` (live, version, reason), and of each model what serves, is kept, failed."""
    store, journal = make_store(config), Journal(config.state_dir / "journal")
    triton = make_triton(config)
    server = observe_server(triton)
    triton.close()
    membership = Identity(config.state_dir).membership()
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
            }
        )
    return {
        "site": None if membership is None else membership.site,
        "triton": {"live": server.live, "version": server.version, "reason": server.reason},
        "models": models,
    }
