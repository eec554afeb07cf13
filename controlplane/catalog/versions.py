"""Takes versions from state to state, and changes what people may change of them. Every step is a
move that `domain/version_states.py` knows, under the row's lock, with an event.

It must not know where a version runs: what a rollout or a channel has to say to a step is asked
above (`rollouts/version_verbs.py`)."""

from collections.abc import Mapping
from datetime import datetime

from django.db import transaction

from controlplane.audit.services import record_event
from controlplane.catalog.models import Version, VersionState
from controlplane.catalog.signatures import SignatureVerdict, signature_standing
from controlplane.domain.errors import Conflict, FieldError, InvalidInput, NotFound
from controlplane.domain.version_states import (
    APPROVABLE,
    PENDING,
    TRANSITIONS,
    Standing,
    State,
    approval_rule,
    next_state,
    standing,
)

CATALOGUE = "catalogue"  # the actor where nobody in particular made a version move
MAX_LABELS = 50
MAX_LABEL_LENGTH = 200
MAX_NOTES = 10_000


def lock_version(version: Version) -> Version:
    """The row as it is now, held until the transaction ends: a job may discard what another
    finalises. Raises `NotFound` (`version-unknown`).

    Its key is not locked, so that a rollout may refer to it meanwhile; who starts one looks at the
    state again at the end.
    """
    rows = Version.objects.select_for_update(of=("self",), no_key=True).select_related("model")
    row = rows.filter(pk=version.pk).order_by().first()
    if row is None:
        raise NotFound("version-unknown", f"{version} was discarded; push it again.")
    return row


def standing_of(version: Version) -> Standing:
    """Who said yes to these very bytes, and what is still missing."""
    rule = approval_rule(
        version.content_class,
        signed=bool(signature_standing(version).signed_by),
        approvals_needed=version.model.approvals_needed,
    )
    rows = [a for a in version.approvals.all() if a.manifest_digest == version.manifest_digest]
    return standing(rule, [row.person for row in rows], author=version.author)


@transaction.atomic
def settle(version: Version, *, now: datetime, actor: str = CATALOGUE) -> Version:
    """Moves a version on as far as its signature and its approvals take it now; the row as it is
    then. Call it after anything that either depends on; again it changes nothing."""
    row = lock_version(version)
    state = State(row.state)
    if state not in PENDING:
        return row
    people, signature = standing_of(row), signature_standing(row)
    refused = signature.verdict is SignatureVerdict.REFUSED
    target = next_state(state, signature_met=not refused, people=people)
    if target is State.REGISTERED:
        if state is State.VALIDATED:
            move(row, State.REGISTERED)
            note(row, "held_back", reason=signature.sentence, actor=actor, now=now)
        reason = signature.sentence
    else:
        if state is State.REGISTERED:
            move(row, State.VALIDATED)
            note(row, "validated", actor=actor, now=now)
        reason = people.sentence
        if target is State.APPROVED:
            move(row, State.APPROVED)
            note(row, "approved", reason=people.sentence, actor=actor, now=now, data=_yes(people))
            reason = ""
    if (row.state, row.state_reason) != (state, reason):
        save(row, reason=reason)
    return row


def _yes(people: Standing) -> dict[str, object]:
    return {"approved_by": list(people.counted), "needed": people.rule.needed}


def move(row: Version, to: State) -> None:
    """Sets the state of a locked row. Raises `RuntimeError` for a move that no rule knows."""
    if to not in TRANSITIONS[State(row.state)]:
        raise RuntimeError(f"{row} cannot go from {row.state} to {to.value}")
    row.state = VersionState(to.value)


def save(row: Version, *changed: str, reason: str | None = None) -> None:
    """Writes a locked row's state and what else changed, with a new revision."""
    if reason is not None:
        row.state_reason = reason[:500]
    row.revision += 1
    row.save(update_fields=["state", "state_reason", "state_before", "revision", *changed])


