"""Looks at the server and the disk. Changes nothing and decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from waypost_agent.errors import Retryable
from waypost_agent.ports import Index, ModelServer
from waypost_agent.protocol import CANDIDATE_SUFFIX
from waypost_agent.situation import Fit, Lease, Observed, Verdict, Watch
from waypost_agent.store import Store

_UNLOADED = "unloaded"  # Triton's reason for a version that is gone because it was asked to


@dataclass(frozen=True, kw_only=True)
class ServerView:
    """What the server said; without it, why there is none."""

    live: bool
    version: str | None
    index: Index
    reason: str
    extensions: frozenset[str] = frozenset()


def observe_server(triton: ModelServer) -> ServerView:
    """Ask the server who it is and what it has loaded."""
    try:
        facts = triton.facts()
        return ServerView(
            live=True,
            version=facts.version,
            index=triton.index(),
            reason="",
            extensions=facts.extensions,
        )
    except Retryable as error:
        return ServerView(live=False, version=None, index={}, reason=error.reason)


def observe_model(
    model: str,
    server: ServerView,
    store: Store,
    verdict: Verdict | None,
    lease: Lease | None = None,
    fit: Fit = Fit(),  # noqa: B008  # a frozen value
    watch: Watch | None = None,
) -> Observed:
    """Everything there is to see of one model; verdict and lease are what the agent remembers, the
    rest was looked up for what is wished."""
    return Observed(
        triton_live=server.live,
        triton_reason=server.reason,
        states=_states(server.index, model),
        candidate_states=_states(server.index, model + CANDIDATE_SUFFIX),
        candidate_on_disk=store.has_candidate(model),
        installed=store.installed(model),
        recorded=store.recorded(model),
        unloaded=frozenset(
            version
            for version, entry in server.index.get(model, {}).items()
            if entry.state == "UNAVAILABLE" and entry.reason == _UNLOADED
        ),
        config_sha256=store.config_sha256(model),
        keep_versions=store.keep_versions,
        damaged=store.damaged(model),
        unmended=store.unmended(model),
        leftovers=store.leftovers(model),
        verdict=verdict,
        lease=lease,
        fit=fit,
        watch=watch,
    )


def _states(index: Index, name: str) -> dict[str, str]:
    return {version: entry.state for version, entry in index.get(name, {}).items()}
