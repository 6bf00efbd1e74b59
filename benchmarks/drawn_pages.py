"""Twenty pages with known content, drawn with Pillow: what `cpmv read` is measured on.

English and Chinese; articles with headings and lists, two columns, tables with and without ruled lines, small print.
Words and faces of the pages come from here and from the machine's fonts, not from the training data's drawer.
    python benchmarks/drawn_pages.py FOLDER          page-01.png ... and page-01.json with what stands on it
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SIZE = (1190, 1684)  # A4 at 144 dpi
MARGIN = 110
FACES = {
    "sans": ("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "/usr/share/fonts/truetype/dejavu/DejaVuSans-Bold.ttf"),
    "serif": (
        "/usr/share/fonts/truetype/dejavu/DejaVuSerif.ttf",
        "/usr/share/fonts/truetype/dejavu/DejaVuSerif-Bold.ttf",
    ),
    "lato": ("/usr/share/fonts/truetype/lato/Lato-Regular.ttf", "/usr/share/fonts/truetype/lato/Lato-Bold.ttf"),
    "han": (
        "/usr/share/fonts/opentype/noto/NotoSansCJK-Regular.ttc",
        "/usr/share/fonts/opentype/noto/NotoSansCJK-Bold.ttc",
    ),
}
HAN_INDEX = 2  # of the simplified Chinese face in its collection
SENTENCES = """The library opens at nine and closes at eight. Please return books to the desk near the door.
The train to the coast leaves from platform four. Our garden has apples, pears and a small pond.
Rain is likely in the north on Friday. The museum shows maps of the old town until June.
Two cups of rice need three cups of water. She wrote the letter in 1987 and kept a copy.
The bridge was built of stone in 1902. Children under six travel free on all buses.
He found the key under the green box. Bread costs more than last year, but milk costs less.
The school has twelve rooms and one large hall. Take the second street on the left after the market.
Winter days are short and the sea is cold. A good plan begins with a clear question.
The meeting starts at 10:30 in room 214. Most visitors come by train or on foot.
Keep the bottle in a dry and dark place. The new road will save about twenty minutes.
Every answer must be sent before the end of May. The price includes breakfast and a guide.
Write your name and address on both sides. Fresh fish arrives every morning except Sunday.
The tower is 48 metres high and can be climbed. There is a map on the wall behind you.
Paper, glass and metal are collected on Monday. The team won five games and lost two.""".replace("\n", " ").split(". ")
HAN_SENTENCES = """图书馆上午九点开门，晚上八点关门。请把书还到门口的服务台。
去海边的火车从四号站台出发。我们的花园里有苹果树和水池。
星期五北方可能有雨。这座桥建于一九零二年。
六岁以下的孩子可以免费坐车。他在绿色的盒子下面找到了钥匙。
学校有十二间教室和一个大厅。冬天白天很短，海水很冷。会议十点半在二楼开始。请把瓶子放在干燥的地方。
新的公路可以节省二十分钟。每天早上都有新鲜的鱼。请在两面写上姓名和地址。这里的面包和牛奶都很好。
老师说明天不用来学校。我们一起走到山上看日出。他的工作是在医院照顾病人。今年的天气比去年更热。""".replace(
    "\n", ""
).split("。")
HEADINGS = ["Opening hours", "How to get here", "Prices and tickets", "Our history", "Weather notes", "House rules"]
HAN_HEADINGS = ["开放时间", "交通方式", "价格说明", "我们的历史", "天气情况", "注意事项"]
GOODS = ["Bread", "Green tea", "Rice", "Apples", "Coffee", "Soap", "Lamp", "Paper", "Chair", "Honey", "Salt", "Pears"]
HAN_GOODS = ["面包", "绿茶", "大米", "苹果", "咖啡", "牛奶", "纸张", "椅子", "白糖", "水果", "衣服", "雨伞"]


@dataclass
class Page:
    """A drawn page. text: its lines in reading order. tables: rows of cells, as (table, row, cell)."""

    name: str
    kind: str
    language: str
    picture: Image.Image
    text: list[str] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)


class Drawer:
    """Draws down one column of a page, line by line, and keeps what it drew."""

    def __init__(self, page: Page, face: str, size: int, rng: random.Random) -> None:
        self.page, self.rng, self.size = page, rng, size
        self.draw = ImageDraw.Draw(page.picture)
        self.han = face == "han"
        self.face = FACES[face]
        self.left, self.right, self.y = MARGIN, SIZE[0] - MARGIN, MARGIN

    def font(self, size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(self.face[bold], size, index=HAN_INDEX if self.han else 0)

    def line(self, text: str, size: int, *, bold: bool = False, left: int | None = None) -> None:
        self.draw.text((self.left if left is None else left, self.y), text, font=self.font(size, bold), fill="#111")
        self.page.text.append(text)
        self.y += round(size * 1.5)

    def heading(self, text: str, scale: float = 1.6) -> None:
        self.y += round(0.5 * self.size)
        self.line(text, round(self.size * scale), bold=True)
        self.y += round(0.35 * self.size)

    def paragraph(self, num_sentences: int, indent: int = 0) -> None:
        pool = HAN_SENTENCES if self.han else SENTENCES
        chosen = [one.strip() for one in self.rng.sample([s for s in pool if s.strip()], num_sentences)]
        text = "".join(f"{one}。" for one in chosen) if self.han else " ".join(f"{one.rstrip('.')}." for one in chosen)
        self.wrapped(text, indent)
        self.y += round(0.75 * self.size)

    def wrapped(self, text: str, indent: int = 0) -> None:
        width, font = self.right - self.left - indent, self.font(self.size)
        line = ""
        for piece in list(text) if self.han else text.split(" "):
            longer = line + piece if self.han or not line else f"{line} {piece}"
            if font.getlength(longer) > width and line and piece not in "，。":
                self.line(line, self.size, left=self.left + indent)
                longer = piece
            line = longer
        if line:
            self.line(line, self.size, left=self.left + indent)

    def bullets(self, count: int) -> None:
        pool = HAN_SENTENCES if self.han else SENTENCES
        radius = max(3, self.size // 7)
        for text in self.rng.sample([s.strip() for s in pool if 4 < len(s.strip()) < 46], count):
            x, y = self.left + radius, self.y + round(0.62 * self.size)
            self.draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="#111")
            self.wrapped(text.rstrip("."), indent=round(1.4 * self.size))
        self.y += round(0.7 * self.size)

    def table(self, columns: list[tuple[str, Any]], num_rows: int, *, ruled: bool) -> None:
        rows = [[title for title, _ in columns]]
        rows += [[str(make(self.rng, i)) for _, make in columns] for i in range(num_rows)]
        pitch, pad = round(self.size * 2.0), round(self.size * 0.5)
        shares = [1.7] + [1.0] * (len(columns) - 1)
        width = self.right - self.left
        edges = [self.left + round(width * sum(shares[:i]) / sum(shares)) for i in range(len(columns) + 1)]
        top = self.y
        for r, row in enumerate(rows):
            for c, cell in enumerate(row):
                font = self.font(self.size, r == 0)
                x = edges[c] + pad if c == 0 else edges[c + 1] - pad - round(font.getlength(cell))
                self.draw.text((x, self.y + 0.3 * self.size), cell, font=font, fill="#111")
            self.y += pitch
        if ruled:
            for r in range(len(rows) + 1):
                self.draw.line((self.left, top + r * pitch, self.right, top + r * pitch), fill="#444", width=2)
            for x in edges:
                self.draw.line((x, top, x, top + len(rows) * pitch), fill="#444", width=2)
        else:
            self.draw.line((self.left, top + pitch - 2, self.right, top + pitch - 2), fill="#444", width=2)
        self.page.tables.append(rows)
        self.y += round(self.size * 1.2)


def goods_table(drawer: Drawer, num_rows: int, *, ruled: bool) -> None:
    goods = drawer.rng.sample(HAN_GOODS if drawer.han else GOODS, num_rows)
    titles = ("品名", "数量", "价格") if drawer.han else ("Item", "Count", "Price")
    makers = (
        lambda rng, i: goods[i],
        lambda rng, i: rng.randint(1, 99),
        lambda rng, i: f"{rng.randint(1, 90)}.{rng.randint(0, 99):02d}",
    )
    drawer.table(list(zip(titles, makers, strict=True)), num_rows, ruled=ruled)


def article(drawer: Drawer) -> None:
    headings = drawer.rng.sample(HAN_HEADINGS if drawer.han else HEADINGS, 3)
    drawer.heading(headings[0], 2.0)
    drawer.paragraph(4)
    drawer.heading(headings[1], 1.4)
    drawer.paragraph(3)
    drawer.bullets(3)
    drawer.heading(headings[2], 1.4)
    drawer.paragraph(4)


def two_columns(drawer: Drawer) -> None:
    headings = drawer.rng.sample(HAN_HEADINGS if drawer.han else HEADINGS, 3)
    drawer.heading(headings[0], 2.0)
    top, middle = drawer.y, SIZE[0] // 2
    for i, (left, right) in enumerate(((MARGIN, middle - 28), (middle + 28, SIZE[0] - MARGIN))):
        drawer.left, drawer.right, drawer.y = left, right, top
        drawer.heading(headings[1 + i], 1.3)
        for count in (4, 3, 4):
            drawer.paragraph(count)


def tables(drawer: Drawer, ruled: bool) -> None:
    drawer.heading((HAN_HEADINGS if drawer.han else HEADINGS)[2], 1.8)
    drawer.paragraph(2)
    goods_table(drawer, 6, ruled=ruled)
    drawer.paragraph(3)
    goods_table(drawer, 4, ruled=not ruled)


def draw_pages(seed: int = 7) -> list[Page]:
    """All twenty pages."""
    plan = [("article", face, 26) for face in ("sans", "serif", "lato", "han", "han")]
    plan += [("columns", face, 22) for face in ("sans", "serif", "lato", "han", "han")]
    plan += [("table", face, 26) for face in ("sans", "serif", "lato", "han", "han")]
    plan += [("small", face, 15) for face in ("sans", "serif", "lato", "han")] + [("small columns", "sans", 15)]
    pages = []
    for i, (kind, face, size) in enumerate(plan):
        page = Page(
            f"page-{i + 1:02d}", kind, "Chinese" if face == "han" else "English", Image.new("RGB", SIZE, "white")
        )
        drawer = Drawer(page, face, size, random.Random(f"{seed} {i}"))
        if kind in ("article", "small"):
            article(drawer)
        elif "columns" in kind:
            two_columns(drawer)
        else:
            tables(drawer, ruled=i % 2 == 0)
        pages.append(page)
    return pages


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for page in draw_pages():
        page.picture.save(folder / f"{page.name}.png")
        truth = {"text": page.text, "tables": page.tables}
        (folder / f"{page.name}.json").write_text(json.dumps(truth, ensure_ascii=False, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
