"""Responses of the policy: sampled by the engine from the very parameters that learn, scored by the trainer's forward.

The engine holds no copy of the weights; `Sampler.follow` after an update lets it forget what it computed with the old
ones. Log-probabilities of the policy that responded come from the pass that training itself makes, not from the
sampler, whose kernels, batches and precision differ: the first ratio of a batch is then 1.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from ..engine.engine import Engine
from ..engine.resident import resident_decoder
from ..engine.sampling import SamplingParams
from ..errors import CpmvError
from ..inputs.text import Tokenizer
from ..model.attention import Segments
from ..model.config import ModelInputs
from ..model.minicpmv import MiniCPMV
from .sft import pack

_HEAD_ROWS = 1024  # places whose logits exist at once


@dataclass(eq=False)
class Prompt:
    """A question in one mode. number: its place in the endless stream of prompts. reference: what is right. kind: the
    rule that judges (`rewards.kind_of`, or "exact"). question: its words, for logs. baseline: how likely the reference
    is without reasoning, of prompts judged by probability."""

    number: int
    deep: bool
    inputs: ModelInputs
    reference: str
    kind: str
    question: str = ""
    task: str = ""
    baseline: float | None = None


@dataclass(eq=False)
class Rollout:
    """One response. ids: its tokens, the end marker included when it came. log_probs: float32 [len(ids)] on the CPU,
    under the policy that wrote it. parts: the reward's terms by name."""

    ids: list[int]
    text: str
    finished: bool
    log_probs: Tensor | None = None
    parts: dict[str, float] = field(default_factory=dict)
    reward: float = 0.0
    advantage: float = 0.0


@dataclass(eq=False)
class Group:
    """The responses to one prompt."""

    prompt: Prompt
    rollouts: list[Rollout]

    @property
    def num_tokens(self) -> int:
        return sum(len(rollout.ids) for rollout in self.rollouts)


@dataclass(frozen=True, eq=False)
class Line:
    """A sequence for the trainer: a prompt, what follows it, and which of those tokens count.

    first: the place in `ids` of the first that counts.
    """

    inputs: ModelInputs
    ids: Sequence[int]
    first: int = 0

    def __len__(self) -> int:
        return len(self.inputs) + len(self.ids)


class Sampler:
    """Responds to prompts through an engine on the model that learns.

    rows: responses that run together. Draws come from torch's global generators, so that seeding them before `respond`
    repeats it.
    """

    def __init__(
        self,
        model: MiniCPMV,
        tokenizer: Tokenizer,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        rows: int = 64,
        cache_bytes: int | None = None,
    ) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._params = SamplingParams(temperature=temperature, max_new_tokens=max_new_tokens)
        self._engine = Engine(model, tokenizer, max_batch=rows, cache_bytes=cache_bytes)
        self.num_tokens, self.seconds = 0, 0.0
        # Whether the engine multiplies with the very tensors that learn; else it converts or merges them again.
        self._shares = resident_decoder(model) is model.llm

    def follow(self) -> None:
        """Let the engine follow the parameters, which have changed."""
        if self._shares:
            self._engine.forget(weights=False)
        else:
            self._engine.forget()

    def respond(self, prompts: Sequence[Prompt], count: int) -> list[list[Rollout]]:
        """Draw `count` responses to each prompt."""
        outputs = self._run([prompt for prompt in prompts for _ in range(count)], self._params)
        return [outputs[i * count : (i + 1) * count] for i in range(len(prompts))]

    def answer(self, prompts: Sequence[Prompt]) -> list[Rollout]:
        """The likeliest response to each prompt."""
        return self._run(prompts, self._params.replace(temperature=0.0))

    def _run(self, prompts: Sequence[Prompt], params: SamplingParams) -> list[Rollout]:
        started = time.perf_counter()
        was_training = self._model.training
        self._model.eval()
        requests = [self._engine.add(p.inputs, params, thinking=p.deep) for p in prompts]
        out = []
        for request in requests:
            output = self._engine.wait(request)
            if output.finish_reason not in ("stop", "length"):
                raise CpmvError(f"a response ended with {output.finish_reason!r}")
            ids = output.token_ids
            finished = bool(ids) and ids[-1] in self._tokenizer.eos_token_ids
            text = self._tokenizer.decode(ids[:-1] if finished else ids)
            out.append(Rollout(list(ids), text, finished))
        self._model.train(was_training)
        self.num_tokens += sum(len(rollout.ids) for rollout in out)
        self.seconds += time.perf_counter() - started
        return out

    def close(self) -> None:
        self._engine.close()


def lines_of(groups: Sequence[Group]) -> list[Line]:
    """The sequences of all responses, group after group."""
    return [Line(group.prompt.inputs, rollout.ids) for group in groups for rollout in group.rollouts]


