"""From a finished push to approved, and out of use again: who moves a version, and what is told."""

import importlib
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.apps import apps

from controlplane.audit.models import Event
from controlplane.catalog.approvals import approve_version
from controlplane.catalog.model_settings import change_model
from controlplane.catalog.models import Model, UnsignedPolicy, Variant, Version, VersionState
from controlplane.catalog.versions import change_version, lead_back, lock_version, move, settle
from controlplane.domain.errors import Conflict, Forbidden, InvalidInput, NotFound, WaypostError
from controlplane.domain.rollout import RolloutState
from controlplane.domain.version_states import State
from controlplane.rollouts.planning import plan_rollout
from controlplane.rollouts.quarantine import quarantine_version, release_version
from controlplane.rollouts.services import start_rollout
from controlplane.rollouts.version_verbs import (
    retire_version,
    unretire_version,
    withdraw_approval,
)
from tests.factories import approve, make_joined_site, make_rollout, make_version
from tests.services.steps import one_stage, start
from tests.services.threads import at_once, failures

WHY: dict[str, Any] = {"reason": "because", "actor": "user:dia"}
UPLOADING, REGISTERED, VALIDATED, APPROVED, QUARANTINED, RETIRED = VersionState


def say_yes(version: Version, person: str, *, now: datetime, digest: str = "") -> Version:
    return approve_version(
        version=version,
        manifest_digest=digest or version.manifest_digest,
        person=person,
        reason="looks good",
        actor=f"token:{person}-laptop",
        now=now,
    )


def data(version: Version) -> Version:
    """The same version, had its files been of class data."""
    Version.objects.filter(pk=version.pk).update(content_class="data")
    version.refresh_from_db()
    return version


def told(*actions: str) -> list[str]:
    wanted = Event.objects.filter(action__in=[f"version.{action}" for action in actions])
    return [
        action.removeprefix("version.")
        for action in wanted.order_by("pk").values_list("action", flat=True)
    ]


def quarantine(version: Version, now: datetime) -> Version:
    name, number = version.model.name, version.number
    return quarantine_version(model_name=name, number=number, roll_back=False, **WHY, now=now)


def release(version: Version, now: datetime) -> Version:
    return release_version(model_name=version.model.name, number=version.number, **WHY, now=now)


