"""Who may see a page and who may act; logging in and out."""

from datetime import datetime
from urllib.parse import urlencode

from django.contrib.auth.models import Permission
from django.test import Client

from controlplane.accounts.models import User
from controlplane.domain.rollout import RolloutState
from controlplane.fleet.models import EnrolmentToken, Site
from controlplane.rollouts.freezes import freeze_sites
from controlplane.rollouts.models import Freeze
from controlplane.web.verbs import CONSOLE_VERBS
from tests.factories import make_rollout
from tests.web.conftest import PASSWORD, text_of


def test_every_page_sends_a_stranger_to_the_login_and_back(paths: list[str]) -> None:
    for path in paths:
        response = Client().get(path)
        assert response.status_code == 302, path
        assert response["Location"] == f"/login/?{urlencode({'next': path}, safe='/')}", path


def test_a_panel_whose_session_ended_goes_to_the_login_as_a_page(paths: list[str]) -> None:
    shown = "http://testserver/rollouts/7/?x=1"
    headers = {"HX-Request": "true", "HX-Current-URL": shown}
    for path in paths:
        response = Client().get(path, headers=headers)
        assert response.status_code == 401, path
        assert response["HX-Redirect"] == "/login/?next=%2Frollouts%2F7%2F"


def test_a_viewer_sees_all_and_every_act_says_why_not(viktor: Client, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    site = Site.objects.get()
    html = text_of(viktor.get(f"/rollouts/{rollout.pk}/"))
    assert html.count('aria-disabled="true"') == len(CONSOLE_VERBS)
    assert "rollouts.change_rollout" in html
    assert "fleet.add_enrolmenttoken" in text_of(viktor.get(f"/sites/{site.name}/"))
    assert "fleet.add_site" in text_of(viktor.get("/sites/"))
    assert "rollouts.add_rollout" in text_of(viktor.get("/rollouts/"))


def test_no_page_offers_a_viewer_what_would_be_refused(
    viktor: Client, olga: Client, now: datetime
) -> None:
    for path, refused in (("/", "/add-site/"), ("/sites/", "/add-site/")):
        assert refused in text_of(olga.get(path))
        assert refused not in text_of(viktor.get(path))
    make_rollout(RolloutState.SUCCEEDED, now=now)
    for path in ("/", "/rollouts/", "/models/vad/1/"):
        assert "/rollouts/start/" in text_of(olga.get(path))
        assert "/rollouts/start/" not in text_of(viktor.get(path))


def test_a_viewer_is_refused_every_act(viktor: Client, now: datetime) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    site = Site.objects.get()
    freeze = freeze_sites(
        selector={"tier": "regional"}, reason="fair", until=None, actor="user:otto", now=now
    )
    assert viktor.post("/freezes/", {"scope": "fleet", "reason": "because"}).status_code == 403
    before = EnrolmentToken.objects.count()
    for path in (
        f"/rollouts/{rollout.pk}/abort/", f"/sites/{site.name}/enrolment-token/", "/add-site/",
        "/rollouts/start/", f"/rollouts/{rollout.pk}/approve/", f"/sites/{site.name}/retire/",
        f"/sites/{site.name}/models/vad/pin/", f"/sites/{site.name}/models/vad/unpin/",
        "/models/vad/1/quarantine/", "/models/vad/1/release/", "/new-strategy/",
        "/strategies/canary/retire/", "/budget/", f"/freezes/{freeze.pk}/lift/",
    ):  # fmt: skip
        assert viktor.get(path).status_code == 403, path
        response = viktor.post(path, {"reason": "because"})
        assert response.status_code == 403, path
        assert "Your account has no right to do this" in text_of(response)
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.RUNNING
    assert EnrolmentToken.objects.count() == before
    assert Freeze.objects.get().lifted_at is None
    assert Site.objects.get().retired_at is None


def test_a_permission_does_what_being_staff_does(
    viktor: Client, viewer: User, now: datetime
) -> None:
    rollout = make_rollout(RolloutState.RUNNING, now=now)
    viewer.user_permissions.add(Permission.objects.get(codename="change_rollout"))
    response = viktor.post(f"/rollouts/{rollout.pk}/pause/", {"reason": "lunch"})
    assert response.status_code == 302
    rollout.refresh_from_db()
    assert rollout.state == RolloutState.PAUSED
    assert "user:viktor" in rollout.reason


def test_logging_in_leads_to_the_page_asked_for_and_never_off_this_host(operator: User) -> None:
    form = {"username": operator.username, "password": PASSWORD}
    kept = Client().post("/login/", form | {"next": "/sites/"})
    assert kept["Location"] == "/sites/"
    astray = Client().post("/login/", form | {"next": "https://evil.example/"})
    assert astray["Location"] == "/"


def test_a_wrong_password_is_said_and_nothing_is_lost(operator: User) -> None:
    response = Client().post("/login/?next=/sites/", {"username": "olga", "password": "no"})
    html = text_of(response)
    assert 'role="alert"' in html
    assert 'value="olga"' in html


def test_logging_out_takes_a_post(olga: Client) -> None:
    assert olga.get("/logout/").status_code == 405
    assert olga.post("/logout/")["Location"] == "/login/"
    assert olga.get("/").status_code == 302
