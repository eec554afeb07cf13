"""Tokens over the API: a token can give no more than it has, and one of named models writes to
these alone."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from controlplane.accounts.models import ApiToken, Scope, User
from controlplane.accounts.services import create_api_token
from controlplane.audit.models import Event
from controlplane.catalog.models import Model, Version
from controlplane.domain.rollout import RolloutState
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.factories import (
    ACTOR,
    make_joined_site,
    make_rollout,
    make_site,
    make_version,
    manifest_of,
)


@pytest.fixture
def of_vad(now: datetime) -> ApiCaller:
    """A caller with every scope, for the model vad alone."""
    user = User.objects.create(username="vad-team")
    _, secret = create_api_token(
        user=user,
        name="vad-ci",
        scopes=Scope.values,
        model_names=["vad"],
        lifetime=timedelta(days=10),
        actor=ACTOR,
        now=now,
    )
    return ApiCaller(client=Client(), secret=secret)


class TestMaking:
    def test_it_is_shown_once_and_works(self, api: ApiCaller) -> None:
        response = api.post("tokens", {"name": "deploy", "scopes": ["push"], "models": ["vad"]})

        assert response.status_code == 201, response.content
        document = response.json()
        assert document["token"].startswith("wpt_")
        assert document["hint"] == document["token"][:10]
        assert (document["scopes"], document["models"]) == (["push"], ["vad"])
        shown = api.get(f"tokens/{document['id']}").json()
        assert shown == {key: value for key, value in document.items() if key != "token"}
        made = ApiCaller(client=Client(), secret=document["token"])
        assert made.post("models", {"name": "vad"}).status_code == 201
        assert api.get(f"tokens/{document['id']}").json()["last_used_at"] is not None

    def test_without_a_word_it_lives_for_90_days_or_what_its_maker_has_left(
        self, api: ApiCaller, of_vad: ApiCaller, now: datetime
    ) -> None:
        ApiToken.objects.filter(name="ci").update(expires_at=now + timedelta(days=300))
        for caller, days in ((api, 90), (of_vad, 10)):
            body = {"name": "x", "scopes": ["push"], "models": ["vad"]}
            document = caller.post("tokens", body).json()
            ends = datetime.fromisoformat(document["expires_at"])
            assert abs(ends - timezone.now() - timedelta(days=days)) < timedelta(minutes=5)

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"scopes": ["fleet"]}, "scopes"),
            ({"scopes": ["push", "approve"]}, "scopes"),
            ({"days": 11}, "lifetime"),
            ({"models": []}, "models"),
            ({"models": ["asr"]}, "models"),
            ({"models": ["vad", "asr"]}, "models"),
        ],
    )
    def test_no_more_than_its_maker_has(
        self, of_vad: ApiCaller, changes: dict[str, Any], field: str
    ) -> None:
        ApiToken.objects.filter(name="vad-ci").update(scopes=["push"])
        body = {"name": "x", "scopes": ["push"], "models": ["vad"], **changes}
        document = assert_problem(of_vad.post("tokens", body), 403, "token-grants-too-much")
        assert fields(document) == [field]
        assert not ApiToken.objects.filter(name="x").exists()

    def test_reading_comes_with_every_scope(self, of_vad: ApiCaller) -> None:
        ApiToken.objects.filter(name="vad-ci").update(scopes=["push"])
        body = {"name": "x", "scopes": ["read"], "models": ["vad"]}
        assert of_vad.post("tokens", body).status_code == 201

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"scopes": []}, "scopes"),
            ({"scopes": ["root"]}, "scopes[0]"),
            ({"name": ""}, "name"),
            ({"name": "x" * 101}, "name"),
            ({"name": "a\u202eb"}, "name"),
            ({"days": 0}, "days"),
            ({"days": 366}, "days"),
            ({"days": "soon"}, "days"),
            ({"models": [""]}, "models[0]"),
            ({"models": ["x"] * 51}, "models"),
            ({"lifetime": 5}, "lifetime"),
        ],
    )
    def test_what_cannot_be_made(self, api: ApiCaller, changes: dict[str, Any], field: str) -> None:
        response = api.post("tokens", {"name": "x", "scopes": ["push"], **changes})
        assert response.status_code == 422, response.content
        assert fields(response.json()) == [field]


class TestEnding:
    def test_a_revoked_token_is_refused_at_once(self, api: ApiCaller) -> None:
        made = api.post("tokens", {"name": "x", "scopes": ["push"]}).json()
        response = api.post(f"tokens/{made['id']}/revoke", {"reason": "lost"})
        assert response.json()["revoked_at"] is not None
        other = ApiCaller(client=Client(), secret=made["token"])
        assert_problem(other.get("models"), 401, "token-invalid")
        assert Event.objects.get(action="token.revoked").reason == "lost"
        assert api.post(f"tokens/{made['id']}/revoke").status_code == 200
        assert Event.objects.filter(action="token.revoked").count() == 1

    def test_a_token_can_end_itself(self, with_scopes: Callable[..., ApiCaller]) -> None:
        caller = with_scopes(Scope.PUSH, name="alone")
        number = ApiToken.objects.get(name="alone").pk
        assert caller.post(f"tokens/{number}/revoke").status_code == 200
        assert caller.get("models").status_code == 401

    def test_not_one_that_may_do_more(self, api: ApiCaller) -> None:
        weak = api.post("tokens", {"name": "x", "scopes": ["push"]}).json()["token"]
        strong = ApiToken.objects.get(name="ci").pk
        response = ApiCaller(client=Client(), secret=weak).post(f"tokens/{strong}/revoke")
        assert_problem(response, 403, "token-not-yours-to-end")

    def test_those_of_somebody_else_are_not_there(self, api: ApiCaller, of_vad: ApiCaller) -> None:
        theirs = ApiToken.objects.get(name="vad-ci").pk
        api.get("models")
        assert_problem(api.get(f"tokens/{theirs}"), 404, "token-unknown")
        assert_problem(api.post(f"tokens/{theirs}/revoke"), 404, "token-unknown")
        assert theirs not in [row["id"] for row in api.get("tokens").json()["results"]]

    def test_those_that_work_are_told_from_the_rest(self, api: ApiCaller) -> None:
        made = api.post("tokens", {"name": "x", "scopes": ["push"]}).json()["id"]
        api.post(f"tokens/{made}/revoke")
        ended = [row["id"] for row in api.get("tokens?live=false").json()["results"]]
        assert ended == [made]
        assert made not in [row["id"] for row in api.get("tokens?live=true").json()["results"]]
        assert_problem(api.get("tokens?live=maybe"), 422, "invalid-request")


class TestNamedModels:
    def test_its_own_model(self, of_vad: ApiCaller, now: datetime) -> None:
        assert of_vad.post("models", {"name": "vad"}).status_code == 201
        manifest = manifest_of({"config.pbtxt": b"x", "1/model.onnx": b"y"})
        response = of_vad.post("models/vad/versions", {"manifest": manifest})
        assert response.status_code != 403, response.content

    @pytest.mark.parametrize(
        ("method", "path", "body"),
        [
            ("POST", "models", {"name": "asr"}),
            ("POST", "models", {}),
            ("POST", "models", []),
            ("POST", "models", {"name": ["vad"]}),
            ("POST", "models", b"{"),
            ("PATCH", "models/asr", {"drift_policy": "hold"}),
            ("POST", "models/asr/versions", {"manifest": {}}),
            ("DELETE", "models/asr/versions/1", b""),
            ("PUT", f"models/asr/versions/1/blobs/{'0' * 64}", b"x"),
            ("POST", "models/asr/versions/1/finalise", b""),
            ("POST", "models/asr/versions/1/quarantine", {"reason": "x"}),
            ("POST", "models/vad%2F/versions", {"manifest": {}}),
            ("POST", "rollouts", {"model": "asr", "version": "1"}),
            ("POST", "rollouts", {"version": "1"}),
            ("POST", "rollouts?dry_run=true", {"model": "asr", "version": "1"}),
            ("POST", "sites/edge/models/asr/pin", {"reason": "x"}),
            ("POST", "sites", {"name": "a", "tier": "edge", "region": "x", "model": "vad"}),
            ("PATCH", "sites/edge", {"region": "x"}),
            ("POST", "freezes", {"reason": "x", "model": "vad"}),
            ("PUT", "budget", {"changing_percent": 1}),
            ("POST", "webhooks", {"name": "x", "url": "https://x.example", "actions": ["*"]}),
            ("POST", "strategies", {"name": "x", "stages": []}),
        ],
    )
    def test_nothing_else(
        self, of_vad: ApiCaller, now: datetime, method: str, path: str, body: Any
    ) -> None:
        make_site("edge", now=now)
        make_version("asr", now=now)
        before = (Model.objects.count(), Version.objects.count())
        response = of_vad._send(method, path, body)
        if response.status_code != 404:  # %2F is no path
            assert_problem(response, 403, "model-not-allowed")
        assert (Model.objects.count(), Version.objects.count()) == before

    def test_a_rollout_of_its_model_and_of_another(self, of_vad: ApiCaller, now: datetime) -> None:
        agent = make_joined_site(now=now)
        for model, status in (("vad", 200), ("asr", 403)):
            rollout = make_rollout(
                RolloutState.RUNNING, version=make_version(model, now=now), agents=[agent], now=now
            )
            response = of_vad.post(f"rollouts/{rollout.pk}/pause", {"reason": "x"})
            assert response.status_code == status, response.content
        assert_problem(of_vad.post("rollouts/4711/pause"), 403, "model-not-allowed")

    def test_it_reads_what_every_token_reads(self, of_vad: ApiCaller, now: datetime) -> None:
        make_version("asr", now=now)
        assert of_vad.get("models/asr").status_code == 200


class TestCommand:
    def test_a_token_for_a_model(self, capsys: pytest.CaptureFixture[str], now: datetime) -> None:
        User.objects.create(username="admin")
        call_command("create_token", "ci", "--scope", "push", "--model", "vad", "--model", "asr")
        secret = capsys.readouterr().out.strip()
        assert ApiToken.objects.get(name="ci").model_names == ["asr", "vad"]
        caller = ApiCaller(client=Client(), secret=secret)
        assert_problem(caller.post("models", {"name": "tts"}), 403, "model-not-allowed")

    def test_what_cannot_be_made_is_said(self) -> None:
        User.objects.create(username="admin")
        with pytest.raises(CommandError, match="models"):
            call_command("create_token", "ci", "--scope", "push", "--model", "")
