"""A headless Chromium for tests of the console: found on this machine, never downloaded."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from controlplane.accounts.models import User

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
# No sandbox: test machines run as root or in containers. No /dev/shm: it is small there.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--mute-audio"]


def chromium_path() -> str:
    found = os.environ.get("WAYPOST_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found or not os.path.exists(found):
        pytest.skip("no Chromium found; install the package chromium or name one: WAYPOST_CHROMIUM")
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Playwright keeps an event loop running in this thread, which Django takes for async code;
    nothing here is, so its guard is off while the browser lives."""
    path = chromium_path()
    patch = pytest.MonkeyPatch()
    patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()
    patch.undo()


@dataclass
class Visit:
    """A page somebody has open. `faults` are its console errors, `strangers` the requests that
    would have left for another host."""

    page: Page
    base: str
    faults: list[str] = field(default_factory=list)
    strangers: list[str] = field(default_factory=list)

    def go(self, path: str) -> Any:
        """From a blank page, so that nothing of the page before is left."""
        self.page.goto("about:blank")
        return self.page.goto(self.base + path)


Open = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, live_server: Any, transactional_db: None) -> Iterator[Open]:
    """Opens the console as a person (None: not logged in)."""
    contexts: list[BrowserContext] = []

    def start(user: User | None, **options: Any) -> Visit:
        context = browser.new_context(**options)
        contexts.append(context)
        if user is not None:
            client = Client()
            client.force_login(user)
            cookie = client.cookies[settings.SESSION_COOKIE_NAME].value
            context.add_cookies(
                [{"name": settings.SESSION_COOKIE_NAME, "value": cookie, "url": live_server.url}]
            )
        opened = Visit(page=context.new_page(), base=live_server.url)
        own = urlsplit(live_server.url).netloc

        def note_request(request: Any) -> None:
            parts = urlsplit(request.url)
            if parts.scheme in ("http", "https") and parts.netloc != own:
                opened.strangers.append(request.url)

        def note_message(message: Any) -> None:
            # The browser reports every 4xx answer by itself; tests look at those on their own.
            if message.type == "error" and "the server responded with" not in message.text:
                opened.faults.append(message.text)

        opened.page.on("request", note_request)
        opened.page.on("console", note_message)
        opened.page.on("pageerror", lambda error: opened.faults.append(str(error)))
        return opened

    yield start
    for context in contexts:
        context.close()
