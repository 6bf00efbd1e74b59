"""Files to Markdown or JSON files: pages in order, a journal beside each output, and what became of each.

A page counts once it stands in the journal of its file, synced; a run that was killed goes on with the next page. The
output appears whole, by renaming, and its journal goes. An output that is already there is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..batch.journal import Journal
from ..errors import CpmvError, MediaError
from ..inputs.media import media_kind
from .check import check_page, has_text
from .document import read_document
from .markdown import page_marker, write_page
from .page import PageInHand, PageReader

if TYPE_CHECKING:
    from PIL import Image

DEFAULT_DPI = 200
PAGES_AHEAD = 2  # pages whose parts are with the engine while the next is looked at
PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".jp2"}


@dataclass(frozen=True)
class Options:
    """How files are read. schema: JSON Schema for JSON instead of Markdown. pages: of PDFs, such as "1-3,7"."""

    dpi: int = DEFAULT_DPI
    pages: str | None = None
    check: bool = False
    schema: dict[str, Any] | None = None
    overwrite: bool = False

    @property
    def suffix(self) -> str:
        return ".md" if self.schema is None else ".json"


@dataclass
class Source:
    """A file to read and where its text goes. numbers: its pages, counted from 1; a picture is page 1."""

    path: Path
    target: Path
    kind: Literal["image", "pdf"] = "image"
    numbers: list[int] = field(default_factory=list)


@dataclass
class Outcome:
    """What became of a run, by file. doubtful: lines marked. unchecked: pages without a text layer."""

    read: list[Path] = field(default_factory=list)
    already: list[Path] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    num_pages: int = 0
    num_resumed: int = 0
    doubtful: int = 0
    unchecked: int = 0


def plan(files: Sequence[str], out: str, options: Options) -> tuple[list[Source], Outcome]:
    """Find the files, their pages and their outputs, before any model is loaded.

    files: pictures, PDFs and folders of them. out: a file for a single one (it ends in .md or .json), else a folder.
    Unreadable files are in the outcome's `failed`. Raises CpmvError when there is nothing to read or `out` cannot be.
    """
    paths = list(_expand(files))
    if not paths:
        raise CpmvError(f"there are no pictures or PDFs in {', '.join(files)}")
    target = Path(out).expanduser()
    as_file = len(paths) == 1 and target.suffix == options.suffix and not target.is_dir()
    if not as_file and target.suffix in (".md", ".json") and not target.is_dir():
        what = f"ends in {target.suffix}, but {len(paths)} files are to be read" if len(paths) > 1 else "does not fit"
        raise CpmvError(f"-o {out} {what}; name a folder, or one {options.suffix} file for one input")
    sources, outcome = [], Outcome()
    taken: set[Path] = set()
    for path in paths:
        to = target if as_file else target / f"{path.stem}{options.suffix}"
        if to in taken:  # a.pdf and a.png
            to = target / f"{path.name}{options.suffix}"
        taken.add(to)
        if to.exists() and not options.overwrite:
            outcome.already.append(to)
            continue
        try:
            sources.append(_open(path, to, options))
        except (CpmvError, OSError) as error:
            outcome.failed.append((path, str(error)))
    return sources, outcome


def _expand(files: Sequence[str]) -> Iterator[Path]:
    for name in files:
        path = Path(name).expanduser()
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES | {".pdf"} and p.is_file())
        else:
            yield path


def _open(path: Path, target: Path, options: Options) -> Source:
    from ..inputs.image import image_size
    from ..inputs.pdf import page_count, parse_page_range

    kind = media_kind(path)
    if kind == "video":
        raise MediaError(f"{path} is a video; cpmv read takes pictures and PDFs (see cpmv chat)")
    if kind == "pdf":
        return Source(path, target, "pdf", parse_page_range(options.pages, page_count(path)))
    image_size(path)
    return Source(path, target, "image", [1])


class Job:
    """Reads planned files. shape: what else decides the result (the model), kept in journals.

    open_reader: makes the page reader, called once there is something to read. on_page(done): after each page.
    """

    def __init__(
        self,
        options: Options,
        shape: dict[str, Any],
        open_reader: Callable[[], PageReader],
        outcome: Outcome,
        on_page: Callable[[int], None],
    ) -> None:
        self.options, self.shape, self.outcome = options, shape, outcome
        self._open_reader, self._on_page = open_reader, on_page
        self._reader: PageReader | None = None
        self._done = 0

    @property
    def reader(self) -> PageReader:
        if self._reader is None:
            self._reader = self._open_reader()
        return self._reader

    def run(self, sources: Sequence[Source]) -> None:
        """Read every file; what is wrong with one does not stop the others."""
        for source in sources:
            try:
                source.target.parent.mkdir(parents=True, exist_ok=True)
                self._read(source)
                self.outcome.read.append(source.target)
            except MediaError as error:
                self.outcome.failed.append((source.path, str(error)))

    def _read(self, source: Source) -> None:
        path = source.target.with_name(source.target.name + ".journal")
        if self.options.overwrite:
            path.unlink(missing_ok=True)
        with Journal(path, self._identity(source)) as journal:
            if self.options.schema is None:
                text = self._markdown(source, journal)
            else:
                text = self._json(source)
            _write_whole(source.target, text)
            journal.remove()

    def _identity(self, source: Source) -> dict[str, Any]:
        options = self.options
        with open(source.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        decided = {"dpi": options.dpi, "pages": options.pages, "check": options.check, "schema": options.schema}
        return {"file": digest, **decided, **self.shape}

    # ---- Markdown ----

    def _markdown(self, source: Source, journal: Journal) -> str:
        waiting = [at for at in range(len(source.numbers)) if str(at) not in journal]
        resumed = len(source.numbers) - len(waiting)
        self.outcome.num_resumed += resumed
        self._progress(resumed)
        in_hand: deque[tuple[int, PageInHand]] = deque()
        for at, picture in self._pictures(source, waiting):
            in_hand.append((at, self.reader.start(picture)))
            if len(in_hand) > PAGES_AHEAD:
                self._keep(source, journal, *in_hand.popleft())
        while in_hand:
            self._keep(source, journal, *in_hand.popleft())
        pages = [journal.read(str(at)) for at in range(len(source.numbers))]
        self.outcome.num_pages += len(pages)
        self.outcome.doubtful += sum(page["doubtful"] for page in pages)
        self.outcome.unchecked += sum(page["unchecked"] for page in pages)
        if source.kind == "image":
            return pages[0]["markdown"] + "\n"
        return "\n\n".join(
            f"{page_marker(number)}\n\n{page['markdown']}".rstrip()
            for number, page in zip(source.numbers, pages, strict=True)
        ) + "\n"  # fmt: skip

    def _pictures(self, source: Source, wanted: Sequence[int]) -> Iterator[tuple[int, Image.Image]]:
        from ..inputs.image import open_image
        from ..inputs.pdf import iter_pages

        if source.kind == "image":
            for at in wanted:
                yield at, open_image(source.path)
        elif wanted:
            numbers = [source.numbers[at] for at in wanted]
            yield from zip(wanted, iter_pages(source.path, numbers, self.options.dpi), strict=True)

    def _keep(self, source: Source, journal: Journal, at: int, page: PageInHand) -> None:
        """Wait for a page, check it, and put it into the journal."""
        blocks = page.finish()
        unchecked = False
        if self.options.check and source.kind == "pdf":
            from ..inputs.pdf_text import read_text_layer

            layer = read_text_layer(source.path, source.numbers[at], self.options.dpi)
            unchecked = not has_text(layer)
            if not unchecked:
                check_page(blocks, layer)
        lines = [line for block in blocks for line in block.all_lines()]
        doubtful = sum(bool(line.problem) or line.doubt is not None for line in lines)
        result = {"id": str(at), "markdown": write_page(blocks), "doubtful": doubtful, "unchecked": unchecked}
        journal.append([result])
        self._progress(1)

    def _progress(self, pages: int) -> None:
        self._done += pages
        if pages:
            self._on_page(self._done)

    # ---- JSON ----

    def _json(self, source: Source) -> str:
        assert self.options.schema is not None
        pictures = [picture for _, picture in self._pictures(source, range(len(source.numbers)))]
        value = read_document(pictures, self.options.schema, self.reader)
        self.outcome.num_pages += len(pictures)
        self._progress(len(pictures))
        return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _write_whole(target: Path, text: str) -> None:
    """Write a file that is either not there or whole, whatever happens."""
    part = target.with_name(target.name + ".part")
    with open(part, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, target)
