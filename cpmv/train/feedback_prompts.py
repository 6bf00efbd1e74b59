"""What the policy is asked when it learns from feedback: drawn scenes whose contents are known, or anyone's pictures.

A prompt has a number, and the same number gives the same prompt. Scenes come from the generator of training, whose
colour-and-shape pairs leave out those that frozen evaluation sets hold back; numbers of held-out scenes never meet
those of training. Each prompt's picture is a file, so that pairs can be read again in RLAIF-V's format.
"""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import CpmvError
from ..inputs.messages import Image, Message, Text
from .formats import Source
from .records import BadSample, Record
from .samples import problem_of

if TYPE_CHECKING:
    import PIL.Image

    from .draw.scenes import Scene

_SIZES = ((224, 224), (196, 252), (252, 196), (210, 238))  # width, height, px
_HELD_OUT = 1 << 40
_ATTEMPTS = 400
DRAWN = ("describe",)


@dataclass(frozen=True)
class Asked:
    """A question about one picture. objects: (colour, shape) of all that is there, where it is known. reference: an
    exact answer, where there is one."""

    number: int
    image: Path
    question: str
    objects: tuple[tuple[str, str], ...] | None = None
    reference: str | None = None

    def messages(self, question: str | None = None) -> list[Message]:
        """The conversation up to the answer; `question`: another one about the same picture."""
        return [Message("user", [Image(str(self.image)), Text(self.question if question is None else question)])]


class Prompts(Protocol):
    """size: prompts that differ, None for any number. take: the prompt of a number, its picture under `folder`."""

    size: int | None

    def take(self, number: int, folder: Path) -> Asked: ...


class ScenePrompts:
    """Drawn scenes to be described."""

    size: int | None = None

    def __init__(self, *, seed: int = 0, held_out: bool = False) -> None:
        self._seed, self._held_out = seed, held_out

    def take(self, number: int, folder: Path) -> Asked:
        import numpy as np

        from .draw.prompts import SCENE
        from .draw.scenes import describe, draw_language, draw_scene, wording

        rng = np.random.default_rng([self._seed, number + (_HELD_OUT if self._held_out else 0)])
        width, height = _SIZES[int(rng.integers(len(_SIZES)))]
        language = draw_language(rng)
        for _ in range(_ATTEMPTS):
            scene = draw_scene(rng, width, height, held_out=False)
            text = describe(scene, language)
            if text is not None:
                break
        else:
            raise CpmvError(f"no scene with a clear order could be drawn for prompt {number}")
        question = wording(rng, SCENE, "describe", language)
        path = folder / f"{number:06d}.png"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            whole = path.with_suffix(".part")
            _render(scene, rng).save(whole, format="PNG")
            os.replace(whole, path)
        return Asked(number, path, question, tuple(figure.pair for figure in scene.figures), text)


def _render(scene: Scene, rng: Any) -> PIL.Image.Image:
    """The scene's picture. No text is drawn, so an atlas with one empty glyph is enough."""
    import numpy as np
    import PIL.Image
    import torch

    from .draw.atlas import CELL, Atlas
    from .draw.display import Capacity, Display, SheetPacker
    from .draw.glyphs import DeviceAtlas

    atlas = Atlas(
        characters=" ",
        cells=np.zeros((1, CELL, CELL), np.uint8),
        glyph=np.zeros((1, 1), np.int32),
        advance=np.full((1, 1), 0.5, np.float32),
        names=["none"],
        families=["none"],
        kinds=["sans"],
        held_out=np.zeros(1, bool),
    )
    sheet = scene.sheet(rng)
    capacity = Capacity(1, (1, 1, 1), max(1, len(sheet.marks)))
    packer = SheetPacker(atlas, capacity)
    packer.add([sheet])
    device = torch.device("cpu")
    with torch.inference_mode():
        drawn = Display(DeviceAtlas(atlas, device), capacity, scene.height, scene.width).clean(packer.batch())
    pixels = (drawn[0] * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(pixels)


class RecordPrompts:
    """Pictures with a question each, in a shuffled order, one epoch after another."""

    def __init__(self, items: Sequence[tuple[Any, str]], *, seed: int = 0, shuffle: bool = True) -> None:
        self._items, self._seed, self._shuffle = list(items), seed, shuffle
        self.size: int | None = len(self._items)

    @staticmethod
    def split(sources: Sequence[Source], held_out: int, *, seed: int = 0) -> tuple[RecordPrompts, RecordPrompts]:
        """Prompts to learn from, and `held_out` others, at most a fifth, to measure on.

        Rows that do not ask one question about one picture are added to their source's problems.
        """
        items: list[tuple[Any, str]] = []
        for source in sources:
            for record in source.records:
                try:
                    items.append(_question(record))
                except BadSample as error:
                    source.problems.append(problem_of(source, record, error))
        if len(items) < 2:
            raise CpmvError("fewer than two rows of --data ask one question about one picture; give more")
        random.Random(seed).shuffle(items)
        count = max(1, min(held_out, len(items) // 5))
        return RecordPrompts(items[count:], seed=seed), RecordPrompts(items[:count], shuffle=False)

    def take(self, number: int, folder: Path) -> Asked:
        epoch, place = divmod(number, len(self._items))
        order = list(range(len(self._items)))
        if self._shuffle:
            random.Random(self._seed * 1_000_003 + epoch).shuffle(order)
        image, question = self._items[order[place]]
        if isinstance(image, (str, Path)) and not str(image).startswith("data:"):
            return Asked(number, Path(image).resolve(), question)
        from ..inputs.image import open_image

        path = folder / f"{number:06d}.png"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            whole = path.with_suffix(".part")
            open_image(image).save(whole, format="PNG")
            os.replace(whole, path)
        return Asked(number, path, question)


def _question(record: Record) -> tuple[Any, str]:
    """A record's picture and question. Raises BadSample."""
    turns = record.messages[:-1] if record.messages[-1].role == "assistant" else record.messages
    parts = [part for turn in turns for part in turn.content]
    pictures = [part for part in parts if isinstance(part, Image)]
    if len(turns) != 1 or len(pictures) != 1 or len(parts) - 1 != sum(isinstance(part, Text) for part in parts):
        raise BadSample("learning from feedback asks one question about one picture; this row has another form")
    question = "\n".join(part.text for part in parts if isinstance(part, Text)).strip()
    if not question:
        raise BadSample("there is a picture but no question")
    return pictures[0].source, question
