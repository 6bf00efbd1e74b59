"""Evaluation sets drawn with Pillow, sharing no drawing code with training: real fonts with hinting and kerning.

`python -m cpmv.train.draw.independent OUT --seed 1` writes a frozen set: lossless WebP pictures and `samples.jsonl`
with the prompt, the exact answer and the facts needed to score by group. Seeds here and in training are unrelated.
Only names, wordings and word lists are shared; layout, shapes and rendering are written anew on purpose.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .charset import ASCII, NUM_DRAWN_HAN, han_by_frequency
from .faces import Face, installed_faces
from .prompts import CLIP, COLOURS, DIRECTIONS, HELD_OUT_PAIRS, NOTHING, PLACES, READ, SCENE, SHAPES, YES_NO
from .words import date_text, piece_sorts

Colour = tuple[int, int, int]
MIN_SIZE = 12  # px
_TURN = 45.0  # degrees between neighbouring directions


@dataclass
class Sample:
    """Pictures (more than one: frames), the question, the exact answer, and what it belongs to.

    temporal_ids: tenths of a second for the frames of a clip, None for pictures.
    """

    images: list[Image.Image]
    prompt: str
    answer: str
    meta: dict[str, Any] = field(default_factory=dict)
    temporal_ids: list[int] | None = None


@dataclass(frozen=True)
class Thing:
    """One drawn object, px."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float


@cache
def faces(kind: str, held_out: bool) -> tuple[Face, ...]:
    """Installed faces: kind 'han' or 'latin' (everything else)."""
    wanted = tuple(f for f in installed_faces() if (f.kind == "han") == (kind == "han") and f.held_out == held_out)
    if kind == "han":  # a face without ASCII would need a second one
        wanted = tuple(f for f in wanted if f.family != "Droid Sans Fallback")
    return wanted


@cache
def _pieces(held_out: bool) -> dict[str, list[str]]:
    return piece_sorts(held_out, seed=7)


def choose_face(rng: random.Random, kind: str, held_out: bool) -> Face:
    """A family first, then one of its faces, so that large families do not dominate."""
    available = faces(kind, held_out)
    if not available:
        raise ValueError(
            f"no installed {'held-out' if held_out else 'training'} face of kind {kind}; see faces.packages()"
        )
    family = rng.choice(sorted({face.family for face in available}))
    return rng.choice([face for face in available if face.family == family])


def latin_line(rng: random.Random, limit: int, held_out: bool) -> str:
    """Words, dates, prices or codes of at most `limit` characters."""
    pieces = _pieces(held_out)
    sorts = rng.choice(
        [["en", "common"], ["title"], ["upper"], ["en", "int", "price", "title"], ["date", "price", "code", "int"]]
    )
    words: list[str] = []
    while len(words) < 6:
        word = _fill(rng, rng.choice(pieces[rng.choice(sorts)]))
        if len(" ".join([*words, word])) > limit:
            break
        words.append(word)
    return " ".join(words) or "".join(rng.choice("abcdefghkmnprstuwxyz") for _ in range(min(limit, 5)))


def han_line(rng: random.Random, limit: int, held_out: bool) -> str:
    """Chinese words and random characters, at most `limit` characters."""
    pieces, line = _pieces(held_out), ""
    while True:
        part = (
            rng.choice(pieces["zh"])
            if rng.random() < 0.6
            else "".join(rng.choices(han_by_frequency()[:NUM_DRAWN_HAN], k=3))
        )
        if line and len(line + part) > limit:
            return line
        line = (line + part)[:limit]
        if rng.random() < 0.15:
            return line


def _fill(rng: random.Random, piece: str) -> str:
    choices = {"\x01": "0123456789", "\x02": "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "\x03": "abcdefghijklmnopqrstuvwxyz",
               "\x04": ASCII[1:], "\x05": han_by_frequency()[:NUM_DRAWN_HAN]}  # fmt: skip
    return "".join(rng.choice(choices[c]) if c in choices else c for c in piece)


def paper_and_ink(rng: random.Random) -> tuple[Colour, Colour]:
    """Two plain colours with clear contrast; mostly dark on light."""
    while True:
        paper = (rng.randint(190, 255),) * 3 if rng.random() < 0.4 else tuple(rng.randint(120, 255) for _ in range(3))
        ink = (rng.randint(0, 40),) * 3 if rng.random() < 0.5 else tuple(rng.randint(0, 150) for _ in range(3))
        if rng.random() < 0.25:
            paper, ink = ink, paper
        if abs(_luma(paper) - _luma(ink)) > 90:
            return paper, ink  # type: ignore[return-value]


