"""`cpmv chat`: one question, a conversation in the terminal, or questions from a pipe, about files told by content.

Options -> `cpmv.load` -> for each question: messages -> `processor` -> `stream` -> `Screen`. Conversations
in a terminal or from a pipe, with their commands, are in `terminal`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .arguments import UsageError, described, number, parse, text
from .progress import Progress

if TYPE_CHECKING:
    from ..api import Model
    from ..engine.output import Output
    from ..engine.sampling import SamplingParams
    from ..inputs.messages import Message
    from .conversation import Conversation
    from .screen import Screen

_Flag = tyro.conf.FlagCreatePairsOff


@dataclass
class Chat:
    """Talk about images, videos and PDFs.

    With -q, answer one question; without, begin a conversation (/help lists its commands), or answer what a pipe
    says, one question a line.
    """

    files: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        described(
            "images, videos, PDFs or folders of frames, told apart by content; shown with the first question",
            metavar="[FILES ...]",
        ),
    ] = ()
    question: Annotated[str | None, text("TEXT"), described("ask this, answer, and end", "-q")] = None
    model: Annotated[
        str | None,
        text("MODEL"),
        described("folder, .gguf file, Hugging Face id, or modelscope:ID; by default the bundled model", "-m"),
    ] = None
    mmproj: Annotated[str | None, text("FILE"), described("vision half of a GGUF pair, if not beside it")] = None
    adapter: Annotated[
        str | None, text("DIR"), described("LoRA adapter to put beside the weights, as cpmv train writes it")
    ] = None
    device: Annotated[str | None, text("DEVICE"), described("auto, cpu, cuda, cuda:N or mps (default: auto)")] = None
    dtype: Annotated[str | None, text("DTYPE"), described("auto, bfloat16, float16, float32 (default: auto)")] = None
    max_memory: Annotated[
        str | None, text("SIZE"), described("refuse to load what needs more, such as 8GB (default: what is free)")
    ] = None
    think: Annotated[bool, _Flag, described("reason before answering")] = False
    fps: Annotated[
        float | None,
        number(float, "RATE", 0.01, 1000),
        described("frames to look at for each second of video (default: 3)"),
    ] = None
    packing: Annotated[
        int | None, number(int, "N", 1, 6), described("frames packed into 64 tokens, 1 to 6 (default: by length)")
    ] = None
    max_slices: Annotated[
        int | None, number(int, "N", 1), described("most slices of a large image (default: the checkpoint's)")
    ] = None
    pages: Annotated[str | None, text("RANGE"), described("pages of PDFs, such as 1-3,7 (default: all)")] = None
    system: Annotated[str, described("system prompt", metavar="TEXT")] = ""
    greedy: Annotated[bool, _Flag, described("always take the likeliest token (the bundled model does by itself)")] = (
        False
    )
    seed: Annotated[int | None, number(int, "N", 0), described("make the drawing of tokens repeatable")] = None
    max_new_tokens: Annotated[
        int, number(int, "N", 1), described("longest answer, in tokens, thinking included (default: 2048)")
    ] = 2048
    json: Annotated[bool, _Flag, described("print one JSON object for each answer, and nothing else on stdout")] = False

    def sampling(self, greedy: bool) -> SamplingParams:
        """greedy: whether the checkpoint asks for the likeliest token."""
        from ..engine.sampling import SamplingParams

        params = SamplingParams.default(self.greedy or greedy)
        return params.replace(max_new_tokens=self.max_new_tokens, seed=self.seed)


def run(argv: list[str]) -> int:
    options = parse(Chat, "chat", argv)
    if options.question is not None and not options.question.strip():
        raise UsageError("--question is empty; write what to ask")
    from .conversation import Conversation

    conversation = Conversation(options.fps, options.packing, options.pages)
    for file in options.files:  # a wrong path is told before the model takes its time to load
        conversation.attach(file)
    if options.question is not None:
        conversation.check_used()
    session = Session.open(options, conversation)
    if options.question is not None:
        session.ask(options.question)
        return 0
    from . import terminal

    return terminal.converse(session)


@dataclass
class Session:
    """A loaded model, a conversation with it, and where answers go. `think` can be switched between questions."""

    options: Chat
    conversation: Conversation
    model: Model
    screen: Screen
    think: bool
    load_s: float
    seeds: Iterator[int] | None

    @classmethod
    def open(cls, options: Chat, conversation: Conversation) -> Session:
        """Load the model, with a progress bar."""
        start = time.perf_counter()
        import cpmv

        from .screen import Screen

        with Progress("loading weights", "bytes") as progress:
            model = cpmv.load(
                options.model,
                device=options.device,
                dtype=options.dtype,
                mmproj=options.mmproj,
                max_memory=options.max_memory,
                adapter=options.adapter,
                progress=progress,
            )
        # Each question of a seeded conversation draws its own numbers.
        seeds = None if options.seed is None else itertools.count(options.seed)
        return cls(options, conversation, model, Screen(), options.think, time.perf_counter() - start, seeds)

    def ask(self, question: str) -> None:
        """Answer and keep the turn. Ctrl-C ends the answer; what there is of it is kept, and the interrupt raised."""
        asked = self.conversation.asked(question)
        turn = Turn(self, asked)
        try:
            turn.answer()
        except KeyboardInterrupt:
            if turn.output is not None and turn.output.text:
                self.conversation.answered(asked, turn.output.text)
            raise
        assert turn.output is not None
        self.conversation.answered(asked, turn.output.text)


class Turn:
    """One question on its way through the model, timed. `output` is set once an answer has begun, even a broken one."""

    def __init__(self, session: Session, asked: list[Message]) -> None:
        self.session, self.asked = session, asked
        self.output: Output | None = None
        self.num_visual_tokens = 0
        self.timings: dict[str, float] = {}

    def answer(self) -> None:
        """Prepare, generate and show the answer."""
        from ..engine.generate import stream

        session, options, screen = self.session, self.session.options, self.session.screen
        params = options.sampling(session.model.config.greedy)
        if session.seeds is not None:
            params = params.replace(seed=next(session.seeds))
        start = time.perf_counter()
        with Progress("reading frames", "frames") as progress:
            inputs = session.model.processor(
                self.asked,
                enable_thinking=session.think,
                max_slice_nums=options.max_slices,
                system_prompt=options.system,
                progress=progress,
            )
        self.num_visual_tokens = int((inputs.image_bounds[:, 1] - inputs.image_bounds[:, 0]).sum())
        prepared = time.perf_counter()
        first: float | None = None
        network, tokenizer = session.model.network, session.model.tokenizer
        pieces = stream(network, tokenizer, inputs, params, thinking=session.think)
        try:
            for piece in pieces:
                first = first or time.perf_counter()
                if not options.json:
                    screen.piece(piece.text, piece.kind)
        finally:
            pieces.close()
            end = time.perf_counter()
            self.output = pieces.output
            self.timings = {
                "load_s": session.load_s,
                "prepare_s": prepared - start,
                "first_text_s": (first or end) - start,
                "total_s": end - start,
            }
            if not options.json:
                screen.end(self.summary(end - (first or end)))
        if options.json:
            from .screen import print_json

            print_json(self.report())

    def summary(self, writing_s: float) -> str:
        """Say in a line what the answer took, and why it ended if not by itself."""
        assert self.output is not None
        written = len(self.output.token_ids)
        parts = [f"{self.output.num_prompt_tokens} tokens read, {self.num_visual_tokens} of them visual"]
        parts.append(f"first words after {self.timings['first_text_s']:.1f} s")
        speed = f" at {(written - 1) / writing_s:.1f} a second" if written > 1 and writing_s > 0 else ""
        parts.append(f"{written} written{speed}")
        if self.output.finish_reason == "length":
            parts.append("cut off there by --max-new-tokens or the context")
        return "; ".join(parts)

    def report(self) -> dict[str, Any]:
        """The answer as `--json` prints it: tokens as counts, times in seconds."""
        assert self.output is not None
        model, output = self.session.model, self.output
        return {
            "answer": output.text,
            "thinking": output.thinking,
            "finish_reason": output.finish_reason,
            "prompt_tokens": output.num_prompt_tokens,
            "visual_tokens": self.num_visual_tokens,
            "answer_tokens": len(output.token_ids),
            "timings": {name: round(seconds, 4) for name, seconds in self.timings.items()},
            "model": {
                "name": self.session.options.model or "bundled",
                "version": model.config.version,
                "format": model.format,
                "device": str(model.device),
                "dtype": str(model.dtype).removeprefix("torch."),
            },
        }
