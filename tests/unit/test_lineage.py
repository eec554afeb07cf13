"""Where a version comes from: bounded, known keys only, all faults at once."""

from typing import Any

import pytest

from controlplane.domain.errors import InvalidInput
from controlplane.domain.lineage import parse_lineage

WHOLE = {
    "git_repository": "https://git.example/acme/vad",
    "git_commit": "0123456789abcdef",
    "ci_run": "https://ci.example/runs/7?attempt=2",
    "mlflow_run": "5f3c",
    "dataset": "speech 2026-11",
    "metrics": {"auc": 0.97, "files": 12},
}


def test_what_is_well_formed_is_kept_as_given() -> None:
    assert parse_lineage(WHOLE) == WHOLE
    assert parse_lineage(None) == {}
    assert parse_lineage({}) == {}


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ([], "lineage"),
        ({"git_comit": "abc1234"}, "lineage.git_comit"),
        ({"git_commit": "HEAD"}, "lineage.git_commit"),
        ({"git_commit": "abc123"}, "lineage.git_commit"),
        ({"git_commit": "A" * 40}, "lineage.git_commit"),
        ({"ci_run": "javascript:alert(1)"}, "lineage.ci_run"),
        ({"ci_run": "https://"}, "lineage.ci_run"),
        ({"ci_run": "http://[::1"}, "lineage.ci_run"),
        ({"ci_run": "https://ci.example/a b"}, "lineage.ci_run"),
        ({"dataset": ""}, "lineage.dataset"),
        ({"dataset": 7}, "lineage.dataset"),
        ({"dataset": "a\nb"}, "lineage.dataset"),
        ({"dataset": "x" * 301}, "lineage.dataset"),
        ({"metrics": []}, "lineage.metrics"),
        ({"metrics": {"": 1}}, "lineage.metrics"),
        ({"metrics": {"x" * 101: 1}}, "lineage.metrics"),
        ({"metrics": {str(n): n for n in range(101)}}, "lineage.metrics"),
        ({"metrics": {"auc": "0.9"}}, "lineage.metrics.auc"),
        ({"metrics": {"auc": True}}, "lineage.metrics.auc"),
        ({"metrics": {"auc": float("nan")}}, "lineage.metrics.auc"),
        ({"metrics": {"auc": float("inf")}}, "lineage.metrics.auc"),
        ({"metrics": {"auc": 10**400}}, "lineage.metrics.auc"),
    ],
)
def test_what_is_not_is_refused_at_its_place(document: Any, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_lineage(document)
    assert caught.value.code == "lineage-invalid"
    assert [fault.field for fault in caught.value.errors] == [field]


def test_every_fault_is_named_at_once() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_lineage({"who": "ana", "git_commit": "x", "metrics": {"a": None, "b": 1, "c": []}})
    assert len(caught.value.errors) == 4