def rows_of(lines: Sequence[Line], max_tokens: int) -> list[list[int]]:
    """Group lines into rows of at most `max_tokens`; lines of one prompt stay neighbours, so that its pictures are
    encoded once a row. A line longer than that has a row of its own."""
    by_prompt: dict[int, list[int]] = {}
    for index, line in enumerate(lines):
        by_prompt.setdefault(id(line.inputs), []).append(index)
    blocks: list[list[int]] = []
    for members in by_prompt.values():
        block: list[int] = []
        size = 0
        for index in members:
            if block and size + len(lines[index]) > max_tokens:
                blocks.append(block)
                block, size = [], 0
            block.append(index)
            size += len(lines[index])
        blocks.append(block)
    lengths = [sum(len(lines[i]) for i in block) for block in blocks]
    room = max([max_tokens, *lengths])
    return [[i for block in row for i in blocks[block]] for row in pack(lengths, room)]


def token_log_probs(model: MiniCPMV, lines: Sequence[Line], temperature: float = 1.0) -> Tensor:
    """Return the log-probabilities of the tokens that count, float32 [their number], line after line, with gradients.

    The lines share one row. Logits are divided by `temperature`, as they were when the tokens were drawn.
    """
    hidden = _hidden(model, lines)
    places, wanted, start = [], [], 0
    for line in lines:
        first = start + len(line.inputs) + line.first - 1  # this state predicts the first token that counts
        places.append(torch.arange(first, start + len(line) - 1))
        wanted.append(torch.tensor(list(line.ids[line.first :]), dtype=torch.int64))
        start += len(line)
    chosen = hidden[torch.cat(places).to(hidden.device)]
    targets = torch.cat(wanted).to(hidden.device)
    parts = [
        -F.cross_entropy(model.llm.head(states).float() / temperature, target, reduction="none")
        for states, target in zip(chosen.split(_HEAD_ROWS), targets.split(_HEAD_ROWS), strict=True)
    ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def _hidden(model: MiniCPMV, lines: Sequence[Line]) -> Tensor:
    """The decoder's final states [sum of lengths, E]; pictures that several lines show are encoded once."""
    device = model.device
    ids = torch.cat([torch.cat((line.inputs.input_ids, torch.tensor(list(line.ids)).long())) for line in lines])
    x = model.embed_tokens(ids.to(device))
    x = _with_pictures(model, lines, x)[None]
    lengths = [len(line) for line in lines]
    positions = torch.cat([torch.arange(length) for length in lengths]).to(device)[None]
    if len(lines) == 1:
        return model.llm.model(x, positions)[0]
    offsets = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32).to(device)
    return model.llm.model(x, positions, Segments(offsets, max(lengths)))[0]


def _with_pictures(model: MiniCPMV, lines: Sequence[Line], x: Tensor) -> Tensor:
    shown = {id(line.inputs): line.inputs for line in lines if line.inputs.temporal_ids}
    if not shown:
        return x
    unique = list(shown.values())
    features = model.encode_images(
        torch.cat([inputs.patches for inputs in unique]),
        torch.cat([inputs.tgt_sizes for inputs in unique]),
        [ids for inputs in unique for ids in inputs.temporal_ids],
    )  # [G, Q, E]
    first, count = {}, 0
    for inputs in unique:
        first[id(inputs)] = count
        count += len(inputs.temporal_ids)
    rows, groups, start = [], [], 0
    for line in lines:
        for number, (begin, end) in enumerate(line.inputs.image_bounds.tolist()):
            rows.append(torch.arange(start + begin, start + end))
            groups.append(first[id(line.inputs)] + number)
        start += len(line)
    tokens = features[torch.tensor(groups, device=features.device)].flatten(0, 1).to(x.dtype)
    # Out of place, so that training can differentiate through both sides.
    return x.index_copy(0, torch.cat(rows).to(x.device), tokens)


@torch.no_grad()
def log_probs_of(
    model: MiniCPMV,
    lines: Sequence[Line],
    max_tokens: int,
    *,
    temperature: float = 1.0,
    autocast: torch.dtype | None = None,
) -> list[Tensor]:
    """Return each line's log-probabilities of the tokens that count, float32 on the CPU; no gradients, no dropout."""
    out: list[Tensor] = [torch.empty(0)] * len(lines)
    was_training = model.training
    model.eval()
    for row in rows_of(lines, max_tokens):
        batch = [lines[i] for i in row]
        with torch.autocast(model.device.type, autocast or torch.bfloat16, enabled=autocast is not None):
            found = token_log_probs(model, batch, temperature).cpu()
        parts = found.split([len(line.ids) - line.first for line in batch])
        for index, part in zip(row, parts, strict=True):
            out[index] = part.clone()
    model.train(was_training)
    return out
