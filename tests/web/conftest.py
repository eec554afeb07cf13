"""People, a living engine and the present time, for tests of pages."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from controlplane.accounts.models import User
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Site
from controlplane.rollouts.services import record_beat
from tests.factories import make_rollout
from tests.web.browser import browser, visit

__all__ = ["browser", "visit"]  # fixtures

PASSWORD = "the quick brown fox"


@pytest.fixture
def now() -> datetime:
    """Views read the clock, so what they show is made at the same time."""
    return timezone.now()


@pytest.fixture(scope="session", autouse=True)
def _static_root() -> None:
    """WhiteNoise warns of a missing one; in tests files come from the apps themselves."""
    Path(settings.STATIC_ROOT).mkdir(parents=True, exist_ok=True)


@pytest.fixture(autouse=True)
def _engine_lives(db: None, now: datetime) -> None:
    """A live server makes `db` one that commits, so that its threads see the rows."""
    record_beat(name="tick", now=now)
    record_beat(name="worker", now=now)


@pytest.fixture
def operator() -> User:
    """May do everything in the console."""
    return User.objects.create_user("olga", password=PASSWORD, is_staff=True)


@pytest.fixture
def viewer() -> User:
    """May look, and do nothing."""
    return User.objects.create_user("viktor", password=PASSWORD)


def _as(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.fixture
def olga(operator: User) -> Client:
    return _as(operator)


@pytest.fixture
def viktor(viewer: User) -> Client:
    return _as(viewer)


@pytest.fixture
def poll(olga: Client) -> Callable[..., HttpResponse]:
    """A request as htmx makes it, with the tag of what the page shows."""

    def ask(path: str, etag: str = "") -> Any:
        headers = {"HX-Request": "true"} | ({"If-None-Match": etag} if etag else {})
        return olga.get(path, headers=headers)

    return ask


def text_of(response: Any) -> str:
    return str(response.content.decode())


@pytest.fixture
def paths(now: datetime) -> list[str]:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    site, version = Site.objects.get(), rollout.version
    return [
        "/", "/add-site/", "/sites/", f"/sites/{site.name}/",
        f"/sites/{site.name}/enrolment-token/", "/models/",
        f"/models/{version.model.name}/{version.number}/", "/rollouts/",
        "/rollouts/start/", f"/rollouts/{rollout.pk}/", f"/rollouts/{rollout.pk}/stages/all/",
        f"/rollouts/{rollout.pk}/pause/", f"/rollouts/{rollout.pk}/rollback/",
        f"/rollouts/{rollout.pk}/rollback/?stage=all", "/freezes/", "/budget/", "/strategies/",
        "/strategies/canary/", "/new-strategy/", f"/sites/{site.name}/retire/",
        f"/sites/{site.name}/agent/new-key/", f"/sites/{site.name}/agent/unlock/",
        f"/sites/{site.name}/models/{version.model.name}/pin/",
        f"/models/{version.model.name}/{version.number}/quarantine/",
    ]  # fmt: skip