class TestOnTheWay:
    def test_a_version_that_runs_code_waits_for_two_others(self, now: datetime) -> None:
        version = make_version(state=VALIDATED, now=now)
        assert version.content_class == "executable"
        assert version.state_reason == "needs 2 approvals by others than ana; has none"

        version = say_yes(version, "bo", now=now)
        assert (version.state, version.state_reason) == (
            VALIDATED, "needs 2 approvals by others than ana; has 1 (bo)",
        )  # fmt: skip
        version = say_yes(version, "cem", now=now)
        assert (version.state, version.state_reason) == (APPROVED, "")

        approved = Event.objects.get(action="version.approved")
        assert approved.data == {
            "manifest_digest": version.manifest_digest,
            "approved_by": ["bo", "cem"],
            "needed": 2,
        }
        assert told("registered", "validated", "approval_given", "approved") == [
            "registered", "validated", "approval_given", "approval_given", "approved",
        ]  # fmt: skip

    def test_the_same_person_again_changes_nothing(self, now: datetime) -> None:
        version = say_yes(make_version(state=VALIDATED, now=now), "bo", now=now)
        again = say_yes(version, "bo", now=now)
        assert (again.state, again.revision) == (VALIDATED, version.revision)
        assert told("approval_given") == ["approval_given"]

    def test_the_author_is_not_another(self, now: datetime) -> None:
        version = make_version(state=VALIDATED, author="ana", now=now)
        with pytest.raises(Forbidden) as caught:
            say_yes(version, "ana", now=now)
        assert caught.value.code == "approver-is-author"
        assert not version.approvals.exists()

    def test_of_data_one_yes_is_enough_and_may_be_the_authors_own(self, now: datetime) -> None:
        version = data(make_version(state=VALIDATED, author="ana", now=now))
        assert say_yes(version, "ana", now=now).state == APPROVED

    def test_of_data_the_authors_own_does_not_count_where_two_are_asked_for(
        self, now: datetime
    ) -> None:
        version = data(make_version(state=VALIDATED, author="ana", now=now))
        Model.objects.update(approvals_needed=2)
        with pytest.raises(Forbidden):
            say_yes(version, "ana", now=now)
        assert say_yes(version, "bo", now=now).state == VALIDATED
        assert say_yes(version, "cem", now=now).state == APPROVED

    def test_what_the_author_said_while_it_counted_counts_no_more_when_the_rule_is_stricter(
        self, now: datetime
    ) -> None:
        version = data(make_version(state=REGISTERED, author="ana", now=now))
        say_yes(version, "ana", now=now)
        Model.objects.update(approvals_needed=2, unsigned=UnsignedPolicy.ALLOWED)

        assert settle(version, now=now).state_reason == (
            "needs 2 approvals by others than ana; has none"
        )

    def test_a_model_that_asks_for_nobody_approves_by_its_policy(self, now: datetime) -> None:
        version = data(make_version(state=VALIDATED, now=now))
        Model.objects.update(approvals_needed=0)

        assert settle(version, now=now).state == APPROVED
        event = Event.objects.get(action="version.approved")
        assert (event.actor, event.reason) == (
            "catalogue", "the model's policy asks for no approval",
        )  # fmt: skip
        assert event.data["approved_by"] == []

    def test_code_is_never_approved_by_the_models_policy(self, now: datetime) -> None:
        version = make_version(state=VALIDATED, now=now)
        Model.objects.update(approvals_needed=0)
        assert settle(version, now=now).state == VALIDATED

    def test_an_approval_is_for_these_very_bytes(self, now: datetime) -> None:
        version = make_version(state=VALIDATED, now=now)
        other = make_version(state=VALIDATED, now=now)
        with pytest.raises(Conflict) as caught:
            say_yes(version, "bo", digest=other.manifest_digest, now=now)
        assert caught.value.code == "approval-other-bytes"
        assert caught.value.extra == {"manifest_digest": version.manifest_digest}

    def test_an_approval_of_other_bytes_counts_for_nothing(self, now: datetime) -> None:
        version = say_yes(make_version(state=VALIDATED, now=now), "bo", now=now)
        version.approvals.update(manifest_digest="sha256:" + "0" * 64)
        assert say_yes(version, "cem", now=now).state == VALIDATED

    def test_what_must_be_signed_waits_for_it_whoever_says_yes(self, now: datetime) -> None:
        version = make_version(state=REGISTERED, now=now)
        assert "No release key signed it" in version.state_reason
        for person in ("bo", "cem"):
            version = say_yes(version, person, now=now)
        assert version.state == REGISTERED

        Model.objects.update(unsigned=UnsignedPolicy.WARNED)
        assert settle(version, now=now).state == APPROVED
        assert told("validated", "approved") == ["validated", "approved"]

    def test_what_lost_its_signature_before_it_was_approved_waits_again(
        self, now: datetime
    ) -> None:
        version = make_version(state=VALIDATED, now=now)
        Model.objects.update(unsigned=UnsignedPolicy.REFUSED)
        assert settle(version, now=now).state == REGISTERED
        assert told("held_back") == ["held_back"]

    def test_what_is_approved_stays_so_when_the_rule_changes(self, now: datetime) -> None:
        version = make_version(now=now)
        Model.objects.update(unsigned=UnsignedPolicy.REFUSED, approvals_needed=5)
        assert settle(version, now=now).state == APPROVED

    @pytest.mark.parametrize(
        ("state", "code"),
        [
            (UPLOADING, "version-not-registered"),
            (QUARANTINED, "version-quarantined"),
            (RETIRED, "version-retired"),
        ],
    )
    def test_what_is_not_in_use_cannot_be_approved(
        self, state: VersionState, code: str, now: datetime
    ) -> None:
        version = make_version(state=state, now=now)
        for act in (
            lambda: say_yes(version, "eve", now=now),
            lambda: withdraw_approval(version=version, person="bo", **WHY, now=now),
        ):
            with pytest.raises(Conflict) as caught:
                act()
            assert caught.value.code == code

    def test_no_step_goes_where_no_rule_leads(self, now: datetime) -> None:
        version = make_version(state=REGISTERED, now=now)
        with pytest.raises(RuntimeError, match="cannot go from registered to approved"):
            move(version, State.APPROVED)

    def test_what_was_discarded_meanwhile_is_said_to_be_gone(self, now: datetime) -> None:
        version = make_version(state=UPLOADING, now=now)
        Version.objects.all().delete()
        with pytest.raises(NotFound):
            lock_version(version)


