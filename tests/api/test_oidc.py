"""A CI job trades the identity that its provider signed for a short token: against a provider that
really signs, over HTTP that is really spoken."""

import base64
import contextlib
import hashlib
import hmac
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from django.test import Client

from controlplane.accounts import issuers
from controlplane.accounts.issuers import (
    COOLDOWN_SECONDS,
    ISSUER_KEYS,
    IssuerKeys,
    IssuerUnavailable,
    _KeySet,
    fetch_json,
)
from controlplane.accounts.models import ApiToken, Scope, SpentIdentity, TrustedPublisher
from controlplane.accounts.pruning import EXCHANGED_KEPT_FOR, prune_accounts
from controlplane.audit.models import Event
from controlplane.catalog.models import Model
from tests.api.calls import ApiCaller, assert_problem, fields
from tests.api.issuer import AUDIENCE, CLAIMS, Issuer, running_issuer

PUBLISHER: dict[str, Any] = {
    "name": "vad-main",
    "audience": AUDIENCE,
    "claims": {"repository": "acme/vad", "ref": "refs/heads/main"},
    "scopes": ["push"],
    "models": ["vad"],
}


@pytest.fixture(autouse=True)
def _loopback(settings: Any) -> Iterator[None]:
    settings.WAYPOST_OIDC_ALLOW_LOOPBACK_HTTP = True
    ISSUER_KEYS.forget()
    yield
    ISSUER_KEYS.forget()


@pytest.fixture(scope="module")
def _server() -> Iterator[Issuer]:
    with running_issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(_server: Issuer) -> Issuer:
    """One provider for all tests; each finds it as it was."""
    for kid in set(_server.keys) - {"first"}:
        del _server.keys[kid]
    _server.says_issuer, _server.redirect_keys_to = _server.url, None
    _server.asked.clear()
    return _server


@pytest.fixture
def trusted(api: ApiCaller, issuer: Issuer) -> dict[str, Any]:
    response = api.post("publishers", {**PUBLISHER, "issuer": issuer.url})
    assert response.status_code == 201, response.content
    return dict(response.json())


def exchange(identity: Any, **more: Any) -> Any:
    """As the job calls it: without a token."""
    raw = json.dumps({"token": identity, **more}).encode()
    return Client().post("/api/v1/tokens/exchange", raw, "application/json")


def test_a_job_gets_a_short_token_for_its_models(
    issuer: Issuer, trusted: dict[str, Any], now: datetime
) -> None:
    response = exchange(issuer.identity(now=now))

    assert response.status_code == 201, response.content
    document = response.json()
    assert (document["publisher"], document["scopes"]) == ("vad-main", ["push"])
    job = ApiCaller(client=Client(), secret=document["token"])
    assert job.post("models", {"name": "vad"}).status_code == 201
    assert_problem(job.post("models", {"name": "asr"}), 403, "model-not-allowed")
    assert_problem(job.post("tokens", {"name": "x", "scopes": ["push"]}), 403, "token-cannot-grant")
    assert list(Model.objects.values_list("name", flat=True)) == ["vad"]


def test_the_token_says_whom_it_was_given_to(
    issuer: Issuer, trusted: dict[str, Any], now: datetime
) -> None:
    exchange(issuer.identity(now=now))
    token = ApiToken.objects.get(name="vad-main")
    assert token.exchanged_for.startswith("repository acme/vad, ref refs/heads/main")
    assert "run_id 4711" in token.exchanged_for
    assert timedelta(minutes=14) < token.expires_at - now < timedelta(minutes=16)
    event = Event.objects.get(action="token.exchanged")
    assert (event.actor, event.data["run_id"]) == ("publisher:vad-main", "4711")
    assert TrustedPublisher.objects.get().last_used_at is not None


def test_it_serves_once(issuer: Issuer, trusted: dict[str, Any], now: datetime) -> None:
    identity = issuer.identity(now=now)
    assert exchange(identity).status_code == 201
    assert_problem(exchange(identity), 401, "identity-spent")
    assert ApiToken.objects.filter(name="vad-main").count() == 1


