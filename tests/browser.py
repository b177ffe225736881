"""A real browser without a window, where there is one."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def started() -> Iterator[Browser]:
    """Chromium, of the system or Playwright's own; skips with the reason where there is none."""
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no Playwright: pip install 'plasticine[browser]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = next(filter(None, map(shutil.which, NAMES)), None)
        found = found or playwright.chromium.executable_path
        if not Path(found).exists():
            pytest.skip(f"no browser: none of {', '.join(NAMES)}, nor Playwright's own")
        # Its sandbox needs a user other than root.
        arguments = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def opened(browser: Browser, path: Path, *, width: int = 1200, height: int = 900) -> Page:
    """A page from a file, off the network, when all in it is unpacked; its errors fail the test."""
    context = browser.new_context(viewport={"width": width, "height": height}, offline=True)
    page = context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"{path.name}: {error}"))
    page.goto(path.as_uri())
    page.wait_for_selector("html[data-ready]", state="attached", timeout=30_000)
    return page
