"""Events leave through an outbox: written with the change, signed, sent at least once, given up in
the end. Receivers are real ones on loopback wherever bytes matter; elsewhere `send` is a fake."""

import json
import re
import ssl
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.conf import settings as django_settings
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from controlplane.audit import doorbell, webhooks_delivery
from controlplane.audit.models import Delivery, DeliveryState, Event, Webhook
from controlplane.audit.services import record_event
from controlplane.audit.tasks import deliver
from controlplane.audit.webhooks import (
    change_webhook,
    create_webhook,
    delete_webhook,
    redeliver,
    rotate_secret,
    send_test,
)
from controlplane.audit.webhooks_delivery import (
    HOLD,
    KEEP,
    LANE_LENGTH,
    REST,
    RETRY_AFTER,
    claim_lanes,
    deliver_due,
    prune_deliveries,
)
from controlplane.audit.webhooks_http import Answer, HttpSender
from controlplane.audit.webhooks_message import Message, message_id, parse_message_id
from controlplane.audit.webhooks_outbox import wants
from controlplane.audit.webhooks_target import TargetRules, address_refusal
from controlplane.domain.errors import Conflict
from tests.factories import ACTOR, make_site
from tests.services.receiver import Receiver, receiver
from tests.services.threads import at_once, failures

ROOT = Path(__file__).parents[2]
ON_SQLITE = django_settings.DATABASES["default"]["ENGINE"].endswith("sqlite3")
postgres_only = pytest.mark.skipif(ON_SQLITE, reason="SQLite has no row locks")
ANYWHERE = TargetRules(allow_http=True, allow_private=True)
OK, BROKEN, GONE = Answer(status=200), Answer(status=500, error="broken"), Answer(status=410)


@pytest.fixture(autouse=True)
def _loopback(settings: Any) -> None:
    settings.WAYPOST_WEBHOOK_ALLOW_HTTP = settings.WAYPOST_WEBHOOK_ALLOW_PRIVATE = True


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as box:
        yield box


def make_webhook(
    name: str = "chat", *actions: str, url: str = "http://127.0.0.1:9/", now: datetime
) -> str:
    """The secret of a webhook; that of its own making is not on its way any more."""
    _, secret = create_webhook(name=name, url=url, actions=actions or ("*",), actor=ACTOR, now=now)
    Delivery.objects.all().delete()
    return secret


def happen(action: str = "rollout.paused", *, now: datetime, **data: object) -> Event:
    record_event(
        now=now, actor="user:ann", action=action, object_type="rollout", object_id="12",
        reason="latency rose", data=data,
    )  # fmt: skip
    return Event.objects.latest("pk")


def sender(**changes: Any) -> HttpSender:
    return HttpSender(**{"rules": ANYWHERE, "total_seconds": 5.0, **changes})


def message_to(url: str) -> Message:
    return Message(url=url, headers={"webhook-id": "msg_1"}, body=b"{}")


class FakeReceivers:
    """Answers by the path of the URL, and keeps what was sent."""

    def __init__(self, **answers: Answer) -> None:
        self.answers = answers
        self.sent: list[Message] = []

    def __call__(self, message: Message) -> Answer:
        self.sent.append(message)
        return self.answers.get(message.url.rpartition("/")[2], OK)


