"""A headless Chromium for the tests of the report, and what it must never do: write errors, ask for something."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

expect.set_options(timeout=30_000)  # a bound for busy machines; what is there at once is not waited for

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> str | None:
    """The program: CHROMIUM from the environment, or one on the path."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@contextmanager
def started_browser() -> Iterator[Browser]:
    """A browser; the test is skipped where none is installed."""
    if (program := chromium()) is None:
        pytest.skip("no Chromium: apt-get install chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        # As root Chromium runs only without its sandbox.
        options = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        options.append("--disable-dev-shm-usage")  # of which containers have little
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Reader:
    """Someone who looks at reports: opens pages in a browser's window of their own, and notes what went wrong there."""

    def __init__(self, browser: Browser):
        self.browser = browser
        self.contexts: list = []
        self.problems: list[str] = []
        self.requests: list[str] = []

    def window(self, **options):
        """A window without memory of the earlier ones."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
        context.set_default_timeout(30_000)
        self.contexts.append(context)
        return context

    def look(self, path: Path | str, address: str = "", window=None, ready: bool = True, **options) -> Page:
        """Open a page, and wait until its gallery is there."""
        page = (window or self.window(**options)).new_page()
        page.on("console", lambda said: self.problems.append(f"{said.type}: {said.text}"))
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto((path.as_uri() if isinstance(path, Path) else path) + address)
        if ready:
            page.wait_for_selector("html[data-ready]", state="attached")
        return page

    def close(self) -> None:
        for context in self.contexts:
            context.close()


def shown(page: Page) -> str:
    return page.locator("#shown").inner_text()


def keys(page: Page) -> list[str]:
    """The pairs that are shown, in order."""
    return page.evaluate("order.map((pair) => columns.key[pair])")


def choose(page: Page, facet: str, value: str) -> None:
    page.locator(f"[data-facet={facet}] select").select_option(value)


def search(page: Page, text: str) -> None:
    page.locator("#search").fill(text)
    page.wait_for_function("text => state.q === text", arg=text)
