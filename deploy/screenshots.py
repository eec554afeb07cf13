"""Renews the pictures of the documentation from a running demo.

    python -m deploy.screenshots URL PASSWORD [--out docs/img] [--all]

Needs Chromium (Debian: apt-get install chromium), named by WAYPOST_CHROMIUM if it is elsewhere."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

# Page, name of the picture. The first is the README's; the others are for looking.
PAGES = (
    ("/rollouts/3/", "rollout"),
    ("/", "overview"),
    ("/sites/", "sites"),
    ("/sites/osaka-7/", "site"),
    ("/rollouts/", "rollouts"),
    ("/models/", "models"),
    ("/strategies/", "strategies"),
    ("/freezes/", "freezes"),
    ("/rollouts/2/", "rollout-good"),
)
WIDTH, HEIGHT = 1280, 900


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.screenshots", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("password")
    parser.add_argument("--out", type=Path, default=Path("docs/img"))
    parser.add_argument("--all", action="store_true", help="every page, both themes, two widths")
    options = parser.parse_args()
    chromium = os.environ.get("WAYPOST_CHROMIUM") or shutil.which("chromium")
    if not chromium:
        print("There is no Chromium: apt-get install chromium", file=sys.stderr)
        return 1
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        variants = [("", "light", WIDTH)]
        if options.all:
            variants += [("-dark", "dark", WIDTH), ("-narrow", "light", 390)]
        for suffix, theme, width in variants:
            page = browser.new_page(
                viewport={"width": width, "height": HEIGHT},
                color_scheme="dark" if theme == "dark" else "light",
            )
            _log_in(page, options.url, options.password)
            for path, name in PAGES if options.all else PAGES[:1]:
                page.goto(options.url + path)
                page.screenshot(path=options.out / f"{name}{suffix}.png", full_page=options.all)
                print(f"{options.out / name}{suffix}.png", file=sys.stderr)
            page.close()
        browser.close()
    return 0


def _log_in(page: Page, url: str, password: str) -> None:
    page.goto(f"{url}/login/")
    page.fill("input[name=username]", "admin")
    page.fill("input[name=password]", password)
    page.press("input[name=password]", "Enter")
    page.wait_for_url(lambda found: "/login" not in found)


if __name__ == "__main__":
    sys.exit(main())
