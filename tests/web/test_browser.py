"""The console in a real browser: it refreshes itself, asks before it acts, says when it cannot."""

import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from controlplane.accounts.models import User
from controlplane.domain.policy import OnFailure, StagePolicy
from controlplane.domain.rollout import RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import EngineBeat, Rollout
from controlplane.rollouts.services import advance_rollout
from controlplane.rollouts.verbs import pause_rollout
from tests.factories import make_joined_site, make_rollout, make_version, settle
from tests.fake_agent import FakeAgent
from tests.web.browser import Open
from tests.web.conftest import PASSWORD

pytestmark = pytest.mark.browser
WAIT_MS = 15_000  # far over the three seconds of a refresh: a slow machine is no failure


@pytest.fixture
def agent(now: datetime) -> FakeAgent:
    return make_joined_site("fra", now=now)


@pytest.fixture
def rollout(agent: FakeAgent, now: datetime) -> Rollout:
    return make_rollout(RolloutState.RUNNING, agents=[agent], now=now)


def is_poll(answer: Any) -> bool:
    return bool(answer.request.headers.get("hx-request") == "true")


def wait_for_polls(page: Page, count: int) -> None:
    for _ in range(count):
        with page.expect_response(is_poll):
            pass


def test_a_person_logs_in_and_lands_where_they_wanted(
    visit: Open,
    operator: User,
    rollout: Rollout,
) -> None:
    opened = visit(None)
    opened.go(f"/rollouts/{rollout.pk}/")
    opened.page.fill("#id_username", operator.username)
    opened.page.fill("#id_password", PASSWORD)
    opened.page.keyboard.press("Enter")
    expect(opened.page.locator("h1")).to_have_text("vad to version 1")
    assert opened.faults == []


def test_the_rollout_page_follows_the_rows_and_stops_at_the_end(
    visit: Open,
    operator: User,
    rollout: Rollout,
    agent: FakeAgent,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    expect(page.locator("#stage-0")).to_contain_text("offered")
    page.focus("#verb-pause")
    agent.report("vad", "downloading", now=timezone.now(), reason="1 of 4 MiB")
    expect(page.locator("#stage-0")).to_contain_text("1 of 4 MiB", timeout=WAIT_MS)
    assert page.evaluate("document.activeElement.id") == "verb-pause"
    expect(page.locator("[data-updated]")).to_have_text(re.compile(r"Updated \d+ s ago"))
    settle(rollout, [agent], now=timezone.now())
    expect(page.locator(".wp-summary")).to_contain_text("succeeded", timeout=WAIT_MS)
    expect(page.locator("[data-updated]")).to_have_text("This can no longer change.")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4000)  # longer than one interval of refreshing
    assert asked == []
    assert opened.faults == []