class TestTakingItBack:
    def test_a_yes_too_few_is_not_approved_any_more(self, now: datetime) -> None:
        version = make_version(now=now)
        version = withdraw_approval(version=version, person="bo", **WHY, now=now)
        assert (version.state, version.state_reason) == (
            VALIDATED, "needs 2 approvals by others than ana; has 1 (cem)",
        )  # fmt: skip
        assert Event.objects.get(action="version.approval_withdrawn").data["person"] == "bo"
        assert say_yes(version, "bo", now=now).state == APPROVED

    def test_a_yes_too_many_may_go(self, now: datetime) -> None:
        version = say_yes(make_version(now=now), "dia", now=now)
        version = withdraw_approval(version=version, person="bo", **WHY, now=now)
        assert (version.state, version.state_reason) == (APPROVED, "")

    def test_is_for_who_said_it_and_with_a_reason(self, now: datetime) -> None:
        version = make_version(now=now)
        with pytest.raises(Conflict, match="eve has not approved vad 1"):
            withdraw_approval(version=version, person="eve", **WHY, now=now)
        with pytest.raises(InvalidInput):
            withdraw_approval(version=version, person="bo", reason=" ", actor="user:bo", now=now)

    @pytest.mark.parametrize(
        ("state", "rests"),
        [
            (RolloutState.PLANNED, True),
            (RolloutState.RUNNING, True),
            (RolloutState.PAUSED, True),
            (RolloutState.SUCCEEDED, True),
            (RolloutState.ROLLED_BACK, True),
            (RolloutState.CANCELLED, True),
        ],
    )
    def test_is_too_late_once_a_rollout_rests_on_it(
        self, state: RolloutState, rests: bool, now: datetime
    ) -> None:
        rollout = make_rollout(state, now=now)
        with pytest.raises(Conflict) as caught:
            withdraw_approval(version=rollout.version, person="bo", **WHY, now=now)
        assert caught.value.code == "approval-in-use"
        assert caught.value.extra == {"rollout": rollout.pk}

    def test_is_not_too_late_after_a_rollout_that_never_began(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.PLANNED, now=now)
        type(rollout).objects.filter(pk=rollout.pk).update(state=RolloutState.CANCELLED)
        version = withdraw_approval(version=rollout.version, person="bo", **WHY, now=now)
        assert version.state == VALIDATED


