"""From a response to atomic factual claims, each with a yes/no question, by rules or by a model.

The rules know lists of coloured shapes, which the bundled model describes scenes with, in English and Chinese: every
shape named is a claim. Other sentences are cut at their seams; each factual piece is a claim, opinions and guesses are
dropped. A model as the divider is asked for the same as lines. Asking about a whole answer at once is there to compare.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from .draw.prompts import COLOURS, SHAPES

_NUMBERS = {
    "a": 1, "an": 1, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9,
    "一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9,
}  # fmt: skip
_MOST = 20  # of one kind that a number may name: "1000 circles" are not a thousand claims
_ENGLISH = "|".join(COLOURS)
_FORMS = {form: shape for shape, (plural, _) in SHAPES.items() for form in (shape, plural)}
_CHINESE = {chinese: name for name, (chinese, _) in COLOURS.items()}
_CHINESE_SHAPES = {chinese: name for name, (_, chinese) in SHAPES.items()}
_MENTION = re.compile(
    rf"(?:\b(?P<n>{'|'.join(k for k in _NUMBERS if k.isascii())}|\d+)\s+)?"
    rf"(?:\b(?P<c>{_ENGLISH})\s+)(?P<s>{'|'.join(sorted(_FORMS, key=len, reverse=True))})\b"
    rf"|(?:(?P<zn>[{''.join(k for k in _NUMBERS if not k.isascii())}]|\d+)[个颗枚])?"
    rf"(?P<zc>{'|'.join(_CHINESE)})的?(?P<zs>{'|'.join(_CHINESE_SHAPES)})",
    re.IGNORECASE,
)
# What may stand around the shapes of a plain list.
_AROUND = re.compile(
    r"\b(?:the|this|picture|image|scene|shows?|contains?|there|is|are|i|see|and|also|with|has|in|it|of|we|can|as|well)\b"
    r"|图中|图片|画面|图像|显示了?|包含|里|中|有|和|以及|还|是|我|看到了?|这张?|[\s,.;:!?，。、；：！？]",
    re.IGNORECASE,
)
_OPINION = re.compile(
    r"\b(?:I (?:think|believe|feel|guess|like|hope)|in my opinion|perhaps|maybe|probably|possibly|might|may be|seems?"
    r"|appears? to|suggest(?:s|ing)?|likely|beautiful|lovely|pretty|nice|pleasant|charming|cozy|cosy|interesting|great"
    r"|wonderful|amazing|atmosphere|mood|overall|feel free|let me know|hope this)\b"
    r"|我(?:觉得|认为|想|喜欢|猜)|在我看来|也许|可能|大概|或许|似乎|好像|看起来|漂亮|美丽|可爱|有趣|温馨|氛围|气氛|总的来说|总之|希望",
    re.IGNORECASE,
)
_SHORT = r"(?<!\bMr)(?<!\bMrs)(?<!\bMs)(?<!\bDr)(?<!\bSt)(?<!\be\.g)(?<!\bi\.e)(?<!\bvs)"
_SENTENCE = re.compile(rf"{_SHORT}[.!?]+(?=\s|$)|[。！？；;\n]+")
_CLAUSE = re.compile(r",\s+(?:and|while|but|whereas)\s+(?=\w+\s+\w+)|，(?:而且|而|并且|但是|但|同时)")
_LIST_MARK = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)、])\s*|\*\*|^#+\s*")
_LOWERED = frozenset("the a an this that these those it its two three several some on in at to".split())
_HAN = re.compile(r"[\u4e00-\u9fff]")


@dataclass(frozen=True)
class Claim:
    """One fact that a response states. question: of yes or no, in the response's language.

    shape: (colour, shape, n): that there are at least n of them; None for anything else.
    """

    text: str
    question: str
    shape: tuple[str, str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_json(value: dict[str, Any]) -> Claim:
        shape = value.get("shape")
        return Claim(value["text"], value["question"], None if shape is None else (shape[0], shape[1], shape[2]))


class Divider(Protocol):
    """Divides responses, given with the prompts' questions, into claims."""

    def divide(self, answers: Sequence[tuple[str, str]]) -> list[list[Claim]]: ...


def shapes_named(text: str) -> list[tuple[str, str, int]]:
    """Coloured shapes in order of mention, as (colour, shape, which of its kind): "two red stars" are two entries."""
    seen: Counter[tuple[str, str]] = Counter()
    out = []
    for found in _MENTION.finditer(text):
        if found["zc"]:
            pair, number = (_CHINESE[found["zc"]], _CHINESE_SHAPES[found["zs"]]), found["zn"]
        else:
            pair, number = (found["c"].lower(), _FORMS[found["s"].lower()]), found["n"]
        count = 1 if number is None else _NUMBERS.get(number.lower()) or int(number)
        for _ in range(min(count, _MOST)):
            seen[pair] += 1
            out.append((*pair, seen[pair]))
    return out


