"""What people may change of a model, what it needs a reason for, and what follows at once."""

from datetime import datetime
from typing import Any

import pytest

from controlplane.audit.models import Event
from controlplane.catalog.model_settings import change_model, set_drift_policy
from controlplane.catalog.models import DriftPolicy, Model, UnsignedPolicy, Version, VersionState
from controlplane.domain.errors import InvalidInput
from tests.factories import make_version

BY = {"actor": "user:bo"}


@pytest.fixture
def model(now: datetime) -> Model:
    return Model.objects.create(name="vad", created_at=now)


def change(model: Model, *, reason: str = "", now: datetime, **changes: Any) -> Model:
    return change_model(model=model, changes=changes, reason=reason, **BY, now=now)


def test_each_change_is_told_with_what_was_before(model: Model, now: datetime) -> None:
    changed = change(
        model, description="hears", approvals_needed=2, quota_versions=9, drift_policy="hold",
        now=now,
    )  # fmt: skip
    assert (changed.description, changed.approvals_needed, changed.quota_versions) == (
        "hears", 2, 9,
    )  # fmt: skip
    assert changed.revision == model.revision + 1
    assert Event.objects.get(action="model.settings_changed").data == {
        "description": {"before": "", "after": "hears"},
        "approvals_needed": {"before": 1, "after": 2},
        "quota_versions": {"before": None, "after": 9},
    }
    assert Event.objects.get(action="model.drift_policy_changed").data == {
        "drift_policy": {"before": "correct", "after": "hold"}
    }


def test_the_same_again_is_no_event_and_no_revision(model: Model, now: datetime) -> None:
    change(model, unsigned="refused", now=now)
    again = change(model, unsigned="refused", approvals_needed=1, now=now)
    assert (again.revision, Event.objects.count()) == (2, 1)
    set_drift_policy(model=model, policy=DriftPolicy.CORRECT, reason="", **BY, now=now)
    assert Event.objects.count() == 1


@pytest.mark.parametrize(
    ("before", "weaker"),
    [
        ({"approvals_needed": 2}, {"approvals_needed": 1}),
        ({"approvals_needed": 1}, {"approvals_needed": 0}),
        ({"unsigned": "refused"}, {"unsigned": "warned"}),
        ({"unsigned": "refused"}, {"unsigned": "allowed"}),
        ({"unsigned": "warned"}, {"unsigned": "allowed"}),
    ],
)
def test_asking_for_less_wants_a_reason(
    before: dict[str, Any], weaker: dict[str, Any], model: Model, now: datetime
) -> None:
    change(model, **before, now=now)
    with pytest.raises(InvalidInput) as caught:
        change(model, **weaker, now=now)
    assert caught.value.code == "reason-required"
    assert change(model, **weaker, reason="we know them", now=now)
    assert Event.objects.order_by("pk").last().reason == "we know them"  # type: ignore[union-attr]  # it is there


def test_asking_for_more_wants_none(model: Model, now: datetime) -> None:
    assert change(model, approvals_needed=3, unsigned="refused", quota_bytes=1, now=now)


def test_every_fault_is_named(model: Model, now: datetime) -> None:
    wrong = {
        "description": "x" * 501, "drift_policy": "guess", "unsigned": "maybe",
        "approvals_needed": 11, "quota_bytes": 0, "quota_versions": True, "name": "ocr",
    }  # fmt: skip
    with pytest.raises(InvalidInput) as caught:
        change(model, **wrong, now=now)
    assert caught.value.code == "model-settings-invalid"
    assert [fault.field for fault in caught.value.errors] == list(wrong)
    assert Event.objects.count() == 0


def test_versions_that_wait_are_looked_at_again_and_approved_ones_left(now: datetime) -> None:
    approved = make_version(now=now)
    waiting = make_version(state=VersionState.VALIDATED, now=now)
    Version.objects.update(content_class="data")
    model = waiting.model

    change(model, unsigned=UnsignedPolicy.REFUSED, now=now)
    waiting.refresh_from_db()
    assert waiting.state == VersionState.REGISTERED

    change(model, unsigned="allowed", approvals_needed=0, reason="a trial", now=now)
    waiting.refresh_from_db()
    approved.refresh_from_db()
    assert (waiting.state, approved.state) == (VersionState.APPROVED, VersionState.APPROVED)
    event = Event.objects.filter(action="version.approved").order_by("pk").last()
    assert event is not None
    assert (event.actor, event.object_id) == ("user:bo", f"vad/{waiting.number}")
