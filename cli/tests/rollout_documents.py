"""Rollouts as the API shows them, for tests."""

from typing import Any

Json = dict[str, Any]


def deployment(site: str, state: str, **members: Any) -> Json:
    return {
        "site": site,
        "state": state,
        "kind": "forward",
        "from_version": "1",
        "to_version": "2",
        "reason_code": None,
        "reason": "",
        "started_at": None,
        "finished_at": None,
        **members,
    }


def stage(name: str, state: str, *deployments: Json, **members: Any) -> Json:
    return {
        "name": name,
        "index": 0,
        "state": state,
        "soak_seconds": 30,
        "soaked_seconds": 0,
        "reason": "",
        "sites": [d["site"] for d in deployments],
        "deployments": list(deployments),
        **members,
    }


def rollout(state: str, *stages: Json, **members: Any) -> Json:
    final = state in (
        "cancelled", "rolled_back", "rollback_incomplete", "superseded", "succeeded",
        "succeeded_with_exceptions",
    )  # fmt: skip
    return {
        "id": 1,
        "model": "vad",
        "version": "2",
        "state": state,
        "reason_code": None,
        "reason": "",
        "created_at": "2026-11-23T13:00:00Z",
        "note": "",
        "stages": list(stages),
        "excluded": [],
        "allowed_verbs": [] if final else ["pause", "abort", "rollback"],
        "final": final,
        **members,
    }


def story(*, ends: str) -> list[Json]:
    """Revisions of a rollout of one stage with one site, from its start to the end named."""
    site_ends = "succeeded" if ends == "succeeded" else "failed"
    return [
        rollout("running", stage("canary", "running", deployment("edge-1", "offered"))),
        rollout(
            "running",
            stage("canary", "running", deployment("edge-1", "verifying", reason="replaying 2")),
        ),
        rollout(
            ends,
            stage("canary", "passed", deployment("edge-1", site_ends)),
            reason="all sites of every stage serve version 2",
        ),
    ]