def sentences_of(text: str) -> list[str]:
    """Sentences and their clauses, without list marks; seams are stops, semicolons, lines, and "..., while ..."."""
    out = []
    for line in text.splitlines():
        line = _LIST_MARK.sub("", line)
        for sentence in _SENTENCE.split(line):
            out += [clause.strip(" \t,，:：\"'“”") for clause in _CLAUSE.split(sentence)]
    return [piece for piece in out if re.search(r"\w", piece)]


class RuleDivider:
    """Divides by rules. They cut at seams of sentences; a sentence with several facts stays one claim."""

    def divide(self, answers: Sequence[tuple[str, str]]) -> list[list[Claim]]:
        return [self.claims_of(answer) for _, answer in answers]

    def claims_of(self, answer: str) -> list[Claim]:
        out = [_shape_claim(shape, _is_chinese(answer)) for shape in shapes_named(answer)]
        for piece in sentences_of(answer):
            if _OPINION.search(piece) or not re.search(r"\w", _AROUND.sub("", _MENTION.sub("", piece))):
                continue
            out.append(Claim(piece, question_of(piece)))
        return out


def _shape_claim(shape: tuple[str, str, int], chinese: bool) -> Claim:
    colour, name, number = shape
    if chinese:
        pair = f"{COLOURS[colour][0]}{SHAPES[name][1]}"
        many = f"至少{number}个" if number > 1 else ""
        return Claim(f"{many or '一个'}{pair}", f"图中有{many}{pair}吗？", shape)
    if number > 1:
        plural = f"{colour} {SHAPES[name][0]}"
        return Claim(f"at least {number} {plural}", f"Are there at least {number} {plural}?", shape)
    article = "an" if colour[0] in "aeio" else "a"
    return Claim(f"{article} {colour} {name}", f"Is there {article} {colour} {name}?", shape)


def question_of(piece: str) -> str:
    """Turn a statement into a question of yes or no."""
    if _is_chinese(piece):
        statement = re.sub(r"^(?:图中|图片中|画面中|图像中|这张图(?:片)?(?:中)?)?有", "", piece)
        return f"图中有{statement}吗？" if statement != piece else f"图中是否如此：{piece}？"
    there = re.match(r"there\s+(is|are|was|were)\s+(.+)", piece, re.IGNORECASE)
    if there:
        return f"{there[1].capitalize()} there {there[2]} in the picture?"
    first = piece.partition(" ")[0]
    lowered = first.lower() if first.lower() in _LOWERED else first
    if first.lower() in ("a", "an") and not re.search(
        r"\b(?:is|are|was|were|has|have|can|\w+s)\b", piece[len(first) :]
    ):
        return f"Is there {lowered}{piece[len(first) :]} in the picture?"
    return f"Is it true that {lowered}{piece[len(first) :]}?"


def _is_chinese(text: str) -> bool:
    return len(_HAN.findall(text)) * 3 > len(re.findall(r"[A-Za-z]", text))


class WholeDivider:
    """The whole answer as one claim: what dividing is compared with."""

    def divide(self, answers: Sequence[tuple[str, str]]) -> list[list[Claim]]:
        return [[Claim(answer, _whole_question(answer))] for _, answer in answers]


def _whole_question(answer: str) -> str:
    if _is_chinese(answer):
        return f"下面的描述完全符合图片吗？请回答是或否。\n{answer}"
    return f"Is everything in this description true of the picture? Answer yes or no.\n{answer}"


_REQUEST = (
    "Below are a question about a picture and an answer to it. List every single fact that the answer states about the "
    "picture, one a line. Leave out opinions, guesses and feelings. Write each line as\n"
    "- FACT => QUESTION\n"
    "where QUESTION asks whether FACT is true and can be answered with yes or no. Use the answer's language. Write "
    "nothing else.\n\nQuestion: {0}\n\nAnswer: {1}"
)
_LINE = re.compile(r"^\s*(?:[-*•]|\d{1,2}[.)、])\s*(.+?)\s*(?:=>|⇒|→)\s*(.+?)\s*$")


class ModelDivider:
    """Asks a model. ask: gives the likeliest answers to texts. A response whose lines cannot be read goes to the rules.

    failed: how many did.
    """

    def __init__(self, ask: Callable[[Sequence[str]], Sequence[str]]) -> None:
        self._ask, self._rules, self.failed = ask, RuleDivider(), 0

    def divide(self, answers: Sequence[tuple[str, str]]) -> list[list[Claim]]:
        out = []
        replies = self._ask([_REQUEST.format(question, answer) for question, answer in answers])
        for (_, answer), reply in zip(answers, replies, strict=True):
            claims = claims_in(reply)
            if not claims and answer.strip():
                self.failed += 1
                claims = self._rules.claims_of(answer)
            out.append(claims)
        return out


def claims_in(reply: str) -> list[Claim]:
    """The claims of a model's reply; lines of another form are skipped, repeated ones are kept once."""
    found = [_LINE.match(line) for line in reply.splitlines()]
    return list(dict.fromkeys(Claim(line[1], line[2]) for line in found if line is not None))
