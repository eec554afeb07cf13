"""Every screen in both themes: no WCAG 2.2 AA violation, no inline code, no request elsewhere,
nothing cut off at 320 pixels."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.test import Client
from django.utils import timezone

from controlplane.accounts.models import User
from controlplane.domain.gates import Verdict
from controlplane.domain.policy import OnFailure, StagePolicy
from controlplane.domain.rollout import RolloutState
from controlplane.domain.stages import StageSpec
from controlplane.rollouts.approvals import record_verdict
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import EngineBeat, Rollout
from controlplane.rollouts.quarantine import pin_model, quarantine_version
from controlplane.rollouts.services import advance_rollout
from controlplane.rollouts.strategies import create_strategy
from tests.factories import ACTOR, make_joined_site, make_rollout, make_site, make_version
from tests.fake_agent import FakeAgent
from tests.web.browser import Open, Visit

pytestmark = pytest.mark.browser

RULES = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}
SCREENS = (
    "/", "/sites/", "/sites/?health=degraded", "/sites/fra-edge-1/", "/sites/oslo-edge-3/",
    "/sites/fra-edge-1/enrolment-token/", "/add-site/", "/models/", "/models/vad/1/",
    "/models/vad/2/", "/models/ocr/1/", "/rollouts/", "/rollouts/?state=paused",
    "/rollouts/start/", "/rollouts/{running}/", "/rollouts/{running}/rollback/",
    "/rollouts/{running}/resume/", "/rollouts/{running}/stages/canary/", "/rollouts/{back}/",
    "/rollouts/{asked}/", "/rollouts/{asked}/resume/", "/rollouts/{asked}/approve/?stage=first",
    "/freezes/", "/freezes/{freeze}/lift/", "/budget/", "/strategies/", "/strategies/night-shift/",
    "/strategies/night-shift/retire/", "/new-strategy/", "/models/asr/2/",
    "/models/vad/2/quarantine/", "/sites/fra-edge-1/retire/", "/sites/fra-edge-2/models/vad/pin/",
    "/rollouts/999/", "/nowhere/",
)  # fmt: skip


@pytest.fixture
def ids() -> dict[str, int]:
    """A fleet in which every colour is on some page."""
    now = timezone.now()
    agents = [make_joined_site(f"fra-edge-{n}", now=now, labels={"ring": "0"}) for n in range(1, 4)]
    make_site("oslo-edge-3", now=now, power_limit_kw=12.5)
    make_joined_site("silent", tier="regional", now=now - timedelta(days=2))
    first, second = make_version("vad", now=now), make_version("vad", now=now)
    make_version("ocr", registered=False, now=now)
    make_version("asr", now=now)
    stages = [
        StageSpec(name="canary", sites=frozenset({"fra-edge-1"}), soak_seconds=600),
        StageSpec(name="rest", tier="edge", soak_seconds=0),
    ]
    back = make_rollout(
        RolloutState.ROLLED_BACK, version=first, agents=agents, now=now,
        stages=[StageSpec(name="all", tier="edge", soak_seconds=0)],
    )  # fmt: skip
    running = make_rollout(
        RolloutState.RUNNING, version=second, agents=agents, stages=stages, now=now
    )
    agents[0].obey(now=now)
    for seconds in (0, 5, 10):
        advance_rollout(rollout_id=running.pk, now=now + timedelta(seconds=seconds))
    agents[1].broken.clear()
    pin_model(
        site_name="fra-edge-1", model_name="vad", reason="a customer's demo", actor=ACTOR, now=now
    )
    quarantine_version(
        model_name="asr", number=make_version("asr", now=now).number, reason="a leak",
        roll_back=False, actor=ACTOR, now=now,
    )  # fmt: skip
    create_strategy(document={"name": "night-shift", "stages": [{"name": "all"}]}, **by(now))
    freeze = freeze_sites(
        selector={"sites": ["oslo-edge-3"]}, reason="the fair", until=None, **by(now)
    )
    asked = _asking(agents[2], now)
    return {"running": running.pk, "back": back.pk, "asked": asked.pk, "freeze": freeze.pk}


def by(now: datetime) -> dict[str, Any]:
    return {"actor": ACTOR, "now": now}


def _asking(agent: FakeAgent, now: datetime) -> Rollout:
    """A rollout that the engine paused, with a gate that spoke and an approval that is missing."""
    policy = StagePolicy(on_failure=OnFailure.PAUSE, approval=True, gates=("latency", "accuracy"))
    stages = [
        StageSpec(name="first", sites=frozenset({agent.site.name}), soak_seconds=600, policy=policy)
    ]
    agent.broken.add(("kws", 1))
    rollout = make_rollout(
        version=make_version("kws", now=now), agents=[agent], stages=stages, now=now
    )
    advance_rollout(rollout_id=rollout.pk, now=now)
    agent.obey(now=now)
    advance_rollout(rollout_id=rollout.pk, now=now)
    record_verdict(
        rollout_id=rollout.pk, stage_name="first", gate="latency", verdict=Verdict.INCONCLUSIVE,
        reason="too few requests", evidence={"p99_ms": 12.5, "requests": 3}, fresh_seconds=600,
        **by(now),
    )  # fmt: skip
    rollout.refresh_from_db()
    assert rollout.pause_code == "stage-failed"
    return rollout


def check(opened: Visit, where: str) -> None:
    """Fails with every rule that is broken and the first place of each."""
    found = Axe().run(opened.page, options=RULES).response["violations"]
    broken = [(rule["id"], rule["nodes"][0]["html"][:160]) for rule in found]
    assert not broken, f"{where}: {broken}"
    assert opened.faults == [], where
    assert opened.strangers == [], where


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_screen_violates_wcag_22_aa(
    visit: Open,
    operator: User,
    ids: dict[str, int],
    theme: str,
) -> None:
    opened = visit(operator, color_scheme=theme)
    for screen in SCREENS:
        path = screen.format(**ids)
        opened.go(path)
        assert opened.page.locator("html").get_attribute("data-bs-theme") == theme
        check(opened, f"{path} {theme}")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_what_opens_on_a_screen_does_not_violate_it_either(
    visit: Open,
    operator: User,
    viewer: User,
    ids: dict[str, int],
    theme: str,
) -> None:
    opened = visit(operator, color_scheme=theme)
    page = opened.page
    opened.go(f"/rollouts/{ids['running']}/")
    page.click("#verb-rollback")
    page.wait_for_selector("dialog[open]")
    check(opened, f"dialog {theme}")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog [aria-invalid=true]")
    check(opened, f"dialog with a fault {theme}")
    opened.go(f"/rollouts/{ids['running']}/")
    page.focus("#verb-resume")
    page.wait_for_selector("#why-resume", state="visible")
    check(opened, f"reason of a disabled verb {theme}")
    page.click("#user-menu summary")
    check(opened, f"menu {theme}")
    opened.go("/sites/oslo-edge-3/enrolment-token/")
    page.click("main button[type=submit]")
    page.wait_for_selector("#join-line")
    check(opened, f"token {theme}")
    opened.go("/rollouts/start/")
    page.select_option("#id_version", label="asr 1")
    page.select_option("#id_strategy", "at-once")
    page.click("button[value=plan]")
    page.wait_for_selector("#plan")
    for fold in page.locator("#plan summary").all():
        fold.click()
    check(opened, f"plan {theme}")
    opened.go(f"/rollouts/{ids['asked']}/")
    page.click("#choice-accept")
    page.wait_for_selector("dialog[open]")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog [aria-invalid=true]")
    check(opened, f"choice with a fault {theme}")
    opened.go("/freezes/")
    page.click("main form button[type=submit]")
    page.wait_for_selector("main [aria-invalid=true]")
    check(opened, f"freeze with a fault {theme}")
    opened.go("/new-strategy/")
    page.fill("#id_document", '{"name": "X"}')
    page.click("main button[type=submit]")
    page.wait_for_selector("main [aria-invalid=true]")
    check(opened, f"strategy with faults {theme}")
    EngineBeat.objects.all().delete()
    opened.go("/")
    check(opened, f"dead engine {theme}")
    looking = visit(viewer, color_scheme=theme)
    looking.go("/rollouts/start/")
    check(looking, f"refused {theme}")
    stranger = visit(None, color_scheme=theme)
    stranger.go("/sites/")
    check(stranger, f"login {theme}")
    stranger.page.fill("#id_username", "nobody")
    stranger.page.fill("#id_password", "nothing")
    stranger.page.click("button[type=submit]")
    check(stranger, f"login refused {theme}")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_empty_installation_does_not_violate_it(
    visit: Open,
    operator: User,
    theme: str,
) -> None:
    opened = visit(operator, color_scheme=theme)
    for path in (
        "/", "/sites/", "/models/", "/rollouts/", "/rollouts/start/", "/freezes/", "/strategies/",
    ):  # fmt: skip
        opened.go(path)
        check(opened, f"{path} {theme}")


def test_no_screen_scrolls_sideways(
    visit: Open,
    operator: User,
    ids: dict[str, int],
) -> None:
    opened = visit(operator)
    for screen in SCREENS:
        opened.go(screen.format(**ids))
        for width in (320, 768, 3840):
            opened.page.set_viewport_size({"width": width, "height": 900})
            inside = opened.page.evaluate("document.documentElement.scrollWidth")
            assert inside <= width, f"{screen} is {inside} pixels wide at {width}"


def test_pages_stay_small(operator: User, db: None) -> None:
    now = timezone.now()
    agents = [make_joined_site(f"site-{n:03}", now=now) for n in range(60)]
    rollout = make_rollout(RolloutState.RUNNING, agents=agents, now=now)
    client = Client()
    client.force_login(operator)
    for path in ("/", "/sites/", "/rollouts/", f"/rollouts/{rollout.pk}/"):
        assert len(client.get(path).content) < 100_000, path