def _luma(colour: Sequence[int]) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _font(face: Face, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face.path, size, index=face.index)


def draw_text(
    rng: random.Random, size: tuple[int, int], *, num_lines: int, kind: str = "latin", held_out_faces: bool = False,
    held_out_words: bool = True, max_line: int = 24, total: int = 96, face: Face | None = None
) -> Sample:  # fmt: skip
    """Lines of one face on plain paper. size: (width, height) px."""
    width, height = size
    face = face or choose_face(rng, kind, held_out_faces)
    room = (width - 12) / (14.0 if kind == "han" else 8.8)
    limit = max(2, min(max_line, int(room), (total + 1) // num_lines - 1))
    make = han_line if kind == "han" else latin_line
    lines = [
        make(rng, limit if rng.random() < 0.6 else rng.randint(2, limit), held_out_words) for _ in range(num_lines)
    ]
    gap = rng.uniform(1.25, 1.5)
    largest = MIN_SIZE
    for point in range(MIN_SIZE, 48):
        widths = [_font(face, point).getlength(line) for line in lines]
        if max(widths) > width - 10 or num_lines * gap * point > height - 8:
            break
        largest = point
    point = rng.randint(max(MIN_SIZE, int(largest * 0.6)), largest)
    font = _font(face, point)
    paper, ink = paper_and_ink(rng)
    image = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(image)
    block = max(font.getlength(line) for line in lines)
    left, top = (
        rng.uniform(4, max(4.0, width - 5 - block)),
        rng.uniform(3, max(3.0, height - 4 - num_lines * gap * point)),
    )
    align = rng.choice([0.0, 0.0, 0.5, 1.0])
    for row, line in enumerate(lines):
        x = left + (block - font.getlength(line)) * align
        draw.text((x, top + (row * gap + 1.0) * point), line, fill=ink, font=font, anchor="ls")
    chinese = kind == "han" and rng.random() < 0.6
    meta = {
        "face": face.name,
        "family": face.family,
        "face_kind": face.kind,
        "held_out_face": face.held_out,
        "size_px": point,
    }
    meta |= {"lines": num_lines, "language": "zh" if chinese else "en"}
    return Sample([image], rng.choice(READ[int(chinese)]), "\n".join(lines), meta)


def draw_thing(draw: ImageDraw.ImageDraw, thing: Thing, scale: int = 4) -> None:
    """One shape with Pillow's own polygons and ellipses, on a canvas `scale` times larger."""
    x, y, r = thing.x * scale, thing.y * scale, thing.radius * scale
    fill = COLOURS[thing.colour][1]
    if thing.shape == "circle":
        draw.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    elif thing.shape == "ring":
        draw.ellipse([x - r, y - r, x + r, y + r], outline=fill, width=round(r * 0.42))
    elif thing.shape == "square":
        draw.rectangle([x - 0.86 * r, y - 0.86 * r, x + 0.86 * r, y + 0.86 * r], fill=fill)
    elif thing.shape == "cross":
        draw.rectangle([x - r, y - 0.32 * r, x + r, y + 0.32 * r], fill=fill)
        draw.rectangle([x - 0.32 * r, y - r, x + 0.32 * r, y + r], fill=fill)
    else:
        corners, inner = (3, 1.0) if thing.shape == "triangle" else (10, 0.42)
        points = []
        for corner in range(corners):
            reach = r * (inner if corner % 2 and corners == 10 else 1.05)
            angle = -math.pi / 2 + 2 * math.pi * corner / corners
            points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
        draw.polygon(points, fill=fill)


def render_things(size: tuple[int, int], paper: Colour, things: Sequence[Thing], scale: int = 4) -> Image.Image:
    """Draw at four times the size and average down."""
    canvas = Image.new("RGB", (size[0] * scale, size[1] * scale), paper)
    draw = ImageDraw.Draw(canvas)
    for thing in things:
        draw_thing(draw, thing, scale)
    return canvas.reduce(scale)


def scene_paper(rng: random.Random) -> Colour:
    grey = rng.choice([rng.randint(205, 232), rng.randint(150, 185), rng.randint(48, 70)])
    return tuple(max(0, min(255, grey + rng.randint(-10, 10))) for _ in range(3))  # type: ignore[return-value]


def choose_pairs(rng: random.Random, paper: Colour, count: int, held_out: bool = False) -> list[tuple[str, str]]:
    """Colour and shape of each object: visible, and from (or without) the held-out pairs."""
    visible = [
        c for c, (_, rgb) in COLOURS.items() if sum((a - b) ** 2 for a, b in zip(rgb, paper, strict=True)) > 11000
    ]
    pairs = [(c, s) for c in visible for s in SHAPES if (c, s) not in HELD_OUT_PAIRS]
    chosen = [rng.choice(pairs) for _ in range(count)]
    if held_out:
        chosen[0] = rng.choice([pair for pair in HELD_OUT_PAIRS if pair[0] in visible])
    return chosen


def draw_scene(
    rng: random.Random, size: tuple[int, int], *, kind: str | None = None, count: int | None = None,
    held_out_pair: bool = False, chinese: bool = False
) -> Sample:  # fmt: skip
    """Objects on a 3 x 3 layout and a question of `kind` (None: any that fits the scene)."""
    while True:
        number = count or rng.choice([1, 2, 3, 3, 4, 4, 5, 6])
        paper = scene_paper(rng)
        pairs = choose_pairs(rng, paper, number, held_out_pair)
        if rng.random() < 0.4 and not held_out_pair:
            pairs = [rng.choice(pairs[:2]) for _ in pairs]
        cells = rng.sample(range(9), number)
        wide, high = size[0] / 3, size[1] / 3
        things = []
        for (colour, shape), cell in zip(pairs, cells, strict=True):
            radius = min(wide, high) * rng.uniform(0.2, 0.4)
            x = (cell % 3 + 0.5) * wide + rng.uniform(-1, 1) * min(wide / 2 - radius - 1, wide * 0.2)
            y = (cell // 3 + 0.5) * high + rng.uniform(-1, 1) * min(high / 2 - radius - 1, high * 0.2)
            things.append(Thing(colour, shape, x, y, radius))
        asked = scene_questions(rng, things, cells, size, int(chinese), about_first=held_out_pair)
        if kind in asked or (kind is None and asked):
            chosen = kind or rng.choice(sorted(asked))
            slots, answer = asked[chosen]
            prompt = rng.choice(SCENE[chosen][int(chinese)]).format(*slots)
            facts = [f"{t.colour} {t.shape}" for t in things]
            meta = {
                "kind": chosen,
                "objects": facts,
                "language": "zh" if chinese else "en",
                "held_out_pair": held_out_pair,
            }
            return Sample([render_things(size, paper, things)], prompt, answer, meta)


def scene_questions(
    rng: random.Random, things: list[Thing], cells: list[int], size: tuple[int, int], language: int, about_first: bool
    = False
) -> dict[str, tuple[list[str], str]]:  # fmt: skip
    """Every kind of question this scene answers without doubt: its slots and answer.

    about_first: only questions about the first object (used for held-out pairs).
    """

    def colour_name(c: str) -> str:
        return COLOURS[c][0] if language else c

    def shape_name(s: str) -> str:
        return SHAPES[s][1] if language else s

    def pair_name(t: Thing) -> str:
        return colour_name(t.colour) + ("" if language else " ") + shape_name(t.shape)

    yes, no = YES_NO[language]
    places = list(PLACES.values()) if language else list(PLACES)
    target = things[0] if about_first else rng.choice(things)
    out: dict[str, tuple[list[str], str]] = {}
    by_shape = [t for t in things if t.shape == target.shape]
    by_colour = [t for t in things if t.colour == target.colour]
    by_pair = [t for t in by_shape if t.colour == target.colour]
    if len(by_shape) == 1:
        out["colour_of"] = [shape_name(target.shape)], colour_name(target.colour)
    if len(by_colour) == 1:
        out["shape_of"] = [colour_name(target.colour)], shape_name(target.shape)
    cell = cells[things.index(target)]
    out["what_at"] = [places[cell]], pair_name(target)
    if len(by_pair) == 1:
        out["where_is"] = [pair_name(target)], places[cell]
    if about_first:
        out["exists"] = [pair_name(target)], yes
        return out
    plural = SHAPES[target.shape][1] if language else SHAPES[target.shape][0]
    out["count"] = [], str(len(things))
    out["count_colour"] = [colour_name(target.colour)], str(len(by_colour))
    out["count_shape"] = [plural], str(len(by_shape))
    asked = target if rng.random() < 0.5 else Thing(rng.choice(list(COLOURS)), target.shape, 0, 0, 1)
    if (asked.colour, asked.shape) in HELD_OUT_PAIRS:
        asked = target
    there = any((t.colour, t.shape) == (asked.colour, asked.shape) for t in things)
    out["exists"] = [pair_name(asked)], yes if there else no
    empty = [c for c in range(9) if c not in cells]
    if rng.random() < 0.15 and empty:
        out["what_at"] = [places[rng.choice(empty)]], NOTHING[language]
    others = [
        t for t in things if sum((u.shape, u.colour) == (t.shape, t.colour) for u in things) == 1 and t is not target
    ]
    if len(by_pair) == 1 and others:
        other = rng.choice(others)
        dx, dy = (other.x - target.x) / size[0], (other.y - target.y) / size[1]
        for kind, gap in (("left_of", dx), ("right_of", -dx), ("above", dy), ("below", -dy)):
            if abs(gap) > 0.15:
                out[kind] = [pair_name(target), pair_name(other)], yes if gap > 0 else no
    ranked = sorted(things, key=lambda t: t.radius)
    if len(things) > 1 and ranked[-1].radius > 1.3 * ranked[-2].radius:
        out["largest"] = [], pair_name(ranked[-1])
    if len(things) > 1 and ranked[1].radius > 1.3 * ranked[0].radius:
        out["smallest"] = [], pair_name(ranked[0])
    if len(things) <= 4:
        order = [t for _, t in sorted(zip(cells, things, strict=True), key=lambda item: item[0])]
        out["describe"] = [], _listing([_with_article(t, language, pair_name(t)) for t in order], language)
    return out


def _with_article(thing: Thing, language: int, name: str) -> str:
    return f"一个{name}" if language else f"{'an' if thing.colour[0] in 'aeio' else 'a'} {name}"


def _listing(names: list[str], language: int) -> str:
    comma, and_ = ("、", "和") if language else (", ", " and ")
    return comma.join(names[:-1]) + (and_ if len(names) > 1 else "") + names[-1]


def draw_clip(
    rng: random.Random, size: tuple[int, int], *, kind: str = "direction", num_frames: int | None = None, chinese:
    bool = False
) -> Sample:  # fmt: skip
    """Two objects over 2 to 6 frames; asked for direction, speed ('faster', 'slower') or order ('first', 'last')."""
    number = num_frames or rng.randint(2, 6)
    step, start = rng.randint(1, 20), rng.randint(1, 400)
    times = [start + index * step for index in range(number)]
    paper, side = scene_paper(rng), min(size)
    pairs = choose_pairs(rng, paper, 12)
    first = pairs[0]
    second = next(pair for pair in [*pairs, ("black", "circle"), ("red", "square")] if pair[0] != first[0])
    tracks: list[list[Thing]] = []
    headings: list[int] = []
    lengths: list[float] = []
    for colour, shape in (first, second):
        radius, heading = side * rng.uniform(0.1, 0.16), rng.randrange(8)
        length = side * rng.uniform(0.25, 0.55)
        while kind in ("faster", "slower") and lengths and abs(length - lengths[0]) < 0.15 * side:
            length = side * rng.uniform(0.2, 0.62)
        dx, dy = (length * f(math.radians(heading * _TURN)) for f in (math.cos, math.sin))
        x = rng.uniform(radius + max(0.0, -dx), size[0] - radius - max(0.0, dx))
        y = rng.uniform(radius + max(0.0, -dy), size[1] - radius - max(0.0, dy))
        steps = [index / (number - 1) for index in range(number)]
        tracks.append([Thing(colour, shape, x + dx * s, y + dy * s, radius) for s in steps])
        headings.append(heading)
        lengths.append(length)
    appears = [0, 0]
    if kind in ("first", "last"):
        appears[rng.randrange(2)] = rng.randint(1, number - 1)
    images = [
        render_things(size, paper, [track[i] for track, begin in zip(tracks, appears, strict=True) if i >= begin])
        for i in range(number)
    ]
    names = [COLOURS[pair[0]][0] if chinese else pair[0] for pair in (first, second)]
    target = rng.randrange(2)
    best = {
        "faster": lengths[1] > lengths[0], "slower": lengths[1] < lengths[0],
        "first": appears[1] < appears[0], "last": appears[1] > appears[0],
    }  # fmt: skip
    directions = list(DIRECTIONS.values()) if chinese else list(DIRECTIONS)
    answer = directions[headings[target]] if kind == "direction" else names[int(best[kind])]
    prompt = rng.choice(CLIP[kind][int(chinese)]).format(names[target])
    meta = {"kind": kind, "frames": number, "step": step, "language": "zh" if chinese else "en"}
    if kind == "direction":
        meta["opposite"] = directions[(headings[target] + 4) % 8]
    return Sample(images, prompt, answer, meta, times)


def draw_date(rng: random.Random, size: tuple[int, int], held_out_faces: bool) -> Sample:
    """A single date in one of the five formats."""
    sample = draw_text(rng, size, num_lines=1, held_out_faces=held_out_faces)
    face = next(f for f in installed_faces() if f.name == sample.meta["face"])
    text = date_text(rng.randrange(5), rng.randint(1990, 2039), rng.randint(1, 12), rng.randint(1, 28))
    paper, ink = paper_and_ink(rng)
    image = Image.new("RGB", size, paper)
    point = rng.randint(14, max(14, int((size[0] - 12) / (0.68 * len(text)))))
    font = _font(face, point)
    x = rng.uniform(4, max(4.0, size[0] - 5 - font.getlength(text)))
    ImageDraw.Draw(image).text((x, rng.uniform(point + 3, size[1] - point / 2)), text, fill=ink, font=font, anchor="ls")
    return Sample([image], sample.prompt, text, sample.meta | {"size_px": point})


SETS: dict[str, Callable[[random.Random, tuple[int, int]], Sample]] = {
    "line": lambda rng, size: draw_text(rng, size, num_lines=1),
    "paragraph": lambda rng, size: draw_text(rng, size, num_lines=rng.randint(2, max(2, min(6, size[1] // 22)))),
    "line_new_faces": lambda rng, size: draw_text(rng, size, num_lines=1, held_out_faces=True),
    "paragraph_new_faces": lambda rng, size: draw_text(
        rng, size, num_lines=rng.randint(2, max(2, min(6, size[1] // 22))), held_out_faces=True
    ),
    "date": lambda rng, size: draw_date(rng, size, held_out_faces=False),
    "han": lambda rng, size: draw_text(rng, size, num_lines=1, kind="han"),
    "han_new_faces": lambda rng, size: draw_text(rng, size, num_lines=1, kind="han", held_out_faces=True),
    "scene": lambda rng, size: draw_scene(rng, size, chinese=rng.random() < 0.2),
    "scene_new_pairs": lambda rng, size: draw_scene(rng, size, held_out_pair=True),
    "scene_many": lambda rng, size: draw_scene(rng, size, kind="count", count=rng.randint(7, 9)),
    "clip_direction": lambda rng, size: draw_clip(rng, size, chinese=rng.random() < 0.2),
    "clip_speed": lambda rng, size: draw_clip(rng, size, kind=rng.choice(["faster", "slower"])),
    "clip_order": lambda rng, size: draw_clip(rng, size, kind=rng.choice(["first", "last"])),
}


def set_size(name: str, rng: random.Random) -> tuple[int, int]:
    """Picture size in px: mostly the training geometry, a third on other grids."""
    if name.startswith("clip"):
        return rng.choice([(112, 112)] * 2 + [(140, 84), (84, 140), (112, 98), (126, 112), (140, 140)])
    if rng.random() < 0.67:
        return (224, 224)
    return rng.choice(
        [(238, 238), (210, 210), (280, 280), (252, 196), (182, 266), (364, 154), (168, 336), (196, 252), (392, 126)]
    )


def write_set(out: Path, seed: int, per_set: int, names: Sequence[str] = tuple(SETS)) -> int:
    """Write the sets below `out`; return the bytes written. Same seed and fonts, same files."""
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    with open(out / "samples.jsonl", "w", encoding="utf-8") as lines:
        for name in names:
            (out / name).mkdir(exist_ok=True)
            for index in range(per_set):
                rng = random.Random(f"{seed} {name} {index}")
                sample = SETS[name](rng, set_size(name, rng))
                files = []
                for frame, image in enumerate(sample.images):
                    path = (
                        out
                        / name
                        / (f"{index:04d}.webp" if sample.temporal_ids is None else f"{index:04d}-{frame}.webp")
                    )
                    image.save(path, lossless=True, quality=100, method=6)
                    files.append(str(path.relative_to(out)))
                    total += path.stat().st_size
                record: dict[str, Any] = {
                    "set": name,
                    "images": files,
                    "prompt": sample.prompt,
                    "answer": sample.answer,
                }
                record |= {"temporal_ids": sample.temporal_ids, "meta": sample.meta}
                lines.write(json.dumps(record, ensure_ascii=False) + "\n")
    return total + (out / "samples.jsonl").stat().st_size


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cpmv.train.draw.independent", description="Draw a frozen evaluation set."
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--per-set", type=int, default=64, help="samples of each set (default 64)")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS))
    options = parser.parse_args(argv)
    size = write_set(options.out, options.seed, options.per_set, options.sets)
    print(f"{options.out}: {len(options.sets)} sets of {options.per_set}, {size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
