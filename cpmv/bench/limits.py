"""The least time a piece of work can take on this machine, from its bytes and its products at measured rates.

Everything that need not be done is left out (norms, activations, copies, launches), so no implementation reaches these;
how near one comes is the percentage in the table. The formulas are those of the architecture, for any sizes.
"""

from __future__ import annotations

from ..model.config import LanguageConfig, ModelConfig, ResamplerConfig, VisionConfig
from .machine import Machine


def decode_s(machine: Machine, config: LanguageConfig, weight_bytes: int, rows: int, context: int) -> float:
    """One step of `rows` sequences: every weight once, every key and value once."""
    per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * machine.dtype.itemsize
    return (weight_bytes + rows * context * per_token) / machine.read_bytes_per_s


def prefill_s(machine: Machine, config: LanguageConfig, length: int, num_sequences: int = 1) -> float:
    """Reading prompts of `length` tokens: the linears over all tokens, causal attention, the head on the last."""
    c = config
    heads = c.num_attention_heads * c.head_dim
    qkv = heads + 2 * c.num_key_value_heads * c.head_dim
    shapes = [
        (c.hidden_size, qkv),
        (heads, c.hidden_size),
        (c.hidden_size, 2 * c.intermediate_size),
        (c.intermediate_size, c.hidden_size),
    ]
    layer = sum(machine.gemm_s(length * num_sequences, *shape) for shape in shapes)
    layer += num_sequences * machine.causal_s(length, c.num_attention_heads, c.num_key_value_heads, c.head_dim)
    head = c.vocab_size * c.hidden_size * machine.dtype.itemsize / machine.read_bytes_per_s
    return c.num_hidden_layers * layer + head


def vision_s(machine: Machine, config: ModelConfig, num_slices: int, num_patches: int, num_groups: int) -> float:
    """Tower and resampler over slices of `num_patches` each, in `num_groups` groups."""
    return _tower_s(machine, config.vision, num_slices, num_patches) + _resampler_s(
        machine, config.resampler, num_slices * num_patches, num_groups
    )


def _tower_s(machine: Machine, config: VisionConfig, num_slices: int, num_patches: int) -> float:
    c, rows = config, num_slices * num_patches
    width, inner = c.hidden_size, c.intermediate_size
    shapes = [(width, 3 * width), (width, width), (width, inner), (inner, width)]
    layer = sum(machine.gemm_s(rows, *shape) for shape in shapes)
    layer += machine.attention_s(num_slices, num_patches, c.num_attention_heads, c.head_dim)
    return c.num_hidden_layers * layer + machine.gemm_s(rows, c.num_channels * c.patch_size**2, width)


def _resampler_s(machine: Machine, config: ResamplerConfig, rows: int, num_groups: int) -> float:
    """The cheaper of projecting every key and value, and of folding the constant queries into the projections."""
    width, queries = config.embed_dim, config.query_num
    outputs = num_groups * queries
    shared = machine.gemm_s(rows, config.kv_dim, width) + 2 * machine.gemm_s(outputs, width, width)
    direct = machine.gemm_s(rows, width, 2 * width)
    # Scores of every head's folded queries, and as many weighted sums; values are projected after these.
    folded = 2 * machine.gemm_s(rows, width, queries * config.num_heads) + machine.gemm_s(outputs, width, width)
    return shared + min(direct, folded)
