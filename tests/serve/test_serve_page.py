"""The page in a real browser: files in, streamed answers out, and what the model sees of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
from page_browser import chromium, drop, open_page, paste
from page_server import PageServer, page_server
from PIL import Image, ImageDraw


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture
def server() -> Iterator[PageServer]:
    with page_server() as running:
        yield running


@pytest.fixture
def page(browser: Any, server: PageServer) -> Iterator[Any]:
    with open_page(browser, server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of 1536 x 1024 pixels, a clip and a document."""
    folder = tmp_path_factory.mktemp("files")
    picture = Image.new("RGB", (1536, 1024), "#f6f1e7")
    ImageDraw.Draw(picture).ellipse((500, 300, 900, 700), fill="#d2603a")
    picture.save(folder / "photo.png")
    Image.new("RGB", (300, 200), "navy").save(folder / "small.jpg")
    picture.resize((300, 400)).save(folder / "report.pdf")
    with av.open(str(folder / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=6)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(12):
            container.mux(stream.encode(av.VideoFrame.from_image(Image.new("RGB", (160, 96), (20 * i, 90, 90)))))
        container.mux(stream.encode())
    return folder


def ask(page: Any, question: str, *, deep: bool | None = None) -> None:
    if deep is not None:
        page.locator(f"#depth input[value={'deep' if deep else 'fast'}]").check(force=True)
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")


def answered(page: Any, text: str) -> None:
    """Wait for an answer that has ended and holds `text`."""
    page.locator(".turn.model[aria-busy=false]", has_text=text).last.wait_for()


def test_a_dropped_picture_is_asked_about_and_the_answer_streams(page: Any, server: PageServer, files: Path) -> None:
    drop(page, files / "photo.png", "image/png")
    page.locator(".chip .badge", has_text="576 tokens").wait_for()
    ask(page, "gate: what is this?")
    page.locator(".markdown", has_text="You sent image_url").wait_for()  # half of it, before the rest is let go
    assert page.locator("#stop").is_visible() and not page.locator("#send").is_visible()
    assert "what is this?" not in page.locator(".markdown").inner_text()
    server.gate.set()
    answered(page, "asked “gate: what is this?”")
    assert page.locator(".facts").inner_text().startswith("1,212 tokens read · 448 visual · 128 cached · 96 written")
    (body,) = server.asked
    picture, text = body["messages"][0]["content"]
    assert base64.b64decode(picture["image_url"]["url"].partition(",")[2]) == (files / "photo.png").read_bytes()
    assert text == {"type": "text", "text": "gate: what is this?"}
    assert body["model"] == "MiniCPM-V-4.5" and body["stream"] and body["stream_options"] == {"include_usage": True}
    assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_files_come_by_picking_and_pasting(page: Any, server: PageServer, files: Path) -> None:
    page.locator("#picker").set_input_files([files / "clip.mp4", files / "report.pdf"])
    paste(page, files / "small.jpg", "image/jpeg")
    page.locator(".chip").nth(2).wait_for()
    page.get_by_role("button", name="Remove report.pdf").click()
    page.locator("#picker").set_input_files(files / "report.pdf")
    ask(page, "All of them?")
    answered(page, "video_url, image_url, file, text")
    content = server.asked[0]["messages"][0]["content"]
    assert content[0]["video_url"]["url"].startswith("data:video/mp4;base64,")
    assert content[2]["file"]["filename"] == "report.pdf"
    assert content[2]["file"]["file_data"].startswith("data:application/pdf;base64,")
    assert page.locator(".turn.user video").evaluate("video => video.src").startswith("blob:")


def test_what_is_no_picture_is_refused_with_its_name(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_bytes(b"PK")
    drop(page, tmp_path / "notes.docx", "application/msword")
    page.locator("#toast", has_text="notes.docx is no picture, video or PDF").wait_for()
    assert page.locator(".chip").count() == 0


def test_thinking_is_folded_and_opens(page: Any, server: PageServer) -> None:
    ask(page, "Why?", deep=True)
    answered(page, "You sent text")
    assert server.asked[0]["chat_template_kwargs"] == {"enable_thinking": True}
    thinking = page.locator(".thinking")
    assert "Thought for" in thinking.locator("summary").inner_text()
    assert not page.locator(".thinking-text").is_visible()
    thinking.locator("summary").press("Enter")
    assert "printed words" in page.locator(".thinking-text").inner_text()
    ask(page, "And fast?", deep=False)
    answered(page, "And fast?")
    assert server.asked[1]["chat_template_kwargs"] == {"enable_thinking": False}
    assert server.asked[1]["messages"][1] == {"role": "assistant", "content": "You sent text and asked “Why?”."}


def test_stop_ends_the_answer_on_the_server_too_and_retry_asks_again(page: Any, server: PageServer) -> None:
    ask(page, "slow please")
    page.locator(".markdown", has_text="word word").wait_for()
    page.locator("#stop").click()
    page.locator(".note", has_text="Stopped").wait_for()
    assert server.left.wait(10)
    page.get_by_role("button", name="Retry").click()
    page.locator(".note").wait_for(state="hidden")
    for _ in range(200):  # until the second request has reached the server
        if len(server.asked) == 2:
            break
        page.wait_for_timeout(50)
    page.keyboard.press("Escape")
    page.locator(".note", has_text="Stopped").wait_for()
    assert [body["messages"] for body in server.asked] == [server.asked[0]["messages"]] * 2
    assert page.locator(".turn.model").count() == 1


def test_history_stays_through_a_reload_with_its_files(page: Any, server: PageServer, files: Path) -> None:
    drop(page, files / "small.jpg", "image/jpeg")
    ask(page, "First question")
    answered(page, "First question")
    page.wait_for_function("announcer.textContent.startsWith('Answer')")
    page.reload()
    answered(page, "First question")
    page.locator(".turn.user img").wait_for()
    ask(page, "Second question")
    answered(page, "Second question")
    first, second = server.asked
    assert second["messages"][0] == first["messages"][0] and len(second["messages"]) == 3
    page.get_by_role("button", name="New chat").first.click()
    assert page.locator(".turn").count() == 0
    entry = page.locator("#history li", has_text="First question")
    entry.hover()
    entry.get_by_role("button", name="Delete “First question”").click()
    page.locator("#history li").wait_for(state="detached")
    page.get_by_role("button", name="Undo").click()
    answered(page, "Second question")
    page.locator(".turn.user img").wait_for()


def test_deleted_chats_leave_nothing_in_the_browser(page: Any, files: Path) -> None:
    drop(page, files / "small.jpg", "image/jpeg")
    ask(page, "Forget this")
    answered(page, "Forget this")
    page.locator("#history li").hover()
    page.get_by_role("button", name="Delete “Forget this”").click()
    page.locator("#history li").wait_for(state="detached")
    stored = page.evaluate("""() => new Promise((resolve) => {
      indexedDB.open("cpmv").onsuccess = ({ target: { result } }) => {
        const reading = result.transaction(["chats", "files"]);
        const counts = ["chats", "files"].map((name) => reading.objectStore(name).count());
        reading.oncomplete = () => resolve(counts.map((count) => count.result));
      };
    })""")
    assert stored == [0, 0]


def test_a_question_can_be_edited_with_its_files(page: Any, server: PageServer, files: Path) -> None:
    drop(page, files / "small.jpg", "image/jpeg")
    ask(page, "Wrong question")
    answered(page, "Wrong question")
    page.locator(".turn.user").hover()
    page.get_by_role("button", name="Edit").click()
    page.locator(".chip").wait_for()
    assert page.locator("#question").input_value() == "Wrong question"
    ask(page, "Right question")
    answered(page, "Right question")
    assert len(server.asked[1]["messages"]) == 1
    assert [part["type"] for part in server.asked[1]["messages"][0]["content"]] == ["image_url", "text"]


def test_the_slice_grid_lies_over_the_picture_and_can_be_changed(page: Any, server: PageServer, files: Path) -> None:
    drop(page, files / "photo.png", "image/png")
    page.locator(".chip .badge", has_text="576 tokens").wait_for()
    page.get_by_role("button", name="What the model sees of photo.png").click()
    dialog = page.get_by_role("dialog")
    assert dialog.locator(".grid span").count() == 8
    assert "4 × 2 slices of 392 × 518 pixels, and an overview of 546 × 364" in dialog.inner_text()
    frame, cell = dialog.locator(".framed").bounding_box(), dialog.locator(".grid span").first.bounding_box()
    assert cell["width"] == pytest.approx(frame["width"] / 4, abs=1)
    assert cell["height"] == pytest.approx(frame["height"] / 2, abs=1)
    dialog.get_by_label("Most slices").select_option("1")
    dialog.get_by_text("Seen whole, at 546 × 364 pixels").wait_for()
    page.keyboard.press("Escape")
    page.locator(".chip .badge", has_text="64 tokens").wait_for()
    ask(page, "Whole?")
    answered(page, "Whole?")
    assert server.asked[0]["mm_processor_kwargs"] == {"max_slice_nums": 1}


def test_a_video_shows_its_frames_in_packages_with_times(page: Any, files: Path) -> None:
    drop(page, files / "clip.mp4", "video/mp4")
    page.locator(".chip .badge", has_text="256 tokens").wait_for()
    page.get_by_role("button", name="What the model sees of clip.mp4").click()
    packages = page.locator(".package")
    assert packages.count() == 4 and packages.first.locator("img").count() == 6
    assert packages.first.locator("time").all_inner_texts()[:3] == ["0:00.0", "0:00.3", "0:00.7"]
    assert "64 tokens" in packages.first.inner_text()
    page.get_by_label("Frames a package").select_option("2")
    packages.nth(9).wait_for()
    assert packages.first.locator("img").count() == 2


def test_what_the_server_refuses_is_told_and_can_be_tried_again(page: Any, server: PageServer) -> None:
    ask(page, "fail now")
    page.locator(".note.bad", has_text="9000 tokens but the context allows 8192").wait_for()
    ask(page, "busy now")
    page.locator(".note.bad", has_text="busy; try again in 7 s").wait_for()
    ask(page, "Well?")
    answered(page, "Well?")
    assert [m["role"] for m in server.asked[-1]["messages"]] == ["user", "user", "user"]


def test_a_key_is_asked_for_and_used(browser: Any, server: PageServer) -> None:
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    server.key = "secret"
    page.goto(server.url)
    page.locator("#key-dialog").wait_for()
    page.get_by_label("API key").fill("secret")
    page.keyboard.press("Enter")
    page.locator("#model-name", has_text="MiniCPM").wait_for()
    ask(page, "Open?")
    answered(page, "Open?")
    assert "secret" not in json.dumps(context.storage_state())  # it goes with the tab
    context.close()


def test_nothing_is_loaded_from_elsewhere(browser: Any, server: PageServer) -> None:
    with open_page(browser, server.url) as page:
        addresses: list[str] = []
        page.on("request", lambda request: addresses.append(request.url))
        page.reload()
        ask(page, "hostile")
        answered(page, "press me")
        ask(page, "table")
        answered(page, "three items")
        assert addresses and all(address.startswith((server.url, "data:", "blob:")) for address in addresses)
