"""Webhooks for people's scripts: made, changed, tried out, looked into."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from controlplane.accounts.models import Scope, User
from controlplane.audit.models import Delivery, DeliveryState, Event, Webhook
from controlplane.audit.webhooks_delivery import deliver_due
from controlplane.audit.webhooks_http import Answer
from controlplane.audit.webhooks_message import Message
from tests.api.calls import ApiCaller, assert_problem, fields

WEBHOOK = {"name": "chat", "url": "https://example.org/hook?key=k", "actions": ["rollout.", "*"]}
SITE = {"name": "edge-1", "tier": "edge", "region": "eu-west"}


@pytest.fixture
def chat(api: ApiCaller) -> str:
    """A webhook of that name; its secret."""
    made = api.post("webhooks", WEBHOOK)
    assert made.status_code == 201, made.content
    return str(made.json()["secret"])


def test_a_webhook_is_made_and_read_back_without_its_secret(api: ApiCaller) -> None:
    made = api.post("webhooks", WEBHOOK)

    assert made.status_code == 201
    document = made.json()
    assert document.pop("secret").startswith("whsec_")
    assert document == api.get("webhooks/chat").json()
    assert (document["url"], document["actions"]) == (WEBHOOK["url"], ["*", "rollout."])
    assert (document["active"], document["failures"], document["disabled_reason"]) == (True, 0, "")
    assert document["created_by"] == "token:ci"
    assert api.get("webhooks").json()["results"] == [document]
    assert_problem(api.post("webhooks", WEBHOOK), 409, "webhook-exists")


def test_a_change_is_kept_and_written_down_without_the_path_of_the_url(
    api: ApiCaller, chat: str
) -> None:
    changed = api.patch("webhooks/chat", {"active": False, "url": "https://example.net/T0K3N"})

    assert changed.status_code == 200
    assert changed.json()["url"] == "https://example.net/T0K3N"
    event = Event.objects.get(action="webhook.changed")
    assert event.data == {
        "active": {"before": True, "after": False},
        "url": {"before": "https://example.org", "after": "https://example.net"},
    }
    api.patch("webhooks/chat", {"active": False})
    assert Event.objects.filter(action="webhook.changed").count() == 1
    assert_problem(api.patch("webhooks/none", {}), 404, "webhook-unknown")
    assert_problem(api.patch("webhooks/chat", {"name": "x"}), 422, "webhook-invalid")


def test_a_removed_webhook_is_gone_and_its_events_stay(api: ApiCaller, chat: str) -> None:
    assert api.delete("webhooks/chat").status_code == 204
    assert_problem(api.get("webhooks/chat"), 404, "webhook-unknown")
    assert_problem(api.delete("webhooks/chat"), 404, "webhook-unknown")
    actions = Event.objects.filter(object_type="webhook").order_by("pk")
    assert list(actions.values_list("action", flat=True)) == ["webhook.created", "webhook.deleted"]


def test_a_test_and_a_redelivery_can_be_followed_by_their_id(
    api: ApiCaller, chat: str, now: datetime
) -> None:
    Delivery.objects.all().delete()
    sent: list[Message] = []

    def send(message: Message) -> Answer:
        sent.append(message)
        return Answer(status=500, error="broken") if len(sent) == 1 else Answer(status=200)

    asked = api.post("webhooks/chat/test")
    assert asked.status_code == 202
    (row,) = api.get("webhooks/chat/deliveries").json()["results"]
    assert row == asked.json()
    assert (row["action"], row["state"], row["attempts"]) == ("webhook.test", "pending", 0)
    assert row["next_attempt_at"] == row["created_at"]

    deliver_due(now=Delivery.objects.get().created_at, send=send)
    (row,) = api.get("webhooks/chat/deliveries?state=pending").json()["results"]
    assert (row["last_status"], row["last_error"], row["attempts"]) == (500, "broken", 1)

    again = api.post(f"webhooks/chat/deliveries/{row['id']}/redeliver")
    assert (again.status_code, again.json()["id"], again.json()["attempts"]) == (202, row["id"], 0)
    Webhook.objects.update(not_before=None)
    deliver_due(now=Event.objects.latest("pk").at, send=send)
    (row,) = api.get("webhooks/chat/deliveries?state=delivered").json()["results"][-1:]
    assert (row["id"], row["next_attempt_at"]) == (again.json()["id"], None)
    assert {message.headers["webhook-id"] for message in sent[:2]} == {row["id"]}
    assert_problem(api.get("webhooks/chat/deliveries?state=lost"), 422, "invalid-request")


def test_what_is_not_there_cannot_be_redelivered(api: ApiCaller, chat: str) -> None:
    row = api.post("webhooks/chat/test").json()
    api.post("webhooks", WEBHOOK | {"name": "other"})
    for path in (
        f"webhooks/other/deliveries/{row['id']}/redeliver",
        "webhooks/chat/deliveries/1/redeliver",
        f"webhooks/chat/deliveries/msg_{'0' * 32}/redeliver",
        "webhooks/chat/deliveries/%00/redeliver",
    ):
        assert_problem(api.post(path), 404, "delivery-unknown")
    assert_problem(api.get("webhooks/none/deliveries"), 404, "webhook-unknown")
    assert_problem(api.get("webhooks/%00"), 404, "webhook-unknown")


def test_an_inactive_webhook_takes_neither_test_nor_redelivery(api: ApiCaller, chat: str) -> None:
    row = api.post("webhooks/chat/test").json()
    api.patch("webhooks/chat", {"active": False})
    for path in ("test", f"deliveries/{row['id']}/redeliver"):
        assert_problem(api.post(f"webhooks/chat/{path}"), 409, "webhook-inactive")


def test_no_secret_is_in_any_answer_event_or_page_but_the_one_that_shows_it(
    api: ApiCaller, chat: str
) -> None:
    rotated = api.post("webhooks/chat/rotate-secret")
    assert rotated.status_code == 200
    assert rotated.json()["previous_secret_until"] is not None
    secrets = [chat, rotated.json()["secret"]]
    assert len(set(secrets)) == 2
    delivery = api.post("webhooks/chat/test").json()
    root = Client()
    root.force_login(User.objects.create_superuser("root"))
    webhook = Webhook.objects.get()

    said = [
        api.get("webhooks").content,
        api.get("webhooks/chat").content,
        api.get("webhooks/chat/deliveries").content,
        api.patch("webhooks/chat", {"actions": ["site."]}).content,
        api.post("webhooks", WEBHOOK).content,
        api.post(f"webhooks/chat/deliveries/{delivery['id']}/redeliver").content,
        root.get(reverse("admin:audit_webhook_change", args=[webhook.pk])).content,
        root.get(
            reverse("admin:audit_delivery_change", args=[Delivery.objects.first().pk])
        ).content,  # type: ignore[union-attr]  # it is there
        json.dumps(list(Event.objects.values()), default=str).encode(),
    ]

    assert b"chat" in said[6]
    for text in said:
        for secret in secrets:
            assert secret.encode() not in text
            assert secret.removeprefix("whsec_").encode() not in text
    events = json.dumps(list(Event.objects.values()), default=str)
    assert "key=k" not in events


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "with space"}, "name"),
    ({"name": "x" * 64}, "name"),
    ({"name": ""}, "name"),
    ({"name": "naïve"}, "name"),
    ({"url": "http://example.org/"}, "url"),
    ({"url": "ftp://example.org/"}, "url"),
    ({"url": "example.org"}, "url"),
    ({"url": "https://"}, "url"),
    ({"url": "https://user:pw@example.org/"}, "url"),
    ({"url": "https://example.org/#here"}, "url"),
    ({"url": "https://example.org:0/"}, "url"),
    ({"url": "https://example.org:99999/"}, "url"),
    ({"url": "https://exämple.org/"}, "url"),
    ({"url": "https://example.org/a b"}, "url"),
    ({"url": "https://example.org/\r\nX: y"}, "url"),
    ({"url": "https://[::1/"}, "url"),
    ({"url": "https://127.0.0.1/"}, "url"),
    ({"url": "https://[::ffff:10.0.0.1]/"}, "url"),
    ({"url": "https://169.254.169.254/latest"}, "url"),
    ({"url": "https://example.org/" + "x" * 500}, "url"),
    ({"actions": []}, "actions"),
    ({"actions": ["rollout"]}, "actions[0]"),
    ({"actions": ["*", ".paused"]}, "actions[1]"),
    ({"actions": ["Rollout.*"]}, "actions[0]"),
    ({"actions": ["x." + "y" * 60]}, "actions[0]"),
    ({"actions": ["*"] * 51}, "actions"),
    ({"actions": "*"}, "actions"),
    ({"active": "perhaps"}, "active"),
    ({"activ": False}, "activ"),
    ({"secret": "whsec_mine"}, "secret"),
]


@pytest.mark.parametrize(("change", "field"), BAD, ids=[str(c)[:40] for c, _ in BAD])
def test_a_bad_webhook_is_refused_with_the_field_of_its_fault(
    change: dict[str, Any], field: str, api: ApiCaller
) -> None:
    response = api.post("webhooks", WEBHOOK | change)

    assert response.status_code == 422, response.content
    document = response.json()
    assert document["code"] in ("webhook-invalid", "invalid-request")
    assert fields(document) == [field]
    assert not Webhook.objects.exists()


def test_a_receiver_inside_needs_the_settings_that_allow_it(api: ApiCaller, settings: Any) -> None:
    inside = WEBHOOK | {"url": "http://127.0.0.1:8080/hook"}
    settings.WAYPOST_WEBHOOK_ALLOW_HTTP = True
    assert_problem(api.post("webhooks", inside), 422, "webhook-invalid")
    settings.WAYPOST_WEBHOOK_ALLOW_PRIVATE = True
    assert api.post("webhooks", inside).status_code == 201


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b"{}", b'{"name": "\\u0000"}'])
def test_a_body_that_is_no_webhook(body: bytes, api: ApiCaller) -> None:
    assert api.post("webhooks", body).status_code in (400, 422)
    assert not Webhook.objects.exists()


def test_writes_want_the_scope_fleet_and_reading_any_token(
    api: ApiCaller, chat: str, with_scopes: Callable[..., ApiCaller]
) -> None:
    delivery = api.post("webhooks/chat/test").json()
    caller = with_scopes(*(set(Scope.values) - {Scope.FLEET}))
    before = Event.objects.count()
    for response in (
        caller.post("webhooks", WEBHOOK),
        caller.patch("webhooks/chat", {"active": False}),
        caller.delete("webhooks/chat"),
        caller.post("webhooks/chat/rotate-secret"),
        caller.post("webhooks/chat/test"),
        caller.post(f"webhooks/chat/deliveries/{delivery['id']}/redeliver"),
    ):
        assert assert_problem(response, 403, "scope-missing")["needed"] == Scope.FLEET
    assert Event.objects.count() == before
    for path in ("webhooks", "webhooks/chat", "webhooks/chat/deliveries"):
        assert caller.get(path).status_code == 200
        assert_problem(Client().get(f"/api/v1/{path}"), 401, "token-required")


def test_a_change_through_the_api_is_in_the_outbox(api: ApiCaller, chat: str) -> None:
    Delivery.objects.all().delete()
    api.post("sites", SITE)
    row = Delivery.objects.select_related("event").get()
    assert (row.event.action, row.state) == ("site.created", DeliveryState.PENDING)
    assert row.event.request_id
