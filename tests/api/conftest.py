"""Callers of the two planes. Requests carry the real time: the views read the clock."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from controlplane.accounts.models import Scope
from tests.api.calls import AgentCaller, ApiCaller
from tests.factories import make_joined_site, make_token


@pytest.fixture(autouse=True)
def _rows(db: None) -> None:
    """All of them need the database."""


@pytest.fixture
def now() -> datetime:
    """The real time, once per test: tokens and sessions must be alive when a view looks."""
    return timezone.now()


@pytest.fixture
def api(now: datetime) -> ApiCaller:
    """A caller that may do everything."""
    return ApiCaller(client=Client(), secret=make_token(*Scope.values, now=now))


@pytest.fixture
def with_scopes(now: datetime) -> Callable[..., ApiCaller]:
    """Callers with just these scopes."""

    def make(*scopes: str, **changes: Any) -> ApiCaller:
        return ApiCaller(client=Client(), secret=make_token(*scopes, now=now, **changes))

    return make


@pytest.fixture
def edge(now: datetime) -> AgentCaller:
    """An agent with a session, at the site `edge`."""
    agent = make_joined_site("edge", now=now)
    agent.open_session(now=now)
    return AgentCaller(client=Client(), agent=agent)
