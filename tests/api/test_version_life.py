"""Approvals, channels and policies over REST: who may, what is answered, what is refused."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from controlplane.accounts.models import Scope
from controlplane.catalog.models import Channel, Model, Version, VersionState
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import make_joined_site, make_rollout, make_version, manifest_of, version_files

VERSION = "models/vad/versions/1"
WHY = {"reason": "because"}
Callers = Callable[..., ApiCaller]


@pytest.fixture
def bo(with_scopes: Callers) -> ApiCaller:
    return with_scopes(Scope.APPROVE, name="bo")


@pytest.fixture
def cem(with_scopes: Callers) -> ApiCaller:
    return with_scopes(Scope.APPROVE, name="cem")


def waiting(now: datetime, **asked: Any) -> Version:
    return make_version(state=VersionState.VALIDATED, now=now, **asked)


class TestApprovals:
    def test_two_people_approve_a_version_that_runs_code(
        self, bo: ApiCaller, cem: ApiCaller, now: datetime
    ) -> None:
        body = {"manifest_digest": waiting(now).manifest_digest, "reason": "read it"}

        first = bo.post(f"{VERSION}/approve", body).json()
        assert first["state"] == "validated"
        assert first["approval"]["sentence"] == (
            "needs 2 approvals by others than ana; has 1 (owner-of-bo)"
        )
        second = cem.post(f"{VERSION}/approve", body).json()

        assert (second["state"], second["approval"]["missing"]) == ("approved", 0)
        given = second["approval"]["given"]
        assert [(each["person"], each["actor"], each["reason"]) for each in given] == [
            ("owner-of-bo", "token:bo", "read it"), ("owner-of-cem", "token:cem", "read it"),
        ]  # fmt: skip
        assert bo.get(f"{VERSION}/approvals").json() == second["approval"]
        assert second["revision"] > first["revision"]

    def test_two_tokens_of_one_person_are_one_yes(
        self, bo: ApiCaller, with_scopes: Callers, now: datetime
    ) -> None:
        body = {"manifest_digest": waiting(now).manifest_digest}
        other_token = with_scopes(Scope.APPROVE, name="bo")
        for caller in (bo, other_token):
            document = caller.post(f"{VERSION}/approve", body).json()
        assert (document["state"], document["approval"]["missing"]) == ("validated", 1)

    def test_a_token_that_pushes_approves_nothing(
        self, with_scopes: Callers, now: datetime
    ) -> None:
        version = waiting(now)
        others = with_scopes(*(set(Scope.values) - {Scope.APPROVE}))
        body = {"manifest_digest": version.manifest_digest}
        channel = {"version": "1", **WHY}
        for response in (
            others.post(f"{VERSION}/approve", body),
            others.post(f"{VERSION}/withdraw-approval", WHY),
            others.post(f"{VERSION}/retire", WHY),
            others.post(f"{VERSION}/unretire", WHY),
            others.put_json("models/vad/channels/stable", channel),
            others.delete("models/vad/channels/stable"),
            others.patch("models/vad", {"approvals_needed": 0, **WHY}),
            others.patch("models/vad", {"unsigned": "allowed", "drift_policy": "hold", **WHY}),
        ):
            assert assert_problem(response, 403, "scope-missing")["needed"] == "approve"
        assert not version.approvals.exists()

    def test_who_pushed_it_cannot_approve_it(self, with_scopes: Callers, now: datetime) -> None:
        version = waiting(now, author="owner-of-ana")
        ana = with_scopes(Scope.APPROVE, Scope.PUSH, name="ana")
        body = {"manifest_digest": version.manifest_digest}
        assert_problem(ana.post(f"{VERSION}/approve", body), 403, "approver-is-author")

    def test_the_author_is_the_person_behind_the_token_that_pushed(
        self, with_scopes: Callers
    ) -> None:
        ana = with_scopes(Scope.PUSH, name="ana")
        lineage = {"git_commit": "abc1234", "metrics": {"auc": 0.9}}
        body = {"manifest": manifest_of(version_files("api")), "lineage": lineage}
        document = ana.post("models/vad/versions", body).json()
        assert (document["created_by"], document["author"]) == ("token:ana", "owner-of-ana")
        assert document["lineage"] == lineage

    def test_other_bytes_and_bad_bodies(self, bo: ApiCaller, now: datetime) -> None:
        digest = waiting(now).manifest_digest
        other = {"manifest_digest": "sha256:" + "0" * 64}
        problem = assert_problem(bo.post(f"{VERSION}/approve", other), 409, "approval-other-bytes")
        assert problem["manifest_digest"] == digest
        assert_problem(bo.post(f"{VERSION}/approve", {}), 422, "invalid-request")
        assert_problem(bo.post("models/vad/versions/9/approve", other), 404, "version-unknown")

    def test_taken_back_and_too_late(self, bo: ApiCaller, now: datetime) -> None:
        version = waiting(now)
        bo.post(f"{VERSION}/approve", {"manifest_digest": version.manifest_digest})
        assert_problem(bo.post(f"{VERSION}/withdraw-approval", {}), 422, "reason-required")
        assert bo.post(f"{VERSION}/withdraw-approval", WHY).json()["approval"]["given"] == []
        assert_problem(bo.post(f"{VERSION}/withdraw-approval", WHY), 409, "approval-unknown")

        rollout = make_rollout(version=make_version(now=now), now=now)
        problem = bo.post(f"models/vad/versions/{rollout.version.number}/withdraw-approval", WHY)
        assert assert_problem(problem, 409, "approval-in-use")["rollout"] == rollout.pk


class TestRetiring:
    def test_and_back(self, bo: ApiCaller, api: ApiCaller, now: datetime) -> None:
        make_version(now=now)
        retired = bo.post(f"{VERSION}/retire", WHY).json()
        assert (retired["state"], retired["state_reason"]) == ("retired", "token:bo: because")
        problem = api.post("rollouts", {"model": "vad", "version": "1"})
        assert fields(assert_problem(problem, 422, "version-retired")) == ["version"]
        assert bo.post(f"{VERSION}/unretire", WHY).json()["state"] == "approved"
        assert_problem(bo.post(f"{VERSION}/unretire", WHY), 409, "version-not-retired")


class TestWords:
    def test_labels_and_notes(self, with_scopes: Callers, now: datetime) -> None:
        make_version(now=now)
        ci = with_scopes(Scope.PUSH)
        changed = ci.patch(VERSION, {"labels": {"team": "asr"}, "notes": " kept as it is\n"})
        assert (changed.json()["labels"], changed.json()["notes"]) == (
            {"team": "asr"}, " kept as it is\n",
        )  # fmt: skip
        assert ci.patch(VERSION, {"labels": {}}).json()["notes"] == " kept as it is\n"
        assert_problem(ci.patch(VERSION, {"lineage": {}}), 422, "invalid-request")
        assert_problem(ci.patch(VERSION, {"labels": {"a": "x" * 300}}), 422, "labels-invalid")

    def test_a_models_policies_and_quotas(self, bo: ApiCaller, now: datetime) -> None:
        make_version(now=now)
        asked = {
            "description": "hears", "approvals_needed": 2, "unsigned": "warned",
            "quota_bytes": 10**12, "quota_versions": 40,
        }  # fmt: skip
        document = bo.patch("models/vad", asked).json()
        assert asked.items() <= document.items()
        assert document["revision"] == 2
        assert bo.patch("models/vad", {"quota_bytes": None}).json()["quota_bytes"] is None
        assert_problem(bo.patch("models/vad", {"approvals_needed": 1}), 422, "reason-required")
        assert_problem(bo.patch("models/vad", {"approvals_needed": 99}), 422, "invalid-request")
        assert_problem(bo.patch("models/vad", {"drift_policy": "hold"}), 403, "scope-missing")

    def test_a_quota_is_a_conflict_with_its_numbers(self, api: ApiCaller, now: datetime) -> None:
        make_version(now=now)
        Model.objects.update(quota_versions=1)
        response = api.post("models/vad/versions", {"manifest": manifest_of(version_files("q"))})
        problem = assert_problem(response, 409, "quota-exceeded")
        assert (problem["versions"], problem["quota_versions"]) == (1, 1)


class TestChannels:
    def test_a_move_that_starts_a_rollout_needs_its_scope_as_well(
        self, bo: ApiCaller, api: ApiCaller, now: datetime
    ) -> None:
        make_version(now=now)
        path, body = "models/vad/channels/stable", {"version": "1", **WHY}
        refused = bo.put_json(path, {**body, "strategy": "canary"})
        assert assert_problem(refused, 403, "scope-missing")["needed"] == "rollout"
        assert not Channel.objects.exists()

        assert api.put_json(path, {**body, "strategy": "canary"}).status_code == 201
        make_version(now=now)
        refused = bo.put_json(path, {**body, "version": "2"})
        assert assert_problem(refused, 403, "scope-missing")["needed"] == "rollout"
        assert Channel.objects.get().version.number == 1

        # Without a strategy a move starts nothing.
        assert bo.put_json(path, {"version": "2", "strategy": "", **WHY}).status_code == 200
        assert bo.put_json(path, body).status_code == 200

    def test_are_made_moved_listed_and_removed(self, with_scopes: Callers, now: datetime) -> None:
        bo = with_scopes(Scope.APPROVE, Scope.ROLLOUT, name="bo")
        make_version(now=now)
        make_version(now=now)
        path = "models/vad/channels/stable"
        made = bo.put_json(path, {"version": "1", "strategy": "canary", **WHY})
        assert made.status_code == 201
        document = made.json()
        assert (document["version"], document["strategy"], document["outcome"]) == (
            "1", "canary", "",
        )  # fmt: skip
        assert (document["moved_by"], document["person"]) == ("token:bo", "owner-of-bo")

        moved = bo.put_json(path, {"version": 2, **WHY})
        assert (moved.status_code, moved.json()["strategy"]) == (200, "canary")
        assert bo.get(path).json() == moved.json()
        assert bo.get("models/vad/channels").json()["results"] == [moved.json()]
        assert bo.get("models/vad/versions/2").json()["channels"] == ["stable"]
        listed = bo.get("models/vad/versions").json()["results"]
        assert [each["channels"] for each in listed] == [["stable"], []]
        assert bo.delete(path).status_code == 204
        assert_problem(bo.delete(path), 404, "channel-unknown")
        assert_problem(bo.get(path), 404, "channel-unknown")

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            ({"version": "2", **WHY}, "version-not-approved"),
            ({"version": "9", **WHY}, "version-unknown"),
            ({"version": "1"}, "invalid-request"),
            ({"version": "1", "strategy": "gone", **WHY}, "strategy-unknown"),
            ({"version": "1", "strategy": "a@b", **WHY}, "strategy-invalid"),
            ({"version": "1", "strategy": "x" * 41, **WHY}, "invalid-request"),
            ({"version": "@stable", **WHY}, "invalid-request"),
            ({"version": "1", "to": "x", **WHY}, "invalid-request"),
        ],
    )
    def test_bad_moves(self, body: dict[str, Any], code: str, bo: ApiCaller, now: datetime) -> None:
        make_version(now=now)
        waiting(now)
        assert_problem(bo.put_json("models/vad/channels/stable", body), 422, code)
        assert not Channel.objects.exists()

    def test_a_rollout_may_name_its_version_by_a_channel(
        self, api: ApiCaller, now: datetime
    ) -> None:
        make_joined_site(now=now)
        make_version(now=now)
        make_version(now=now)
        api.put_json("models/vad/channels/stable", {"version": "1", **WHY})

        started = api.post("rollouts", {"model": "vad", "version": "@stable"})

        assert (started.status_code, started.json()["version"]) == (201, "1")
        for model, version, code in (
            ("vad", "@gone", "channel-unknown"),
            ("x", "@stable", "model-unknown"),
            ("vad", "@", "invalid-request"),
        ):
            response = api.post("rollouts", {"model": model, "version": version})
            assert fields(assert_problem(response, 422, code)) == ["version"]

    def test_names_and_models_that_are_none(self, bo: ApiCaller, now: datetime) -> None:
        make_version(now=now)
        body = {"version": "1", **WHY}
        response = bo.put_json("models/vad/channels/No%00", body)
        assert_problem(response, 422, "channel-name-invalid")
        assert_problem(bo.put_json("models/x/channels/a", body), 404, "model-unknown")
        assert_problem(bo.get("models/vad/channels/%00"), 404, "channel-unknown")


class TestDryRun:
    def test_tells_every_fault_and_keeps_nothing(self, with_scopes: Callers) -> None:
        ci = with_scopes(Scope.PUSH)
        files = {**version_files("x"), "config.pbtxt": b'name: "y"\nbackend: "python"\n'}
        body = {
            "manifest": manifest_of({**files, "../x": b""}),
            "texts": {"config.pbtxt": files["config.pbtxt"].decode(), "golden.json": "{}"},
        }
        response = ci.post("models/vad/versions?dry_run=true", body)
        assert response.status_code == 200
        document = response.json()
        places = [each["place"] for each in document["findings"] if each["level"] == "fault"]
        assert any(place.startswith("config.pbtxt:1 name") for place in places)
        assert any(place.startswith("golden.json") for place in places)
        assert any("manifest.files[" in place for place in places)
        assert (document["would"], document["content_class"], document["approvals_needed"]) == (
            "create", "executable", 2,
        )  # fmt: skip
        assert not Model.objects.exists()

    def test_of_the_same_and_of_other_bytes(self, api: ApiCaller, now: datetime) -> None:
        make_version(files=version_files("x"), now=now)
        same = {"manifest": manifest_of(version_files("x"))}
        document = api.post("models/vad/versions?dry_run=true", same).json()
        assert (document["would"], document["version"], document["missing"]) == ("same", "1", [])
        other = {"manifest": manifest_of(version_files("y")), "version": "1"}
        document = api.post("models/vad/versions?dry_run=true", other).json()
        assert (document["would"], document["conflict"]["code"]) == ("conflict", "version-exists")
        bad = api.post("models/vad/versions?dry_run=perhaps", same)
        assert_problem(bad, 422, "invalid-request")
