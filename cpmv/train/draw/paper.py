"""What text and shapes are drawn on, and what happens to the picture afterwards.

Backgrounds are paper (nearly plain, light) or photo-like (gradients and slow waves in each channel, sometimes dark);
afterwards come blur, noise, and now and then pixelation. Colours are RGB in 0..1 until `composite`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .chance import Chance

LUMA = (0.299, 0.587, 0.114)
NUM_WAVES = 3
PHOTO_SHARE = 0.3


@dataclass
class Paper:
    """Background of B pictures: base, gradient [B, 3]; tilt [B, 2]; waves [B, NUM_WAVES, 3] etc. `photo` bool [B]."""

    base: Tensor
    gradient: Tensor
    tilt: Tensor
    wave_frequency: Tensor  # [B, NUM_WAVES, 2], periods across the picture
    wave_phase: Tensor  # [B, NUM_WAVES]
    wave_colour: Tensor  # [B, NUM_WAVES, 3]
    photo: Tensor


def luminance(colour: Tensor) -> Tensor:
    """Luminance of RGB in the last axis."""
    return LUMA[0] * colour[..., 0] + LUMA[1] * colour[..., 1] + LUMA[2] * colour[..., 2]


def draw_paper(chance: Chance, batch: int, *, contrast: float = 0.3) -> Paper:
    """Choose backgrounds. They vary by at most about `contrast` * 0.4 around their base."""
    photo = chance.chosen(batch, share=PHOTO_SHARE)
    light = 1 - chance.uniform(batch, 1) ** 2 * 0.35
    tint = 1 - chance.uniform(batch, 3) * 0.12
    any_colour = chance.uniform(batch, 3)
    plain = torch.where(chance.chosen(batch, 1, share=0.35), any_colour, light * tint)
    base = torch.where(photo.unsqueeze(1), any_colour * 0.8 + 0.1, plain)
    reach = contrast * 0.4 * torch.where(photo, 1.0, 0.35).unsqueeze(1)
    return Paper(
        base=base,
        gradient=(chance.uniform(batch, 3) - 0.5) * reach,
        tilt=chance.uniform(batch, 2, low=-1, high=1),
        wave_frequency=chance.uniform(batch, NUM_WAVES, 2, low=-5, high=5),
        wave_phase=chance.uniform(batch, NUM_WAVES, high=6.2832),
        wave_colour=(chance.uniform(batch, NUM_WAVES, 3) - 0.3) * reach.unsqueeze(1) * 0.5 * photo.view(-1, 1, 1),
        photo=photo,
    )


def render_paper(paper: Paper, height: int, width: int) -> Tensor:
    """Float32 [B, 3, H, W] in 0..1."""
    device = paper.base.device
    x = (torch.arange(width, device=device) + 0.5) / width
    y = (torch.arange(height, device=device) + 0.5) / height
    slope = paper.tilt[:, :1, None] * (x - 0.5).view(1, 1, -1) + paper.tilt[:, 1:, None] * (y - 0.5).view(1, -1, 1)
    out = paper.base.view(-1, 3, 1, 1) + paper.gradient.view(-1, 3, 1, 1) * slope.unsqueeze(1) * 2
    for k in range(NUM_WAVES):
        frequency = paper.wave_frequency[:, k] * 6.2832
        angle = frequency[:, :1, None] * x.view(1, 1, -1) + frequency[:, 1:, None] * y.view(1, -1, 1)
        wave = torch.sin(angle + paper.wave_phase[:, k, None, None])
        out = out + paper.wave_colour[:, k].view(-1, 3, 1, 1) * wave.unsqueeze(1)
    return out.clamp(0, 1)


def contrasting_colour(chance: Chance, base: Tensor, least: float = 0.3) -> Tensor:
    """A colour whose luminance differs from `base` by at least `least`. base: [B, 3] -> [B, 3].

    Half the time nearly black or white, the usual print.
    """
    batch = base.shape[0]
    below = luminance(base)
    room_down, room_up = below - least, 1 - least - below
    darker = torch.where(
        room_up < 0, True, torch.where(room_down < 0, False, chance.uniform(batch) < 0.5 + (below - 0.5))
    )
    depth = chance.uniform(batch) ** torch.where(chance.chosen(batch, share=0.5), 3.0, 0.8)
    target = torch.where(darker, room_down.clamp(min=0) * depth, 1 - room_up.clamp(min=0) * depth)
    hue = chance.uniform(batch, 3)
    grey = chance.chosen(batch, 1, share=0.4)
    hue = torch.where(grey, 0.5, hue)
    # Move the hue to the wanted luminance without leaving 0..1: mix with black or white.
    now = luminance(hue).clamp(0.02, 0.98)
    down = hue * (target / now).clamp(max=1).unsqueeze(1)
    share = ((target - now) / (1 - now)).clamp(0, 1).unsqueeze(1)
    return torch.where((target < now).unsqueeze(1), down, hue + (1 - hue) * share)


def soften(coverage: Tensor, strength: Tensor) -> Tensor:
    """Blur with the kernel (s, 1 - 2s, s) in both directions. coverage: [B, H, W]; strength s: [B] in 0..1/3."""
    s = strength.view(-1, 1, 1)
    padded = torch.cat([coverage[:, :1], coverage, coverage[:, -1:]], 1)
    out = coverage * (1 - 2 * s) + s * (padded[:, :-2] + padded[:, 2:])
    padded = torch.cat([out[:, :, :1], out, out[:, :, -1:]], 2)
    return out * (1 - 2 * s) + s * (padded[:, :, :-2] + padded[:, :, 2:])


@dataclass
class Grain:
    """Noise of N pictures: value float [N, 1, H, W], tint (strength by channel) [N, 3, 1, 1]."""

    value: Tensor
    tint: Tensor


def draw_grain(
    chance: Chance, batch: int, height: int, width: int, *, frames: int = 1, dtype: torch.dtype = torch.float32,
    most: float = 0.09
) -> Grain:  # fmt: skip
    """Noise for batch * frames pictures. Frames of a clip share its strength, not its values."""
    strength = (chance.uniform(batch, 1, 1, 1) ** 3 * most) * chance.chosen(batch, 1, 1, 1, share=0.7)
    tint = (strength * chance.uniform(batch, 3, 1, 1, low=0.4)).repeat_interleave(frames, 0)
    return Grain(chance.normal(batch * frames, 1, height, width, dtype=dtype), tint)


def composite(paper: Paper, cover: Tensor, colour: Tensor, grain: Grain, frames: int = 1) -> Tensor:
    """Lay `colour` over the paper by `cover`, add the grain, go to -1..1.

    cover: [N, H, W]; colour: [N, 3, H, W] or [N, 3, 1, 1]; N = B * frames. Returns float32 [N, 3, H, W].
    """
    behind = render_paper(paper, cover.shape[1], cover.shape[2]).repeat_interleave(frames, 0)
    cover = cover.unsqueeze(1)
    picture = behind * (1 - cover) + colour * cover + grain.value * grain.tint
    return picture.clamp(0, 1) * 2 - 1
