"""Prompts for reinforcement learning: anyone's rows with what is right, or tasks drawn on the way, without an end.

A prompt has a number; the same number gives the same question, in fast or in deep mode, so that a resumed run reads on
where it stopped. Drawn tasks come from the generators of training, whose words, faces and layouts the frozen
evaluation sets do not use; sums without a picture could coincide with frozen ones and are compared number by number.
"""

from __future__ import annotations

import json
import logging
import re
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import CpmvError
from ..inputs.messages import Image, Message, Text, Video
from ..inputs.processor import Processor
from ..model.config import ModelInputs
from .formats import Source
from .mixture import Mixture
from .records import BadSample, Record
from .rewards import CLOSE, PROBABILITY, ROUTER_TOKENS, kind_of
from .rollouts import Prompt
from .samples import Reading, answered, measure, problem_of

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    import torch

    from .draw.atlas import Atlas
    from .draw.document import Document

log = logging.getLogger("cpmv")

# name of --drawn: kinds of documents with their weights, and what their tasks must be called
DRAWN: dict[str, tuple[dict[str, float], str]] = {
    "think": ({"think": 5.0, "think_text": 2.0, "think_clip": 1.0}, r".*"),
    "sums": ({"think_text": 1.0}, r".*"),
    "count": ({"scene": 1.0}, r"scene_count.*"),
    "chart": ({"chart": 1.0}, r"chart_(value|largest|smallest|more|count)"),
    "receipt": ({"receipt": 1.0}, r".*total.*"),
}
_SIZES = ((224, 224), (196, 252), (252, 196), (210, 238))  # width, height of pictures, px
_FRAME = (140, 84)  # of a frame of a clip
_HELD_OUT = 1 << 40  # numbers from here are never trained on
_ATTEMPTS = 400
EVAL_SETS = Path(__file__).parents[1] / "evals" / "sets"


class Prompts(Protocol):
    """size: prompts that differ, None for any number. take: prompts by number and mode; None for one that is bad."""

    size: int | None

    def take(self, wanted: Sequence[tuple[int, bool]]) -> list[Prompt | None]: ...


class RecordPrompts:
    """Rows of files, in the order of a mixture.

    rule: how answers are judged, instead of what each reference looks like. baselines: r' of records judged by
    probability, by index; set before the first of them is taken.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        processor: Processor,
        reading: Reading,
        mixture: Mixture,
        *,
        rule: str | None = None,
        router_tokens: int = ROUTER_TOKENS,
    ) -> None:
        self.sources, self._processor, self._reading = list(sources), processor, reading
        self.items = [(source, record) for source in sources for record in source.records]
        self.mixture = mixture
        self.size: int | None = len(self.items)
        self.baselines: dict[int, float] = {}
        self._rule, self._router_tokens = rule, router_tokens
        self._known_bad: set[int] = set()

    def take(self, wanted: Sequence[tuple[int, bool]]) -> list[Prompt | None]:
        return [self._take(number, deep) for number, deep in wanted]

    def _take(self, number: int, deep: bool) -> Prompt | None:
        index = self.mixture.index(number)
        try:
            return self.make(index, deep, number)
        except CpmvError as error:
            if index not in self._known_bad:
                self._known_bad.add(index)
                source, record = self.items[index]
                source.problems.append(problem_of(source, record, error))
                log.warning("left out: %s", source.problems[-1])
            return None

    def make(self, index: int, deep: bool, number: int = 0) -> Prompt:
        """The prompt of a record. Raises CpmvError when its media cannot be read."""
        _, record = self.items[index]
        messages, reference = question_of(record)
        inputs = self._processor(
            messages, enable_thinking=deep, max_inp_length=self._reading.max_tokens, **self._reading.media()
        )
        question = "\n".join(part.text for part in messages[-1].content if isinstance(part, Text))
        return Prompt(number, deep, inputs, reference, self.kind(index), question, baseline=self.baselines.get(index))

    def kind(self, index: int) -> str:
        """How a record's answers are judged: the row's own `rule`, this run's, or what its reference looks like."""
        _, record = self.items[index]
        reference = question_of(record)[1]
        chosen = record.extra.get("rule") or self._rule
        return str(chosen or kind_of(reference, self._length(reference), self._router_tokens))

    def _length(self, text: str) -> int:
        return len(self._processor.tokenizer.encode_plain(text.strip()))

    def unruled(self) -> list[int]:
        """Indices of records that are judged by probability."""
        return [index for index in range(len(self.items)) if self.kind(index) == PROBABILITY]