def test_an_unchanged_page_gets_304_and_is_not_touched(
    visit: Open,
    operator: User,
    rollout: Rollout,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    page.evaluate("document.querySelector('.wp-summary').dataset.mark = 'untouched'")
    statuses: list[int] = []
    # Only polls: a part of the page itself, such as a font, may still be under way.
    page.on("response", lambda answer: statuses.append(answer.status) if is_poll(answer) else None)
    wait_for_polls(page, 2)
    assert set(statuses) == {304}
    assert page.locator(".wp-summary").get_attribute("data-mark") == "untouched"


def test_a_new_event_and_a_dead_engine_reach_the_overview(
    visit: Open,
    operator: User,
    rollout: Rollout,
    now: datetime,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go("/")
    expect(page.locator(f"#running-{rollout.pk}")).to_contain_text("running")
    pause_rollout(rollout_id=rollout.pk, reason="lunch", actor="user:otto", now=timezone.now())
    expect(page.locator(f"#running-{rollout.pk}")).to_contain_text("paused", timeout=WAIT_MS)
    expect(page.locator(".wp-events")).to_contain_text("by user:otto")
    EngineBeat.objects.update(at=now - timedelta(minutes=3))
    expect(page.locator("#engine")).to_contain_text("not running", timeout=WAIT_MS)
    EngineBeat.objects.update(at=timezone.now())
    expect(page.locator("#engine")).to_be_empty(timeout=WAIT_MS)
    assert opened.faults == []


def test_a_page_that_is_not_looked_at_does_not_ask(
    visit: Open,
    operator: User,
    rollout: Rollout,
) -> None:
    opened = visit(operator)
    page = opened.page
    page.add_init_script(
        "window.away = false; Object.defineProperty(document, 'hidden', {get: () => window.away})"
    )
    opened.go(f"/rollouts/{rollout.pk}/")
    wait_for_polls(page, 1)
    page.evaluate("window.away = true")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4000)
    assert asked == []
    with page.expect_response(is_poll):
        page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")


def test_when_refreshing_fails_the_page_says_since_when_and_recovers(
    visit: Open,
    operator: User,
    rollout: Rollout,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    wait_for_polls(page, 1)
    page.route("**/rollouts/**", lambda route: route.abort())
    expect(page.locator("#stale")).to_contain_text("has not been refreshed since", timeout=25_000)
    page.unroute("**/rollouts/**")
    expect(page.locator("#stale")).to_be_hidden(timeout=WAIT_MS)


def test_a_session_that_ends_leads_to_the_login_and_back(
    visit: Open,
    operator: User,
    rollout: Rollout,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    page.context.clear_cookies()
    expect(page.locator("#id_username")).to_be_visible(timeout=WAIT_MS)
    page.fill("#id_username", operator.username)
    page.fill("#id_password", PASSWORD)
    page.click("button[type=submit]")
    expect(page.locator("h1")).to_have_text("vad to version 1")


def test_rolling_back_through_the_dialog(
    visit: Open,
    operator: User,
    rollout: Rollout,
    agent: FakeAgent,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    page.click("#verb-rollback")
    dialog = page.locator("#dialog")
    expect(dialog).to_be_visible()
    expect(dialog).to_contain_text("1 site returns to the version it had.")
    assert page.evaluate("document.activeElement.id") == "id_reason"
    page.click("#dialog button[type=submit]")
    expect(dialog).to_contain_text("Say why; it is kept with the rollout.")
    assert page.evaluate("document.activeElement.id") == "id_reason"
    page.fill("#id_reason", "<b>p99</b> doubled")
    page.click("#dialog button[type=submit]")
    expect(page.locator("main")).to_contain_text(f"Rollout {rollout.pk} is being rolled back.")
    expect(page.locator(".wp-summary")).to_contain_text("<b>p99</b> doubled")
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.ROLLING_BACK
    assert "user:olga" in rollout.reason
    assert opened.faults == []


def test_the_dialog_says_when_somebody_was_faster(
    visit: Open,
    operator: User,
    rollout: Rollout,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    page.click("#verb-pause")
    expect(page.locator("#dialog")).to_be_visible()
    pause_rollout(rollout_id=rollout.pk, reason="mine", actor="user:otto", now=timezone.now())
    page.click("#dialog button[type=submit]")
    expect(page.locator("#dialog")).to_contain_text("pause is not possible")
    page.get_by_role("link", name="Resume").click()
    expect(page.locator("#dialog")).to_contain_text("The rollout goes on")
    page.click("#dialog button[type=submit]")
    expect(page.locator("main")).to_contain_text("is resumed")


def test_the_dialog_survives_a_refresh_and_gives_the_focus_back(
    visit: Open,
    operator: User,
    rollout: Rollout,
    agent: FakeAgent,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    page.focus("#verb-abort")
    page.keyboard.press("Space")
    expect(page.locator("#dialog")).to_be_visible()
    page.fill("#id_reason", "half a sen")
    agent.report("vad", "downloading", now=timezone.now(), reason="2 of 4 MiB")
    expect(page.locator("#stage-0")).to_contain_text("2 of 4 MiB", timeout=WAIT_MS)
    assert page.input_value("#id_reason") == "half a sen"
    page.keyboard.press("Escape")
    expect(page.locator("#dialog")).to_be_hidden()
    assert page.evaluate("document.activeElement.id") == "verb-abort"


def test_everything_works_with_script_switched_off(
    visit: Open,
    operator: User,
    rollout: Rollout,
    now: datetime,
) -> None:
    opened = visit(operator, java_script_enabled=False)
    page = opened.page
    opened.go("/")
    page.click(f"#rollout-link-{rollout.pk}")
    expect(page.locator("#theme")).to_be_hidden()
    page.click("#verb-abort")
    expect(page.locator("h1")).to_have_text(f"Abort rollout {rollout.pk}: vad to version 1")
    page.fill("#id_reason", "no script here")
    page.click("main button[type=submit]")
    expect(page.locator("main")).to_contain_text("is being aborted")
    advance_rollout(rollout_id=rollout.pk, now=now)
    page.reload()
    expect(page.locator(".wp-summary")).to_contain_text("no script here")


def test_the_theme_is_chosen_and_kept(visit: Open, operator: User) -> None:
    opened = visit(operator, color_scheme="dark")
    page, html = opened.page, opened.page.locator("html")
    opened.go("/")
    expect(html).to_have_attribute("data-bs-theme", "dark")
    page.click("#theme")
    expect(html).to_have_attribute("data-bs-theme", "light")
    expect(page.locator("#theme")).to_have_text("Theme: light")
    opened.go("/sites/")
    expect(html).to_have_attribute("data-bs-theme", "light")


def test_times_are_counted_on_by_the_page(
    visit: Open,
    operator: User,
    rollout: Rollout,
) -> None:
    opened = visit(operator)
    page: Any = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    time = page.locator(".wp-summary-state time")
    before = time.text_content()
    expect(time).not_to_have_text(before, timeout=WAIT_MS)
    assert re.fullmatch(r"\d+ s ago", time.text_content())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", time.get_attribute("title"))


def test_a_pause_of_the_engine_is_answered_in_the_dialog(
    visit: Open,
    operator: User,
    agent: FakeAgent,
    now: datetime,
) -> None:
    policy = StagePolicy(on_failure=OnFailure.PAUSE)
    stages = [StageSpec(name="all", soak_seconds=0, policy=policy)]
    agent.broken.add(("vad", 1))
    rollout = make_rollout(RolloutState.RUNNING, agents=[agent], stages=stages, now=now)
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    agent.obey(now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    # The panel with the choices comes by the refresh.
    page.click("#choice-retry", timeout=WAIT_MS)
    expect(page.locator("#id_choice_retry")).to_be_checked()
    page.click("#dialog button[type=submit]")
    expect(page.locator("#dialog")).to_contain_text("Say why; it is kept with the rollout.")
    expect(page.locator("#id_choice_retry")).to_be_checked()
    page.fill("#id_reason", "the disk is empty again")
    page.click("#dialog button[type=submit]")
    expect(page.locator("main")).to_contain_text(f"Rollout {rollout.pk} is resumed.")
    expect(page.locator("#stage-0")).to_contain_text("1 earlier attempt: 1 failed")
    assert opened.faults == []


def test_a_freeze_reaches_an_open_page_and_is_lifted_from_there(
    visit: Open,
    operator: User,
    rollout: Rollout,
) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go(f"/rollouts/{rollout.pk}/")
    freeze = freeze_sites(
        selector={}, reason="the fair", until=None, actor="user:otto", now=timezone.now()
    )
    expect(page.locator("#frozen")).to_contain_text("the whole fleet", timeout=WAIT_MS)
    page.click(f"#freeze-link-{freeze.pk}")
    page.click(f"#lift-{freeze.pk}")
    page.fill("#dialog #id_reason", "it is over")
    page.click("#dialog button[type=submit]")
    expect(page.locator("main")).to_contain_text(f"Freeze {freeze.pk} is lifted.")
    expect(page.locator("#frozen")).to_be_empty()
    assert opened.faults == []


def test_a_rollout_is_planned_and_started_with_script_switched_off(
    visit: Open,
    operator: User,
    agent: FakeAgent,
    now: datetime,
) -> None:
    make_version("asr", now=now)
    opened = visit(operator, java_script_enabled=False)
    page = opened.page
    opened.go("/rollouts/start/")
    page.select_option("#id_version", label="asr 1")
    page.select_option("#id_strategy", "at-once")
    page.click("button[value=plan]")
    expect(page.locator("#plan")).to_contain_text("stops at 1 failed of 1 and rolls back")
    page.click("button[value=start]")
    expect(page.locator("h1")).to_have_text("asr to version 1")
    expect(page.locator("main")).to_contain_text("at-once, version 1")
