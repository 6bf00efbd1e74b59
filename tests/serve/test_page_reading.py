"""How the page reads: Markdown made safely, two languages, themes, keyboard, phone width, and what axe-core finds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_browser import chromium, drop, open_page
from page_server import PAGE, PageServer, page_server
from PIL import Image

ROOT = Path(__file__).parents[2]
PHONE = {"viewport": {"width": 375, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
RENDER = """async (text) => {
  const { render } = await import("./page/markdown.js");
  const node = document.createElement("div");
  render(node, text);
  const usual = / tabindex="0"| role="region"| target="_blank" rel="noopener noreferrer nofollow"/g;
  return node.innerHTML.replace(usual, "");
}"""
TIMED = (
    f"async (text) => {{ const from = performance.now(); await ({RENDER})(text); return performance.now() - from; }}"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as running:
        yield running


@pytest.fixture(scope="module")
def server() -> Iterator[PageServer]:
    with page_server() as running:
        yield running


@pytest.fixture(scope="module")
def blank(browser: Any, server: PageServer) -> Iterator[Any]:
    with open_page(browser, server.url) as opened:
        yield opened


def ask(page: Any, question: str, answer: str) -> None:
    page.locator("#question").fill(question)
    page.keyboard.press("Enter")
    page.locator(".turn.model[aria-busy=false]", has_text=answer).last.wait_for()


@pytest.mark.parametrize(
    ("text", "html"),
    [
        (
            "**bold** and *slanted* and `code`",
            "<p><strong>bold</strong> and <em>slanted</em> and <code>code</code></p>",
        ),
        ("2 * 3 * 4 and snake_case_name", "<p>2 * 3 * 4 and snake_case_name</p>"),
        ("# Title\ntext", "<h3>Title</h3><p>text</p>"),
        ("one\ntwo", "<p>one<br>two</p>"),
        ("- a\n- b\n  - c\n\nafter", "<ul><li>a</li><li>b<ul><li>c</li></ul></li></ul><p>after</p>"),
        ("3. c\n4. d", '<ol start="3"><li>c</li><li>d</li></ol>'),
        ("> said\n> so", "<blockquote><p>said<br>so</p></blockquote>"),
        ("<b>x</b> &amp; <script>y</script>", "<p>&lt;b&gt;x&lt;/b&gt; &amp;amp; &lt;script&gt;y&lt;/script&gt;</p>"),
        ("[a](https://e.org/x_(y))", '<p><a href="https://e.org/x_(y)">a</a></p>'),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
        ("[a](data:text/html,x)", "<p>[a](data:text/html,x)</p>"),
        ("![dot](https://e.org/p.png)", '<p><a href="https://e.org/p.png">dot</a></p>'),
        ("见 https://e.org/a。", '<p>见 <a href="https://e.org/a">https://e.org/a</a>。</p>'),
        ("\\*not slanted\\*", "<p>*not slanted*</p>"),
        ("---", "<hr>"),
        ("- [x] done", '<ul><li><input type="checkbox" disabled="" checked="" aria-label="done">done</li></ul>'),
        ("a | b\nno table", "<p>a | b<br>no table</p>"),
    ],
)
def test_markdown_becomes_nodes(blank: Any, text: str, html: str) -> None:
    assert blank.evaluate(RENDER, text) == html


def test_a_table_keeps_its_cells_and_alignment(blank: Any) -> None:
    html = blank.evaluate(RENDER, "| a | b\\|c |\n|:-:|--:|\n| 1 | **2** |\n| 3 |")
    assert '<th class="center">a</th><th class="right">b|c</th>' in html
    assert '<td class="center">1</td><td class="right"><strong>2</strong></td>' in html
    assert '<td class="center">3</td><td class="right"></td>' in html


def test_a_table_written_as_html_is_a_table_of_text(blank: Any) -> None:
    text = (
        'Here:\n<table border=1 onclick="x()"><tr><th colspan="2">a &amp; b</th></tr>\n<tr><td>1<br>2</td>'
        "<td rowspan=99999><script>window.hacked=1</script> **c**</td></tr></table>\nafter"
    )
    html = blank.evaluate(RENDER, text)
    assert '<tr><th class="left" colspan="2">a &amp; b</th></tr>' in html
    assert '<td class="left">1<br>2</td>' in html
    assert '<td class="left" rowspan="100">&lt;script&gt;window.hacked=1&lt;/script&gt; <strong>c</strong></td>' in html
    assert html.startswith("<p>Here:</p>") and html.endswith("<p>after</p>") and "onclick" not in html
    assert "<td" not in blank.evaluate(RENDER, "<table><tr><t")  # still arriving


def test_a_fence_that_has_not_ended_is_code_already(blank: Any) -> None:
    html = blank.evaluate(RENDER, "```html\n<img src=x onerror=alert(1)>\n# no heading")
    assert "<code>&lt;img src=x onerror=alert(1)&gt;\n# no heading</code>" in html and "<h3>" not in html


@pytest.mark.parametrize("text", ["> " * 5000, "*" * 20000, "[" * 20000, "- " * 3000, "`" * 9999 + "x", "|a" * 5000])
def test_strange_text_is_drawn_in_bounded_time(blank: Any, text: str) -> None:
    took = blank.evaluate(TIMED, text)
    assert took < 20_000  # a pattern that backtracks would take hours


def test_a_growing_answer_keeps_the_nodes_that_are_done(blank: Any) -> None:
    kept = blank.evaluate("""async () => {
      const { render } = await import("./page/markdown.js");
      const node = document.createElement("div");
      render(node, "first\\n\\nsec");
      const first = node.firstChild;
      render(node, "first\\n\\nsecond\\n\\nthird");
      return [node.firstChild === first, node.textContent];
    }""")
    assert kept == [True, "firstsecondthird"]


def test_what_a_model_writes_cannot_run(browser: Any, server: PageServer) -> None:
    with open_page(browser, server.url) as page:
        ask(page, "hostile", "press me")
        assert page.evaluate("window.hacked") is None
        answer = page.locator(".markdown")
        assert answer.locator("img, script, svg, [onerror], [onload]").count() == 0
        assert answer.locator("a").evaluate_all("links => links.map((a) => a.href)") == [
            "https://example.org/a_b",
            "https://example.org/p.png",
        ]
        assert "<script>window.hacked=1</script>" in answer.inner_text()


def test_both_languages_have_every_word(blank: Any) -> None:
    same = blank.evaluate("""async () => {
      const { t, setLanguage } = await import("./page/words.js");
      const used = new Set([...document.querySelectorAll("[data-t],[data-label],[data-placeholder]")].flatMap(
        (node) => [node.dataset.t, node.dataset.label, node.dataset.placeholder]).filter(Boolean));
      const missing = [];
      for (const language of ["zh", "en"]) {
        setLanguage(language);
        for (const key of used) if (!t(key)) missing.push(`${language} ${key}`);
      }
      return missing;
    }""")
    assert same == []
    source = (PAGE / "words.js").read_text(encoding="utf-8")
    english, chinese = source.split("  zh: {")
    keys = [set(re.findall(r"\b([a-z_]+): [\"\[]", part)) for part in (english, chinese)]
    assert keys[0] == keys[1] and len(keys[0]) > 70


def test_chinese_comes_from_the_browser_and_can_be_switched(browser: Any, server: PageServer) -> None:
    with open_page(browser, server.url, locale="zh-CN") as page:
        assert page.evaluate("document.documentElement.lang") == "zh-CN"
        assert page.get_by_role("heading", name="今天看点什么？").is_visible()
        assert page.get_by_placeholder("提个问题").is_visible()
        assert page.get_by_role("button", name="添加图片、视频或 PDF").is_visible()
        assert page.get_by_role("radio", name="深入").is_enabled()
        page.get_by_role("button", name="English").click()
        assert page.get_by_role("heading", name="What shall we look at?").is_visible()
        page.reload()
        assert page.get_by_role("heading", name="What shall we look at?").is_visible()


def test_dark_and_light_follow_the_system_until_chosen(browser: Any, server: PageServer) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    with open_page(browser, server.url, color_scheme="dark") as page:
        assert page.evaluate(ground) == "rgb(25, 26, 25)"
        page.get_by_role("button", name="Theme: Auto").click()
        assert page.evaluate(ground) == "rgb(250, 249, 246)"
        page.reload()
        assert page.evaluate(ground) == "rgb(250, 249, 246)"
        page.get_by_role("button", name="Theme: Light").click()
        assert page.evaluate(ground) == "rgb(25, 26, 25)"


def test_everything_can_be_done_with_the_keyboard(browser: Any, server: PageServer) -> None:
    with open_page(browser, server.url) as page:
        page.locator("body").press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "question"
        page.keyboard.type("One")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        before = len(server.asked)
        composing = {"key": "Enter", "isComposing": True, "bubbles": True, "cancelable": True}
        page.locator("#question").dispatch_event("keydown", composing)  # picks a Chinese word, sends nothing
        assert len(server.asked) == before
        page.keyboard.press("Tab")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        assert page.get_by_role("radio", name="Deep").is_checked()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "send"
        page.keyboard.press("Enter")
        page.locator(".turn.model[aria-busy=false]", has_text="One").wait_for()
        assert server.asked[-1]["messages"][0]["content"] == [{"type": "text", "text": "One\ntwo"}]
        assert "Answer: You sent text" in page.locator("#announcer").text_content()


def test_a_phone_shows_everything_in_its_width(browser: Any, server: PageServer, tmp_path: Path) -> None:
    Image.new("RGB", (2400, 300), "teal").save(tmp_path / "wide.png")
    with open_page(browser, server.url, **PHONE) as page:
        drop(page, tmp_path / "wide.png", "image/png")
        page.locator(".chip .badge", has_text="tokens").wait_for()
        page.locator("#question").fill("table " + "x" * 300)
        page.locator("#send").tap()
        page.locator(".turn.model[aria-busy=false]").wait_for()
        fits = "document.documentElement.scrollWidth <= innerWidth && scroller.scrollWidth <= scroller.clientWidth"
        assert page.evaluate(fits)
        for selector in ("#composer", "#send", ".turn.user .bubble", ".markdown .table"):
            box = page.locator(selector).bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= 375, selector
        assert page.evaluate("sidebar.inert")
        page.get_by_role("button", name="Show or hide history").tap()
        page.locator("#new-chat").tap()
        assert page.locator(".turn").count() == 0 and page.evaluate("sidebar.inert")


def axe_source() -> str:
    """axe-core, which is not in the repository: `npm install axe-core`, or a path in CPMV_TEST_AXE."""
    named = os.environ.get("CPMV_TEST_AXE")
    for path in [Path(named)] if named else [ROOT / "node_modules/axe-core/axe.min.js"]:
        if path.is_file():
            return path.read_text(encoding="utf-8")
    pytest.skip("needs axe-core: npm install axe-core, or name axe.min.js in CPMV_TEST_AXE")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("profile", [{}, PHONE], ids=["desk", "phone"])
def test_axe_finds_nothing_serious(
    browser: Any, server: PageServer, tmp_path: Path, theme: str, profile: dict[str, Any]
) -> None:
    source = axe_source()
    Image.new("RGB", (1344, 896), "teal").save(tmp_path / "photo.png")

    def check(where: str) -> None:
        page.wait_for_timeout(300)  # colours in the middle of a transition are nobody's to read
        page.evaluate(source)
        found = page.evaluate("async () => (await axe.run()).violations")
        bad = [(v["id"], v["nodes"][0]["html"][:120]) for v in found if v["impact"] in ("serious", "critical")]
        assert not bad, f"{where}: {bad}"

    with open_page(browser, server.url, color_scheme=theme, **profile) as page:
        check("empty")
        drop(page, tmp_path / "photo.png", "image/png")
        page.locator(".chip .badge", has_text="tokens").wait_for()
        check("attached")
        page.locator("#depth input[value=deep]").check(force=True)
        ask(page, "table", "three items")
        page.locator(".thinking summary").click()
        ask(page, "fail", "9000")
        check("answered")
        page.locator(".turn .thumb img").click()
        page.locator(".grid").wait_for()
        check("seen")


def test_the_page_is_static_and_local() -> None:
    index = (PAGE / "index.html").read_text(encoding="utf-8")
    for name in re.findall(r'(?:src|href)="([^"#]+)"', index):
        assert name.startswith("page/") and (PAGE / name.removeprefix("page/")).is_file(), name
    assert not re.search(r"<style|style=|\son[a-z]+=|<script>", index)
    for path in PAGE.glob("*.js"):
        source = path.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", source), (
            path
        )
        imported = re.findall(r'from "([^"]+)"', source)
        assert all((PAGE / name).is_file() for name in imported), path
    for path in PAGE.glob("*.css"):
        assert not re.search(r"@import|url\(", path.read_text(encoding="utf-8")), path