def question_of(record: Record) -> tuple[list[Message], str]:
    """The turns up to the question, and what is right: the solution, or the answer that follows. Raises BadSample."""
    messages = record.messages
    if messages[-1].role == "assistant":
        answer = "\n".join(part.text for part in messages[-1].content if isinstance(part, Text))
        messages = messages[:-1]
        reference = answer.rpartition(CLOSE)[2]
    else:
        reference = ""
    if record.solution is not None:
        reference = record.solution if isinstance(record.solution, str) else json.dumps(record.solution)
    if not reference.strip():
        raise BadSample("there is neither a solution nor an answer, so nothing tells what is right")
    if not messages or messages[-1].role != "user":
        raise BadSample("the conversation has no question at its end")
    return messages, reference.strip()


def drop_unusable(sources: Sequence[Source], processor: Processor, reading: Reading, *, strict: bool) -> None:
    """Drop, in place, rows without what is right, without their media, or too long; only sizes of media are read."""
    for source in sources:
        kept = []
        for record in source.records:
            try:
                messages, reference = question_of(record)
                whole = Record(messages, solution=reference)
                measure(processor, answered(whole), False, reading)
            except CpmvError as error:
                problem = problem_of(source, record, error)
                if strict:
                    raise CpmvError(f"{problem} (--strict was given)") from error
                source.problems.append(problem)
            else:
                kept.append(record)
        source.records = kept


