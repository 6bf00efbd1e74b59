"""A sample of an evaluation set, and sets as files: one zip a set with `samples.jsonl` and its lossless pictures.

Frames of a clip lie below each other in one picture, pictures are stored once however many samples show them, and the
archive carries no time stamps: the same seed and the same fonts give the same bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CpmvError

if TYPE_CHECKING:
    from PIL.Image import Image

ROWS = "samples.jsonl"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip can hold


class EvalError(CpmvError):
    """A set, a run or a request about them that cannot be used."""


@dataclass
class Turn:
    """Pictures, then a question, then its answer. The last turn of a sample is the one that is asked."""

    images: list[Image]
    text: str
    answer: str


@dataclass
class Sample:
    """A conversation whose last answer is asked for.

    groups: for clips, the frames of each package as temporal ids in tenths of a second; None for pictures.
    meta: facts that a score or a control needs: `kind` of question, `language` ("en", "zh"), `opposite` answer with
    times reversed, objects, grid, ...
    """

    turns: list[Turn]
    meta: dict[str, Any] = field(default_factory=dict)
    groups: list[list[int]] | None = None

    @property
    def question(self) -> str:
        return self.turns[-1].text

    @property
    def answer(self) -> str:
        return self.turns[-1].answer

    @property
    def images(self) -> list[Image]:
        """All pictures, in order."""
        return [image for turn in self.turns for image in turn.images]


def picture(images: Image | Sequence[Image], question: str, answer: str, **meta: Any) -> Sample:
    """A sample of one turn."""
    shown = list(images) if isinstance(images, Sequence) else [images]
    return Sample([Turn(shown, question, answer)], meta)


def encode(image: Image) -> bytes:
    """Lossless WebP. Method 4: method 6 takes a hundred times as long for 3 % fewer bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=True, quality=100, method=4)
    return buffer.getvalue()


def strips(images: Sequence[Image]) -> list[list[Image]]:
    """Neighbours of one size together: frames compress far better in one picture."""
    found: list[list[Image]] = []
    for image in images:
        if found and found[-1][0].size == image.size:
            found[-1].append(image)
        else:
            found.append([image])
    return found


def stack(images: Sequence[Image]) -> Image:
    """Pictures of one size below each other."""
    if len(images) == 1:
        return images[0]
    from PIL import Image as PILImage

    width, height = images[0].size
    out = PILImage.new("RGB", (width, height * len(images)))
    for index, image in enumerate(images):
        out.paste(image, (0, index * height))
    return out


def cut(image: Image, count: int) -> list[Image]:
    """What `stack` was given."""
    width, height = image.width, image.height // count
    return [image.crop((0, i * height, width, (i + 1) * height)) for i in range(count)] if count > 1 else [image]


def write_set(path: Path, samples: Iterable[Sample]) -> int:
    """Write a set; return its size in bytes."""
    names: dict[bytes, str] = {}
    rows: list[str] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for sample in samples:
            turns = []
            for turn in sample.turns:
                shown = []
                for strip in strips(turn.images):
                    data = encode(stack(strip))
                    if data not in names:
                        names[data] = f"{len(names)}.webp"
                        archive.writestr(zipfile.ZipInfo(names[data], _EPOCH), data)
                    shown.append([names[data], len(strip)])
                turns.append({"images": shown, "text": turn.text, "answer": turn.answer})
            row: dict[str, Any] = {"turns": turns, "meta": sample.meta}
            if sample.groups is not None:
                row["groups"] = sample.groups
            rows.append(json.dumps(row, ensure_ascii=False, separators=(",", ":")))
        info = zipfile.ZipInfo(ROWS, _EPOCH)
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, "\n".join(rows) + "\n", compresslevel=9)
    return path.stat().st_size


def read_set(path: Path, limit: int | None = None) -> list[Sample]:
    """Read a set, or its first `limit` samples. Raises EvalError for a file that is no set."""
    from PIL import Image as PILImage

    try:
        with zipfile.ZipFile(path) as archive:
            rows = [json.loads(line) for line in archive.read(ROWS).decode("utf-8").splitlines()[:limit]]
            opened: dict[str, Image] = {}
            for name in {name for row in rows for turn in row["turns"] for name, _ in turn["images"]}:
                opened[name] = PILImage.open(io.BytesIO(archive.read(name))).convert("RGB")
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise EvalError(f"{path} is not an evaluation set ({error}); draw sets with: cpmv eval draw FOLDER") from None
    return [
        Sample(
            [
                Turn([i for name, n in turn["images"] for i in cut(opened[name], n)], turn["text"], turn["answer"])
                for turn in row["turns"]
            ],
            row["meta"],
            row.get("groups"),
        )
        for row in rows
    ]
