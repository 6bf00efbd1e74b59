"""Where the figures of a scene stand: layouts from (rng, width, height, number) to places (x, y, radius) in px.

In none do two figures touch or leave the sheet; a layout that finds no room gives fewer places than asked for.
"""

from __future__ import annotations

import math

import numpy as np

Places = list[tuple[float, float, float]]


_LEAST_RADIUS = 6.0  # px


def free(rng: np.random.Generator, width: int, height: int, number: int) -> Places:
    """Anywhere, each a size of its own."""
    side = math.sqrt(width * height)
    largest = min(0.24 * min(width, height), 0.5 * side / math.sqrt(number + 1))
    places: Places = []
    for attempt in range(40 * number):
        radius = max(_LEAST_RADIUS, largest * (0.35 + 0.65 * float(rng.random())) * 0.985 ** (attempt / 3))
        x = radius + 2 + float(rng.random()) * (width - 2 * radius - 4)
        y = radius + 2 + float(rng.random()) * (height - 2 * radius - 4)
        if all(math.hypot(x - u, y - v) > radius * 1.25 + r * 1.25 + 2 for u, v, r in places):
            places.append((x, y, radius))
            if len(places) == number:
                break
    return places


def row(rng: np.random.Generator, width: int, height: int, number: int) -> Places:
    """One line, across or down, whichever has room."""
    across = width >= height if rng.random() < 0.85 else width < height
    length, depth = (width, height) if across else (height, width)
    cell = length / number
    middle = depth * (0.5 + 0.3 * (float(rng.random()) - 0.5))
    most = min(0.46 * cell, 0.46 * depth, min(middle, depth - middle) - 2)
    places: Places = []
    for index in range(number):
        radius = most * (0.5 + 0.5 * float(rng.random()))
        along = (index + 0.5) * cell + (cell / 2 - radius - 1) * 0.8 * (2 * float(rng.random()) - 1)
        off = middle + (min(middle, depth - middle) - radius - 2) * 0.4 * (2 * float(rng.random()) - 1)
        places.append((along, off, radius) if across else (off, along, radius))
    return places


def rows(rng: np.random.Generator, width: int, height: int, number: int) -> Places:
    """Two or three lines of unequal length."""
    lines = 2 if number < 5 or rng.random() < 0.5 else 3
    if number < 2:
        return free(rng, width, height, number)
    cuts = [number // lines + (1 if k < number % lines else 0) for k in range(lines)]
    cuts = [int(c) for c in rng.permutation(cuts)]
    depth = height / lines
    places: Places = []
    for line, count in enumerate(cuts):
        cell = width / count
        most = min(0.4 * cell, 0.36 * depth)
        for index in range(count):
            radius = most * (0.55 + 0.45 * float(rng.random()))
            x = (index + 0.5) * cell + (cell / 2 - radius - 2) * 0.7 * (2 * float(rng.random()) - 1)
            y = (line + 0.5) * depth + (depth / 2 - radius - 2) * 0.25 * (2 * float(rng.random()) - 1)
            places.append((x, y, radius))
    return places


def circle(rng: np.random.Generator, width: int, height: int, number: int) -> Places:
    """Around the middle."""
    if number < 3:
        return free(rng, width, height, number)
    turn = float(rng.random()) * 2 * math.pi
    reach_x, reach_y = width * 0.34, height * 0.34
    gap = 2 * min(reach_x, reach_y) * math.sin(math.pi / number)
    most = min(0.42 * gap, 0.15 * min(width, height))
    places: Places = []
    for index in range(number):
        angle = turn + index * 2 * math.pi / number
        radius = most * (0.6 + 0.4 * float(rng.random()))
        places.append((width / 2 + reach_x * math.cos(angle), height / 2 + reach_y * math.sin(angle), radius))
    return places


def nine(rng: np.random.Generator, width: int, height: int, number: int) -> Places:
    """In the middles of the ninths, so that every place has a name."""
    cells = sorted(int(c) for c in rng.permutation(9)[:number])
    side = min(width, height) / 3
    places: Places = []
    for cell in cells:
        radius = side * (0.24 + 0.2 * float(rng.random()))
        slack_x, slack_y = 0.15 * (width / 3 - 2 * radius), 0.15 * (height / 3 - 2 * radius)
        x = (cell % 3 + 0.5) * width / 3 + slack_x * (2 * float(rng.random()) - 1)
        y = (cell // 3 + 0.5) * height / 3 + slack_y * (2 * float(rng.random()) - 1)
        places.append((x, y, radius))
    return places


LAYOUTS = (free, row, rows, circle, nine)
LAYOUT_SHARES = (0.42, 0.12, 0.16, 0.08, 0.22)
