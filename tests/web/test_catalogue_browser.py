"""The pages of the catalogue in a real browser: no WCAG 2.2 AA violation in either theme, nothing
cut off at 320 pixels, and a yes given in the dialog."""

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from controlplane.accounts.models import User
from controlplane.catalog.models import VersionState
from tests.web.browser import Open
from tests.web.catalogue import Catalogue, catalogue_paths, make_catalogue
from tests.web.test_screens import check

pytestmark = pytest.mark.browser


@pytest.fixture
def made(operator: User, transactional_db: None) -> Catalogue:
    return make_catalogue(operator, now=timezone.now())


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_of_the_catalogue_violates_wcag_22_aa(
    visit: Open, operator: User, viewer: User, made: Catalogue, theme: str
) -> None:
    opened = visit(operator, color_scheme=theme)
    page = opened.page
    for path in catalogue_paths(made):
        assert opened.go(path).status == 200, path
        for fold in page.locator("main summary").all():
            fold.click()
        check(opened, f"{path} {theme}")
    opened.go("/models/vad/1/fit/?selector=%2C")
    check(opened, f"a selector that cannot be read {theme}")
    opened.go("/access/new-token/")
    page.click("main button[type=submit]")
    page.wait_for_selector("main .wp-errors")
    check(opened, f"token with faults {theme}")
    page.fill("#id_name", "ci")
    page.check("#id_scopes_0")
    page.click("main button[type=submit]")
    page.wait_for_selector("#secret")
    check(opened, f"token {theme}")
    opened.go("/models/vad/")
    page.click("#move-stable")
    page.wait_for_selector("dialog[open]")
    page.click("dialog button[type=submit]")
    page.wait_for_selector("dialog [aria-invalid=true]")
    check(opened, f"dialog of a channel with a fault {theme}")
    looking = visit(viewer, color_scheme=theme)
    for path in ("/models/vad/", "/models/vad/2/", "/access/", "/access/keys/"):
        looking.go(path)
        check(looking, f"{path} as a viewer {theme}")


def test_no_page_of_the_catalogue_scrolls_sideways(
    visit: Open, operator: User, made: Catalogue
) -> None:
    opened = visit(operator)
    for path in catalogue_paths(made):
        opened.go(path)
        for width in (320, 390, 1280, 3840):
            opened.page.set_viewport_size({"width": width, "height": 900})
            inside = opened.page.evaluate("document.documentElement.scrollWidth")
            assert inside <= width, f"{path} is {inside} pixels wide at {width}"


def test_a_version_is_approved_in_the_dialog(visit: Open, operator: User, made: Catalogue) -> None:
    opened = visit(operator)
    page = opened.page
    opened.go("/models/vad/2/")
    page.click("#approve")
    expect(page.locator("#dialog")).to_contain_text(made.waiting.manifest_digest)
    page.fill("#dialog #id_reason", "measured it")
    page.click("#dialog button[type=submit]")
    expect(page.locator("main")).to_contain_text("vad 2 is approved.")
    expect(page.locator(".wp-summary")).to_contain_text("Approved by bo and olga")
    made.waiting.refresh_from_db()
    assert made.waiting.state == VersionState.APPROVED
    assert opened.faults == []
