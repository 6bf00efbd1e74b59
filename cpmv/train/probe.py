"""What the model can do while it trains: greedy answers on small fixed sets, exact match and character error rate.

Sets: every trained picture grid, grids never trained, scenes, clips, held-out faces and words, and blank pictures (a
model that reads must score nothing there). They are drawn once, from a seed of their own, without phase shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from ..model.cache import ContiguousCache
from .config import Shape, TrainConfig
from .joint import Draws, JointObjective
from .joint_model import IGNORE, JointBatch, JointModel
from .metrics import edit_distance

if TYPE_CHECKING:
    from PIL import Image

    from .draw import Batch

_SEED = 2**31 - 1
_ROWS = 512  # that decode together


class Decodes(Protocol):
    """What is needed of a tokenizer."""

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


@dataclass
class ProbeSet:
    """Samples of one sort: model inputs, and the right answers as text."""

    name: str
    batch: JointBatch
    prompt_lengths: Tensor  # int64 [B]
    answers: list[str]
    pictures: Tensor  # a few, float [n, C, h, w]


class Probe:
    """Fixed sets and how to score them. `drawer` draws as in training, `unseen` from held-out faces and words."""

    def __init__(
        self,
        model: JointModel,
        drawer: Draws,
        unseen: Draws | None,
        config: TrainConfig,
        tokenizer: Decodes,
        autocast: torch.dtype | None,
    ) -> None:
        self.model, self.tokenizer, self.autocast = model, tokenizer, autocast
        self._eos = torch.tensor(tokenizer.eos_token_ids, device=model.model.device)
        self.sets: list[ProbeSet] = []
        plan = _plan(config)
        for name, kind, shape in plan:
            source = unseen if name == "held-out" else drawer
            if source is not None:
                self.sets.append(self._draw(name, source, kind, shape, config))

    def _draw(self, name: str, drawer: Draws, kind: str, shape: Shape, config: TrainConfig) -> ProbeSet:
        device = self.model.model.device
        generator = torch.Generator(device).manual_seed(_SEED)
        objective = JointObjective(self.model, drawer, {}, config.combinations, shift=False)
        drawn = objective.draw(kind, config.evaluate_samples, shape, generator)
        if name == "blank":
            drawn.pixels = torch.zeros_like(drawn.pixels)
        supervised = drawn.labels != IGNORE
        answers = [
            self._text(row[mask].tolist()) for row, mask in zip(drawn.labels.cpu(), supervised.cpu(), strict=True)
        ]
        lengths = supervised.int().argmax(1)  # of the prompt: the answer begins right behind it
        batch = objective.assemble([(None if kind == "textonly" else shape, [drawn])], generator)
        return ProbeSet(name, batch, lengths, answers, _some_pictures(drawn))

    def _text(self, ids: list[int]) -> str:
        stop = next((i for i, token in enumerate(ids) if token in self.tokenizer.eos_token_ids), len(ids))
        return self.tokenizer.decode(ids[:stop])

    @torch.no_grad()
    def run(self, sheet: Path | None = None) -> dict[str, dict[str, float]]:
        """Answer every set greedily. Return {set: {"exact", "cer", "n"}} with means over trained and unseen grids.

        sheet: where to save a few pictures with their answers, as PNG.
        """
        scores: dict[str, dict[str, float]] = {}
        shown: list[tuple[Tensor, str, str]] = []
        for probe, given in zip(self.sets, self._answer_all(), strict=True):
            scores[probe.name] = _score(given, probe.answers)
            shown += [(probe.pictures[i], probe.answers[i], given[i]) for i in range(len(probe.pictures))]
        for group in ("trained", "unseen"):
            members = [s for name, s in scores.items() if name.startswith(f"{group} ")]
            if members:
                scores[group] = {k: sum(m[k] for m in members) / len(members) for k in ("exact", "cer")}
                scores[group]["n"] = sum(m["n"] for m in members)
        if sheet is not None:
            draw_sheet(shown).save(sheet)
        return scores

    def _answer_all(self) -> list[list[str]]:
        """Answer every set. All sets decode together: a step of generation costs the same for many rows as for few."""
        device = self.model.model.device
        with (
            torch.compiler.set_stance("force_eager"),
            torch.autocast(device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None),
        ):
            x = torch.cat([self._embed(probe) for probe in self.sets])
            lengths = torch.cat([probe.prompt_lengths for probe in self.sets])
            parts = [self.greedy(*part) for part in zip(x.split(_ROWS), lengths.split(_ROWS), strict=True)]
        texts = iter([self._text(row) for part in parts for row in part.tolist()])
        return [[next(texts) for _ in probe.answers] for probe in self.sets]

    def _embed(self, probe: ProbeSet) -> Tensor:
        """Embeddings of a set's samples [B, S, E], pictures in their places."""
        batch = probe.batch
        x = self.model.model.embed_tokens(batch.input_ids)
        if not batch.passes:
            return x
        tokens = torch.cat([self.model.encode(one)[1] for one in batch.passes])
        return x.flatten(0, 1).index_copy(0, batch.rows, tokens.flatten(0, 1).to(x.dtype)).view_as(x)

    def greedy(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Continue prompts until every row has ended or the sequence length is used up: int64 [B, T].

        x: embeddings [B, S, E], of which the first lengths[i] are row i's prompt; lengths int64 [B].
        """
        model = self.model.model
        llm = model.llm.model
        total, width = x.shape[1], int(lengths.max())
        # Prompts are moved to the right edge, so that all rows go on at the same column.
        columns = torch.arange(width, device=x.device) - (width - lengths)[:, None]
        x = x.gather(1, columns.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1]))
        seen = columns >= 0
        positions = columns.clamp(min=0)
        cache = ContiguousCache(model.config.language, x.shape[0], total + 1, x.device, self.autocast or x.dtype)
        out: list[Tensor] = []
        ended = torch.zeros(x.shape[0], dtype=torch.bool, device=x.device)
        for _ in range(max(1, total - int(lengths.min()))):
            token = model.llm.head(llm(x, positions, seen, cache)[:, -1]).argmax(-1)
            out.append(token)
            ended |= torch.isin(token, self._eos)
            if ended.all():
                break
            x = model.embed_tokens(token)[:, None]
            positions = positions[:, -1:] + 1
            seen = torch.cat((seen, seen.new_ones(len(seen), 1)), dim=1)
        return torch.stack(out, dim=1)


def _plan(config: TrainConfig) -> list[tuple[str, str, Shape]]:
    """Name, kind and grid of every set."""
    first = config.combinations[0]
    shapes = [shape for c in config.combinations for shape in c.pictures]
    plan = [(f"trained {r}x{c}", "text", (r, c)) for r, c in shapes]
    plan += [(f"unseen {r}x{c}", "text", (r, c)) for r, c in config.unseen_grids]
    plan += [("held-out", "text", first.pictures[0]), ("blank", "text", first.pictures[0])]
    if config.mix.get("scene"):
        plan.append(("scene", "scene", first.pictures[0]))
    if config.mix.get("clip"):
        plan.append(("clip", "clip", first.clips))
    if config.mix.get("textonly"):
        plan.append(("textonly", "textonly", first.pictures[0]))
    return plan


def _score(given: list[str], right: list[str]) -> dict[str, float]:
    exact = sum(a == b for a, b in zip(given, right, strict=True)) / len(right)
    errors = sum(edit_distance(a, b) for a, b in zip(given, right, strict=True))
    return {"exact": exact, "cer": errors / max(1, sum(len(b) for b in right)), "n": float(len(right))}


def _some_pictures(drawn: Batch, count: int = 2) -> Tensor:
    if drawn.pixels.shape[1] == 0:
        return drawn.pixels.new_zeros(0)
    return drawn.pixels[:count, 0].float().cpu()


def draw_sheet(shown: Sequence[tuple[Tensor, str, str]], columns: int = 6) -> Image.Image:
    """Lay pictures [C, h, w] in -1..1 out with the right answer and the model's below each."""
    from PIL import Image, ImageDraw

    cell, text = 240, 64
    rows = max(1, -(-len(shown) // columns))
    sheet = Image.new("RGB", (columns * cell, rows * (cell + text)), "white")
    pen = ImageDraw.Draw(sheet)
    for i, (pixels, right, given) in enumerate(shown):
        x, y = i % columns * cell, i // columns * (cell + text)
        array = ((pixels.clamp(-1, 1) + 1) * 127.5).byte().permute(1, 2, 0).numpy()
        picture = Image.fromarray(array)
        picture.thumbnail((cell - 8, cell - 8))
        sheet.paste(picture, (x + 4, y + 4))
        colour = "green" if right == given else "red"
        for line, (words, ink) in enumerate(((right, "black"), (given, colour))):
            # The default font knows Latin alone; other characters appear as their code points.
            plain = words.replace("\n", " / ").encode("ascii", "backslashreplace").decode()
            pen.text((x + 4, y + cell + 4 + line * 28), "\n".join((plain[:38], plain[38:76])), fill=ink)
    return sheet


def summary_rows(scores: dict[str, dict[str, Any]]) -> list[str]:
    """A short table, one line a set."""
    lines = [f"{'set':<24}{'exact':>8}{'CER':>8}{'n':>7}"]
    for name, score in scores.items():
        cer = f"{score['cer']:.1%}" if "cer" in score else ""
        lines.append(f"{name:<24}{score['exact']:>8.1%}{cer:>8}{score['n']:>7.0f}")
    return lines
