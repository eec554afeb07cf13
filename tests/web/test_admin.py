"""The back office shows everything and can break nothing."""

from datetime import datetime

import pytest
from django.contrib import admin
from django.test import Client
from django.urls import reverse

from controlplane.accounts.models import ApiToken, User
from controlplane.audit.models import Event
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Generation, Site
from tests.factories import make_rollout, make_site, make_token

WRITABLE = {"Site", "User", "Group"}


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    return client


def test_every_list_and_row_opens_and_only_few_can_be_changed(root: Client, now: datetime) -> None:
    make_rollout(RolloutState.SUCCEEDED, now=now)
    make_token(now=now)
    for model in admin.site._registry:
        name = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        listed = root.get(reverse(f"{name}_changelist"))
        assert listed.status_code == 200, model
        row = model._default_manager.order_by("pk").first()
        if row is not None:
            shown = root.get(reverse(f"{name}_change", args=[row.pk]))
            assert shown.status_code == 200, model
            writable = b'name="_save"' in shown.content
            assert writable == (model.__name__ in WRITABLE), model
        may_add = root.get(reverse(f"{name}_add")).status_code == 200
        assert may_add == (model.__name__ in WRITABLE), model
        if row is not None and model.__name__ != "Group":
            gone = root.post(reverse(f"{name}_delete", args=[row.pk]), {"post": "yes"})
            assert gone.status_code == 403, model


def test_no_secret_and_no_digest_is_shown(root: Client, now: datetime) -> None:
    make_token(now=now)
    token = ApiToken.objects.get()
    page = root.get(reverse("admin:accounts_apitoken_change", args=[token.pk]))
    assert token.hint in page.content.decode()
    assert token.digest not in page.content.decode()


def test_a_token_is_revoked_by_the_service(root: Client, now: datetime) -> None:
    make_token(now=now)
    token = ApiToken.objects.get()
    form = {"action": "revoke", "_selected_action": [token.pk]}
    root.post(reverse("admin:accounts_apitoken_changelist"), form)
    token.refresh_from_db()
    assert token.revoked_at is not None
    assert Event.objects.get(action="token.revoked").actor == "user:root"


def test_a_site_is_added_and_changed_by_the_service(root: Client, now: datetime) -> None:
    form = {"name": "oslo", "tier": "edge", "region": "eu-north", "labels": "{}"}
    root.post(reverse("admin:fleet_site_add"), form)
    site = Site.objects.get()
    assert Generation.objects.filter(site=site).exists()
    path = reverse("admin:fleet_site_change", args=[site.pk])
    root.post(path, form | {"region": "eu-west", "labels": '{"ring": "0"}', "name": "renamed"})
    site.refresh_from_db()
    assert (site.name, site.region, site.labels) == ("oslo", "eu-west", {"ring": "0"})
    event = Event.objects.get(action="site.changed")
    assert event.actor == "user:root"
    assert event.data["region"] == {"before": "eu-north", "after": "eu-west"}


def test_labels_that_are_no_labels_are_said_at_the_field(root: Client, now: datetime) -> None:
    site = make_site("oslo", now=now)
    form = {"tier": "edge", "region": "eu", "labels": '{"ring": 0}'}
    response = root.post(reverse("admin:fleet_site_change", args=[site.pk]), form)
    assert response.status_code == 200
    assert "Must map names to values" in response.content.decode()
    site.refresh_from_db()
    assert site.labels == {}
