"""An unchanged poll is answered before Django, exactly as Django would; all else is left to it."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError, connections
from django.test import Client
from django.utils import timezone

from controlplane.api.agent_v1 import hot_path
from controlplane.catalog.models import Model
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Agent, Lease, Server
from controlplane.rollouts.models import SiteModel
from tests.factories import make_joined_site, make_rollout
from tests.fake_agent import FakeAgent

pytestmark = pytest.mark.django_db(transaction=True)
Answer = tuple[int, dict[str, str], bytes]
Poll = Callable[..., Answer]
BEHIND: Answer = (299, {}, b"left to the views")


@pytest.fixture
def agent() -> FakeAgent:
    now = timezone.now()
    agent = make_joined_site("fra", now=now)
    make_rollout(RolloutState.RUNNING, agents=[agent], now=now)
    agent.open_session(now=now)
    return agent


@pytest.fixture
def poll(agent: FakeAgent) -> Iterator[Poll]:
    """Asks the wrapped application; status, headers and body as a client gets them."""
    with ThreadPoolExecutor(max_workers=1) as threads:
        application = hot_path.answer_unchanged_polls(views, threads)

        def ask(tag: str, *, path: str = hot_path.PATH, method: str = "GET", **more: str) -> Answer:
            headers = {"authorization": f"Bearer {agent.secret}", "if-none-match": tag, **more}
            raw = [(name.encode(), value.encode()) for name, value in headers.items()]
            scope = {"type": "http", "path": path, "method": method, "headers": raw}
            return asyncio.run(answer_of(application, scope))

        yield ask
        # The thread's connection must not outlive the test's database.
        threads.submit(connections.close_all).result()


async def views(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": BEHIND[0], "headers": []})
    await send({"type": "http.response.body", "body": BEHIND[2]})


async def answer_of(application: Any, scope: Any) -> Answer:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    await application(scope, receive, send)
    start, body = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, body["body"]


def current_tag(agent: FakeAgent) -> str:
    caller = agent.caller(now=timezone.now())
    return f'"{caller.epoch}.{caller.generation}"'


def test_an_unchanged_poll_is_answered_as_the_view_would(agent: FakeAgent, poll: Poll) -> None:
    tag = current_tag(agent)
    status, headers, body = poll(tag)
    assert (status, body) == (304, b"")
    view = Client().get(
        hot_path.PATH,
        headers={"Authorization": f"Bearer {agent.secret}", "If-None-Match": tag},
    )
    assert view.status_code == 304
    assert headers == {name.lower(): view[name] for name in ("ETag", "Waypost-Poll-Seconds")}


def test_it_shows_that_the_agent_lives(agent: FakeAgent, poll: Poll) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    Lease.objects.update(last_seen_at=long_ago)
    assert poll(current_tag(agent))[0] == 304
    seen = Lease.objects.get().last_seen_at
    assert seen is not None
    assert seen > long_ago


def said_long_ago(agent: FakeAgent) -> datetime:
    """The agent's report was taken, an hour before now."""
    now = timezone.now()
    assert not agent.report(SiteModel.objects.get().model.name, "succeeded", now=now).duplicate
    SiteModel.objects.update(reported_at=now - timedelta(hours=1))
    Server.objects.update(reported_at=now - timedelta(hours=1))
    return now


def test_a_poll_that_stands_for_the_last_report_renews_it(agent: FakeAgent, poll: Poll) -> None:
    now = said_long_ago(agent)
    tag, seq = current_tag(agent), str(Agent.objects.get().report_seq)
    before = SiteModel.objects.values("reported_phase", "reported_serving").get()
    status, headers, _ = poll(tag, **{"waypost-holds": seq})
    assert (status, headers["waypost-held"]) == (304, seq)
    assert SiteModel.objects.get().reported_at >= now
    assert SiteModel.objects.values("reported_phase", "reported_serving").get() == before
    assert all(server.reported_at >= now for server in Server.objects.all())
    said_long_ago(agent)
    view = Client().get(
        hot_path.PATH,
        headers={
            "Authorization": f"Bearer {agent.secret}",
            "If-None-Match": tag,
            "Waypost-Holds": str(Agent.objects.get().report_seq),
        },
    )
    assert view["Waypost-Held"] == str(Agent.objects.get().report_seq)
    assert SiteModel.objects.get().reported_at >= now


@pytest.mark.parametrize("holds", ["0", "999", "-1", "x", "", "9" * 30])
def test_a_poll_that_stands_for_another_report_renews_nothing(
    agent: FakeAgent, poll: Poll, holds: str
) -> None:
    now = said_long_ago(agent)
    status, headers, _ = poll(current_tag(agent), **{"waypost-holds": holds})
    assert status == 304
    assert "waypost-held" not in headers
    assert SiteModel.objects.get().reported_at < now


def test_before_its_first_report_a_session_has_nothing_that_a_poll_could_stand_for(
    agent: FakeAgent, poll: Poll
) -> None:
    _, headers, _ = poll(current_tag(agent), **{"waypost-holds": "0"})
    assert "waypost-held" not in headers
    assert SiteModel.objects.get().reported_at is None


def test_a_model_that_the_last_report_left_out_is_not_renewed(agent: FakeAgent, poll: Poll) -> None:
    now = said_long_ago(agent)
    spoken = SiteModel.objects.get()
    older = SiteModel.objects.create(
        site_id=spoken.site_id,
        model=Model.objects.create(name="other", created_at=now),
        generation=spoken.generation,
        reported_at=now - timedelta(hours=2),
    )
    poll(current_tag(agent), **{"waypost-holds": str(Agent.objects.get().report_seq)})
    older.refresh_from_db()
    spoken.refresh_from_db()
    assert older.reported_at == now - timedelta(hours=2)
    assert spoken.reported_at >= now


@pytest.mark.parametrize("tag", ['"1.0"', "", "W/x"])
def test_a_poll_that_may_bring_news_is_left_to_the_view(poll: Poll, tag: str) -> None:
    assert poll(tag) == BEHIND


def test_a_session_that_opens_nothing_is_left_to_the_view(agent: FakeAgent, poll: Poll) -> None:
    tag = current_tag(agent)
    Agent.objects.update(revoked_at=timezone.now())
    assert poll(tag) == BEHIND


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "/agent/v1/report"},
        {"method": "POST"},
        {"authorization": "Basic abc"},
        {"waypost-protocol": "2"},
    ],
)
def test_other_questions_are_left_to_the_views(
    agent: FakeAgent, poll: Poll, changes: dict[str, str]
) -> None:
    assert poll(current_tag(agent), **changes) == BEHIND


def test_a_database_that_does_not_answer_is_left_to_the_view_and_then_asked_again(
    agent: FakeAgent, poll: Poll, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = current_tag(agent)

    def gone(**_: object) -> None:
        raise OperationalError("the server closed the connection")

    with monkeypatch.context() as broken:
        broken.setattr(hot_path, "authenticate_agent", gone)
        assert poll(tag) == BEHIND
    assert poll(tag)[0] == 304
