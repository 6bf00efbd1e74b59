"""Draw the pictures of `examples/pictures/`, so that anybody can make, check and change them.

    python examples/draw_pictures.py

A label, three shapes and a moving circle, which the bundled model was trained for; a till receipt and a bar chart,
which a larger model reads. Only Pillow and its built-in font are used, and no random numbers.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PICTURES = Path(__file__).parent / "pictures"

RECEIPT = [("Bread", "2.40"), ("Apples", "3.15"), ("Coffee", "6.80"), ("Soap", "1.95")]
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


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    pictures = {"label": draw_label, "shapes": draw_shapes, "receipt": draw_receipt, "chart": draw_chart}
    for name, draw in pictures.items():
        draw().save(PICTURES / f"{name}.png", optimize=True)
        print(PICTURES / f"{name}.png")
    first, *others = draw_clip()
    first.save(PICTURES / "moving.gif", save_all=True, append_images=others, duration=400, loop=0)
    print(PICTURES / "moving.gif")


if __name__ == "__main__":
    main()