class DrawnPrompts:
    """Tasks that `cpmv.train.draw` makes, with exact answers. names: of DRAWN, drawn evenly.

    atlas: of glyphs; None is enough for "sums". device: where pictures are drawn, all of a call at once. held_out:
    other numbers and words, for evaluation. rules: (expression over tasks' names, rule), the first that fits counts;
    without one an answer must be exact.
    """

    size: int | None = None

    def __init__(
        self,
        names: Sequence[str],
        processor: Processor,
        reading: Reading,
        *,
        seed: int = 0,
        atlas: Atlas | None = None,
        device: torch.device | None = None,
        held_out: bool = False,
        rules: Sequence[tuple[str, str]] = (),
    ) -> None:
        if unknown := [name for name in names if name not in DRAWN]:
            raise CpmvError(f"there are no drawn tasks {', '.join(unknown)}; there are {', '.join(DRAWN)}")
        if atlas is None and any(set(DRAWN[name][0]) != {"think_text"} for name in names):
            raise CpmvError("these tasks need a glyph atlas; make one with: python -m cpmv.train.draw.atlas FILE")
        self._names, self._processor, self._reading, self._seed = list(names), processor, reading, seed
        self._held_out, self._atlas, self._device, self._rules = held_out, atlas, device, tuple(rules)
        self._maker = self._make_maker()
        self._glyphs: Any = None
        self._frozen = frozen_sums()

    def _make_maker(self) -> Any:
        if self._atlas is None:
            return None
        from .draw.document import Metrics
        from .draw.documents import Maker

        return Maker(Metrics(self._atlas), held_out=self._held_out)

    def take(self, wanted: Sequence[tuple[int, bool]]) -> list[Prompt | None]:
        documents = [self._document(number) for number, _ in wanted]
        pictures = self._draw(documents)
        return [
            self._prompt(number, deep, document, shown)
            for (number, deep), document, shown in zip(wanted, documents, pictures, strict=True)
        ]

    def _document(self, number: int) -> Document:
        """The document of a number: the first of its draws that is one of the tasks wanted and not frozen."""
        import numpy as np

        rng = np.random.default_rng([self._seed, number + (_HELD_OUT if self._held_out else 0)])
        name = self._names[int(rng.integers(len(self._names)))]
        shares, pattern = DRAWN[name]
        kinds = list(shares)
        weights = np.array([shares[kind] for kind in kinds])
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        for _ in range(_ATTEMPTS):
            document = self._attempt(kind, rng)
            if re.fullmatch(pattern, document.task) and len(document.turns) == 1 and not self._is_frozen(document):
                return document
        raise CpmvError(f"no task of {name} could be drawn")

    def _attempt(self, kind: str, rng: np.random.Generator) -> Document:
        if self._maker is None:
            from .draw import think

            tasks = list(think.TEXT_TASKS.values())
            return tasks[int(rng.integers(len(tasks)))](cast(Any, None), rng, 0, 0)
        width, height = _FRAME if kind == "think_clip" else _SIZES[int(rng.integers(len(_SIZES)))]
        return cast("Document", self._maker.make(kind, rng, width, height))

    def _is_frozen(self, document: Document) -> bool:
        return not document.sheets and numbers_of(document.turns[-1].question) in self._frozen

    def _draw(self, documents: Sequence[Document]) -> list[list[PIL.Image.Image]]:
        """The pictures of all documents; sheets of one size are drawn together."""
        out: list[list[PIL.Image.Image]] = [[] for _ in documents]
        by_size: dict[tuple[int, int], list[tuple[int, Any]]] = {}
        for index, document in enumerate(documents):
            for sheet in document.sheets:
                by_size.setdefault((sheet.width, sheet.height), []).append((index, sheet))
        for (width, height), members in by_size.items():
            for start in range(0, len(members), 64):
                part = members[start : start + 64]
                images = self._render([sheet for _, sheet in part], width, height)
                for (index, _), image in zip(part, images, strict=True):
                    out[index].append(image)
        return out

    def _render(self, sheets: Sequence[Any], width: int, height: int) -> list[PIL.Image.Image]:
        import PIL.Image
        import torch

        from .draw.display import Capacity, Display, SheetPacker
        from .draw.glyphs import DeviceAtlas

        assert self._atlas is not None
        device = self._device or torch.device("cpu")
        if self._glyphs is None:
            self._glyphs = DeviceAtlas(self._atlas, device)
        glyphs = max(1, sum(len(run.text) for sheet in sheets for run in sheet.runs))
        marks = max(1, *(len(sheet.marks) for sheet in sheets))
        capacity = Capacity(len(sheets), (glyphs, glyphs, glyphs), marks)
        packer = SheetPacker(self._atlas, capacity)
        for sheet in sheets:
            packer.add([sheet])
        with torch.inference_mode():
            display = Display(self._glyphs, capacity, height, width)
            drawn = display.clean(packer.batch().to(device))
            pixels = (drawn * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [PIL.Image.fromarray(picture) for picture in pixels]

    def _prompt(
        self, number: int, deep: bool, document: Document, pictures: Sequence[PIL.Image.Image]
    ) -> Prompt | None:
        turn = document.turns[-1]
        content: list[Image | Video | Text] = [*(Image(picture) for picture in pictures), Text(turn.question)]
        options: dict[str, Any] = {"max_slice_nums": 1}
        if document.groups is not None:
            options |= {"temporal_ids": document.groups, "use_image_id": False}
        inputs: ModelInputs = self._processor(
            [Message("user", list(content))],
            enable_thinking=deep,
            max_inp_length=self._reading.max_tokens,
            **options,
        )
        rule = next((rule for expression, rule in self._rules if re.fullmatch(expression, document.task)), "exact")
        return Prompt(number, deep, inputs, turn.answer, rule, turn.question, document.task)


def load_atlas(path: Path) -> Atlas:
    """Read a glyph atlas. Raises CpmvError with the command that makes one."""
    from .draw.atlas import Atlas

    try:
        return Atlas.load(path)
    except FileNotFoundError as error:
        raise CpmvError(str(error)) from None


def numbers_of(question: str) -> tuple[str, ...]:
    """The numbers of a question in rising order: two questions without pictures that share them ask the same."""
    return tuple(sorted(re.findall(r"\d+(?:\.\d+)?", question)))


@lru_cache(maxsize=1)
def frozen_sums() -> frozenset[tuple[str, ...]]:
    """The numbers of every frozen evaluation question that shows nothing and has several numbers."""
    found: set[tuple[str, ...]] = set()
    for name in ("thinking", "talk"):
        with zipfile.ZipFile(EVAL_SETS / f"{name}.zip") as archive:
            rows = archive.read("samples.jsonl").decode("utf-8").splitlines()
        for row in map(json.loads, rows):
            if not any(turn["images"] for turn in row["turns"]):
                found.add(numbers_of(row["turns"][-1]["text"]))
    return frozenset(numbers for numbers in found if len(numbers) > 1)