def documented_verify() -> Callable[..., None]:
    """The lines of docs/webhooks.md that receivers are told to use."""
    text = (ROOT / "docs" / "webhooks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    scope: dict[str, Any] = {}
    exec(code, scope)
    verify: Callable[..., None] = scope["verify"]
    return verify


class TestTheOutbox:
    def test_gets_the_event_and_its_deliveries_in_one_transaction(self, now: datetime) -> None:
        make_webhook(now=now)
        before = Event.objects.count()

        with transaction.atomic():
            happen(now=now)
            assert Delivery.objects.count() == 1
            transaction.set_rollback(True)

        assert (Event.objects.count(), Delivery.objects.count()) == (before, 0)
        happen(now=now)
        assert Delivery.objects.get().state == DeliveryState.PENDING

    @pytest.mark.parametrize(
        ("actions", "wanted"),
        [
            (["*"], True),
            (["rollout."], True),
            (["rollout.paused"], True),
            (["site.", "rollout.paused"], True),
            (["rollout.paused_long"], False),
            (["rollout.pause"], False),
            (["site."], False),
            ([], False),
        ],
    )
    def test_holds_what_a_webhook_wants(self, actions: list[str], wanted: bool) -> None:
        assert wants(actions, "rollout.paused") is wanted

    def test_costs_an_event_the_same_few_queries_however_many_webhooks(self, now: datetime) -> None:
        def cost() -> int:
            with CaptureQueriesContext(connection) as captured:
                happen(now=now)
            return len(captured) - 1  # `happen` reads the event back

        assert cost() == 2
        make_webhook("w-0", now=now)
        assert cost() == 3
        for turn in range(1, 10):
            make_webhook(f"w-{turn}", "site.", "rollout.", now=now)
        assert cost() == 3

    def test_is_left_alone_by_an_inactive_webhook(self, now: datetime) -> None:
        make_webhook(now=now)
        change_webhook(name="chat", fields={"active": False}, actor=ACTOR, now=now)
        happen(now=now)
        assert not Delivery.objects.exists()

    def test_rings_once_for_a_transaction_and_not_for_what_was_rolled_back(
        self, now: datetime, django_capture_on_commit_callbacks: Any
    ) -> None:
        with django_capture_on_commit_callbacks() as none:
            happen(now=now)
        assert none == []

        make_webhook("chat", "rollout.", now=now)
        with django_capture_on_commit_callbacks() as callbacks:
            with transaction.atomic():
                happen(now=now)
                transaction.set_rollback(True)
            with transaction.atomic():
                happen(now=now)
            happen(now=now)
        assert callbacks == [doorbell.ring]

    def test_does_without_a_broker(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class NoBroker:
            def connection_for_write(self, **_: object) -> object:
                raise OSError("nobody listens")

        monkeypatch.setattr(doorbell, "current_app", NoBroker())
        doorbell.ring()


class TestADelivery:
    def test_is_signed_so_that_the_documented_lines_verify_it(
        self, hook: Receiver, now: datetime
    ) -> None:
        secret = make_webhook(url=hook.url, now=now)
        event = happen(now=now, sites=["oslo"], text="grüße.")

        assert deliver_due(now=now, send=sender()) == 1

        (got,) = hook.got
        verify = documented_verify()
        verify(secret, got.headers, got.body, now.timestamp())
        at = now.timestamp()
        for wrong in (
            (secret, got.headers, got.body + b" ", at),
            (secret, got.headers | {"webhook-id": "msg_2"}, got.body, at),
            (secret, got.headers, got.body, at + 301),
            ("whsec_AAAA", got.headers, got.body, at),
        ):
            with pytest.raises(ValueError, match=r"wrong|old"):
                verify(*wrong)
        row = Delivery.objects.get()
        assert got.path == "/hook?key=k"
        assert got.headers["webhook-id"] == message_id(row.pk)
        assert got.headers["host"] == f"127.0.0.1:{hook.port}"
        assert got.headers["content-type"] == "application/json"
        assert (row.state, row.attempts, row.last_status) == ("delivered", 1, 204)
        assert row.delivered_at == now
        assert json.loads(got.body) == {
            "type": "rollout.paused",
            "timestamp": "2026-11-23T12:00:00Z",
            "data": {
                "id": event.pk,
                "actor": "user:ann",
                "object_type": "rollout",
                "object_id": "12",
                "reason": "latency rose",
                "request_id": "",
                "data": {"sites": ["oslo"], "text": "grüße."},
            },
        }
        assert deliver_due(now=now + HOLD, send=sender()) == 0

    def test_is_signed_with_the_old_secret_too_for_a_day_after_a_rotation(
        self, now: datetime
    ) -> None:
        old, fake, verify = make_webhook(now=now), FakeReceivers(), documented_verify()
        _, new = rotate_secret(name="chat", actor=ACTOR, now=now)
        Delivery.objects.all().delete()

        def sent_at(at: datetime) -> Message:
            happen(now=at)
            assert deliver_due(now=at, send=fake) == 1
            return fake.sent[-1]

        for secret in (old, new):
            message = sent_at(now + timedelta(hours=23))
            verify(secret, message.headers, message.body, now.timestamp() + 23 * 3600)
        message = sent_at(now + timedelta(hours=24))
        verify(new, message.headers, message.body, now.timestamp() + 24 * 3600)
        with pytest.raises(ValueError, match="wrong"):
            verify(old, message.headers, message.body, now.timestamp() + 24 * 3600)

    def test_is_tried_again_by_the_schedule_and_then_given_up(self, now: datetime) -> None:
        make_webhook("chat", "rollout.", now=now)
        happen(now=now)
        fake = FakeReceivers(**{"": BROKEN})

        assert deliver_due(now=now, send=fake) == 1
        for attempt, delay in enumerate(RETRY_AFTER, start=1):
            row = Delivery.objects.get()
            assert (row.state, row.attempts) == (DeliveryState.PENDING, attempt)
            assert (row.last_status, row.last_error) == (500, "broken")
            assert deliver_due(now=now + delay - timedelta(seconds=1), send=fake) == 0
            now += delay
            assert deliver_due(now=now, send=fake) == 1

        row = Delivery.objects.get()
        assert (row.state, row.attempts) == (DeliveryState.FAILED, 9)
        assert deliver_due(now=now + timedelta(days=2), send=fake) == 0
        assert len({message.headers["webhook-id"] for message in fake.sent}) == 1
        assert len({message.body for message in fake.sent}) == 1
        assert len({message.headers["webhook-timestamp"] for message in fake.sent}) == 9
        event = Event.objects.get(action="webhook.delivery_failed")
        assert (event.object_id, event.actor) == ("chat", "engine")
        assert event.reason == "given up after 9 attempts: broken"

    def test_that_was_sent_but_not_written_down_is_sent_again_under_its_id(
        self, hook: Receiver, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Killed(BaseException):
            """The process ends here."""

        def die(**_: object) -> None:
            raise Killed

        make_webhook(url=hook.url, now=now)
        happen(now=now)
        with monkeypatch.context() as patch:
            patch.setattr(webhooks_delivery, "record_answer", die)
            with pytest.raises(Killed):
                deliver_due(now=now, send=sender())
        assert Delivery.objects.get().attempts == 0
        assert deliver_due(now=now + HOLD - timedelta(seconds=1), send=sender()) == 0

        assert deliver_due(now=now + HOLD, send=sender()) == 1

        first, second = hook.got
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert first.body == second.body
        assert Delivery.objects.get().state == DeliveryState.DELIVERED

    def test_can_be_asked_for_again_whatever_became_of_it(self, now: datetime) -> None:
        make_webhook("chat", "rollout.", now=now)
        happen(now=now)
        fake = FakeReceivers()
        deliver_due(now=now, send=fake)
        row = Delivery.objects.get()

        redeliver(name="chat", delivery_id=message_id(row.pk), actor=ACTOR, now=now)
        assert deliver_due(now=now, send=fake) == 1

        first, second = fake.sent
        assert first.headers["webhook-id"] == second.headers["webhook-id"]
        assert Delivery.objects.get().attempts == 1

    def test_of_a_test_goes_to_its_webhook_alone(self, now: datetime) -> None:
        make_webhook("chat", "site.", now=now)
        make_webhook("all", "*", now=now)

        send_test(name="chat", actor=ACTOR, now=now)

        row = Delivery.objects.get()
        assert (row.webhook.name, row.event.action) == ("chat", "webhook.test")

    def test_to_a_webhook_that_is_gone_is_nobodys_trouble(self, now: datetime) -> None:
        """An event that raced the removal wrote it; no constraint may fail that event's change."""
        event = happen(now=now)
        Delivery.objects.create(webhook_id=12345, event=event, next_attempt_at=now, created_at=now)
        fake = FakeReceivers()
        assert deliver_due(now=now, send=fake) == 0
        assert prune_deliveries(now=now + KEEP + timedelta(seconds=1)) == 1

    def test_of_a_removed_webhook_goes_and_its_event_stays(self, now: datetime) -> None:
        make_webhook(now=now)
        event = happen(now=now)
        delete_webhook(name="chat", actor=ACTOR, now=now)
        assert not Delivery.objects.exists()
        assert Event.objects.filter(pk=event.pk).exists()
        assert Event.objects.filter(action="webhook.deleted", object_id="chat").exists()

    def test_removed_while_it_was_on_its_way_changes_nothing(self, now: datetime) -> None:
        make_webhook(now=now)
        happen(now=now)

        def send(message: Message) -> Answer:
            return BROKEN

        lanes = claim_lanes(now=now)
        delete_webhook(name="chat", actor=ACTOR, now=now)
        (delivery, message) = lanes[0].deliveries[0]
        webhooks_delivery.record_answer(delivery_id=delivery.pk, answer=send(message), now=now)
        webhooks_delivery.release(lanes[0], failed=True, now=now)
        assert not Delivery.objects.exists()


class TestAReceiver:
    def test_that_answers_410_is_sent_nothing_more_and_others_are_told(self, now: datetime) -> None:
        make_webhook("gone", url="http://127.0.0.1/gone", now=now)
        make_webhook("other", url="http://127.0.0.1/other", now=now)
        happen(now=now)
        happen(now=now)
        fake = FakeReceivers(gone=GONE)

        assert deliver_due(now=now, send=fake) == 3

        webhook = Webhook.objects.get(name="gone")
        assert (webhook.active, webhook.disabled_reason) == (
            False,
            "the receiver answered 410 Gone",
        )
        states = Delivery.objects.filter(webhook=webhook).order_by("event_id")
        assert list(states.values_list("state", flat=True)) == ["failed", "pending"]
        assert deliver_due(now=now + timedelta(days=1), send=fake) == 1
        assert b"webhook.disabled" in fake.sent[-1].body
        with pytest.raises(Conflict, match="inactive"):
            send_test(name="gone", actor=ACTOR, now=now)

        change_webhook(name="gone", fields={"active": True}, actor=ACTOR, now=now)
        webhook.refresh_from_db()
        assert webhook.disabled_reason == ""
        assert deliver_due(now=now + timedelta(days=1, minutes=5), send=FakeReceivers()) == 3

    def test_that_is_slow_holds_up_nobody_else(self, now: datetime) -> None:
        make_webhook("slow", url="http://127.0.0.1/slow", now=now)
        make_webhook("fast", url="http://127.0.0.1/fast", now=now)
        for _ in range(3):
            happen(now=now)
        sent, fast_is_done, in_time = Counter[str](), threading.Event(), []

        def send(message: Message) -> Answer:
            name = message.url.rpartition("/")[2]
            sent[name] += 1
            if name == "slow":
                in_time.append(fast_is_done.wait(30))
            elif sent["fast"] == 3:
                fast_is_done.set()
            return OK

        assert deliver_due(now=now, send=send) == 6
        assert in_time == [True] * 3

    def test_that_is_slow_is_left_alone_after_its_time_until_the_next_batch(
        self, now: datetime
    ) -> None:
        make_webhook(now=now)
        for _ in range(3):
            happen(now=now)
        fake = FakeReceivers()
        assert deliver_due(now=now, send=fake, lane_seconds=0) == 1
        assert deliver_due(now=now, send=fake) == 2

    def test_that_fails_costs_one_attempt_and_rests(self, now: datetime) -> None:
        make_webhook(now=now)
        for _ in range(3):
            happen(now=now)
        fake = FakeReceivers(**{"": BROKEN})

        assert deliver_due(now=now, send=fake) == 1
        assert deliver_due(now=now + REST[0] - timedelta(seconds=1), send=fake) == 0
        assert deliver_due(now=now + REST[0], send=fake) == 1
        assert deliver_due(now=now + REST[0] + REST[1] - timedelta(seconds=1), send=fake) == 0
        assert Webhook.objects.get().failures == 2

        now += REST[0] + REST[1]
        assert deliver_due(now=now, send=FakeReceivers()) >= 2
        webhook = Webhook.objects.get()
        assert (webhook.failures, webhook.not_before) == (0, now)

    def test_gets_events_in_order_and_a_bounded_batch(self, now: datetime) -> None:
        make_webhook(now=now)
        events = [happen(now=now).pk for _ in range(LANE_LENGTH + 3)]
        fake = FakeReceivers()
        assert deliver_due(now=now, send=fake) == LANE_LENGTH
        assert deliver_due(now=now, send=fake) == 3
        sent = [int(re.findall(rb'"id":(\d+)', message.body)[0]) for message in fake.sent]
        assert sent == events

    def test_two_that_are_dead_do_not_tell_each_other_for_ever(self, now: datetime) -> None:
        for name in ("a", "b"):
            make_webhook(name, now=now)
        happen(now=now)
        fake = FakeReceivers(**{"": BROKEN})

        for _ in range(200):
            if not Delivery.objects.filter(state=DeliveryState.PENDING).exists():
                break
            deliver_due(now=now, send=fake)
            now += timedelta(hours=1)

        assert Counter(Delivery.objects.values_list("state", flat=True)) == {"failed": 6}
        assert Event.objects.filter(action="webhook.delivery_failed").count() == 2

    def test_that_breaks_the_sender_is_a_failure_like_any_other(self, now: datetime) -> None:
        make_webhook("bad", url="http://127.0.0.1/bad", now=now)
        make_webhook("good", url="http://127.0.0.1/good", now=now)
        happen(now=now)

        def send(message: Message) -> Answer:
            if message.url.endswith("bad"):
                raise RuntimeError("a fault of ours")
            return OK

        assert deliver_due(now=now, send=send) == 2
        row = Delivery.objects.get(webhook__name="bad")
        assert (row.state, row.last_error) == ("pending", "RuntimeError: a fault of ours")
        assert Delivery.objects.get(webhook__name="good").state == "delivered"


class TestSending:
    def test_follows_no_redirect(self, hook: Receiver) -> None:
        hook.statuses, hook.headers = [302], {"Location": f"http://127.0.0.1:{hook.port}/other"}
        answer = sender()(message_to(hook.url))
        assert (answer.status, answer.ok) == (302, False)
        assert "redirects are not followed" in answer.error
        assert [got.path for got in hook.got] == ["/hook?key=k"]

    @pytest.mark.parametrize("status", [200, 202, 299, 300, 400, 404, 410, 500, 599])
    def test_takes_any_2xx_for_delivered_and_nothing_else(
        self, status: int, hook: Receiver
    ) -> None:
        hook.statuses = [status]
        answer = sender()(message_to(hook.url))
        assert (answer.status, answer.ok) == (status, status < 300)

    def test_gives_up_on_a_receiver_that_does_not_answer(self, hook: Receiver) -> None:
        hook.instead = lambda handler: hook.stopped.wait(30)
        started = time.monotonic()
        answer = sender(total_seconds=0.1)(message_to(hook.url))
        assert answer == Answer(status=None, error="no answer within 0.1 s")
        assert time.monotonic() - started < 2

    def test_gives_up_on_a_receiver_that_answers_a_byte_at_a_time(self, hook: Receiver) -> None:
        def drip(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
            for _ in range(100):  # two seconds, and then it hangs up
                if hook.stopped.wait(0.02):
                    return
                handler.wfile.write(b"x")

        hook.instead = drip
        started = time.monotonic()
        answer = sender(total_seconds=0.2)(message_to(hook.url))
        assert answer == Answer(status=None, error="no answer within 0.2 s")
        assert time.monotonic() - started < 2

    def test_reads_no_more_than_a_little_of_an_answer(self, hook: Receiver) -> None:
        def flood(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while not hook.stopped.is_set():
                handler.wfile.write(b"x" * 65536)

        hook.instead = flood
        assert sender()(message_to(hook.url)).ok

    @pytest.mark.parametrize(
        "said", [b"SSH-2.0-x\r\n", b"", b"HTTP/1.1 9999 x\r\n\r\n", b"\0" * 100_000]
    )
    def test_takes_no_nonsense_for_an_answer(self, said: bytes, hook: Receiver) -> None:
        hook.instead = lambda handler: handler.wfile.write(said)
        answer = sender()(message_to(hook.url))
        assert answer.status is None
        assert answer.error

    def test_says_when_nobody_listens(self, hook: Receiver) -> None:
        with receiver() as closed:
            url = closed.url
        answer = sender()(message_to(url))
        assert answer.status is None
        assert "ConnectionRefusedError" in answer.error

    @pytest.mark.parametrize(
        "address",
        [
            "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1",
            "169.254.169.254", "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "::", "::1",
            "fe80::1", "fe80::1%2", "fc00::1", "ff02::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
            "2002:7f00:1::", "no-address",
        ],
    )  # fmt: skip
    def test_refuses_every_address_that_is_not_public(self, address: str, hook: Receiver) -> None:
        rules = TargetRules(allow_http=True)
        assert address_refusal(address, rules)
        inside = sender(rules=rules, resolve=lambda host, port: [address])
        answer = inside(message_to(f"http://receiver.test:{hook.port}/"))
        assert answer.status is None
        assert answer.error.startswith("refused: the URL leads nowhere")
        assert hook.got == []

    @pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101"])
    def test_allows_public_addresses(self, address: str) -> None:
        assert address_refusal(address, TargetRules()) == ""

    @pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "224.0.0.1", "0.0.0.0"])
    def test_allows_link_local_and_the_like_never(self, address: str) -> None:
        assert address_refusal(address, ANYWHERE)
        assert address_refusal("10.0.0.1", ANYWHERE) == ""

    def test_refuses_loopback_by_number_and_http_by_its_scheme(self, hook: Receiver) -> None:
        for rules in (TargetRules(allow_http=True), TargetRules(allow_private=True)):
            answer = sender(rules=rules)(message_to(hook.url))
            assert answer.error.startswith("refused: the URL")
        assert hook.got == []

    def test_connects_to_the_address_that_was_checked_under_the_name_of_the_url(
        self, hook: Receiver
    ) -> None:
        asked: list[tuple[str, int]] = []

        def once(host: str, port: int) -> list[str]:
            asked.append((host, port))
            assert len(asked) == 1, "a second look may find another address"
            return ["169.254.169.254", "127.0.0.1"]  # the first is passed over

        answer = sender(resolve=once)(message_to(f"http://receiver.test:{hook.port}/x"))

        assert answer.ok
        assert asked == [("receiver.test", hook.port)]
        assert hook.got[0].headers["host"] == f"receiver.test:{hook.port}"

    def test_proves_the_name_of_the_url_by_its_certificate(
        self, tmp_path: Path, now: datetime
    ) -> None:
        server, client = certified("receiver.test", tmp_path)
        with receiver(tls=server) as box:
            loopback = sender(tls=client, resolve=lambda host, port: ["127.0.0.1"])
            right = loopback(message_to(f"https://receiver.test:{box.port}/"))
            wrong = loopback(message_to(f"https://other.test:{box.port}/"))
        assert (right.status, wrong.status) == (204, None)
        assert "SSLCertVerificationError" in wrong.error
        assert len(box.got) == 1


def certified(name: str, folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Contexts of a server with a certificate for `name`, and of a client that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromisoformat("2020-01-01T00:00:00Z"))
        .not_valid_after(datetime.fromisoformat("2120-01-01T00:00:00Z"))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain = folder / "chain.pem"
    chain.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    trusted = folder / "trusted.pem"
    trusted.write_bytes(certificate.public_bytes(pem))
    return server, ssl.create_default_context(cafile=str(trusted))


class TestPruning:
    def test_forgets_what_is_done_after_30_days_and_keeps_what_may_be_sent(
        self, now: datetime
    ) -> None:
        for name in ("on", "off"):
            make_webhook(name, "rollout.", now=now)
        done, waiting = (happen(now=now) for _ in range(2))
        Delivery.objects.filter(event=done).update(state=DeliveryState.DELIVERED)
        change_webhook(name="off", fields={"active": False}, actor=ACTOR, now=now)

        assert prune_deliveries(now=now + KEEP) == 0
        assert prune_deliveries(now=now + KEEP + timedelta(seconds=1)) == 3

        row = Delivery.objects.get()
        assert (row.webhook.name, row.event_id) == ("on", waiting.pk)
        assert Event.objects.filter(pk=done.pk).exists()

    def test_an_idle_sweep_only_looks(self, now: datetime) -> None:
        make_webhook("chat", "site.", now=now)
        with CaptureQueriesContext(connection) as captured:
            deliver()
        assert [query["sql"].split()[0] for query in captured] == ["SELECT"] * 2


def test_the_task_delivers_what_a_service_did(hook: Receiver, now: datetime) -> None:
    secret = make_webhook("chat", "site.", url=hook.url, now=now)
    make_site("oslo", now=now)
    deliver()
    (got,) = hook.got
    documented_verify()(secret, got.headers, got.body)
    assert b'"type":"site.created"' in got.body


@pytest.mark.usefixtures("transactional_db")
class TestWorkersAtOnce:
    def test_send_each_delivery_once(self, now: datetime) -> None:
        for turn in range(20):
            make_webhook(f"w-{turn:02}", "rollout.", url=f"http://127.0.0.1/{turn}", now=now)
        for _ in range(3):
            happen(now=now)
        fake = FakeReceivers()

        for _ in range(4):
            assert failures(at_once(lambda _: deliver_due(now=now, send=fake), range(4))) == []

        sent = Counter(message.headers["webhook-id"] for message in fake.sent)
        assert (len(sent), set(sent.values())) == (60, {1})
        assert set(Delivery.objects.values_list("state", flat=True)) == {"delivered"}

    def test_claim_disjoint_webhooks(self, now: datetime) -> None:
        for turn in range(20):
            make_webhook(f"w-{turn:02}", "rollout.", now=now)
        happen(now=now)

        claimed = at_once(lambda _: claim_lanes(now=now), range(4))

        assert failures(claimed) == []
        ids = [lane.webhook_id for lanes in claimed for lane in lanes]  # type: ignore[union-attr]  # no failures
        assert len(ids) == len(set(ids))
        assert len(ids) >= 8

    @postgres_only
    def test_pass_over_a_webhook_that_another_is_taking(self, now: datetime) -> None:
        for name in ("a", "b"):
            make_webhook(name, "rollout.", now=now)
        happen(now=now)
        with transaction.atomic():
            taken = Webhook.objects.select_for_update().get(name="a")
            (lanes,) = at_once(lambda _: claim_lanes(now=now), [0])
        assert not isinstance(lanes, Exception), lanes
        assert [lane.webhook_id for lane in lanes] == [
            Webhook.objects.exclude(pk=taken.pk).get().pk
        ]


def test_an_id_that_is_none_finds_nothing(now: datetime) -> None:
    row = uuid.uuid4()
    assert parse_message_id(message_id(row)) == row
    for text in ("", "msg_", row.hex, f"msg_{row}", "msg_" + "g" * 32, "\0"):
        assert parse_message_id(text) is None