def test_without_a_name_of_its_own_it_serves_once_too(
    issuer: Issuer, trusted: dict[str, Any], now: datetime
) -> None:
    issuer.add_key("curve", kind="ES256")
    identity = issuer.identity(now=now, kid="curve", jti=None)
    assert exchange(identity).status_code == 201
    assert_problem(exchange(other_signature(identity)), 401, "identity-spent")


def other_signature(identity: str) -> str:
    """ECDSA has a second signature for the same text: (r, n - s)."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signed, _, signature = identity.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    twin = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    return f"{signed}.{base64.urlsafe_b64encode(twin).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    ("changes", "status", "code"),
    [
        ({"aud": "somebody-else"}, 403, "identity-not-trusted"),
        ({"aud": [AUDIENCE, "somebody-else"]}, 403, "identity-not-trusted"),
        ({"repository": "acme/other"}, 403, "identity-not-trusted"),
        ({"repository": "acme/vad2"}, 403, "identity-not-trusted"),
        ({"repository": "ACME/vad"}, 403, "identity-not-trusted"),
        ({"repository": None}, 403, "identity-not-trusted"),
        ({"repository": ["acme/vad"]}, 403, "identity-not-trusted"),
        ({"ref": "refs/heads/feature"}, 403, "identity-not-trusted"),
        ({"iss": "https://elsewhere.example"}, 403, "identity-not-trusted"),
        ({"iss": None}, 403, "identity-not-trusted"),
        ({"iss": ["x"]}, 403, "identity-not-trusted"),
        ({"exp": None}, 401, "identity-invalid"),
        ({"iat": None}, 401, "identity-invalid"),
        ({"aud": None}, 401, "identity-invalid"),
        ({"exp": "tomorrow"}, 401, "identity-invalid"),
        ({"exp": 10**30}, 401, "identity-invalid"),
        ({"exp": True}, 401, "identity-invalid"),
    ],
)
def test_an_identity_that_is_not_the_one_trusted(
    issuer: Issuer,
    trusted: dict[str, Any],
    now: datetime,
    changes: dict[str, Any],
    status: int,
    code: str,
) -> None:
    assert_problem(exchange(issuer.identity(now=now, **changes)), status, code)
    assert not ApiToken.objects.exclude(exchanged_for="").exists()
    assert not SpentIdentity.objects.exists()


@pytest.mark.parametrize(
    ("minutes", "claim", "fine"),
    [
        (-1, "exp", False),
        (0.3, "exp", True),
        (-0.3, "exp", True),  # clocks differ by so much
        (2, "nbf", False),
        (2, "iat", False),
        (0.3, "nbf", True),
        (60 * 24 * 3, "exp", False),
    ],
)
def test_times(
    issuer: Issuer,
    trusted: dict[str, Any],
    now: datetime,
    minutes: float,
    claim: str,
    fine: bool,
) -> None:
    made = now - timedelta(minutes=1)
    changes = {"iat": made, "nbf": made, claim: now + timedelta(minutes=minutes)}
    response = exchange(issuer.identity(now=now, **changes))
    if fine:
        assert response.status_code == 201, response.content
    else:
        assert_problem(response, 401, "identity-invalid")


def signed_otherwise(identity: str, header: dict[str, Any], key: bytes | None) -> str:
    """The same claims under another header; HMAC by hand, as a library refuses to."""
    body = identity.split(".")[1]
    head = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=").decode()
    text = f"{head}.{body}"
    raw = hmac.new(key, text.encode(), hashlib.sha256).digest() if key else b""
    return f"{text}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"


class TestForgeries:
    def test_signed_with_nothing(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        for name in ("none", "None", "NONE", ""):
            header = {"alg": name, "kid": "first", "typ": "JWT"}
            response = exchange(signed_otherwise(issuer.identity(now=now), header, None))
            assert response.status_code in (401, 422), response.content
        assert issuer.asked == []

    def test_the_public_key_taken_for_a_shared_secret(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        header = {"alg": "HS256", "kid": "first", "typ": "JWT"}
        identity = signed_otherwise(issuer.identity(now=now), header, issuer.public_pem("first"))
        assert_problem(exchange(identity), 401, "identity-invalid")

    def test_the_key_of_another_issuer(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        with running_issuer() as other:
            other.add_key("elsewhere")
            theirs = other.identity(now=now, kid="elsewhere", iss=issuer.url)
            assert_problem(exchange(theirs), 401, "identity-invalid")
            # And under the name of a key that this issuer has.
            forged = jwt.encode(
                jwt.decode(theirs, options={"verify_signature": False}),
                other.keys["elsewhere"],
                algorithm="RS256",
                headers={"kid": "first"},
            )
            assert_problem(exchange(forged), 401, "identity-invalid")
            assert other.asked == []

    def test_a_key_in_the_token_itself_counts_for_nothing(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        own = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        claims = jwt.decode(issuer.identity(now=now), options={"verify_signature": False})
        jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(own.public_key()))
        headers = {"kid": "first", "jwk": jwk, "jku": "http://127.0.0.1:9/keys"}
        identity = jwt.encode(claims, own, algorithm="RS256", headers=headers)
        assert_problem(exchange(identity), 401, "identity-invalid")

    def test_a_changed_claim(self, issuer: Issuer, trusted: dict[str, Any], now: datetime) -> None:
        head, _, signature = issuer.identity(now=now, repository="acme/other").split(".")
        body = issuer.identity(now=now).split(".")[1]
        assert_problem(exchange(f"{head}.{body}.{signature}"), 401, "identity-invalid")

    @pytest.mark.parametrize(
        "text",
        ["", "x", "a.b.c", "....", "é.é.é", "e30.e30.", "x" * 16_385, "e30.bnVsbA.", "\u0000"],
    )
    def test_what_is_no_token(self, trusted: dict[str, Any], text: str) -> None:
        assert exchange(text).status_code in (400, 401, 403, 422)

    @pytest.mark.parametrize("body", [[], {}, {"token": None}, {"token": {}}])
    def test_what_is_no_request(self, body: Any) -> None:
        raw = json.dumps(body).encode()
        response = Client().post("/api/v1/tokens/exchange", raw, "application/json")
        assert_problem(response, 422, "invalid-request")


class TestKeys:
    def test_a_new_key_is_found(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        assert exchange(issuer.identity(now=now)).status_code == 201
        issuer.add_key("second")
        assert exchange(issuer.identity(now=now, kid="second")).status_code == 201
        assert issuer.asked.count("/keys") == 2

    def test_they_are_fetched_once(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        for number in range(3):
            assert exchange(issuer.identity(now=now, jti=str(number))).status_code == 201
        assert issuer.asked == ["/.well-known/openid-configuration", "/keys"]

    def test_made_up_names_of_keys_do_not_have_them_fetched_each_time(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        for number in range(5):
            issuer.add_key(f"made-up-{number}")
            identity = issuer.identity(now=now, kid=f"made-up-{number}")
            del issuer.keys[f"made-up-{number}"]
            assert_problem(exchange(identity), 401, "identity-invalid")
        assert issuer.asked.count("/keys") <= 2

    def test_a_key_that_is_withdrawn_counts_no_more(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        issuer.add_key("second")
        identity = issuer.identity(now=now, kid="second")
        del issuer.keys["second"]
        assert_problem(exchange(identity), 401, "identity-invalid")

    def test_an_issuer_that_names_another_is_not_believed(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        issuer.says_issuer = "https://elsewhere.example"
        response = exchange(issuer.identity(now=now))
        assert_problem(response, 503, "issuer-unavailable")
        assert response["Retry-After"]

    def test_no_redirect_is_followed(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        issuer.redirect_keys_to = f"{issuer.url}/elsewhere"
        assert_problem(exchange(issuer.identity(now=now)), 503, "issuer-unavailable")
        assert "/elsewhere" not in issuer.asked

    def test_plain_http_is_for_tests_alone(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime, settings: Any
    ) -> None:
        settings.WAYPOST_OIDC_ALLOW_LOOPBACK_HTTP = False
        assert_problem(exchange(issuer.identity(now=now)), 503, "issuer-unavailable")
        assert issuer.asked == []

    def test_an_issuer_that_is_away_is_not_asked_each_time(self) -> None:
        asked: list[str] = []
        clock = [100.0]

        def away(url: str) -> object:
            asked.append(url)
            raise ConnectionRefusedError("away")

        keys = IssuerKeys(away, lambda: clock[0])

        def find(key: str) -> None:
            with pytest.raises(IssuerUnavailable, match="away"):
                keys.find("https://i", key)

        with ThreadPoolExecutor(max_workers=10) as threads:
            list(threads.map(find, [f"key-{n}" for n in range(50)]))
        assert len(asked) == 1
        clock[0] += COOLDOWN_SECONDS
        find("key")
        assert len(asked) == 2
        with pytest.raises(IssuerUnavailable):
            keys.find("https://another", "key")
        assert len(asked) == 3

    def test_keys_that_are_no_keys_are_not_fetched_each_time(self) -> None:
        asked: list[str] = []

        def odd(url: str) -> object:
            asked.append(url)
            return {"issuer": "https://i", "jwks_uri": "https://i/keys", "keys": []}

        keys = IssuerKeys(odd)
        for _ in range(5):
            with pytest.raises(IssuerUnavailable):
                keys.find("https://i", "key")
        assert len(asked) == 2

    def test_one_that_answers_a_byte_at_a_time_is_given_up(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(issuers, "TOTAL_SECONDS", 0.5)
        stop = threading.Event()
        with socket.create_server(("127.0.0.1", 0)) as server:

            def drip() -> None:
                wire, _ = server.accept()
                with wire, contextlib.suppress(OSError):
                    wire.sendall(b"HTTP/1.1 200 OK\r\nX: ")
                    while not stop.wait(0.05):
                        wire.sendall(b"x")

            thread = threading.Thread(target=drip, daemon=True)
            thread.start()
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                fetch_json(f"http://127.0.0.1:{server.getsockname()[1]}/")
            took = time.monotonic() - began
            stop.set()
            thread.join()
        assert took < 3

    def test_what_the_issuer_says_may_be_anything(self) -> None:
        for said in (None, [], {"issuer": "http://i", "jwks_uri": 5}, {"issuer": "http://i"}):
            with pytest.raises(ValueError, match="its"):
                _KeySet("http://i", lambda url, said=said: said).fetch_data()  # type: ignore[misc]


class TestPublishers:
    def test_they_are_listed_and_ended(
        self, api: ApiCaller, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        assert [row["name"] for row in api.get("publishers").json()["results"]] == ["vad-main"]
        response = api.post("publishers/vad-main/revoke", {"reason": "moved"})
        assert response.json()["revoked_at"] is not None
        assert_problem(exchange(issuer.identity(now=now)), 403, "identity-not-trusted")
        assert api.get("publishers/vad-main").json()["claims"] == PUBLISHER["claims"]

    def test_they_end_with_the_revocation_of_the_token_that_made_them(
        self, api: ApiCaller, issuer: Issuer, now: datetime
    ) -> None:
        body = {"name": "maker", "scopes": ["approve", "push"]}
        made = api.post("tokens", body).json()
        maker = ApiCaller(client=Client(), secret=made["token"])
        assert maker.post("publishers", {**PUBLISHER, "issuer": issuer.url}).status_code == 201
        assert exchange(issuer.identity(now=now)).status_code == 201
        assert api.post(f"tokens/{made['id']}/revoke", {"reason": "lost"}).status_code == 200
        assert_problem(exchange(issuer.identity(now=now, jti="x")), 403, "identity-not-trusted")
        assert api.get("publishers/vad-main").json()["revoked_at"] is not None
        event = Event.objects.get(action="publisher.revoked")
        assert event.reason == "The token that made it (maker) was revoked."

    def test_a_revoked_token_that_still_made_one_vouches_for_nobody(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        """As when both happen at once."""
        ApiToken.objects.filter(publishers__name="vad-main").update(revoked_at=now)
        assert TrustedPublisher.objects.get().revoked_at is None
        assert_problem(exchange(issuer.identity(now=now)), 403, "identity-not-trusted")

    def test_who_is_switched_off_vouches_for_nobody(
        self, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        user = TrustedPublisher.objects.get().user
        user.is_active = False
        user.save()
        assert_problem(exchange(issuer.identity(now=now)), 403, "identity-not-trusted")

    def test_several_that_trust_the_same_job_are_told_apart_by_name(
        self, api: ApiCaller, issuer: Issuer, trusted: dict[str, Any], now: datetime
    ) -> None:
        wider = {**PUBLISHER, "name": "vad-any", "claims": {"repository": "acme/vad"}}
        api.post("publishers", {**wider, "issuer": issuer.url})
        identity = issuer.identity(now=now)
        assert_problem(exchange(identity), 422, "publisher-ambiguous")
        assert exchange(identity, publisher="vad-any").json()["publisher"] == "vad-any"

    @pytest.mark.parametrize(
        ("changes", "field"),
        [
            ({"issuer": "http://issuer.example"}, "issuer"),
            ({"issuer": "https://10.0.0.1"}, "issuer"),
            ({"issuer": "https://169.254.169.254/latest"}, "issuer"),
            ({"issuer": "https://[::ffff:127.0.0.1]/"}, "issuer"),
            ({"issuer": "file:///etc/passwd"}, "issuer"),
            ({"issuer": "https://user:pw@issuer.example"}, "issuer"),
            ({"issuer": "https://issuer.example?x=1"}, "issuer"),
            ({"claims": {}}, "claims"),
            ({"claims": {"repository": ""}}, "claims.repository"),
            ({"scopes": []}, "scopes"),
            ({"name": "No Name"}, "name"),
            ({"minutes": 61}, "minutes"),
            ({"audience": ""}, "audience"),
            (
                {"issuer": "https://token.actions.githubusercontent.com", "claims": {"ref": "x"}},
                "claims",
            ),
            ({"issuer": "https://gitlab.com", "claims": {"ref": "x"}}, "claims"),
        ],
    )
    def test_what_cannot_be_trusted(
        self, api: ApiCaller, changes: dict[str, Any], field: str
    ) -> None:
        body = {**PUBLISHER, "issuer": "https://issuer.example", **changes}
        response = api.post("publishers", body)
        assert response.status_code == 422, response.content
        assert fields(response.json()) == [field]

    def test_a_token_trusts_nobody_with_more_than_it_has(
        self, with_scopes: Any, issuer: Issuer
    ) -> None:
        approver = with_scopes(Scope.APPROVE)
        response = approver.post("publishers", {**PUBLISHER, "issuer": issuer.url})
        assert fields(assert_problem(response, 403, "token-grants-too-much")) == ["scopes"]

    def test_a_name_is_for_ever(self, api: ApiCaller, trusted: dict[str, Any]) -> None:
        body = {**PUBLISHER, "issuer": trusted["issuer"]}
        assert_problem(api.post("publishers", body), 409, "publisher-exists")


def test_short_tokens_and_spent_identities_do_not_pile_up(
    issuer: Issuer, trusted: dict[str, Any], now: datetime
) -> None:
    exchange(issuer.identity(now=now))
    assert prune_accounts(now=now) == 0
    prune_accounts(now=now + timedelta(hours=1))
    assert not SpentIdentity.objects.exists()
    prune_accounts(now=now + EXCHANGED_KEPT_FOR + timedelta(hours=1))
    assert not ApiToken.objects.exclude(exchanged_for="").exists()
    assert ApiToken.objects.exists()
    assert CLAIMS["repository"] == "acme/vad"
