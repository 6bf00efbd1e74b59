"""Headless Chromium for the tests of the page: a browser a file, a fresh profile a test, and what went wrong."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = os.environ.get("CPMV_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--force-color-profile=srgb"]
# Playwright cannot drag or paste a file itself: the page gets the events that a browser would send.
HAND_OVER = """([bytes, name, type, kinds]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(bytes), (c) => c.charCodeAt(0))], name, { type }));
  for (const kind of kinds) {
    const common = { bubbles: true, cancelable: true };
    const event = kind === "paste"
      ? new ClipboardEvent(kind, { clipboardData: data, ...common })
      : new DragEvent(kind, { dataTransfer: data, ...common });
    document.body.dispatchEvent(event);
  }
}"""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, or the test is skipped with the reason."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    if not CHROMIUM:
        pytest.skip("needs Chromium: apt install chromium, or name one in CPMV_TEST_CHROMIUM")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def open_page(browser: Any, url: str, *, model: str = "MiniCPM", **profile: Any) -> Iterator[Any]:
    """The page in a fresh profile, once it knows the model. A failed script or a broken policy fails it at the end."""
    settings = {"locale": "en-GB", "viewport": {"width": 1200, "height": 800}, **profile}
    context = browser.new_context(**settings)
    page = context.new_page()
    page.set_default_timeout(15_000)
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if "Content Security" in message.text else None)
    page.goto(url)
    page.locator("#model-name", has_text=model).wait_for()
    try:
        yield page
    finally:
        context.close()
    assert not wrong, wrong


def drop(page: Any, file: Path, kind: str) -> None:
    _hand_over(page, file, kind, ["dragenter", "dragover", "drop"])


def paste(page: Any, file: Path, kind: str) -> None:
    _hand_over(page, file, kind, ["paste"])


def _hand_over(page: Any, file: Path, kind: str, events: list[str]) -> None:
    page.evaluate(HAND_OVER, [base64.b64encode(file.read_bytes()).decode(), file.name, kind, events])
