"""What people may do to a rollout. Each verb is one transaction under the lock of its row.

A verb says what a person wants; what follows from it is decided by the engine, as ever."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F

from controlplane.catalog.models import VersionState
from controlplane.domain.errors import Conflict, FieldError, Forbidden, InvalidInput, NotFound
from controlplane.domain.gates import Verdict
from controlplane.domain.policy import policy_of
from controlplane.domain.rollout import (
    FINAL_ROLLOUT,
    STAGE_FAILURES,
    STARTED_STAGE,
    DeploymentState,
    ResumeChoice,
    RollBack,
    RolloutState,
    StageState,
    allowed_verbs,
    resume_choices,
)
from controlplane.rollouts import effects
from controlplane.rollouts import site_effects as sites
from controlplane.rollouts.doorbell import ring_after_commit
from controlplane.rollouts.freezes import active_freezes, sentence
from controlplane.rollouts.history import record
from controlplane.rollouts.models import Approval, GateVerdict, Rollout, Stage
from controlplane.rollouts.services import lock_rollout, person_of


def pause_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Holds everything: no offer, no activation. Sites that are switching finish, downloads go on,
    and a site that fails is still dealt with by its stage's policy."""
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "pause")
        by = f"paused by {actor}: {reason}" if reason else f"paused by {actor}"
        before = rollout.state
        effects.compare_and_set(
            rollout,
            state=RolloutState.PAUSED,
            cause=by[:500],
            pause_code="",
            reason_code="paused",
            reason=by[:500],
            waiting_since=now,
        )
        return _done(rollout, "paused", before, reason=reason, actor=actor, now=now)


def resume_rollout(
    *,
    rollout_id: int,
    reason: str,
    actor: str,
    now: datetime,
    choice: ResumeChoice | None = None,
    may_while_frozen: bool = False,
) -> Rollout:
    """Lets a paused rollout go on from where it stood.

    One that the engine paused goes on only with a choice: `retry` what failed or go on measuring,
    `accept` it as it is, or roll back; and with a reason. Raises `Conflict` (`choice-required`),
    and what `roll_back_rollout` does.
    """
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "resume")
        if rollout.pause_code:
            choice = _required_choice(rollout, choice)
        if choice is not None:
            require_reason(reason)
        if choice is ResumeChoice.ROLLBACK:
            require_unfrozen(may_while_frozen, now)
            _roll_back(rollout, reason, actor, now)
            return rollout
        code, before = rollout.pause_code, rollout.state
        moves: list[dict[str, object]] = []
        if choice is ResumeChoice.RETRY:
            moves = sites.retry_failed(rollout, now, stage_index=None, forced=True)
            _measure_again(rollout)
        if choice is ResumeChoice.ACCEPT:
            _accept(rollout, now)
        effects.compare_and_set(
            rollout,
            state=RolloutState.RUNNING,
            cause="",
            pause_code="",
            reason_code="resumed",
            reason=f"resumed by {actor}"[:500],
            waiting_since=now,
        )
        # The pause itself is no soak time, and no time without evidence.
        Stage.objects.filter(rollout=rollout, state=StageState.SOAKING).update(
            soak_counted_until=now, inconclusive_seconds=0
        )
        return _done(
            rollout,
            "resumed",
            before,
            reason=reason,
            actor=actor,
            now=now,
            deployments=moves,
            data={"choice": choice.value if choice else None, "pause_code": code},
        )


def _required_choice(rollout: Rollout, choice: ResumeChoice | None) -> ResumeChoice:
    """One that leads somewhere: a quarantined version is rolled back, or released first."""
    withdrawn = rollout.version.state == VersionState.QUARANTINED
    possible = (ResumeChoice.ROLLBACK,) if withdrawn else resume_choices(rollout.pause_code)
    if choice in possible:
        return choice
    release = "; or release the version first" if withdrawn else ""
    raise Conflict(
        "choice-required",
        f"The engine paused rollout {rollout.pk} ({rollout.pause_code}): {rollout.cause} "
        f"Say what is to become of that: {', '.join(possible)}{release}.",
        extra={"choices": [c.value for c in possible], "pause_code": rollout.pause_code},
    )


def _measure_again(rollout: Rollout) -> None:
    """What a gate held against a stage no longer counts, but the gate must speak again."""
    GateVerdict.objects.filter(stage__rollout=rollout, verdict=Verdict.FAIL).update(
        verdict=Verdict.INCONCLUSIVE, reason="failed before; to be measured again"
    )


def _accept(rollout: Rollout, now: datetime) -> None:
    """What has failed so far is no longer held against the stages that have begun; and where the
    evidence stayed away, it is gone on without."""
    if rollout.pause_code == "gate-inconclusive":
        rollout.stages.filter(state=StageState.SOAKING).update(promoted_at=now)
    for stage in rollout.stages.all():
        failures = sites.latest(rollout).filter(stage=stage, state__in=STAGE_FAILURES).count()
        current = stage.state in STARTED_STAGE
        emptied = stage.state == StageState.PENDING and rollout.pause_code == "canary-empty"
        if failures or current or emptied:
            Stage.objects.filter(pk=stage.pk).update(accepted_at=now, accepted_failures=failures)
        if emptied:
            return