def note(
    row: Version,
    action: str,
    *,
    reason: str = "",
    actor: str,
    now: datetime,
    data: Mapping[str, object] | None = None,
) -> None:
    """The event `version.ACTION`; it names the bytes."""
    record_event(
        now=now,
        actor=actor,
        action=f"version.{action}",
        object_type="version",
        object_id=f"{row.model.name}/{row.number}",
        reason=reason,
        data={"manifest_digest": row.manifest_digest, **(data or {})},
    )


@transaction.atomic
def change_version(
    *,
    version: Version,
    labels: Mapping[str, str] | None = None,
    notes: str | None = None,
    actor: str,
    now: datetime,
) -> Version:
    """Sets all labels, or the notes; None leaves them. The same again changes nothing and is no
    event. Raises `InvalidInput` (`labels-invalid`, `notes-invalid`)."""
    wanted: dict[str, object] = {}
    if labels is not None:
        wanted["labels"] = check_labels(labels)
    if notes is not None:
        wanted["notes"] = _check_notes(notes)
    row = lock_version(version)
    changes = {
        name: {"before": getattr(row, name), "after": value}
        for name, value in wanted.items()
        if getattr(row, name) != value
    }
    if changes:
        for name in changes:
            setattr(row, name, wanted[name])
        save(row, *changes)
        note(row, "changed", actor=actor, now=now, data=changes)
    return row


@transaction.atomic
def retire(*, version: Version, reason: str, actor: str, now: datetime) -> Version:
    """Takes a version out of the choice: no new rollout brings it anywhere. Sites that serve it go
    on, and a rollback to it stays possible. Raises `Conflict` (`version-not-registered`,
    `version-quarantined`, `version-retired`)."""
    row = lock_version(version)
    if State(row.state) not in APPROVABLE:
        raise not_in_use(row)
    row.state_before = row.state
    move(row, State.RETIRED)
    save(row, reason=f"{actor}: {reason}")
    note(row, "retired", reason=reason, actor=actor, now=now, data={"before": row.state_before})
    return row


@transaction.atomic
def unretire(*, version: Version, reason: str, actor: str, now: datetime) -> Version:
    """Leads a retired version back to where it was. Where that is not known any more, what was said
    of it is counted anew. Raises `Conflict` (`version-not-retired`)."""
    row = lock_version(version)
    if row.state != VersionState.RETIRED:
        raise Conflict("version-not-retired", f"{row} is {row.state}, not retired.")
    return lead_back(row, "unretired", reason=reason, actor=actor, now=now)


def lead_back(row: Version, action: str, *, reason: str, actor: str, now: datetime) -> Version:
    """From retirement or quarantine to where the locked row was before."""
    before = State(row.state_before or State.REGISTERED)
    move(row, before)
    row.state_before = ""
    save(row, reason="retired before it was quarantined" if before is State.RETIRED else "")
    note(row, action, reason=reason, actor=actor, now=now, data={"state": row.state})
    return settle(row, now=now, actor=actor)


def not_in_use(row: Version) -> Conflict:
    """Why a version that is neither registered, validated nor approved cannot be acted on."""
    if row.state == VersionState.UPLOADING:
        return Conflict(
            "version-not-registered", f"{row} is still being pushed; finalise the push first."
        )
    state, why = VersionState(row.state), row.state_reason or "no reason was given"
    return Conflict(f"version-{state.value}", f"{row} is {state.value}: {why}.")


def check_labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Raises `InvalidInput` (`labels-invalid`)."""
    good = len(labels) <= MAX_LABELS and all(
        isinstance(k, str) and isinstance(v, str) and len(k) + len(v) <= MAX_LABEL_LENGTH
        for k, v in labels.items()
    )
    if not good:
        message = f"at most {MAX_LABELS} names to values, {MAX_LABEL_LENGTH} characters a pair"
        raise InvalidInput(
            "labels-invalid",
            "The labels cannot be kept as given.",
            errors=[FieldError(field="labels", message=message)],
        )
    return dict(labels)


def _check_notes(notes: str) -> str:
    if len(notes) > MAX_NOTES:
        fault = FieldError(field="notes", message=f"at most {MAX_NOTES} characters")
        raise InvalidInput("notes-invalid", "The notes are too long.", errors=[fault])
    return notes
