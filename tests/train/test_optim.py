"""Muon, AdamW and the flat buffers they live in."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_drawer import CLASSES, ToyDrawer, toy_config

from cpmv.train.config import Combination
from cpmv.train.init import build
from cpmv.train.joint import JointObjective
from cpmv.train.joint_model import JointModel
from cpmv.train.optim import Optimizer, decays, orthogonalise, uses_muon


@pytest.fixture
def objective() -> JointObjective:
    model = JointModel(build(toy_config(), "cpu", seed=0), CLASSES)
    return JointObjective(model, ToyDrawer(), {"text": 2}, [Combination(((2, 3),), (2, 2))])


def test_newton_schulz_brings_all_singular_values_near_one() -> None:
    matrices = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    matrices[1] *= 1e-3
    for batch in (matrices, matrices.mT):
        values = torch.linalg.svdvals(orthogonalise(batch))
        assert values.min() > 0.6 and values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices[0], full_matrices=False)
    aligned = (orthogonalise(matrices)[0] * (u @ v)).sum() / 24
    assert aligned > 0.8


def test_matrices_of_blocks_and_resampler_use_muon_and_nothing_else_does(objective: JointObjective) -> None:
    muon = {n for n, p in objective.named_parameters() if uses_muon(n, p)}
    assert "vpm.encoder.layers.0.mlp.fc1.weight" in muon and "llm.model.layers.1.self_attn.k_proj.weight" in muon
    assert {"resampler.attn.in_proj_weight", "resampler.proj", "resampler.kv_proj.weight"} <= muon
    for name in ("resampler.query", "llm.model.embed_tokens.weight", "vpm.embeddings.position_embedding.weight"):
        assert name not in muon
    assert not any("norm" in n or "bias" in n or n.startswith("heads.") or "patch_embedding" in n for n in muon)


def test_parameters_keep_their_values_and_share_the_flat_buffer(objective: JointObjective) -> None:
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    optimizer = Optimizer(objective.named_parameters())
    for name, param in objective.named_parameters():
        assert torch.equal(param, before[name])
        assert param.untyped_storage().data_ptr() == optimizer.params.untyped_storage().data_ptr()
        assert param.grad is not None and param.grad.untyped_storage().data_ptr() == (
            optimizer.grads.untyped_storage().data_ptr()
        )
    spans = sorted((start, start + shape.numel()) for start, shape in optimizer.layout.values())
    assert all(a[1] <= b[0] for a, b in zip(spans, spans[1:], strict=False)), "no two parameters overlap"


def test_adamw_takes_the_same_steps_as_torchs() -> None:
    generator = torch.Generator().manual_seed(0)
    mine, theirs = (nn.Parameter(torch.ones(5, 3)) for _ in range(2))
    optimizer = Optimizer([("weight", mine)], adam_scale=0.6, weight_decay=0.05, clip_norm=1e9)
    reference = torch.optim.AdamW([theirs], lr=0.006, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.05)
    optimizer.lr.fill_(0.01)
    for _ in range(5):
        grad = torch.randn(5, 3, generator=generator)
        assert mine.grad is not None
        mine.grad.copy_(grad)
        theirs.grad = grad.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(mine, theirs)


def test_muon_takes_the_textbook_step_for_each_of_the_packed_matrices() -> None:
    start = torch.randn(3 * 8, 8, generator=torch.Generator().manual_seed(0))
    param = nn.Parameter(start.clone())
    optimizer = Optimizer([("resampler.attn.in_proj_weight", param)], weight_decay=0.1, clip_norm=1e9)
    optimizer.lr.fill_(0.02)
    momentum, expected = torch.zeros(3, 8, 8), start.view(3, 8, 8).clone()
    for seed in (1, 2):
        grad = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed))
        assert param.grad is not None
        param.grad.copy_(grad.view(24, 8))
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * grad
        update = torch.cat([orthogonalise((0.05 * grad + 0.95 * momentum)[i : i + 1]) for i in range(3)])
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * 0.2 * 8**0.5 * update
    torch.testing.assert_close(param.detach().view(3, 8, 8), expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_clipped_to_the_global_norm() -> None:
    params = [nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(9))]
    optimizer = Optimizer([("a", params[0]), ("b", params[1])], clip_norm=1.0)
    for param in params:
        assert param.grad is not None
        param.grad.fill_(2.0)
    norm = optimizer.step()
    assert float(norm) == pytest.approx(2 * 13**0.5, rel=1e-5)
    assert float(optimizer.grads.norm()) == pytest.approx(1.0, rel=1e-4)


def test_positions_queries_norms_and_biases_do_not_decay(objective: JointObjective) -> None:
    optimizer = Optimizer(objective.named_parameters(), weight_decay=0.5)
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    optimizer.lr.fill_(0.1)
    optimizer.step()  # all gradients are zero: decay alone moves parameters
    for name, param in objective.named_parameters():
        assert torch.equal(param, before[name]) != decays(name, param) or not before[name].any(), name


def test_frozen_parts_are_left_bit_identical_and_without_moments() -> None:
    from cpmv.train.parts import freeze, part_of

    model = JointModel(build(toy_config(), "cpu", seed=0), CLASSES).train()
    freeze(model.model, ("resampler",))
    objective = JointObjective(model, ToyDrawer(), {"text": 2}, [Combination(((2, 3),), (2, 2))])
    before = {n: p.detach().clone() for n, p in objective.named_parameters()}
    optimizer = Optimizer(objective.named_parameters())
    optimizer.lr.fill_(1e-2)
    batch = objective.load(0, torch.Generator().manual_seed(0))[0]
    objective.sums(batch).sum().backward()
    optimizer.step()
    for name, param in objective.named_parameters():
        trained = name.startswith("heads.") or part_of(name) == "resampler"
        assert (name in optimizer.layout) == trained
        if not trained:
            assert torch.equal(param, before[name]), name
    assert not torch.equal(model.model.resampler.query, before["resampler.query"])