def promote_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Ends the soak of the stage that soaks. It overrides missing evidence, never evidence against
    the version, and never an approval: two may be needed there. Raises `Conflict`
    (`nothing-soaks`)."""
    require_reason(reason)
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "promote")
        stage = rollout.stages.filter(state=StageState.SOAKING).first()
        if stage is None:
            raise Conflict(
                "nothing-soaks",
                "No stage is soaking: only a stage whose sites all serve the version can be "
                "promoted.",
                extra={"allowed_verbs": allowed_verbs(RolloutState(rollout.state))},
            )
        Stage.objects.filter(pk=stage.pk).update(promoted_at=now)
        return _noted(rollout, "promoted", reason, actor, now, data={"stage": stage.name})


def approve_rollout(
    *,
    rollout_id: int,
    plan_digest: str,
    reason: str,
    actor: str,
    now: datetime,
    stage_name: str | None = None,
    person: str = "",
) -> Rollout:
    """Says yes to the plan with this digest, or to leaving a stage of it.

    Raises `Conflict` (`plan-changed`, `approval-not-needed`), `Forbidden` (`approver-is-author`).
    """
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "approve")
        if plan_digest != rollout.plan_digest:
            raise Conflict(
                "plan-changed",
                f"The approval is for another plan than that of rollout {rollout_id}; look at the "
                "plan again.",
                extra={"plan_digest": rollout.plan_digest},
            )
        stage = None
        if stage_name is not None:
            stage = find_stage(rollout, stage_name)
            needed = policy_of(stage.policy).approval
            over = stage.state not in (StageState.PENDING, StageState.RUNNING, StageState.SOAKING)
        else:
            needed = rollout.approval_required
            over = rollout.state not in (RolloutState.QUEUED, RolloutState.PLANNED)
        if not needed or over:
            what = f"Stage {stage_name}" if stage_name else f"The plan of rollout {rollout_id}"
            raise Conflict("approval-not-needed", f"{what} waits for no approval.")
        if rollout.approval_by_other and (person or person_of(actor)) == rollout.author:
            raise Forbidden(
                "approver-is-author",
                f"{rollout.author} started the rollout; somebody else has to approve it.",
            )
        Approval.objects.create(
            rollout=rollout,
            stage=stage,
            plan_digest=plan_digest,
            actor=actor,
            reason=reason[:400],
            at=now,
            expires_at=now + timedelta(hours=settings.WAYPOST_APPROVAL_HOURS),
        )
        data: dict[str, object] = {"stage": stage_name, "plan_digest": plan_digest}
        return _noted(rollout, "approved", reason, actor, now, data=data)


def retry_failed(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Another attempt, at once, for every site that failed or timed out. A rollout that the engine
    paused stays paused until it is resumed. Raises `Conflict` (`nothing-failed`)."""
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "retry-failed")
        moves = sites.retry_failed(rollout, now, stage_index=None, forced=True)
        if not moves:
            raise Conflict("nothing-failed", f"No site of rollout {rollout_id} has failed.")
        return _noted(rollout, "retried", reason, actor, now, deployments=moves)


def abort_rollout(*, rollout_id: int, reason: str, actor: str, now: datetime) -> Rollout:
    """Stops where it stands: sites that serve the version keep it, no other site gets it."""
    require_reason(reason)
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "abort")
        effects.cancel(rollout, reason=f"aborted by {actor}: {reason}", actor=actor, now=now)
        ring_after_commit(rollout.pk)
        return rollout


def roll_back_rollout(
    *,
    rollout_id: int,
    reason: str,
    actor: str,
    now: datetime,
    stage_name: str | None = None,
    site_name: str | None = None,
    may_while_frozen: bool = False,
) -> Rollout:
    """Returns every site this rollout reached, or one stage's, or one site, to the version it had
    before. Of a part, the rest of the rollout goes on without it.

    Raises `Forbidden` (`frozen`) during a freeze, unless the caller may roll back nevertheless.
    """
    require_reason(reason)
    with transaction.atomic():
        rollout = _lock_for(rollout_id, "rollback")
        require_unfrozen(may_while_frozen, now)
        if stage_name is None and site_name is None:
            _roll_back(rollout, reason, actor, now)
            return rollout
        rows = sites.reached(rollout)
        # Nor may those that were to get it still: left alone they would be offered it next.
        never = sites.latest(rollout).filter(state=DeploymentState.PENDING)
        if stage_name is not None:
            stage = find_stage(rollout, stage_name)
            rows, never = rows.filter(stage=stage), never.filter(stage=stage)
        if site_name is not None:
            rows, never = rows.filter(site__name=site_name), never.filter(site__name=site_name)
        chosen, spared = list(rows), list(never)
        if not chosen and not spared:
            where = " of ".join(filter(None, [site_name and f"site {site_name}", stage_name]))
            raise Conflict("nothing-to-return", f"{where or 'It'} has not got this version.")
        why = f"rolled back by {actor}: {reason}"
        moves = sites.return_sites(rollout, now, rows, why)
        # They leave the stage: the attempt that now counts says that they do not get the version.
        settled = sites.latest(rollout).filter(pk__in=[row.pk for row in chosen])
        moves += sites.next_attempt(list(settled), DeploymentState.CANCELLED, now, reason=why)
        moves += sites.end(spared, DeploymentState.CANCELLED, now, code="turned-back", reason=why)
        data: dict[str, object] = {"stage": stage_name, "site": site_name}
        return _noted(rollout, "returned", reason, actor, now, deployments=moves, data=data)


