"""Pictures of several prompts encoded in shared passes, and found again."""

from __future__ import annotations

import pytest
import torch
from reference_cases import prompt

from cpmv.engine.image_cache import ImageCache, PromptMedia, encode, encode_together
from cpmv.model.minicpmv import MiniCPMV


def media_of(*keys: str) -> list[PromptMedia]:
    return [PromptMedia.of(prompt(key)) for key in keys]


@torch.inference_mode()
def test_shared_passes_see_what_passes_of_one_see(tiny_network: MiniCPMV, monkeypatch: pytest.MonkeyPatch) -> None:
    medias = media_of("image_arg.fast", "video_p3.fast", "image_arg.fast")
    wanted = [(media, list(range(len(media.bounds)))) for media in medias]
    alone = [encode(tiny_network, ImageCache(0), media, groups, one_by_one=True) for media, groups in wanted]
    calls: list[int] = []
    real = tiny_network.encode_images

    def counted(patches, sizes, times, **more):  # type: ignore[no-untyped-def]
        calls.append(len(times))
        return real(patches, sizes, times, **more)

    monkeypatch.setattr(tiny_network, "encode_images", counted)
    cache = ImageCache(1 << 30)
    for turn in range(2):
        found = encode_together(tiny_network, cache, wanted)
        for mine, truth in zip(found, alone, strict=True):
            assert sorted(mine) == sorted(truth)
            for group, tokens in mine.items():
                assert torch.allclose(tokens, truth[group], atol=1e-5), (turn, group)
    # The third prompt shows what the first does, and the second time all is known.
    assert sum(calls) == len(medias[0].bounds) + len(medias[1].bounds)


@torch.inference_mode()
def test_pixels_of_two_kinds_are_not_mixed(tiny_network: MiniCPMV) -> None:
    first, second = media_of("image_arg.fast", "image_arg.fast")
    second.inputs.patches = tiny_network.vpm.normalise(second.inputs.patches)
    second.keys[:] = [f"other {key}" for key in second.keys]
    wanted = [(media, list(range(len(media.bounds)))) for media in (first, second)]
    one, other = encode_together(tiny_network, ImageCache(0), wanted)
    for group, tokens in one.items():
        assert torch.allclose(tokens, other[group], atol=1e-5)
