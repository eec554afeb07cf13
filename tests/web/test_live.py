"""How panels refresh themselves: a part for htmx, 304 while nothing changed, 286 at the end."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

from django.test import Client

from controlplane.audit.services import record_event
from controlplane.domain.rollout import RolloutState
from controlplane.rollouts.models import EngineBeat, Rollout, Stage
from controlplane.rollouts.services import advance_rollout, record_beat
from tests.factories import make_joined_site, make_rollout

Poll = Callable[..., Any]


def test_one_address_gives_the_page_and_the_part(olga: Client, poll: Poll, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    for path in ("/", "/sites/", "/rollouts/", f"/rollouts/{rollout.pk}/"):
        page, part = olga.get(path), poll(path)
        assert page.content.startswith(b"<!doctype html>"), path
        assert b"<html" not in part.content, path
        assert b"<h2" in part.content or b"<table" in part.content or b"<article" in part.content
        assert "HX-Request" in page["Vary"]
        assert "HX-Request" in part["Vary"]
        assert page["Cache-Control"] == part["Cache-Control"] == "no-store"


def test_the_page_carries_the_tag_of_what_it_shows(olga: Client, poll: Poll, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    for path in ("/", "/sites/", "/rollouts/", f"/rollouts/{rollout.pk}/"):
        page = olga.get(path)
        answer = poll(path, page.context["etag"])
        assert answer.status_code == 304, path
        assert answer.content == b""
        assert answer["ETag"] == page.context["etag"]


def test_a_filter_is_part_of_what_is_shown(olga: Client, poll: Poll, now: datetime) -> None:
    make_joined_site("fra", now=now)
    tag = olga.get("/sites/?tier=edge").context["etag"]
    assert poll("/sites/?tier=edge", tag).status_code == 304
    assert poll("/sites/?tier=regional", tag).status_code == 200


def test_every_change_a_rollout_page_shows_is_a_new_tag(poll: Poll, now: datetime) -> None:
    agent = make_joined_site("fra", now=now)
    rollout = make_rollout(agents=[agent], now=now)
    path, model = f"/rollouts/{rollout.pk}/", rollout.model.name
    seen = [poll(path)["ETag"]]

    def changed() -> None:
        answer = poll(path, seen[-1])
        assert answer.status_code == 200
        assert answer["ETag"] not in seen
        seen.append(answer["ETag"])
        assert poll(path, seen[-1]).status_code == 304

    advance_rollout(rollout_id=rollout.pk, now=now)
    changed()
    agent.report(model, "downloading", now=now, reason="1 of 4 MiB")
    changed()
    agent.report(model, "downloading", now=now, reason="2 of 4 MiB")
    changed()
    Stage.objects.update(soaked_seconds=3)
    changed()
    record_event(
        now=now, actor="user:x", action="rollout.noted", object_type="rollout",
        object_id=str(rollout.pk),
    )  # fmt: skip
    changed()


def test_a_final_rollout_ends_the_polling_with_its_last_part(poll: Poll, now: datetime) -> None:
    rollout = make_rollout(RolloutState.SUCCEEDED, now=now)
    path = f"/rollouts/{rollout.pk}/"
    answer = poll(path)
    assert answer.status_code == 286
    assert b"succeeded" in answer.content
    assert poll(path, answer["ETag"]).status_code == 286


def test_a_running_page_polls_its_own_address_with_filters(olga: Client, now: datetime) -> None:
    make_rollout(RolloutState.RUNNING, now=now)
    html = olga.get("/rollouts/?state=running").content.decode()
    assert 'hx-get="/rollouts/?state=running"' in html
    assert 'hx-trigger="every 3s, waypost:refresh"' in html


def test_a_beating_engine_changes_no_tag_and_its_death_reaches_every_panel(
    poll: Poll, now: datetime
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    path = f"/rollouts/{rollout.pk}/"
    tag = poll(path)["ETag"]
    record_beat(name="tick", now=now + timedelta(seconds=5))
    assert poll(path, tag).status_code == 304
    EngineBeat.objects.update(at=now - timedelta(minutes=5))
    dead = poll(path, tag)
    assert dead.status_code == 200
    assert b"The engine is not running" in dead.content
    assert b'id="engine" role="alert" hx-ext="morph" hx-swap-oob="morph"' in dead.content
    assert poll(path, dead["ETag"]).status_code == 304


def test_rows_keep_their_ids_from_one_part_to_the_next(poll: Poll, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    path = f"/rollouts/{rollout.pk}/"
    before = poll(path).content.decode()
    Rollout.objects.update(revision=99, reason="something else")
    after = poll(path).content.decode()
    assert before != after
    for identity in ('id="verb-pause"', 'id="verb-resume"', 'id="stage-0"', 'id="deployment-site-'):
        assert before.count(identity) == after.count(identity) == 1


def test_an_unchanged_poll_asks_the_database_no_more_than_the_page(
    olga: Client, poll: Poll, now: datetime, django_assert_max_num_queries: Any
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    path = f"/rollouts/{rollout.pk}/"
    tag = olga.get(path).context["etag"]
    with django_assert_max_num_queries(12):
        assert poll(path, tag).status_code == 304
