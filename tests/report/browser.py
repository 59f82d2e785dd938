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


@contextmanager
def chromium() -> Iterator[Any]:
    """A running browser; the test is skipped where there is none.

    Looked for at the environment variable MEGASCALE_CHROMIUM, then on the path.
    """
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright: pip install playwright to run this test"
    )
    named = os.environ.get("MEGASCALE_CHROMIUM")
    path = named or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("no Chromium on the path: set MEGASCALE_CHROMIUM to run this test")
    with playwright.sync_playwright() as running:
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
