"""Activation-aware scales for 4-bit rounding (AWQ, arXiv 2306.00978), found layer by layer on calibration prompts.

An input that is large on average deserves finer steps: its column is multiplied before rounding, and whatever made the
input is divided by as much. Columns of q, k, v and of gate, up fold into the norm before them; those of o into the rows
of v (one factor for all heads that share a key-value head); those of down into the rows of up. For each the exponent
with the smallest output error on sampled tokens is kept; exponent 0, plain rounding, is among the candidates. Then the
extremes of each group of weights are pulled in where that lowers the error, except in q and k, whose products are
sensitive to the few large numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..model.config import LanguageConfig, ModelInputs
from ..model.language import DecoderLayer
from ..model.layers import Linear
from ..model.minicpmv import MiniCPMV
from .awq import rounded
from .quantizing import CLIP_STEP, Folds

CLIPS = (0, 1, 2, 3, 4, 6, 8)  # in steps of CLIP_STEP
CANDIDATES = 20  # exponents from 0 up to, not including, 1
_AT_ONCE = 1 << 22  # elements whose clips are searched together
ROWS = 1024  # outputs of a linear, evenly spread, on which the error is measured
TOKENS = 512  # sampled over all prompts, for the error; averages are over all tokens


@dataclass
class Found:
    """What a search gives, as `Folds` has it, and summed squared output errors of plain rounding and with the folds."""

    columns: dict[str, Tensor] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    clips: dict[str, Tensor] = field(default_factory=dict)
    plain_error: float = 0.0
    error: float = 0.0

    @property
    def folds(self) -> Folds:
        return Folds(self.columns, self.rows, self.norms, self.clips)


@torch.inference_mode()
def search(
    model: MiniCPMV,
    prompts: Sequence[ModelInputs],
    group_size: int,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Found:
    """Find scales for every linear of the decoder. progress: called with layers done, and all.

    model: unquantised; on a CPU its weights may stay in their files. Raises CheckpointError without prompts.
    """
    if not prompts:
        raise CheckpointError("AWQ needs at least one calibration prompt; give pictures or texts")
    decoder = model.llm.model
    states = [model.embed(prompt)[None] for prompt in prompts]
    every = max(1, sum(x.shape[1] for x in states) // TOKENS)
    found = Found()
    count = len(decoder.layers)
    for index, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        with _watch(layer, every) as seen:
            for at, x in enumerate(states):
                positions = torch.arange(x.shape[1], device=x.device)[None]
                states[at] = layer(x, *decoder.rotary(positions, x.dtype))
        _Layer(f"llm.model.layers.{index}", layer, decoder.config, seen, group_size, found).search()
        if progress is not None:
            progress(index + 1, count)
    return found


class _Seen:
    """Inputs of one linear: their mean magnitude, and a sample."""

    def __init__(self, every: int) -> None:
        self._every, self._num, self._sum = every, 0, torch.zeros(1)
        self._rows: list[Tensor] = []

    def take(self, x: Tensor) -> None:
        rows = x.detach().flatten(0, -2).float()
        self._sum = self._sum.to(rows.device) + rows.abs().sum(0)
        self._num += rows.shape[0]
        self._rows.append(rows[:: self._every].clone())

    @property
    def magnitude(self) -> Tensor:
        return self._sum / self._num

    @property
    def sample(self) -> Tensor:
        return torch.cat(self._rows)


@contextmanager
def _watch(layer: DecoderLayer, every: int) -> Iterator[dict[str, _Seen]]:
    """Note what goes into the four groups of linears while the block runs."""
    watched: dict[str, nn.Module] = {
        "qkv": layer.self_attn.q_proj,
        "o": layer.self_attn.o_proj,
        "gate_up": layer.mlp.gate_proj,
        "down": layer.mlp.down_proj,
    }
    seen = {name: _Seen(every) for name in watched}

    def listen(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, inputs: seen[name].take(inputs[0])

    handles = [module.register_forward_pre_hook(listen(name)) for name, module in watched.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


class _Layer:
    """The search in one layer; what it finds goes into `found`."""

    def __init__(
        self, path: str, layer: DecoderLayer, config: LanguageConfig, seen: dict[str, _Seen], group: int, found: Found
    ) -> None:
        self._path, self._layer, self._config, self._seen = path, layer, config, seen
        self._group, self._found = group, found

    def search(self) -> None:
        attention, mlp, path = self._layer.self_attn, self._layer.mlp, self._path
        qkv = {f"{path}.self_attn.{n}_proj.weight": getattr(attention, f"{n}_proj") for n in "qkv"}
        self._into_norm("qkv", qkv, f"{path}.input_layernorm.weight", self._layer.input_layernorm.weight)
        gate_up = {f"{path}.mlp.{n}_proj.weight": getattr(mlp, f"{n}_proj") for n in ("gate", "up")}
        norm = self._layer.post_attention_layernorm.weight
        self._into_norm("gate_up", gate_up, f"{path}.post_attention_layernorm.weight", norm)
        output, down = f"{path}.self_attn.o_proj.weight", f"{path}.mlp.down_proj.weight"
        scale = self._best("o", [attention.o_proj], self._share_heads)
        self._found.rows[f"{path}.self_attn.v_proj.weight"] = (1 / self._one_a_head(scale)).cpu()
        self._settle("o", {output: attention.o_proj}, scale)
        scale = self._best("down", [mlp.down_proj], lambda s: s)
        self._found.rows[f"{path}.mlp.up_proj.weight"] = (1 / scale).cpu()
        self._settle("down", {down: mlp.down_proj}, scale)

    def _into_norm(self, kind: str, linears: dict[str, Linear], name: str, norm: Tensor) -> None:
        scale = self._best(kind, list(linears.values()), lambda s: s)
        # The norm is stored in 16 bits: what it is divided by there is exactly what columns are multiplied by here.
        divided = (norm.float() / scale).to(norm.dtype).float()
        exact = torch.where((norm == 0) | (divided == 0), torch.ones_like(scale), norm.float() / divided)
        self._found.norms[name] = (1 / exact).cpu()
        self._settle(kind, linears, exact)

    def _settle(self, kind: str, linears: dict[str, Linear], scale: Tensor) -> None:
        """Keep a scale for the columns of linears, find their clips, and add up what error is left."""
        sample = self._seen[kind].sample
        for name, linear in linears.items():
            weight, clip = linear.weight.detach(), None
            self._found.columns[name] = scale.cpu()
            if not name.endswith(("q_proj.weight", "k_proj.weight")):
                clip = _best_clips(weight, scale, sample / scale, self._group)
                self._found.clips[name] = clip.cpu()
            some = None if clip is None else 1 - CLIP_STEP * _some_rows(clip).float()
            self._found.error += self._error(_some_rows(weight).float(), scale, sample, some)

    def _share_heads(self, magnitude: Tensor) -> Tensor:
        """Average over the heads that read one key-value head, so that its rows of v can take the factor."""
        heads, groups, dim = self._config.num_attention_heads, self._config.num_key_value_heads, self._config.head_dim
        shared = magnitude.view(groups, heads // groups, dim).mean(1, keepdim=True)
        return shared.expand(groups, heads // groups, dim).reshape(-1)

    def _one_a_head(self, scale: Tensor) -> Tensor:
        heads, groups, dim = self._config.num_attention_heads, self._config.num_key_value_heads, self._config.head_dim
        return scale.view(groups, heads // groups, dim)[:, 0].reshape(-1)

    def _best(self, kind: str, linears: list[Linear], shared: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the factor [in] of columns with the least output error."""
        magnitude = shared(self._seen[kind].magnitude).clamp(min=1e-8)
        sample = self._seen[kind].sample
        weights = [_some_rows(linear.weight.detach()).float() for linear in linears]
        best, least, plain = torch.ones_like(magnitude), float("inf"), 0.0
        for step in range(CANDIDATES):
            scale = magnitude ** (step / CANDIDATES)
            scale = (scale / (scale.max() * scale.min()).sqrt()).clamp(min=1e-4)
            error = sum(self._error(weight, scale, sample) for weight in weights)
            if step == 0:
                plain = error
            if error < least:
                best, least = scale, error
        self._found.plain_error += plain
        return best

    def _error(self, weight: Tensor, scale: Tensor, sample: Tensor, clip: Tensor | None = None) -> float:
        difference = rounded(weight * scale, self._group, clip) / scale - weight
        return float((sample @ difference.t()).square().sum())