class TestOutOfUse:
    @pytest.mark.parametrize("state", [REGISTERED, VALIDATED, APPROVED])
    def test_it_is_retired_and_comes_back_to_where_it_was(
        self, state: VersionState, now: datetime
    ) -> None:
        version = make_version(state=state, now=now)
        before = version.state_reason

        version = retire_version(version=version, **WHY, now=now)
        assert (version.state, version.state_reason) == (RETIRED, "user:dia: because")
        version = unretire_version(version=version, **WHY, now=now)

        assert (version.state, version.state_before, version.state_reason) == (state, "", before)
        assert told("retired", "unretired") == ["retired", "unretired"]

    @pytest.mark.parametrize("state", [REGISTERED, VALIDATED, APPROVED, RETIRED])
    def test_it_is_quarantined_and_released_to_where_it_was(
        self, state: VersionState, now: datetime
    ) -> None:
        version = quarantine(make_version(state=state, now=now), now)
        assert (version.state, version.state_before) == (QUARANTINED, state)
        assert release(version, now).state == state

    def test_released_to_retired_and_taken_back_it_is_counted_anew(self, now: datetime) -> None:
        version = release(quarantine(make_version(state=RETIRED, now=now), now), now)
        assert unretire_version(version=version, **WHY, now=now).state == APPROVED

        version.approvals.all().delete()
        version = retire_version(version=version, **WHY, now=now)
        version = release(quarantine(version, now), now)
        assert unretire_version(version=version, **WHY, now=now).state == VALIDATED

    def test_what_came_meanwhile_counts_when_it_is_led_back(self, now: datetime) -> None:
        version = quarantine(make_version(state=REGISTERED, now=now), now)
        Model.objects.update(unsigned=UnsignedPolicy.ALLOWED)
        assert release(version, now).state == VALIDATED

    @pytest.mark.parametrize(
        ("act", "state", "code"),
        [
            (retire_version, UPLOADING, "version-not-registered"),
            (retire_version, QUARANTINED, "version-quarantined"),
            (retire_version, RETIRED, "version-retired"),
            (unretire_version, APPROVED, "version-not-retired"),
            (unretire_version, QUARANTINED, "version-not-retired"),
        ],
    )
    def test_steps_that_lead_nowhere_are_refused(
        self, act: Callable[..., Version], state: VersionState, code: str, now: datetime
    ) -> None:
        version = make_version(state=state, now=now)
        with pytest.raises(Conflict) as caught:
            act(version=version, **WHY, now=now)
        assert caught.value.code == code
        with pytest.raises(InvalidInput):
            act(version=version, reason="", actor="user:dia", now=now)

    def test_it_is_not_retired_under_a_rollout(self, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        with pytest.raises(Conflict) as caught:
            retire_version(version=rollout.version, **WHY, now=now)
        assert (caught.value.code, caught.value.extra) == (
            "version-in-rollout", {"rollout": rollout.pk},
        )  # fmt: skip

    def test_a_rollback_to_a_retired_version_is_possible(self, now: datetime) -> None:
        agent = make_joined_site(now=now)
        first = make_rollout(RolloutState.SUCCEEDED, agents=[agent], now=now).version
        second = make_version(now=now)
        retire_version(version=first, **WHY, now=now)

        make_rollout(RolloutState.ROLLED_BACK, version=second, agents=[agent], now=now)

        assert agent.serving == {"vad": first.number}


class TestRollouts:
    @pytest.mark.parametrize(
        ("state", "code", "says"),
        [
            (UPLOADING, "version-not-registered", "is not registered"),
            (REGISTERED, "version-not-approved", "No release key signed it"),
            (VALIDATED, "version-not-approved", "needs 2 approvals by others than ana; has none"),
            (QUARANTINED, "version-quarantined", "the test wants it"),
            (RETIRED, "version-retired", "the test wants it"),
        ],
    )
    def test_only_what_is_approved_is_planned_and_rolled_out(
        self, state: VersionState, code: str, says: str, now: datetime
    ) -> None:
        make_joined_site(now=now)
        version = make_version(state=state, now=now)
        for act in (
            lambda: plan_rollout(model_name="vad", version_number=version.number, now=now),
            lambda: start(version, now=now),
        ):
            with pytest.raises(InvalidInput, match=says) as caught:
                act()
            assert caught.value.code == code
            assert [fault.field for fault in caught.value.errors] == ["version"]

    @pytest.mark.usefixtures("transactional_db")
    def test_a_start_and_a_withdrawal_at_once_do_not_both_succeed(self, now: datetime) -> None:
        version = make_version(now=now)
        make_joined_site(now=now)

        def act(what: str) -> str:
            if what == "start":
                start_rollout(
                    model_name="vad", version_number=version.number, stages=one_stage(),
                    actor="user:eve", now=now,
                )  # fmt: skip
            else:
                withdraw_approval(version=version, person="bo", **WHY, now=now)
            return what

        results = at_once(act, ["start", "withdraw"])

        (error,) = failures(results)
        assert isinstance(error, WaypostError)
        version.refresh_from_db()
        started = "start" in results
        assert version.state == (APPROVED if started else VALIDATED)
        assert error.code == ("approval-in-use" if started else "version-not-approved")


@pytest.mark.usefixtures("transactional_db")
class TestAtOnce:
    def test_two_approvals_are_two_and_lead_on_once(self, now: datetime) -> None:
        version = make_version(state=VALIDATED, now=now)
        results = at_once(lambda person: say_yes(version, person, now=now), ["bo", "cem"])
        assert failures(results) == []
        version.refresh_from_db()
        assert version.state == APPROVED
        assert told("approval_given", "approved") == [
            "approval_given", "approval_given", "approved",
        ]  # fmt: skip

    def test_one_persons_two_tokens_are_one(self, now: datetime) -> None:
        version = make_version(state=VALIDATED, now=now)
        results = at_once(lambda person: say_yes(version, person, now=now), ["bo", "bo"])
        assert failures(results) == []
        version.refresh_from_db()
        assert (version.state, version.approvals.count()) == (VALIDATED, 1)

    def test_a_yes_and_a_softer_rule_at_once_end_approved(self, now: datetime) -> None:
        version = data(make_version(state=VALIDATED, now=now))
        Model.objects.update(approvals_needed=2)

        def act(what: str) -> None:
            if what == "yes":
                say_yes(version, "bo", now=now)
            else:
                change_model(model=version.model, changes={"approvals_needed": 1}, **WHY, now=now)

        assert failures(at_once(act, ["yes", "softer"])) == []
        version.refresh_from_db()
        assert version.state == APPROVED


class TestWords:
    def test_labels_and_notes_can_be_changed_in_any_state(self, now: datetime) -> None:
        version = make_version(state=RETIRED, now=now)
        changed = change_version(
            version=version, labels={"team": "speech"}, notes="good at night",
            actor="user:bo", now=now,
        )  # fmt: skip
        assert (changed.labels, changed.notes) == ({"team": "speech"}, "good at night")
        assert (changed.state, changed.revision) == (RETIRED, version.revision + 1)
        event = Event.objects.get(action="version.changed")
        assert event.data["labels"] == {"before": {}, "after": {"team": "speech"}}

    def test_the_same_again_is_no_event(self, now: datetime) -> None:
        version = make_version(now=now)
        for _ in range(2):
            version = change_version(version=version, notes="x", actor="user:bo", now=now)
        assert told("changed") == ["changed"]

    def test_what_cannot_be_kept_is_refused(self, now: datetime) -> None:
        version = make_version(now=now)
        for wrong in ({"labels": {"a": "x" * 300}}, {"notes": "x" * 10_001}):
            with pytest.raises(InvalidInput):
                change_version(version=version, **wrong, actor="user:bo", now=now)  # type: ignore[arg-type]  # wrong on purpose


class TestEarlierRows:
    def test_what_could_be_rolled_out_before_may_be_on(self, now: datetime) -> None:
        old = make_version(now=now)
        held = quarantine(make_version(now=now), now)
        Version.objects.filter(pk=old.pk).update(state="registered", content_class="")
        Version.objects.filter(pk=held.pk).update(state_before="", content_class="")
        uploading = make_version(state=UPLOADING, now=now)
        Variant.objects.all().delete()
        migration = importlib.import_module(
            "controlplane.catalog.migrations.0004_variants_of_versions"
        )

        migration.fill(apps, None)

        old.refresh_from_db()
        uploading.refresh_from_db()
        assert (old.state, uploading.state) == (APPROVED, UPLOADING)
        assert old.variants.get().manifest_digest == old.manifest_digest
        assert release(held, now).state == APPROVED

    def test_a_quarantine_that_nobody_knows_the_way_back_of_is_counted_anew(
        self, now: datetime
    ) -> None:
        version = quarantine(make_version(state=VALIDATED, now=now), now)
        Version.objects.filter(pk=version.pk).update(state_before="")
        row = lock_version(version)
        assert lead_back(row, "released", **WHY, now=now).state == VALIDATED


def test_approving_by_hand_ends_where_the_factory_does(now: datetime) -> None:
    version = make_version(state=VALIDATED, now=now)
    assert approve(version, now=now).state == make_version(now=now).state == APPROVED
