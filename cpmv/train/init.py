"""Start values for training from random weights; never used when weights are loaded.

What makes reading start at all (measured: without it the language model ignores the picture): position tables that
already are sine-cosine, and resampler queries that already look at their own part of the picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..model.config import ModelConfig
from ..model.minicpmv import MiniCPMV
from ..model.resampler import spatial_positions

_QUERY_GAIN = 1.6  # of W_q and W_k at head width 64
_RESIDUAL = ("o_proj.weight", "out_proj.weight", "fc2.weight", "down_proj.weight")


def build(config: ModelConfig, device: torch.device | str, seed: int) -> MiniCPMV:
    """Return a float32 model with start values drawn from `seed`, the same on every device."""
    with torch.device("meta"):
        model = MiniCPMV(config)
    model.to_empty(device="cpu")
    start_values(model, seed)
    return model.to(device)


@torch.no_grad()
def start_values(model: MiniCPMV, seed: int) -> None:
    """Fill a CPU model in place."""
    generator = torch.Generator().manual_seed(seed)
    for name, param in model.named_parameters():
        if name.endswith("bias"):
            param.zero_()
        elif param.ndim == 1:
            param.fill_(1.0)  # norms
        else:
            residual = ".layers." in name and name.endswith(_RESIDUAL)
            param.normal_(0.0, 0.02 / math.sqrt(16) if residual else 0.02, generator=generator)
    embeddings = model.vpm.embeddings
    embeddings.patch_embedding.weight.normal_(0.0, 0.03, generator=generator)
    side, width = model.config.vision.grid_side, model.config.vision.hidden_size
    table = embeddings.position_embedding.weight
    table.copy_(0.3 * spatial_positions(width, side, side, table.device, torch.float32))
    _resampler(model, generator)


def _resampler(model: MiniCPMV, generator: torch.Generator) -> None:
    resampler, config = model.resampler, model.config.resampler
    dim = config.embed_dim
    resampler.query.copy_(query_positions(config.query_num, dim, model.config.image.scale_resolution // 14))
    resampler.proj.normal_(0.0, dim**-0.5, generator=generator)
    if not isinstance(resampler.kv_proj, nn.Identity):
        resampler.kv_proj.weight.normal_(0.0, config.kv_dim**-0.5, generator=generator)
    q, k, v = resampler.attn.in_proj_weight.chunk(3)
    # Scores of matching positions grow with the square root of the head width; this keeps them as at width 64.
    gain = _QUERY_GAIN * (64 / (dim // config.num_heads)) ** 0.25
    eye = torch.eye(dim)
    q.copy_(gain * eye)
    k.copy_(gain * eye + 0.02 * torch.randn(dim, dim, generator=generator))
    nn.init.xavier_uniform_(v, generator=generator)


def query_positions(query_num: int, dim: int, side: int) -> Tensor:
    """Return [query_num, dim]: each query is the mean key position of its cell, scaled to unit deviation.

    The picture, `side` x `side` patches, is cut into sqrt(query_num) x sqrt(query_num) cells, row-major.
    """
    cells = math.isqrt(query_num)
    assert cells * cells == query_num, f"{query_num} queries are no square"
    side = max(cells, side // cells * cells)
    table = spatial_positions(dim, side, side, torch.device("cpu"), torch.float32)
    mean = table.view(cells, side // cells, cells, side // cells, dim).mean(dim=(1, 3)).flatten(0, 1)
    return mean / mean.std()
