"""What people may change of a model: its words, its policies and its quotas. Each change is told
with what was there before, and needs a reason where it asks for less than before."""

from collections.abc import Mapping
from datetime import datetime

from django.db import transaction
from django.db.models import Count, Sum

from controlplane.audit.services import record_event
from controlplane.catalog.models import DriftPolicy, Model, UnsignedPolicy, Version
from controlplane.catalog.versions import settle
from controlplane.domain.errors import Conflict, FieldError, InvalidInput
from controlplane.domain.version_states import PENDING

MAX_APPROVALS = 10
MAX_DESCRIPTION = 500
MAX_QUOTA_BYTES = 2**63 - 1
MAX_QUOTA_VERSIONS = 2**31 - 1
_STRICTNESS = {UnsignedPolicy.ALLOWED: 0, UnsignedPolicy.WARNED: 1, UnsignedPolicy.REFUSED: 2}
# What versions that are on their way wait for.
_AWAITED = frozenset({"approvals_needed", "unsigned"})


@transaction.atomic
def change_model(
    *,
    model: Model,
    changes: Mapping[str, object],
    reason: str = "",
    actor: str,
    now: datetime,
) -> Model:
    """Sets those of `description`, `drift_policy`, `approvals_needed`, `unsigned`, `quota_bytes`
    and `quota_versions` that are given. What is the same already changes nothing and is no event.

    Versions that wait for an approval or a signature are looked at again; approved ones stay so.
    Raises `InvalidInput` (`model-settings-invalid`, `reason-required` where it asks for less).
    """
    _check(changes)
    row = lock_model(model)
    changed = {
        name: {"before": getattr(row, name), "after": value}
        for name, value in changes.items()
        if getattr(row, name) != value
    }
    if not changed:
        return row
    weaker = [name for name in changed if _weakens(name, **changed[name])]
    if weaker and not reason.strip():
        fault = FieldError(field="reason", message=f"say why {' and '.join(weaker)} may ask less")
        raise InvalidInput("reason-required", "A reason is required.", errors=[fault])
    for name, value in changed.items():
        setattr(row, name, value["after"])
    row.revision += 1
    row.save(update_fields=[*changed, "revision"])
    drift = {name: changed[name] for name in changed if name == "drift_policy"}
    others = {name: changed[name] for name in changed if name != "drift_policy"}
    for action, data in (("drift_policy_changed", drift), ("settings_changed", others)):
        if data:
            record_event(
                now=now,
                actor=actor,
                action=f"model.{action}",
                object_type="model",
                object_id=row.name,
                reason=reason,
                data=data,
            )
    if not _AWAITED.isdisjoint(changed):
        waiting = row.versions.filter(state__in=[state.value for state in PENDING])
        for version in waiting.order_by("pk"):
            settle(version, now=now, actor=actor)
    return row


def set_drift_policy(
    *, model: Model, policy: DriftPolicy, reason: str, actor: str, now: datetime
) -> None:
    """What is done when a site serves another version than is desired. The same again changes
    nothing and is no event."""
    changes = {"drift_policy": policy.value}
    change_model(model=model, changes=changes, reason=reason, actor=actor, now=now)


def lock_model(model: Model) -> Model:
    """The row as it is now, held until the transaction ends; rows may refer to it meanwhile."""
    return Model.objects.select_for_update(no_key=True).get(pk=model.pk)


def require_quota(model: Model, size_bytes: int) -> None:
    """Whether one more version of this size fits. The model must be locked: two pushes at once must
    not both take the last place. Raises `Conflict` (`quota-exceeded`) with the numbers."""
    if model.quota_versions is None and model.quota_bytes is None:
        return
    rows = Version.objects.filter(model=model).order_by()
    held = rows.aggregate(count=Count("pk"), size=Sum("size_bytes"))
    count, size = held["count"], held["size"] or 0
    numbers: dict[str, object] = {
        "versions": count,
        "quota_versions": model.quota_versions,
        "bytes": size,
        "quota_bytes": model.quota_bytes,
        "asked_bytes": size_bytes,
    }
    too_many = model.quota_versions is not None and count + 1 > model.quota_versions
    too_large = model.quota_bytes is not None and size + size_bytes > model.quota_bytes
    if too_many:
        what = f"has {count} versions, and its quota is {model.quota_versions}"
    elif too_large:
        what = (
            f"holds {size} bytes, and {size_bytes} more would exceed its quota of "
            f"{model.quota_bytes}"
        )
    else:
        return
    raise Conflict(
        "quota-exceeded",
        f"{model.name} {what}. Discard unfinished pushes, or have the quota raised.",
        extra=numbers,
    )


def _weakens(name: str, *, before: object, after: object) -> bool:
    if name == "approvals_needed":
        return int(str(after)) < int(str(before))
    if name == "unsigned":
        return _STRICTNESS[UnsignedPolicy(str(after))] < _STRICTNESS[UnsignedPolicy(str(before))]
    return False


def _check(changes: Mapping[str, object]) -> None:
    faults = [
        FieldError(field=name, message=message)
        for name, value in changes.items()
        if (message := _fault(name, value))
    ]
    if faults:
        detail = "The model cannot be changed as asked."
        raise InvalidInput("model-settings-invalid", detail, errors=faults)


def _fault(name: str, value: object) -> str | None:
    if name == "description":
        good = isinstance(value, str) and len(value) <= MAX_DESCRIPTION
        return None if good else f"must be a text of at most {MAX_DESCRIPTION} characters"
    if name == "drift_policy":
        known = DriftPolicy.values
        return None if value in known else f"must be one of {', '.join(known)}"
    if name == "unsigned":
        known = UnsignedPolicy.values
        return None if value in known else f"must be one of {', '.join(known)}"
    if name == "approvals_needed":
        return None if _whole(value, 0, MAX_APPROVALS) else f"must be 0 to {MAX_APPROVALS}"
    if name == "quota_bytes":
        good = value is None or _whole(value, 1, MAX_QUOTA_BYTES)
        return None if good else f"must be 1 to {MAX_QUOTA_BYTES}, or null for none"
    if name == "quota_versions":
        good = value is None or _whole(value, 1, MAX_QUOTA_VERSIONS)
        return None if good else f"must be 1 to {MAX_QUOTA_VERSIONS}, or null for none"
    return "cannot be changed"


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most
