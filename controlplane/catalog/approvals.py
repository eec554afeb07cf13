"""A person's yes to the bytes of a version, and taking it back. Whose yes counts and how many are
needed is decided by `domain/version_states.py`.

It must not know where a version runs: who takes a yes back asks `rollouts/version_verbs.py`."""

from datetime import datetime

from django.db import transaction

from controlplane.catalog.models import Version, VersionApproval
from controlplane.catalog.versions import lock_version, move, not_in_use, note, save, settle
from controlplane.catalog.versions import standing_of as standing_of
from controlplane.domain.errors import Conflict, Forbidden
from controlplane.domain.version_states import APPROVABLE, State, after_withdrawal


@transaction.atomic
def approve_version(
    *,
    version: Version,
    manifest_digest: str,
    person: str,
    reason: str = "",
    actor: str,
    now: datetime,
) -> Version:
    """Says yes to the bytes with this digest. The same person again changes nothing.

    Raises `Conflict` (`approval-other-bytes`, `version-not-registered`, `version-quarantined`,
    `version-retired`), `Forbidden` (`approver-is-author`).
    """
    row = lock_version(version)
    if manifest_digest != row.manifest_digest:
        raise Conflict(
            "approval-other-bytes",
            f"The approval names other bytes than those of {row}; look at the version again.",
            extra={"manifest_digest": row.manifest_digest},
        )
    if State(row.state) not in APPROVABLE:
        raise not_in_use(row)
    if row.approvals.filter(person=person).exists():
        return row
    rule = standing_of(row).rule
    if rule.by_others and person == row.author:
        raise Forbidden(
            "approver-is-author",
            f"{person} pushed {row}, which needs {rule.needed} approvals by others; somebody else "
            "has to approve it.",
        )
    VersionApproval.objects.create(
        version=row,
        manifest_digest=row.manifest_digest,
        person=person,
        actor=actor,
        reason=reason[:400],
        at=now,
    )
    save(row)
    note(row, "approval_given", reason=reason, actor=actor, now=now, data={"person": person})
    return settle(row, now=now, actor=actor)


@transaction.atomic
def take_back_approval(
    *, version: Version, person: str, reason: str, actor: str, now: datetime
) -> Version:
    """Takes this person's yes back; a version that has one too few then is not approved any more.

    Raises `Conflict` (`approval-unknown`, and as `approve_version` does).
    """
    row = lock_version(version)
    if State(row.state) not in APPROVABLE:
        raise not_in_use(row)
    if not row.approvals.filter(person=person).delete()[0]:
        raise Conflict("approval-unknown", f"{person} has not approved {row}.")
    people = standing_of(row)
    state = after_withdrawal(State(row.state), people)
    if state != row.state:
        move(row, state)
    save(row, reason="" if state is State.APPROVED else people.sentence)
    note(row, "approval_withdrawn", reason=reason, actor=actor, now=now, data={"person": person})
    return settle(row, now=now, actor=actor)
