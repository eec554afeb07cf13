"""Machines that may call, as their pages make and end them: API tokens, publishers, keys."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from django.contrib.auth.models import Permission
from django.test import Client

from controlplane.accounts.models import ApiToken, Scope, TrustedPublisher, User
from controlplane.accounts.services import authenticate_api_token, create_api_token
from controlplane.audit.models import Event
from controlplane.catalog.models import SigningKey, VersionState
from controlplane.domain.errors import Unauthenticated
from tests.factories import ACTOR
from tests.web.catalogue import Catalogue, make_catalogue, public_key
from tests.web.conftest import text_of

pytestmark = pytest.mark.django_db
WHY = {"reason": "because"}
TOKEN = {"name": "ci", "scopes": ["push"], "models": "", "days": "30"}
PUBLISHER = {
    "name": "ci-main",
    "issuer": "https://issuer.example",
    "audience": "waypost",
    "claims": "repository=acme/vad\r\nref=refs/heads/main",
    "scopes": ["push"],
    "models": "vad",
    "minutes": "15",
}


def give(user: User, *codenames: str) -> None:
    user.user_permissions.add(*Permission.objects.filter(codename__in=codenames))


@pytest.fixture
def made(operator: User, now: datetime) -> Catalogue:
    return make_catalogue(operator, now=now)


# Tokens


def test_a_token_is_shown_once_and_works(olga: Client, operator: User, now: datetime) -> None:
    response = olga.post("/access/new-token/", TOKEN | {"models": "vad, asr"})
    secret = response.context["secret"]
    assert response["Cache-Control"] == "no-store"
    assert secret in text_of(response)
    token = authenticate_api_token(secret=secret, now=now)
    assert (token.user, token.scopes, token.model_names) == (operator, ["push"], ["asr", "vad"])
    assert timedelta(days=29) < token.expires_at - now < timedelta(days=31)
    html = text_of(olga.get("/access/"))
    assert token.hint in html
    assert secret not in html
    event = Event.objects.get(action="token.created")
    assert event.actor == "user:olga"
    assert secret not in str(event.data)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\tb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"days": "0"}, "days"),
        ({"days": "366"}, "days"),
        ({"days": "x"}, "days"),
        ({"models": " ".join(f"m{n}" for n in range(51))}, "models"),
        ({"models": "x" * 65}, "models"),
        ({"name": "nul\0"}, "name"),
    ],
)
def test_a_token_that_cannot_be_is_told_at_its_field(
    olga: Client, change: dict[str, Any], field: str
) -> None:
    response = olga.post("/access/new-token/", TOKEN | change)
    assert response.status_code == 422
    assert response.context["form"].errors[field]
    assert not ApiToken.objects.exists()


def test_nobody_gives_a_token_more_than_they_may_do(viktor: Client, viewer: User) -> None:
    """A token acts by its scopes alone: a login that only looks must not make one that approves."""
    assert viktor.get("/access/new-token/").status_code == 403
    assert viktor.post("/access/new-token/", TOKEN).status_code == 403
    assert "accounts.add_apitoken" in text_of(viktor.get("/access/"))
    give(viewer, "add_apitoken")
    offered = viktor.get("/access/new-token/")
    assert [value for value, _ in offered.context["form"].fields["scopes"].choices] == ["read"]
    assert "catalog.add_versionapproval" in text_of(offered)
    for scope in Scope.values:
        response = viktor.post("/access/new-token/", TOKEN | {"scopes": [scope]})
        assert (response.status_code == 200) == (scope == "read"), scope
    give(viewer, "add_version")
    assert viktor.post("/access/new-token/", TOKEN).status_code == 200
    # Part of what a scope allows is not the scope.
    give(viewer, "add_versionapproval", "change_channel")
    assert viktor.post("/access/new-token/", TOKEN | {"scopes": ["approve"]}).status_code == 422
    assert {scope for token in ApiToken.objects.all() for scope in token.scopes} == {
        "push", "read",
    }  # fmt: skip


def test_a_token_is_revoked_with_a_reason_and_opens_nothing(
    olga: Client, operator: User, now: datetime
) -> None:
    token, secret = create_api_token(
        user=operator, name="ci", scopes=[Scope.READ], actor=ACTOR, now=now
    )
    path = f"/access/tokens/{token.pk}/revoke/"
    assert olga.post(path, {"reason": ""}).status_code == 422
    assert olga.post(path, WHY).status_code == 302
    with pytest.raises(Unauthenticated):
        authenticate_api_token(secret=secret, now=now)
    assert Event.objects.get(action="token.revoked").reason == "because"
    assert "is revoked already" in text_of(olga.get(path))


def test_the_tokens_of_others_are_not_there(
    olga: Client, viktor: Client, operator: User, now: datetime
) -> None:
    token, _ = create_api_token(
        user=operator, name="of olga", scopes=[Scope.READ], actor=ACTOR, now=now
    )
    assert "of olga" not in text_of(viktor.get("/access/"))
    path = f"/access/tokens/{token.pk}/revoke/"
    assert viktor.get(path).status_code == 404
    assert viktor.post(path, WHY).status_code == 404
    assert olga.get(path).status_code == 200


def test_a_token_says_when_it_ended_and_when_it_was_used(
    olga: Client, operator: User, now: datetime
) -> None:
    create_api_token(
        user=operator, name="old", scopes=[Scope.READ], lifetime=timedelta(days=1), actor=ACTOR,
        now=now - timedelta(days=2),
    )  # fmt: skip
    _, secret = create_api_token(
        user=operator, name="new", scopes=[Scope.READ], actor=ACTOR, now=now
    )
    authenticate_api_token(secret=secret, now=now - timedelta(hours=2))
    rows = {token.name: life for token, life in olga.get("/access/").context["rows"]}
    assert rows == {"old": "expired", "new": "live"}
    assert "2 h ago" in text_of(olga.get("/access/"))


# Publishers


def test_a_publisher_is_trusted_and_let_go(olga: Client, operator: User) -> None:
    assert olga.post("/access/new-publisher/", PUBLISHER).status_code == 302
    row = TrustedPublisher.objects.get()
    assert row.claims == {"repository": "acme/vad", "ref": "refs/heads/main"}
    assert (row.user, row.scopes, row.model_names) == (operator, ["push"], ["vad"])
    assert "ref is refs/heads/main" in text_of(olga.get("/access/publishers/"))
    again = olga.post("/access/new-publisher/", PUBLISHER)
    assert again.status_code == 409
    assert "names are for ever" in text_of(again)
    path = "/access/publishers/ci-main/revoke/"
    assert olga.post(path, {"reason": ""}).status_code == 422
    assert olga.post(path, WHY).status_code == 302
    row.refresh_from_db()
    assert row.revoked_at is not None
    assert "is not trusted any more" in text_of(olga.get(path))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "Not Good"}, "name"),
        ({"issuer": "http://issuer.example"}, "issuer"),
        ({"issuer": "nonsense"}, "issuer"),
        ({"issuer": "https://issuer.example/?a=b"}, "issuer"),
        ({"audience": ""}, "audience"),
        ({"claims": ""}, "claims"),
        ({"claims": "repository"}, "claims"),
        ({"claims": "repository="}, "claims"),
        ({"claims": "ref=a\nref=b"}, "claims"),
        (
            {"issuer": "https://token.actions.githubusercontent.com", "claims": "ref=main"},
            "claims",
        ),
        ({"scopes": ["nothing"]}, "scopes"),
        ({"minutes": "61"}, "minutes"),
        ({"models": "x" * 65}, "models"),
    ],
)
def test_a_publisher_that_cannot_be_is_told_at_its_field(
    olga: Client, change: dict[str, Any], field: str
) -> None:
    response = olga.post("/access/new-publisher/", PUBLISHER | change)
    assert response.status_code == 422
    assert response.context["form"].errors[field]
    assert not TrustedPublisher.objects.exists()


def test_nobody_trusts_a_publisher_with_more_than_they_may_do(viktor: Client, viewer: User) -> None:
    assert viktor.post("/access/new-publisher/", PUBLISHER).status_code == 403
    give(viewer, "add_trustedpublisher")
    assert viktor.post("/access/new-publisher/", PUBLISHER).status_code == 422
    assert not TrustedPublisher.objects.exists()
    give(viewer, "add_version")
    assert viktor.post("/access/new-publisher/", PUBLISHER).status_code == 302


# Signing keys


def test_a_key_is_added_once_and_revoked_for_ever(olga: Client) -> None:
    form = {"name": "release", "public_key": public_key()}
    assert olga.post("/access/new-key/", form).status_code == 302
    key = SigningKey.objects.get()
    assert key.added_by == "user:olga"
    assert key.fingerprint in text_of(olga.get("/access/keys/"))
    assert olga.post("/access/new-key/", form).status_code == 302  # the same again is no fault
    other = olga.post("/access/new-key/", form | {"name": "other"})
    assert other.status_code == 409
    assert "kept already, as release" in text_of(other)
    path = "/access/keys/release/revoke/"
    assert olga.post(path, {"reason": ""}).status_code == 422
    assert olga.post(path, WHY).status_code == 302
    assert "because" in text_of(olga.get("/access/keys/"))
    back = olga.post("/access/new-key/", form)
    assert back.status_code == 409
    assert "does not come back" in text_of(back)


def test_a_pasted_private_key_is_refused_and_not_sent_back(olga: Client) -> None:
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for text in (private.decode(), public_key() + private.decode()):
        response = olga.post("/access/new-key/", {"name": "release", "public_key": text})
        assert response.status_code == 422
        html = text_of(response)
        assert "stays with whoever signs" in html
        assert "PRIVATE KEY" not in html
        assert private.decode().splitlines()[1] not in html
        assert 'value="release"' in html
    assert not SigningKey.objects.exists()


@pytest.mark.parametrize("text", ["", "x", "-----BEGIN PUBLIC KEY-----\nx\n", "é" * 5000, "a\0b"])
def test_what_is_no_key_is_told_at_its_field(olga: Client, text: str) -> None:
    response = olga.post("/access/new-key/", {"name": "release", "public_key": text})
    assert response.status_code == 422
    assert response.context["form"].errors["public_key"]


def test_revoking_the_key_that_a_version_stood_by_takes_it_back(
    olga: Client, made: Catalogue
) -> None:
    made.waiting.model.unsigned = "refused"
    made.waiting.model.save()
    made.served.signatures.filter(key__name="release").update(version=made.waiting)
    assert olga.post("/access/keys/release/revoke/", WHY).status_code == 302
    made.waiting.refresh_from_db()
    assert made.waiting.state == VersionState.REGISTERED
    html = text_of(olga.get("/models/vad/2/"))
    assert "signed only by release, which was revoked" in html


@pytest.mark.parametrize(
    ("path", "codename"),
    [
        ("/access/new-token/", "add_apitoken"),
        ("/access/new-publisher/", "add_trustedpublisher"),
        ("/access/publishers/ci-main/revoke/", "change_trustedpublisher"),
        ("/access/new-key/", "add_signingkey"),
        ("/access/keys/release/revoke/", "change_signingkey"),
    ],
)
def test_each_needs_its_own_right(
    viktor: Client, viewer: User, made: Catalogue, path: str, codename: str
) -> None:
    others = {
        "add_apitoken", "add_trustedpublisher", "change_trustedpublisher", "add_signingkey",
        "change_signingkey",
    } - {codename}  # fmt: skip
    give(viewer, *others)
    for response in (viktor.get(path), viktor.post(path, WHY)):
        assert response.status_code == 403
        assert codename in text_of(response)
    give(viewer, codename)
    assert viktor.get(path).status_code == 200


def test_a_viewer_may_look_at_publishers_and_keys(viktor: Client, made: Catalogue) -> None:
    assert "acme/vad" in text_of(viktor.get("/access/publishers/"))
    html = text_of(viktor.get("/access/keys/"))
    assert "release" in html
    assert "/revoke/" not in html


def test_unknown_names_are_a_404(olga: Client) -> None:
    for path in ("publishers/nope", "keys/nope", "tokens/99", "tokens/99999999999999999999"):
        assert olga.get(f"/access/{path}/revoke/").status_code == 404, path
