"""What every call of the REST API has in common: tags, conditions, pages, selectors, limits, names
of requests, and waiting for news."""

import asyncio
import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone

from controlplane.accounts.models import Scope
from controlplane.api import long_poll
from controlplane.api.rate_limit import BUCKETS, Buckets
from controlplane.api.standings import Standing
from controlplane.audit.models import Event
from controlplane.audit.services import record_event
from controlplane.catalog import services
from controlplane.catalog.builds import Build, check_builds
from controlplane.catalog.models import Channel, Model, Version
from controlplane.catalog.services import store_blob
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import Site
from controlplane.rollouts.models import Rollout
from tests.api.calls import ApiCaller, assert_problem
from tests.factories import make_rollout, make_site, make_token, make_version, version_files


def if_match(tag: str) -> dict[str, Any]:
    return {"headers": {"If-Match": tag}}


class TestTags:
    def test_a_resource_has_a_tag_and_is_not_sent_twice(
        self, api: ApiCaller, now: datetime
    ) -> None:
        make_site("oslo", now=now)
        tag = api.get("sites/oslo")["ETag"]

        response = api.get("sites/oslo", headers={"If-None-Match": f'"other", W/{tag}'})

        assert (response.status_code, response.content) == (304, b"")
        assert response["ETag"] == tag
        assert "Content-Type" not in response.headers

    def test_a_change_is_another_tag(self, api: ApiCaller, now: datetime) -> None:
        make_site("oslo", now=now)
        tag = api.get("sites/oslo")["ETag"]
        changed = api.patch("sites/oslo", {"region": "eu-north"})
        assert changed["ETag"] != tag
        response = api.get("sites/oslo", headers={"If-None-Match": tag})
        assert (response.status_code, response["ETag"]) == (200, changed["ETag"])

    def test_a_row_with_a_revision_has_it_in_its_tag(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(now=now)
        assert api.get(f"rollouts/{rollout.pk}")["ETag"].startswith(f'"{rollout.revision}.')

    @pytest.mark.parametrize("path", ["sites", "models", "schema/", "budget", "strategies"])
    def test_lists_and_documents_have_one_too(self, api: ApiCaller, path: str) -> None:
        tag = api.get(path)["ETag"]
        assert api.get(path, headers={"If-None-Match": tag}).status_code == 304

    def test_an_error_has_none(self, api: ApiCaller) -> None:
        assert "ETag" not in api.get("sites/nowhere").headers


class TestIfMatch:
    def test_a_change_of_what_was_read_passes(self, api: ApiCaller, now: datetime) -> None:
        make_site("oslo", now=now)
        tag = api.get("sites/oslo")["ETag"]
        body = {"region": "eu-north"}
        assert api._send("PATCH", "sites/oslo", body, **if_match(tag)).status_code == 200

    def test_a_change_of_something_else_does_not(self, api: ApiCaller, now: datetime) -> None:
        make_site("oslo", now=now)
        tag = api.get("sites/oslo")["ETag"]
        api.patch("sites/oslo", {"region": "eu-north"})

        response = api._send("PATCH", "sites/oslo", {"region": "moon"}, **if_match(tag))

        document = assert_problem(response, 412, "precondition-failed")
        assert document["etag"] == response["ETag"] == api.get("sites/oslo")["ETag"]
        assert Site.objects.get().region == "eu-north"

    def test_that_a_site_was_heard_is_no_change_of_it(self, api: ApiCaller, edge: Any) -> None:
        tag = api.get("sites/edge")["ETag"]
        edge.agent.send(now=timezone.now())
        again = api.get("sites/edge")["ETag"]
        assert again != tag
        body = {"region": "eu-north"}
        assert api._send("PATCH", "sites/edge", body, **if_match(tag)).status_code == 200

    def test_a_verb_is_held_to_what_it_is_about(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        path = f"rollouts/{rollout.pk}"
        tag = api.get(path)["ETag"]
        assert api.post(f"{path}/pause", {"reason": "look"}, **if_match(tag)).status_code == 200
        response = api.post(f"{path}/resume", {"reason": "look"}, **if_match(tag))
        assert_problem(response, 412, "precondition-failed")
        assert Rollout.objects.get().state == RolloutState.PAUSED

    def test_anything_matches_a_star_and_one_of_several_is_enough(
        self, api: ApiCaller, now: datetime
    ) -> None:
        make_site("oslo", now=now)
        for given in ("*", '"other", {}'):
            tag = api.get("sites/oslo")["ETag"]
            response = api._send(
                "PATCH", "sites/oslo", {"region": "x"}, **if_match(given.format(tag))
            )
            assert response.status_code == 200, given

    def test_a_weak_tag_matches_nothing(self, api: ApiCaller, now: datetime) -> None:
        make_site("oslo", now=now)
        tag = api.get("sites/oslo")["ETag"]
        response = api._send("PATCH", "sites/oslo", {"region": "x"}, **if_match(f"W/{tag}"))
        assert_problem(response, 412, "precondition-failed")

    def test_a_deletion_too(self, api: ApiCaller, now: datetime) -> None:
        version = make_version(registered=False, now=now)
        path = f"models/vad/versions/{version.number}"
        assert api._send("DELETE", path, b"", **if_match('"0.x"')).status_code == 412
        tag = api.get(path)["ETag"]
        assert api._send("DELETE", path, b"", **if_match(tag)).status_code == 204

    def test_what_is_not_there_is_told_by_the_view(self, api: ApiCaller) -> None:
        response = api._send("PATCH", "sites/nowhere", {"region": "x"}, **if_match('"1"'))
        assert_problem(response, 404, "site-unknown")

    @pytest.mark.parametrize("given", ["*", '"1.x"'])
    def test_what_is_not_there_is_not_made(self, api: ApiCaller, now: datetime, given: str) -> None:
        make_version(now=now)
        body = {"version": "1", "reason": "x"}
        response = api._send("PUT", "models/vad/channels/stable", body, **if_match(given))
        assert_problem(response, 412, "precondition-failed")
        assert "ETag" not in response.headers
        assert not Channel.objects.exists()
        assert not Event.objects.filter(action="channel.moved").exists()

    def test_files_are_not_read_in_its_transaction(
        self, api: ApiCaller, now: datetime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        files = version_files("finalise")
        version = make_version(registered=False, files=files, now=now)
        for data in files.values():
            digest = hashlib.sha256(data).hexdigest()
            store_blob(version=version, sha256=digest, stream=io.BytesIO(data), now=now)
        depths = []

        def read(row: Version) -> list[Build]:
            depths.append(len(connection.savepoint_ids))
            return check_builds(row)

        monkeypatch.setattr(services, "check_builds", read)
        path = "models/vad/versions/1"
        stale = api.post(f"{path}/finalise", **if_match('"0.x"'))
        assert_problem(stale, 412, "precondition-failed")
        before = len(connection.savepoint_ids)
        response = api.post(f"{path}/finalise", **if_match(api.get(path)["ETag"]))
        assert (response.status_code, depths) == (200, [before])

    def test_where_nothing_has_a_tag_it_is_refused(self, api: ApiCaller) -> None:
        response = api.post("freezes/1/lift", {"reason": "x"}, **if_match('"1"'))
        assert_problem(response, 422, "if-match-unusable")

    def test_nobody_learns_a_tag_without_a_token(self, api: ApiCaller, now: datetime) -> None:
        make_site("oslo", now=now)
        api.secret = "wpt_wrong"
        response = api._send("PATCH", "sites/oslo", {"region": "x"}, **if_match('"1"'))
        assert_problem(response, 401, "token-invalid")

    def test_it_goes_with_a_named_call(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(RolloutState.RUNNING, now=now)
        path = f"rollouts/{rollout.pk}"
        headers = {"If-Match": api.get(path)["ETag"], "Idempotency-Key": "k"}
        first = api.post(f"{path}/pause", {"reason": "look"}, headers=headers)
        again = api.post(f"{path}/pause", {"reason": "look"}, headers=headers)
        assert (first.status_code, again.status_code) == (200, 200)
        assert again["Idempotency-Replayed"] == "true"


class TestPages:
    def test_a_page_says_where_the_next_is(self, api: ApiCaller, now: datetime) -> None:
        for name in ("a", "b", "c"):
            make_site(name, now=now)
        page = api.get("sites?limit=1&offset=1")
        document = page.json()
        assert page["Link"] == (
            f'<{document["next"]}>; rel="next", <{document["previous"]}>; rel="prev"'
        )

    def test_a_cursor_stays_where_it_is_while_events_come_in(
        self, api: ApiCaller, now: datetime
    ) -> None:
        rollout = make_rollout(now=now)
        path = f"rollouts/{rollout.pk}/events"

        def happen(count: int) -> None:
            for _ in range(count):
                record_event(
                    now=now,
                    actor="engine",
                    action="rollout.test",
                    object_type="rollout",
                    object_id=str(rollout.pk),
                )

        happen(7)
        all_at_once = [event["id"] for event in api.get(f"{path}?limit=500").json()["results"]]
        seen: list[int] = []
        page = api.get(f"{path}?limit=2").json()
        while True:
            seen += [event["id"] for event in page["results"]]
            happen(3)  # above the cursor
            if not page["next"]:
                break
            page = api.get(page["next"].partition("/api/v1/")[2]).json()
        assert seen == all_at_once

    @pytest.mark.parametrize("cursor", ["x", "cD0", "cD14", "cj0x", "%00", "cD1ub3Q="])
    def test_a_cursor_of_another_list_is_refused(
        self, api: ApiCaller, now: datetime, cursor: str
    ) -> None:
        rollout = make_rollout(now=now)
        response = api.get(f"rollouts/{rollout.pk}/events?cursor={cursor}")
        assert response.status_code in (200, 422), response.content
        if response.status_code == 422:
            assert assert_problem(response, 422, "invalid-request")["errors"][0]["field"] in (
                "cursor",
            )


class TestSelectors:
    @pytest.fixture(autouse=True)
    def _sites(self, now: datetime) -> None:
        make_site("a", region="eu", labels={"ring": "0", "o'dd": "x"}, now=now)
        make_site("b", region="eu", tier="regional", labels={"ring": "1", "lab": "yes"}, now=now)
        make_site("c", region="us", labels={}, now=now)

    @pytest.mark.parametrize(
        ("selector", "names"),
        [
            ("ring=0", ["a"]),
            ("ring%3D%3D1", ["b"]),
            ("ring!=0", ["b", "c"]),
            ("ring in (0,1)", ["a", "b"]),
            ("ring notin (0)", ["b", "c"]),
            ("lab", ["b"]),
            ("!lab", ["a", "c"]),
            ("region=eu,!lab", ["a"]),
            ("region=eu,tier!=regional", ["a"]),
            ("name in (b, c)", ["b", "c"]),
            ("ring=", []),
            ("region=moon", []),
        ],
    )
    def test_labels_and_columns(self, api: ApiCaller, selector: str, names: list[str]) -> None:
        response = api.get(f"sites?selector={selector}")
        assert response.status_code == 200, response.content
        assert [site["name"] for site in response.json()["results"]] == names

    @pytest.mark.parametrize(
        ("selector", "position"),
        [
            ("", 1),
            ("=x", 1),
            ("a,,b", 3),
            ("a%26b", 2),
            ("ring in 0", 9),
            ("ring in (0", 11),
            ("a=b c", 5),
            ("a=b,", 5),
            ("o'dd=x", 2),
            ("a" * 1001, 1001),
        ],
    )
    def test_what_cannot_be_read_says_where(
        self, api: ApiCaller, selector: str, position: int
    ) -> None:
        document = assert_problem(api.get(f"sites?selector={selector}"), 422, "selector-invalid")
        assert document["position"] == position
        assert document["errors"][0]["field"] == "selector"

    def test_rollouts_by_the_labels_of_their_version(self, api: ApiCaller, now: datetime) -> None:
        rollout = make_rollout(now=now)
        rollout.version.labels = {"team": "audio"}
        rollout.version.save()
        found = api.get("rollouts?selector=team=audio,model=vad").json()["results"]
        assert [each["id"] for each in found] == [rollout.pk]
        assert api.get("rollouts?selector=team!=audio").json()["results"] == []


class TestNames:
    def test_the_callers_name_for_it_goes_everywhere(self, api: ApiCaller) -> None:
        response = api.get("sites/nowhere", headers={"X-Request-ID": "ci-run.17/3"})
        assert response["X-Request-ID"] == "ci-run.17/3"
        assert response.json()["request_id"] == "ci-run.17/3"
        body = {"name": "oslo", "tier": "edge", "region": "x"}
        api.post("sites", body, headers={"X-Request-ID": "ci-run.17/4"})
        assert Event.objects.get(action="site.created").request_id == "ci-run.17/4"

    @pytest.mark.parametrize("given", ["", "a b", "x" * 65, 'a"b', "é", "-x", "a\tb"])
    def test_a_name_that_could_break_a_log_line_is_replaced(
        self, api: ApiCaller, given: str
    ) -> None:
        response = api.get("sites/nowhere", headers={"X-Request-ID": given})
        assert response["X-Request-ID"] == response.json()["request_id"] != given
        assert len(response["X-Request-ID"]) == 36

    def test_pages_of_the_console_have_one_too(self, api: ApiCaller) -> None:
        assert api.client.get("/login/")["X-Request-ID"]


class TestLimits:
    @pytest.fixture(autouse=True)
    def _slow(self, settings: Any) -> Iterator[None]:
        settings.WAYPOST_API_RATE, settings.WAYPOST_API_BURST = 0.01, 3
        BUCKETS.clear()
        yield
        BUCKETS.clear()

    def test_who_asks_too_often_is_told_when_to_come_again(self, api: ApiCaller) -> None:
        left = [api.get("models")["RateLimit"] for _ in range(3)]
        assert left == [
            '"caller";r=2;t=100',
            '"caller";r=1;t=200',
            '"caller";r=0;t=300',
        ]
        response = api.get("models")
        assert_problem(response, 429, "too-many-requests")
        assert 90 <= int(response["Retry-After"]) <= 100
        assert response["RateLimit-Policy"] == '"caller";q=3;w=300'

    def test_another_caller_is_not_concerned(self, api: ApiCaller, with_scopes: Any) -> None:
        for _ in range(4):
            api.get("models")
        assert with_scopes(Scope.READ, name="other").get("models").status_code == 200

    def test_made_up_tokens_share_one_bucket(self, api: ApiCaller) -> None:
        statuses = []
        for number in range(4):
            api.secret = f"wpt_{number}"
            statuses.append(api.get("models").status_code)
        assert statuses == [401, 401, 401, 429]

    def test_bytes_may_come_as_fast_as_they_can(self, api: ApiCaller, now: datetime) -> None:
        version = make_version(registered=False, now=now)
        path = f"models/vad/versions/{version.number}/blobs/{'0' * 64}"
        assert {api.put(path, b"x").status_code for _ in range(6)} == {404}

    @pytest.mark.parametrize(
        ("method", "rest"),
        [
            ("POST", f"{'0' * 64}/multipart/complete"),
            ("POST", f"{'0' * 64}/multipart"),
            ("POST", "x"),
            ("PUT", f"{'0' * 64}/x"),
            ("PUT", "x"),
        ],
    )
    def test_all_but_bytes_count(self, api: ApiCaller, method: str, rest: str) -> None:
        path = f"models/vad/versions/1/blobs/{rest}"
        assert [api._send(method, path, b"").status_code for _ in range(4)][-1] == 429

    def test_bytes_without_a_token_count(self, api: ApiCaller) -> None:
        api.secret = "wpt_made-up"
        path = f"models/vad/versions/1/blobs/{'0' * 64}"
        assert [api.put(path, b"x").status_code for _ in range(4)] == [401, 401, 401, 429]

    def test_no_limit_where_it_is_switched_off(self, api: ApiCaller, settings: Any) -> None:
        settings.WAYPOST_API_RATE = 0
        assert {api.get("models").status_code for _ in range(6)} == {200}


def test_a_bucket_fills_up_again() -> None:
    buckets = Buckets()

    def take(now: float) -> bool:
        return buckets.take("a", rate=2, burst=2, now=now).allowed

    assert [take(0), take(0), take(0), take(0.4), take(0.5), take(0.6), take(10)] == [
        True, True, False, False, True, False, True,
    ]  # fmt: skip


def test_buckets_of_those_who_left_are_forgotten() -> None:
    buckets = Buckets(most=2)
    for caller in ("a", "b", "c"):
        buckets.take(caller, rate=1, burst=1, now=0)
    assert not buckets.take("b", rate=1, burst=1, now=0).allowed
    assert buckets.take("a", rate=1, burst=1, now=0).allowed


Ask = Callable[..., tuple[int, float]]


@pytest.mark.django_db(transaction=True)
class TestWaiting:
    """The real wrapper, in front of a view that says it was reached."""

    @pytest.fixture
    def ask(self, db: None) -> Iterator[Ask]:
        secret = make_token(Scope.READ, now=timezone.now())
        with ThreadPoolExecutor(max_workers=1) as threads:
            application = long_poll.answer_waits(reached, threads)

            def call(path: str, query: str = "", *, token: str = secret, **more: str) -> Any:
                headers = {"authorization": f"Bearer {token}", **more}
                scope = scope_of(path, query, headers)
                begun = time.monotonic()
                status = asyncio.run(status_of(application, scope))
                return status, time.monotonic() - begun

            yield call
            threads.submit(connections.close_all).result()

    @pytest.fixture
    def rollout(self, db: None) -> Rollout:
        return make_rollout(now=timezone.now())

    def test_a_wait_counts_before_it_begins(
        self, ask: Ask, rollout: Rollout, settings: Any
    ) -> None:
        settings.WAYPOST_API_RATE, settings.WAYPOST_API_BURST = 0.01, 1
        BUCKETS.clear()
        path, query = f"/api/v1/rollouts/{rollout.pk}", f"wait=1s&since={rollout.revision}"
        assert ask(path, query)[1] >= 1
        status, took = ask(path, query.replace("1s", "30s"))
        BUCKETS.clear()
        assert (status, took < 15) == (299, True)  # the view answers 429

    def test_old_looks_are_forgotten(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(long_poll, "LOOK_EVERY_SECONDS", 0.0)

        async def look_at_many() -> int:
            with ThreadPoolExecutor(max_workers=1) as threads:
                waiters = long_poll.Waiters(threads, lambda path: Standing(revision=1, tag=""))
                async with waiters.place("always one waits"):
                    for number in range(20):
                        await waiters._shared_look(f"/api/v1/rollouts/{number}")
                    return len(waiters._looks)

        assert asyncio.run(look_at_many()) <= 2

    def test_news_that_is_there_is_told_at_once(self, ask: Ask, rollout: Rollout) -> None:
        path = f"/api/v1/rollouts/{rollout.pk}"
        for query, more in (
            (f"wait=20s&since={rollout.revision - 1}", {}),
            ("wait=20", {"if-none-match": '"0.0"'}),
            ("wait=20", {}),
            ("", {}),
            ("wait=0s&since=9", {}),
        ):
            status, took = ask(path, query, **more)
            assert (status, took < 5) == (299, True), query

    def test_without_news_the_time_passes(self, ask: Ask, rollout: Rollout) -> None:
        path = f"/api/v1/rollouts/{rollout.pk}"
        status, took = ask(path, f"wait=1s&since={rollout.revision}")
        assert (status, took >= 1) == (299, True)

    def test_news_ends_the_wait(self, ask: Ask, rollout: Rollout) -> None:
        def happen() -> None:
            Rollout.objects.filter(pk=rollout.pk).update(revision=rollout.revision + 1)
            connections.close_all()

        timer = threading.Timer(0.3, happen)
        timer.start()
        status, took = ask(f"/api/v1/rollouts/{rollout.pk}", f"wait=30s&since={rollout.revision}")
        timer.join()
        assert (status, took < 15) == (299, True)

    @pytest.mark.parametrize(
        ("path", "query", "token"),
        [
            ("/api/v1/rollouts/4711", "wait=30s&since=1", None),
            ("/api/v1/rollouts/1", "wait=30s&since=999", "wpt_wrong"),
            ("/api/v1/rollouts/1", "wait=forever&since=999", None),
            ("/api/v1/rollouts/1", "wait=99s&since=999", None),
            ("/api/v1/sites", "wait=30s&since=999", None),
        ],
    )
    def test_what_cannot_wait_goes_to_its_view(
        self, ask: Ask, rollout: Rollout, path: str, query: str, token: str | None
    ) -> None:
        status, took = ask(path, query, **({"token": token} if token else {}))
        assert (status, took < 5) == (299, True)

    def test_a_version_can_be_waited_for(self, ask: Ask) -> None:
        make_version(now=timezone.now())
        status, took = ask("/api/v1/models/vad/versions/1", "wait=1s&since=999999")
        assert (status, took >= 1) == (299, True)

    def test_no_more_than_fit_may_wait(self, ask: Ask, rollout: Rollout, settings: Any) -> None:
        settings.WAYPOST_API_WAITERS = 0
        status, _ = ask(f"/api/v1/rollouts/{rollout.pk}", f"wait=30s&since={rollout.revision}")
        assert status == 503

    def test_who_hangs_up_waits_no_longer(self, rollout: Rollout) -> None:
        secret = make_token(Scope.READ, now=timezone.now())
        headers = {"authorization": f"Bearer {secret}"}
        query = f"wait=60s&since={rollout.revision}"
        scope = scope_of(f"/api/v1/rollouts/{rollout.pk}", query, headers)
        with ThreadPoolExecutor(max_workers=1) as threads:
            application = long_poll.answer_waits(reached, threads)
            begun = time.monotonic()
            status = asyncio.run(status_of(application, scope, gone=True))
            threads.submit(connections.close_all).result()
        assert (status, time.monotonic() - begun < 10) == (0, True)

    def test_many_who_wait_share_their_looks(self) -> None:
        looks = []

        def look(path: str) -> long_poll.Standing:
            looks.append(path)
            return long_poll.Standing(revision=1, tag='"1"')

        async def all_wait() -> None:
            with ThreadPoolExecutor(max_workers=1) as threads:
                waiters = long_poll.Waiters(threads, look)
                wish = long_poll.Wish(seconds=1, since=1, tags=())
                await asyncio.gather(*(waiters.until("x", wish) for _ in range(50)))

        asyncio.run(all_wait())
        assert len(looks) <= 5


def test_a_wish_that_cannot_be_read_is_told(api: ApiCaller, now: datetime) -> None:
    rollout = make_rollout(now=now)
    document = assert_problem(
        api.get(f"rollouts/{rollout.pk}?wait=soon&since=-1"), 422, "invalid-request"
    )
    assert [error["field"] for error in document["errors"]] == ["wait", "since"]


async def reached(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    assert message["type"] == "http.request"
    await send({"type": "http.response.start", "status": 299, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def scope_of(path: str, query: str, headers: dict[str, str]) -> dict[str, Any]:
    return {
        "type": "http",
        "path": path,
        "method": "GET",
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }


async def status_of(application: Any, scope: Any, *, gone: bool = False) -> int:
    """0: nothing was answered, as nobody was there any more."""
    sent: list[Any] = []
    asked = False

    async def receive() -> Any:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        if not gone:
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return int(sent[0]["status"]) if sent else 0


def test_models_are_told_apart_from_their_versions(api: ApiCaller, now: datetime) -> None:
    """`If-Match` on a model's policy compares the model, whatever its versions do."""
    make_version(now=now)
    tag = api.get("models/vad")["ETag"]
    assert Model.objects.get().revision >= 1
    assert tag.startswith('"')
