"""What holds for every page: no inline code, hostile text stays text, costs do not grow."""

import hashlib
import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.contrib.staticfiles import finders
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from controlplane.audit.services import record_event
from controlplane.catalog.models import VersionState
from controlplane.domain.gates import Verdict
from controlplane.domain.health import SiteHealth
from controlplane.domain.rollout import DeploymentState, RolloutState, StageState, WaitsFor
from controlplane.domain.stages import StageSpec
from controlplane.fleet.models import Agent, Lease, Site
from controlplane.rollouts.models import Deployment, EngineBeat, Rollout, SiteModel
from controlplane.rollouts.services import advance_rollout, start_rollout
from controlplane.web.look import KINDS, look_of
from tests.factories import make_joined_site, make_rollout, make_version
from tests.web.conftest import text_of

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def test_every_page_answers_an_operator_without_inline_code(olga: Client, paths: list[str]) -> None:
    for path in paths:
        response = olga.get(path)
        assert response.status_code == 200, path
        html = text_of(response)
        assert "<h1" in html, path
        assert " style=" not in html, path
        assert "<style" not in html, path
        assert " onclick" not in html, path
        assert "<script>" not in html, path
        assert "'unsafe-inline'" not in response["Content-Security-Policy"]


def test_what_does_not_exist_is_a_404_with_its_sentence(olga: Client, now: datetime) -> None:
    rollout = make_rollout(now=now)
    for path, words in (
        ("/sites/nope/", "No site is called &#x27;nope&#x27;."),
        ("/rollouts/999/", "There is no rollout 999."),
        ("/models/nope/1/", "Model &#x27;nope&#x27; has no version 1."),
        (f"/rollouts/{rollout.pk}/explode/", "is not something that can be done"),
        ("/nowhere/", "There is no page at this address."),
    ):
        response = olga.get(path)
        assert response.status_code == 404, path
        assert words in text_of(response), path


def test_hostile_text_stays_text(olga: Client, now: datetime) -> None:
    agent = make_joined_site("fra", labels={"note": EVIL}, now=now)
    Site.objects.update(region=EVIL[:63])
    rollout = start_rollout(
        model_name="vad", version_number=make_version("vad", now=now).number,
        stages=[StageSpec(name="all", soak_seconds=0)], note=EVIL, actor=f"token:{EVIL}", now=now,
    )  # fmt: skip
    advance_rollout(rollout_id=rollout.pk, now=now)
    agent.report("vad", "failed", now=now, reason=EVIL)
    record_event(
        now=now, actor=EVIL, action=EVIL[:60], object_type="site", object_id=EVIL, reason=EVIL
    )
    pages = [
        "/", "/sites/", "/sites/fra/", "/rollouts/", f"/rollouts/{rollout.pk}/",
        f"/sites/?region={quote(EVIL)}", f"/rollouts/?model={quote(EVIL)}",
        f"/rollouts/{rollout.pk}/stages/all/", "/models/vad/1/", f"/login/?next={quote(EVIL)}",
    ]  # fmt: skip
    for path in pages:
        html = text_of(olga.get(path))
        assert "<script>alert" not in html, path
        assert "<img src=x" not in html, path
    assert "&lt;script&gt;alert(1)" in text_of(olga.get(f"/rollouts/{rollout.pk}/"))


def test_a_dead_engine_is_a_red_banner_on_every_page(
    olga: Client, paths: list[str], now: datetime
) -> None:
    EngineBeat.objects.update(at=now - timedelta(minutes=5))
    for path in paths:
        assert "The engine is not running" in text_of(olga.get(path)), path
    EngineBeat.objects.update(at=now)
    assert "The engine is not running" not in text_of(olga.get("/"))


def test_every_state_has_a_word_a_tone_and_a_glyph() -> None:
    sprite = finders.find("console/icons.svg")
    assert isinstance(sprite, str)
    with open(sprite, encoding="utf-8") as file:
        glyphs = file.read()
    states = {
        "rollout": RolloutState, "stage": StageState, "deployment": DeploymentState,
        "health": SiteHealth, "version": VersionState, "waits": WaitsFor, "verdict": Verdict,
    }  # fmt: skip
    for kind, words in states.items():
        assert set(KINDS[kind]) == set(words)
    for kind, looks in KINDS.items():
        for value in looks:
            look = look_of(kind, value)
            assert look.word
            assert look.tone in ("good", "bad", "warn", "busy", "idle")
            assert f'id="{look.icon}"' in glyphs


@pytest.mark.parametrize("name", ["overview", "sites", "rollouts", "rollout", "site", "version"])
def test_a_page_asks_the_database_as_often_for_200_sites_as_for_10(
    olga: Client, now: datetime, name: str, django_assert_max_num_queries: Any
) -> None:
    agents = [make_joined_site(f"site-{n:03}", now=now) for n in range(10)]
    version = make_version("vad", now=now)
    rollout = make_rollout(RolloutState.RUNNING, version=version, agents=agents, now=now)
    args: dict[str, list[Any]] = {
        "rollout": [rollout.pk],
        "site": ["site-000"],
        "version": ["vad", version.number],
    }
    path = reverse(name, args=args.get(name, []))
    with django_assert_max_num_queries(40) as few:
        assert olga.get(path).status_code == 200
    # Sites of the same rollout and with the same models, made the short way.
    _multiply_sites(rollout, 190, now)
    with django_assert_max_num_queries(40) as many:
        assert olga.get(path).status_code == 200
    assert len(many) == len(few)
    assert len(few) < (28 if name == "version" else 18)


def _multiply_sites(rollout: Rollout, count: int, now: datetime) -> None:
    """More sites with an agent, a lease, a wish and a deployment, each a copy of the first."""
    sites = Site.objects.bulk_create(
        Site(name=f"copy-{n:03}", tier="edge", region="eu-west", created_at=now)
        for n in range(count)
    )
    agents = Agent.objects.bulk_create(
        Agent(site=site, public_key=b"k" * 32, enrolled_at=now) for site in sites
    )
    Lease.objects.bulk_create(Lease(agent=agent, last_seen_at=now) for agent in agents)
    wish = SiteModel.objects.order_by("pk").first()
    part = Deployment.objects.filter(rollout=rollout).order_by("pk").first()
    assert wish is not None
    assert part is not None
    for site in sites:
        wish.pk, wish.site = None, site
        wish.save(force_insert=True)
        part.pk, part.site = None, site
        part.save(force_insert=True)


def test_production_finds_every_asset_under_its_hashed_name(
    olga: Client, settings: Any, tmp_path: Path
) -> None:
    settings.STATIC_ROOT = tmp_path
    settings.STORAGES = settings.STORAGES | {
        "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"}
    }
    call_command("collectstatic", interactive=False, verbosity=0)
    html = text_of(olga.get("/"))
    assets = set(re.findall(r'(?:href|src)="/static/([^"#]+)', html))
    assert len(assets) >= 7
    for asset in assets:
        assert re.search(r"\.[0-9a-f]{12}\.", asset), asset
        assert (tmp_path / asset).is_file(), asset


def test_vendored_assets_are_the_pinned_ones_with_their_licences() -> None:
    folder = Path(str(finders.find("vendor/VERSIONS.md"))).parent
    listed = re.findall(r"\| `([^`]+)` .*`([0-9a-f]{64})` \|", (folder / "VERSIONS.md").read_text())
    assert {name for name, _ in listed} == {"htmx.min.js", "idiomorph-ext.min.js", "tabler.min.css"}
    for name, digest in listed:
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
        assert "without" in (folder / f"{name}.LICENSE").read_text().lower()
