"""Draw the pictures of `examples/pictures/`, so that anybody can make, check and change them.

    python examples/draw_pictures.py

A label, shapes and the same with one changed, a moving circle, a till receipt, a bar chart, and three packages with
dates on them. Only Pillow and its built-in font are used, and no random numbers.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PICTURES = Path(__file__).parent / "pictures"

RECEIPT = [("Bread", "2.40"), ("Apples", "3.15"), ("Coffee", "6.80"), ("Soap", "1.95")]
PACKAGES = {
    "package1": ("Green Tea", ("PROD", "2023-08-04"), ("EXP", "2025-08-04")),
    "package2": ("Oat Bar", ("BEST BEFORE", "24.10.2008"), ("PRODUCED", "24.04.2007")),
    "package3": ("Sea Salt", ("LOT", "A4127"), ("EXP", "11 Mar 2031"), ("MFG", "11 Mar 2026")),
}
SALES = [("Mon", 12, "#4477aa"), ("Tue", 19, "#66ccee"), ("Wed", 7, "#228833"), ("Thu", 24, "#ccbb44")]


def draw_label() -> Image.Image:
    """A product and its date, on three lines."""
    picture = Image.new("RGB", (224, 224), "#faf6eb")
    draw = ImageDraw.Draw(picture)
    for row, line in enumerate(("Orange juice", "best before", "14.03.2027")):
        draw.text((24, 50 + 42 * row), line, "#1e285a", ImageFont.load_default(26))
    return picture


def draw_shapes() -> Image.Image:
    """A red circle, a blue square and a green triangle."""
    picture = Image.new("RGB", (224, 224), "#f0f0e6")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((20, 20, 80, 80), "#dc1e1e")
    draw.rectangle((130, 30, 190, 90), "#1e3cdc")
    draw.polygon([(110, 130), (70, 200), (150, 200)], "#149632")
    return picture


def draw_changed() -> Image.Image:
    """The same, but the square is yellow."""
    picture = draw_shapes()
    ImageDraw.Draw(picture).rectangle((130, 30, 190, 90), "#f4da2c")
    return picture


def draw_package(name: str) -> Image.Image:
    """A product with two or three dates or codes."""
    product, *fields = PACKAGES[name]
    picture = Image.new("RGB", (224, 224), "#f4f4ec")
    draw = ImageDraw.Draw(picture)
    draw.rectangle((8, 8, 215, 215), outline="#305030", width=2)
    draw.text((112, 26), product, "#103010", ImageFont.load_default(26), anchor="ma")
    for row, (field, value) in enumerate(fields):
        draw.text((24, 76 + 44 * row), field, "#222222", ImageFont.load_default(14))
        draw.text((24, 92 + 44 * row), value, "#222222", ImageFont.load_default(18))
    return picture


def draw_clip() -> list[Image.Image]:
    """Six frames of a blue circle that moves to the right."""
    frames = []
    for step in range(6):
        frame = Image.new("RGB", (112, 112), "#ebebe1")
        left = 6 + 15 * step
        ImageDraw.Draw(frame).ellipse((left, 45, left + 22, 67), "#1e3cdc")
        frames.append(frame)
    return frames


def draw_receipt() -> Image.Image:
    """Four items and their sum, 14.30."""
    picture = Image.new("RGB", (360, 440), "#fffdf5")
    draw = ImageDraw.Draw(picture)
    draw.text((180, 24), "CORNER SHOP", "black", ImageFont.load_default(30), anchor="ma")
    draw.line((30, 76, 330, 76), "black", 2)
    font = ImageFont.load_default(26)
    for row, (item, price) in enumerate(RECEIPT):
        draw.text((36, 98 + 50 * row), item, "black", font)
        draw.text((324, 98 + 50 * row), price, "black", font, anchor="ra")
    draw.line((30, 310, 330, 310), "black", 2)
    total = sum(float(price) for _, price in RECEIPT)
    draw.text((36, 330), "TOTAL", "black", ImageFont.load_default(32))
    draw.text((324, 330), f"{total:.2f}", "black", ImageFont.load_default(32), anchor="ra")
    draw.text((180, 396), "Thank you!", "#555555", ImageFont.load_default(22), anchor="ma")
    return picture


def draw_chart() -> Image.Image:
    """Bars for four days; Thursday is the highest, with 24."""
    picture = Image.new("RGB", (480, 360), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((240, 14), "Ice creams sold", "black", ImageFont.load_default(26), anchor="ma")
    font = ImageFont.load_default(22)
    for column, (day, count, colour) in enumerate(SALES):
        left, top = 50 + 105 * column, 310 - 10 * count
        draw.rectangle((left, top, left + 70, 310), colour)
        draw.text((left + 35, top - 30), str(count), "black", font, anchor="ma")
        draw.text((left + 35, 318), day, "black", font, anchor="ma")
    draw.line((35, 310, 455, 310), "black", 2)
    return picture


def still_pictures() -> dict[str, Image.Image]:
    """Every picture but the clip, by its file's name."""
    drawn = {"label": draw_label(), "shapes": draw_shapes(), "changed": draw_changed()}
    drawn |= {"receipt": draw_receipt(), "chart": draw_chart()}
    return drawn | {name: draw_package(name) for name in PACKAGES}


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    for name, picture in still_pictures().items():
        picture.save(PICTURES / f"{name}.png", optimize=True)
        print(PICTURES / f"{name}.png")
    first, *others = draw_clip()
    first.save(PICTURES / "moving.gif", save_all=True, append_images=others, duration=400, loop=0)
    print(PICTURES / "moving.gif")


if __name__ == "__main__":
    main()
