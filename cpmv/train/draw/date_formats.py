"""Ways of writing a date, drawn from a grammar, so that copying a format from examples cannot be learnt as a list.

Order of the parts, figures or names of months, signs between, leading zeros and two-figure years vary. A figure-only
date that ends in its year follows the sheets' conventions (day first with dots and hyphens, month first with strokes).
The format kept for evaluation, `Jan 5, 2020`, is never drawn.
"""

from __future__ import annotations

import calendar
from dataclasses import dataclass

import numpy as np

Date = tuple[int, int, int]  # year, month, day

_NAMES: dict[str, list[str]] = {
    "abbr": list(calendar.month_abbr),
    "upper": [name.upper() for name in calendar.month_abbr],
    "lower": [name.lower() for name in calendar.month_abbr],
    "full": list(calendar.month_name),
    "dotted": [name + "." for name in calendar.month_abbr],
    "roman": ["", *"I II III IV V VI VII VIII IX X XI XII".split()],
}
HELD_OUT = ("mdy", "abbr", " ", ", ")  # order, month, signs


@dataclass(frozen=True, slots=True)
class DateFormat:
    """order: of "ymd", "dmy", "mdy". month: "00" or "0" for figures, else a table of names, or "zh".

    first, second: what stands between the parts. padded: the day has two figures. short: the year has two.
    """

    order: str
    month: str
    first: str
    second: str
    padded: bool = True
    short: bool = False

    def write(self, date: Date) -> str:
        year, month, day = date
        years = f"{year % 100:02d}" if self.short else f"{year:04d}"
        figures = {"00": f"{month:02d}", "0": str(month)}
        days = f"{day:02d}" if self.padded else str(day)
        if self.month == "zh":
            return f"{years}年{figures['00' if self.padded else '0']}月{days}{self.second}"
        months = figures[self.month] if self.month in figures else _NAMES[self.month][month]
        parts = {"y": years, "m": months, "d": days}
        a, b, c = (parts[part] for part in self.order)
        return f"{a}{self.first}{b}{self.second}{c}"

    @property
    def is_held_out(self) -> bool:
        return (self.order, self.month, self.first, self.second) == HELD_OUT


def draw_format(rng: np.random.Generator, *, printed: bool = False) -> DateFormat:
    """Any format but the held-out one. printed: one that stands on labels, with four-figure years and names of months
    or the year first, so that it can be read in one way alone."""
    while True:
        made = _draw(rng, printed)
        if not made.is_held_out:
            return made


def _draw(rng: np.random.Generator, printed: bool) -> DateFormat:
    def one(*choices: str) -> str:
        return choices[int(rng.integers(len(choices)))]

    padded, short = bool(rng.random() < 0.6), bool(not printed and rng.random() < 0.15)
    draw = rng.random()
    if draw < 0.1:
        return DateFormat("ymd", "zh", "", one("日", "日", "号"), padded, short)
    if draw < 0.55:  # months by name
        month = one("abbr", "abbr", "upper", "lower", "full", "full", "dotted", *([] if printed else ["roman"]))
        order = one("dmy", "dmy", "mdy", "mdy", "ymd")
        sign = one(" ", " ", " ", "-", "-", "/", ".", "")
        if order == "mdy":
            first = one(" ", " ", "-", ".", "/") if sign == "" or month == "dotted" else sign
            second = one(", ", ", ", " ", ",", " / ", first)
            return DateFormat(order, month, first, second, padded, short)
        if order == "dmy" and sign == " " and rng.random() < 0.3:
            return DateFormat(order, month, one(". ", " of ", " "), one(" ", ", ", " "), padded, short)
        return DateFormat(order, month, sign, sign, padded, short)
    month = "00" if padded else "0"
    if printed or draw < 0.78:
        sign = one("-", ".", "/", " ", "_", ":", "", " - ", "|", "~")
        if sign == "":
            month, padded, short = "00", True, short
        return DateFormat("ymd", month, sign, sign, padded, short)
    order = one("dmy", "dmy", "mdy")
    sign = one("/", " / ") if order == "mdy" else one(".", "-", " ", ". ", "_", " - ", "|")
    return DateFormat(order, month, sign, sign, padded, short)


def known_format(form: int) -> DateFormat:
    """The format that `words.date_text` numbers 0-3 and 5, and 6-8: year.month.day, year/month/day, day-month-year."""
    return _KNOWN[form]


_KNOWN = {
    0: DateFormat("ymd", "00", "-", "-"),
    1: DateFormat("dmy", "00", ".", "."),
    2: DateFormat("mdy", "00", "/", "/"),
    3: DateFormat("dmy", "abbr", " ", " "),
    5: DateFormat("ymd", "zh", "", "日", padded=False),
    6: DateFormat("ymd", "00", ".", "."),
    7: DateFormat("ymd", "00", "/", "/"),
    8: DateFormat("dmy", "00", "-", "-"),
}
KNOWN = (0, 1, 2, 3, 6, 7, 8)