def _best_clips(weight: Tensor, scale: Tensor, sample: Tensor, group: int) -> Tensor:
    """Return the step of CLIPS with the least error for each group of a weight [out, in], uint8 [out, groups].

    sample: inputs [n, in] of the scaled weight. A group's error is that of its own part of the outputs.
    """
    inputs = sample.view(sample.shape[0], -1, group).transpose(0, 1)  # [groups, n, g]
    moments = inputs.transpose(1, 2) @ inputs  # [groups, g, g]
    out = torch.zeros(weight.shape[0], inputs.shape[0], dtype=torch.uint8, device=weight.device)
    rows = max(1, _AT_ONCE // weight.shape[1])
    for start in range(0, weight.shape[0], rows):
        part = weight[start : start + rows].float() * scale
        least: Tensor | None = None
        for step in CLIPS:
            clip = torch.full((part.shape[0], inputs.shape[0]), 1 - CLIP_STEP * step, device=part.device)
            missed = (rounded(part, group, clip) - part).view(part.shape[0], -1, group).transpose(0, 1)
            error = ((missed @ moments) * missed).sum(-1).t()  # [rows, groups]
            least = error if least is None else least
            better = error < least
            out[start : start + rows][better] = step
            least = torch.where(better, error, least)
    return out


def _some_rows(weight: Tensor) -> Tensor:
    return weight[:: -(-weight.shape[0] // ROWS)]
