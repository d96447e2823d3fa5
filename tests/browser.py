"""A page in the Chromium that is installed, driven by Playwright."""
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import NamedTuple

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)
LACKS = "Chromium (.ci/browser.sh)" if CHROMIUM is None else ""
if not find_spec("playwright"): LACKS = "Playwright (make dev)"
needs_browser = pytest.mark.skipif(bool(LACKS), reason=f"no {LACKS} here")
QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-component-update",
         "--disable-background-networking", "--disable-sync", "--disable-dev-shm-usage")


class Tab(NamedTuple):
    "A page, and what the browser reported of it."
    page: "playwright.sync_api.Page"  # noqa: F821
    complaints: list[str]  # errors of its console, exceptions, and what did not come
    requests: list[str]  # addresses


@contextmanager
def a_tab(address: str, width: int = 1280, height: int = 900) -> Iterator[Tab]:
    "An address, opened; Playwright waits a minute for what is asked of the page."
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        try:
            page = browser.new_page(viewport={"width": width, "height": height})
            tab = Tab(page, [], [])
            page.set_default_timeout(60_000)
            page.on("console", lambda m: m.type == "error" and tab.complaints.append(m.text))
            page.on("pageerror", lambda error: tab.complaints.append(str(error)))
            page.on("requestfailed", lambda r: tab.complaints.append(f"{r.url} {r.failure}"))
            page.on("request", lambda request: tab.requests.append(request.url))
            page.goto(address)
            yield tab
        finally:
            browser.close()
