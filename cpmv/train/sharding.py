"""Fully sharded data parallelism: every GPU keeps a slice of each tensor and borrows the rest while it needs it.

torch's `fully_shard` a unit at a time: the tower, the resampler, the embedding table, every decoder layer, what is left
of the decoder, the head. The tower is one unit and not one a block: its weights are a twentieth of the model, and so
the number of slices that a rank happens to have changes nothing about what is sent. Parts that learn are kept in
float32; on a GPU they are used, and sent, in bfloat16, and their gradients are summed in float32.

Ranks must meet in the same order, or all of them hang. So every row shows at least one picture (`idle_sample`), every
rank has as many rows, and a row's pictures and words are computed in one call each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import CpmvError
from ..model.config import ModelInputs
from ..model.minicpmv import MiniCPMV
from .distributed import World
from .sft import IGNORE

T = TypeVar("T")


def shard(model: MiniCPMV, world: World, device: torch.device) -> None:
    """Shard a model over all ranks, in place. Choose what learns, and add adapters, before.

    The model may lie anywhere in any dtype; a unit at a time goes to `device`. Quantised weights are buffers: they are
    not sharded, every rank holds them whole. Raises CpmvError without torch.distributed's process group.
    """
    if not torch.distributed.is_initialized():
        raise CpmvError("--shard needs several processes; give --gpus N, or start with torchrun")
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    mesh = init_device_mesh(device.type, (world.size,))
    policy = MixedPrecisionPolicy()
    if device.type == "cuda":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for unit in units(model):
        unit.to(device)
        for parameter in unit.parameters():
            if parameter.requires_grad and not _is_sharded(parameter):
                parameter.data = parameter.data.float()
        fully_shard(unit, mesh=mesh, mp_policy=policy)
    # The whole must be entered before its parts, once; every row begins with the words' embeddings.
    fully_shard(model, mesh=mesh, mp_policy=policy)
    register_fsdp_forward_method(model, "embed_tokens")
    register_fsdp_forward_method(model.llm.model.embed_tokens, "project")
    model.encode_images = partial(_encode_at_once, model)  # type: ignore[method-assign]


def units(model: MiniCPMV) -> list[nn.Module]:
    """What is gathered together, inner units before the outer ones that hold them."""
    decoder = model.llm.model
    head = [] if model.llm.config.tie_word_embeddings else [model.llm.lm_head]
    return [model.vpm, model.resampler, decoder.embed_tokens, *decoder.layers, decoder, *head]


def _is_sharded(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "full_tensor")


def _encode_at_once(
    model: MiniCPMV, patches: Tensor, tgt_sizes: Tensor | Sequence[Sequence[int]], temporal_ids: Sequence[Sequence[int]]
) -> Tensor:
    """`MiniCPMV.encode_images` in one pass, whatever its size."""
    sizes = [(int(h), int(w)) for h, w in torch.as_tensor(tgt_sizes).tolist()]
    return model.resampler(model.vpm(patches, sizes), sizes, temporal_ids)


def idle_sample(model: MiniCPMV) -> ModelInputs:
    """A sample that teaches nothing: one small blank picture and no learnt word."""
    config = model.config
    side, channels, queries = config.vision.patch_size, config.vision.num_channels, config.resampler.query_num
    length = queries + 1
    return ModelInputs(
        input_ids=torch.zeros(length, dtype=torch.int64),
        patches=torch.zeros(4, channels, side, side, dtype=torch.uint8),
        tgt_sizes=torch.tensor([[2, 2]]),
        temporal_ids=[[-1]],
        image_bounds=torch.tensor([[0, queries]]),
        text="",
        labels=torch.full((length,), IGNORE),
    )


def has_picture(sample: ModelInputs) -> bool:
    return bool(sample.temporal_ids)


def level(rows: list[list[T]], idle: T, has_picture: Callable[[T], bool], device: torch.device) -> None:
    """Give every rank equally many rows, in place, each with a picture; `idle` teaches nothing and has one."""
    for row in rows:
        if not any(map(has_picture, row)):
            row.append(idle)
    most = torch.tensor(len(rows), device=device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    rows += [[idle] for _ in range(int(most) - len(rows))]


@torch.no_grad()
def gather_trained(model: MiniCPMV) -> dict[str, Tensor]:
    """Return every parameter that learns, whole, on the CPU of rank 0; the others take part and get an empty dict."""
    main = torch.distributed.get_rank() == 0
    trained: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        whole = parameter.full_tensor()  # type: ignore[attr-defined]
        if main:
            trained[name] = whole.detach().cpu()
    return trained
