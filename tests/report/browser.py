"""Headless Chromium through Playwright, or a skip that says what is missing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; the test is skipped where there is none.

    Looked for at the environment variable MEGASCALE_CHROMIUM, then on the path, then where
    `playwright install chromium` puts its own.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: pip install 'megascale[browser]'"
    )
    with playwright.sync_playwright() as running:
        named = os.environ.get("MEGASCALE_CHROMIUM")
        on_path = filter(None, map(shutil.which, COMMANDS))
        path = named or next(on_path, running.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip(
                "no Chromium: install your system's package or run `playwright install chromium`, "
                "or set MEGASCALE_CHROMIUM to one"
            )
        browser = running.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


def open_page(browser: Any, path: Path, said: list[str], **context: Any) -> Any:
    """The page with an empty profile; what it says on its console goes to `said`."""
    page = browser.new_context(viewport={"width": 1180, "height": 900}, **context).new_page()
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: request.url.startswith(("file:", "data:", "blob:"))
            or said.append(f"request: {request.url}"))  # fmt: skip
    page.goto(path.as_uri())
    page.wait_for_selector("#provenance table")
    return page
