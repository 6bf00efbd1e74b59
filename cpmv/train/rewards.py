"""What a response is worth to reinforcement learning: rules for short answers, form, and repetition. Pure functions.

A response is split into reasoning and final answer by its `<think>` tags; rules look at the final answer alone.
`kind_of` routes a reference answer: to a rule when it is a few tokens of a kind that can be read without doubt, else to
the probability reward of RLPR (`rlpr`). An answer that lists several candidates is wrong: nothing is picked out of it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

OPEN, CLOSE = "<think>", "</think>"
PROBABILITY = "probability"  # no rule: how likely the reference is after the response's reasoning
ROUTER_TOKENS = 5  # longest reference that a rule judges
FORMAT_REWARD = 0.1
REPEATED_WORDS, REPEATED_LIMIT = 10, 10


@dataclass(frozen=True)
class Response:
    """A response taken apart. thinking: "" in fast mode. answer: what stands after the reasoning, stripped.
    well_formed: tags as the mode asks, an answer, and an end of its own."""

    thinking: str
    answer: str
    well_formed: bool


def split_response(text: str, *, deep: bool, finished: bool) -> Response:
    """Take a response apart. text: what was generated after the prompt, which in deep mode ended with "<think>\\n".

    Deep: exactly one closing tag, no opening one, and an answer after it. Fast: no tag at all. finished: it ended by
    itself, not at the most tokens.
    """
    if not deep:
        answer = text.strip()
        return Response("", answer, finished and bool(answer) and OPEN not in text and CLOSE not in text)
    thinking, tag, answer = text.partition(CLOSE)
    answer = answer.strip()
    whole = bool(tag) and bool(answer) and CLOSE not in answer and OPEN not in text
    return Response(thinking.strip(), answer if tag else "", finished and whole)


def format_reward(response: Response, weight: float = FORMAT_REWARD) -> float:
    return weight if response.well_formed else 0.0


def repetition_reward(text: str, words: int = REPEATED_WORDS, limit: int = REPEATED_LIMIT) -> float:
    """-1 when any run of `words` words stands `limit` times or more, else 0. Han characters count as words."""
    pieces = re.findall(r"[\u3400-\u9fff]|[^\s\u3400-\u9fff]+", text)
    runs = Counter(tuple(pieces[i : i + words]) for i in range(len(pieces) - words + 1))
    return -1.0 if runs and max(runs.values()) >= limit else 0.0


def plain(text: str) -> str:
    """What comparing labels forgives: width and case of letters, spaces, quotes, a final full stop."""
    text = unicodedata.normalize("NFKC", text).strip().strip("\"'`*“”‘’「」")
    return " ".join(text.rstrip(".。!").split()).casefold()


_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_STATED = re.compile(r"(?:^|\b)(?:the )?(?:final )?answer(?: is|:)\s*(.+)$|答案(?:是|：|:)\s*(.+)$", re.IGNORECASE)


def stated(answer: str) -> str:
    """The part of an answer that states it: inside \\boxed{}, after "the answer is" in its last line, or all of it."""
    boxed = _BOXED.findall(answer)
    if boxed:
        return str(boxed[-1]).strip()
    last = answer.strip().splitlines()[-1] if answer.strip() else ""
    found = _STATED.search(last)
    return (found[1] or found[2]).strip() if found else answer.strip()


_NUMBER = re.compile(r"(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?(?:[eE][-+]?\d+)?(?![\w/])")
_MONEY = "$€£¥￥元"


def number_of(text: str) -> Fraction | None:
    """The one number that a text holds, exactly; None for none or several. Signs of money and percent are left out."""
    text = unicodedata.normalize("NFKC", text)
    for sign in _MONEY:
        text = text.replace(sign, " ")
    found = _NUMBER.findall(text.replace("%", " "))
    if len(found) != 1:
        return None
    try:
        return Fraction(found[0].replace(",", "").replace("−", "-"))
    except (ValueError, ZeroDivisionError):
        return None


def _is_number(text: str) -> bool:
    """Whether a text is one number and nothing but signs of money or percent."""
    text = unicodedata.normalize("NFKC", text).strip()
    rest = _NUMBER.sub("", re.sub(f"[{_MONEY}%\\s]", " ", text).strip(), count=1)
    return number_of(text) is not None and not rest.strip()


_CHOICE = re.compile(r"\(?([A-Ha-h])\)?[.:、)]?")
_YES = {word: True for word in ("yes", "true", "是", "有")} | {
    word: False for word in ("no", "false", "否", "不是", "没有")
}


def choice_of(text: str) -> str | None:
    """The option letter that an answer is or begins with ("B", "(b)", "B. a dog"), else None."""
    text = text.strip()
    whole = _CHOICE.fullmatch(text)
    if whole:
        return whole[1].upper()
    begins = re.match(r"\(?([A-H])[.:、)]\s", text)
    return begins[1] if begins else None


def yes_no_of(text: str) -> bool | None:
    """What an answer says that begins with yes or no, in English or Chinese, else None."""
    text = plain(text)
    first = re.match(r"[a-z]+|没有|不是|是|否|有", text)
    return _YES.get(first[0]) if first else None


_MONTHS = {name: i for i, name in enumerate("jan feb mar apr may jun jul aug sep oct nov dec".split(), 1)}
_DATES = (
    (re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})"), "ymd"),
    (re.compile(r"(\d{4})年(\d{1,2})月(\d{1,2})日?"), "ymd"),
    (re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})"), "dmy"),
    (re.compile(r"(\d{1,2})(?:st|nd|rd|th)? ([a-z]{3,9})\.?,? (\d{4})"), "dmy"),
    (re.compile(r"([a-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})"), "mdy"),
    (re.compile(r"(\d{1,2})/(\d{1,2})/(\d{4})"), "/"),  # day or month first: equal only to the same order
)


def date_of(text: str) -> tuple[str | int, ...] | None:
    """The date that a text is, as (year, month, day); one written with slashes as ("/", first, second, year)."""
    text = plain(text)
    for pattern, order in _DATES:
        found = pattern.fullmatch(text)
        if not found:
            continue
        fields = dict(zip(order if order != "/" else "12y", found.groups(), strict=True))
        if order == "/":
            return "/", int(fields["1"]), int(fields["2"]), int(fields["y"])
        month = fields["m"]
        number = int(month) if month.isdigit() else _MONTHS.get(month[:3], 0)
        day = int(fields["d"])
        return (int(fields["y"]), number, day) if 1 <= number <= 12 and 1 <= day <= 31 else None
    return None


_BOX = re.compile(r"<box>\s*(.+?)\s*</box>|[\[(]\s*([-\d.,\s]+?)\s*[\])]")


def box_of(text: str) -> tuple[float, float, float, float] | None:
    """The one box (left, top, right, bottom) that a text holds, in <box> tags or brackets, else None."""
    found = _BOX.findall(text)
    if len(found) != 1:
        return None
    numbers = [float(x) for x in re.findall(r"-?\d+(?:\.\d+)?", found[0][0] or found[0][1])]
    if len(numbers) != 4 or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        return None
    return numbers[0], numbers[1], numbers[2], numbers[3]


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(0.0, width) * max(0.0, height)
    total = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / total if total > 0 else 0.0


def kind_of(reference: str, num_tokens: int, limit: int = ROUTER_TOKENS) -> str:
    """The rule that judges a reference answer, or PROBABILITY.

    A box is one at any length; otherwise the reference must be at most `limit` tokens and a number, option letter, yes
    or no, date, or one word (a date may be as long as dates are).
    """
    text = reference.strip()
    if box_of(text) is not None and _BOX.sub("", text).strip() == "":
        return "box"
    if date_of(text) is not None:
        return "date"
    if num_tokens > limit:
        return PROBABILITY
    if _is_number(text):
        return "number"
    if re.fullmatch(r"\(?[A-H]\)?\.?", text):
        return "choice"
    if plain(text) in _YES:
        return "yes_no"
    return "label" if len(text.split()) == 1 else PROBABILITY


def rule_reward(kind: str, answer: str, reference: str) -> float:
    """How right an answer is by a rule, in 0..1; only boxes are ever in between.

    kind: of `kind_of`; "exact": equal but for space at the ends of lines; "none": nothing is known to be right.
    """
    if kind == "none":
        return 0.0
    if kind == "exact":
        return float(_lines(answer) == _lines(reference))
    said = stated(answer)
    if kind == "box":
        found, wanted = box_of(said), box_of(reference)
        return 0.0 if found is None or wanted is None else iou(found, wanted)
    if kind == "number":
        return float(_same_number(said, reference))
    if kind == "choice":
        return float(choice_of(said) == choice_of(reference))
    if kind == "yes_no":
        return float(yes_no_of(said) == yes_no_of(reference))
    if kind == "date":
        return float(date_of(said) is not None and date_of(said) == date_of(reference))
    if kind == "label":
        return float(plain(said) == plain(reference))
    raise ValueError(f"there is no rule {kind!r}; there are exact, box, number, choice, yes_no, date, label, none")


def _same_number(answer: str, reference: str) -> bool:
    """Equal as numbers; decimals of an endless fraction may be cut at the sixth significant digit."""
    a, b = number_of(answer), number_of(reference)
    return a is not None and b is not None and (a == b or math.isclose(a, b, rel_tol=1e-6))


def _lines(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines())
