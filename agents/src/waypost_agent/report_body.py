"""The body of a report: what the board shows, and a refused answer told where it belongs.

Pure; docs/agent-protocol.md, section 5, has its shape.
"""

from __future__ import annotations

from typing import Any

from waypost_agent import __version__
from waypost_agent import protocol as p
from waypost_agent.board import Refusal, Snapshot
from waypost_agent.errors import ANSWER_INVALID, SERVER_BEHIND
from waypost_agent.protocol import ModelReport


def report_body(
    snapshot: Snapshot,
    *,
    seq: int,
    sent_at: str,
    made: p.Moment,
    inventory: dict[str, Any] | None,
) -> dict[str, Any]:
    """The whole document; `inventory` is left out when it is None. `made` is a moment at or before
    which the snapshot was taken."""
    epoch, generation = snapshot.observed or (0, 0)
    document: dict[str, Any] = {
        "seq": seq,
        "epoch": epoch,
        "observed_generation": generation,
        "agent_version": __version__,
        "sent_at": sent_at,
        "made": made.document(),
        "triton": {
            "live": snapshot.triton.live,
            "version": snapshot.triton.version,
            "http_url": snapshot.triton.http_url,
        },
        "models": [report.document() for report in _with_refusal(snapshot)],
    }
    return document if inventory is None else {**document, "inventory": inventory}


def is_settled(snapshot: Snapshot) -> bool:
    """Whether nothing is under way, waits or is wrong with an answer."""
    return (
        snapshot.refusal is None
        and snapshot.triton.live
        and all(
            report.phase in (p.SUCCEEDED, p.FAILED) and report.lease is None
            for report in snapshot.models
        )
    )


def _with_refusal(snapshot: Snapshot) -> list[ModelReport]:
    """The states of the models, with a refused answer told where it belongs."""
    refusal = snapshot.refusal
    if refusal is None:
        return list(snapshot.models)
    told = refusal.report
    if told is not None:
        known = told.model in {report.model for report in snapshot.models}
        changed = [_refused(report, told) for report in snapshot.models]
        return changed if known else [*changed, told]
    if refusal.code in (SERVER_BEHIND, ANSWER_INVALID):
        return [_told(report, refusal) for report in snapshot.models]
    return list(snapshot.models)


def _refused(report: ModelReport, refused: ModelReport) -> ModelReport:
    """The state of the model whose new wish was refused: what serves stays, the wish failed."""
    if report.model != refused.model:
        return report
    kept = {"serving": report.serving, "healthy": report.healthy, "lease": report.lease}
    return ModelReport(**{**vars(refused), **kept})


def _told(report: ModelReport, refusal: Refusal) -> ModelReport:
    return ModelReport(
        **{**vars(report), "reason_code": refusal.code, "reason": refusal.reason[: p.MAX_REASON]}
    )