def _roll_back(rollout: Rollout, reason: str, actor: str, now: datetime) -> None:
    decision = RollBack(reason_code="operator", reason=f"rolled back by {actor}: {reason}")
    effects.roll_back(rollout, decision, actor=actor, now=now)
    ring_after_commit(rollout.pk)


def require_unfrozen(may_while_frozen: bool, now: datetime) -> None:
    freeze = active_freezes(now).order_by("pk").first()
    if freeze is not None and not may_while_frozen:
        raise Forbidden(
            "frozen",
            f"Rolling back during a freeze needs the right to freeze; {sentence(freeze)}",
        )


def record_verdict(
    *,
    rollout_id: int,
    stage_name: str,
    gate: str,
    verdict: Verdict,
    reason: str,
    evidence: dict[str, object],
    fresh_seconds: float | None,
    actor: str,
    now: datetime,
) -> GateVerdict:
    """Takes in what a gate says of a stage, with what it saw. The newest word counts."""
    with transaction.atomic():
        rollout = _lock(rollout_id)
        stage = find_stage(rollout, stage_name)
        over = rollout.state in FINAL_ROLLOUT
        if over or (stage.state not in STARTED_STAGE and stage.state != StageState.PENDING):
            raise Conflict("stage-over", f"Stage {stage_name} is over ({stage.state}).")
        row, _ = GateVerdict.objects.update_or_create(
            stage=stage,
            gate=gate,
            defaults={
                "verdict": verdict,
                "reason": reason[:500],
                "evidence": evidence,
                "actor": actor,
                "judged_at": now,
                "fresh_until": now + timedelta(seconds=fresh_seconds) if fresh_seconds else None,
            },
        )
        data: dict[str, object] = {
            "stage": stage_name, "gate": gate, "verdict": verdict.value, "evidence": evidence,
        }  # fmt: skip
        _noted(rollout, "judged", reason, actor, now, data=data)
        return row


def find_stage(rollout: Rollout, name: str) -> Stage:
    """A stage by its name. Raises `NotFound` (`stage-unknown`)."""
    stage = rollout.stages.filter(name=name).first()
    if stage is None:
        names = ", ".join(rollout.stages.values_list("name", flat=True))
        raise NotFound("stage-unknown", f"Rollout {rollout.pk} has no stage {name!r}: {names}.")
    return stage


def require_reason(reason: str) -> None:
    """Raises `InvalidInput` (`reason-required`)."""
    if not reason.strip():
        fault = FieldError(field="reason", message="say why; it is kept with the rollout")
        raise InvalidInput("reason-required", "A reason is required.", errors=[fault])


def _noted(
    rollout: Rollout,
    action: str,
    reason: str,
    actor: str,
    now: datetime,
    *,
    deployments: Sequence[dict[str, object]] = (),
    data: dict[str, object] | None = None,
) -> Rollout:
    """For verbs that change what the engine sees, and not the state itself."""
    Rollout.objects.filter(pk=rollout.pk).update(revision=F("revision") + 1)
    rollout.revision += 1
    return _done(
        rollout,
        action,
        rollout.state,
        reason=reason,
        actor=actor,
        now=now,
        deployments=deployments,
        data=data,
    )


def _done(
    rollout: Rollout,
    action: str,
    before: str,
    *,
    reason: str,
    actor: str,
    now: datetime,
    deployments: Sequence[dict[str, object]] = (),
    data: dict[str, object] | None = None,
) -> Rollout:
    record(
        rollout,
        action,
        now=now,
        before=before,
        reason=reason,
        actor=actor,
        deployments=deployments,
        data=data,
    )
    ring_after_commit(rollout.pk)
    return rollout


def _lock(rollout_id: int) -> Rollout:
    rollout = lock_rollout(rollout_id, wait=True)
    if rollout is None:
        raise NotFound("rollout-unknown", f"There is no rollout {rollout_id}.")
    return rollout


def _lock_for(rollout_id: int, verb: str) -> Rollout:
    rollout = _lock(rollout_id)
    verbs = allowed_verbs(RolloutState(rollout.state))
    if verb not in verbs:
        over = rollout.state in FINAL_ROLLOUT
        now_allowed = ", ".join(verbs) or ("nothing; it is final" if over else "nothing yet")
        raise Conflict(
            "verb-not-allowed",
            f"Rollout {rollout_id} is {rollout.state}: {verb} is not possible. "
            f"Possible now: {now_allowed}.",
            extra={"allowed_verbs": verbs},
        )
    return rollout
