"""The page as `cpmv serve` serves it, with the bundled model: what a person sees of a real answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from page_browser import chromium, drop, open_page
from PIL import Image, ImageDraw
from serve_process import PICTURES, Server


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    with open_page(browser, server.url, model="cpmv-tiny") as opened:
        opened.set_default_timeout(60_000)
        yield opened


def test_a_picture_is_read(page: Any) -> None:
    drop(page, PICTURES / "label.png", "image/png")
    page.locator(".chip .badge", has_text="16 tokens").wait_for()
    page.locator("#question").fill("Read the text.")
    page.keyboard.press("Enter")
    page.locator(".turn.model[aria-busy=false]").wait_for()
    assert page.locator(".markdown").inner_text().splitlines() == ["Orange juice", "best before", "14.03.2027"]
    assert "16 visual" in page.locator(".facts").inner_text()
    page.locator("#depth input[value=deep]").check(force=True)
    page.locator("#question").fill("And the date?")
    page.keyboard.press("Enter")
    page.locator(".turn.model[aria-busy=false]").nth(1).wait_for()
    assert page.locator(".note.bad").count() == 0


def test_what_the_model_sees_is_the_servers_own_plan(page: Any, tmp_path: Path) -> None:
    picture = Image.new("RGB", (900, 600), "beige")
    ImageDraw.Draw(picture).ellipse((300, 200, 500, 400), fill="navy")
    picture.save(tmp_path / "photo.png")
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=6)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(24):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (160, 96), (10 * i, 90, 90)))))
        container.mux(stream.encode())
    picture.save(tmp_path / "two.pdf", save_all=True, append_images=[picture])
    for name, kind, found, count in (
        ("photo.png", "image/png", ".grid span", None),
        ("clip.mp4", "video/mp4", ".package img", 12),
        ("two.pdf", "application/pdf", ".seen-picture", 2),
    ):
        drop(page, tmp_path / name, kind)
        page.get_by_role("button", name=f"What the model sees of {name}").click()
        page.locator(found).first.wait_for()
        assert count is None or page.locator(found).count() == count
        tokens = int(page.locator("#seen-summary").inner_text().split()[0].replace(",", ""))
        assert tokens > 0 and tokens % 16 == 0
        page.keyboard.press("Escape")
    page.get_by_role("button", name="What the model sees of clip.mp4").click()
    page.get_by_label("Frames a package").select_option("6")
    page.locator("#seen-summary", has_text="32 visual tokens").wait_for()
    assert page.locator(".package").count() == 2
