"""What a model that looks cannot pass: the same questions with other pictures, or with time running backwards."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from .samples import EvalError, Sample, Turn

BLANK = (128, 128, 128)
CONTROLS = {
    "blank": "every picture replaced by plain grey of its size",
    "shuffled": "every sample shown another sample's pictures",
    "reversed": "the times of a clip's frames in reverse",
}


def apply(control: str, samples: Sequence[Sample]) -> list[tuple[int, Sample]]:
    """Samples with their pictures or times changed, and their places; those a control says nothing about are left out.

    Raises EvalError for an unknown control.
    """
    if control not in CONTROLS:
        raise EvalError(f"there is no control {control!r}; allowed: {', '.join(CONTROLS)}")
    if control == "reversed":
        return [(index, reverse_times(sample)) for index, sample in enumerate(samples) if is_clip(sample)]
    if control == "blank":
        return [(index, blank(sample)) for index, sample in enumerate(samples) if sample.images]
    return shuffle(samples)


def is_clip(sample: Sample) -> bool:
    return sample.groups is not None and sum(map(len, sample.groups)) > 1


def blank(sample: Sample) -> Sample:
    """Every picture grey, those of the examples too."""
    from PIL import Image

    turns = [
        replace(turn, images=[Image.new("RGB", image.size, BLANK) for image in turn.images]) for turn in sample.turns
    ]
    return replace(sample, turns=turns)


def shuffle(samples: Sequence[Sample]) -> list[tuple[int, Sample]]:
    """Each sample with the pictures and times of another one of the same form (turns and pictures a turn).

    A sample whose form no other has is left out. Where there is a choice, one with another answer is taken.
    """
    by_form: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        if sample.images:
            by_form[tuple(len(turn.images) for turn in sample.turns)].append(index)
    out: dict[int, Sample] = {}
    for members in by_form.values():
        half = max(1, len(members) // 2)
        for place, index in enumerate(members):
            others = [members[(place + half + step) % len(members)] for step in range(len(members))]
            other = next((o for o in others if o != index and samples[o].answer != samples[index].answer), None)
            other = next((o for o in others if o != index), None) if other is None else other
            if other is not None:
                out[index] = _with_pictures(samples[index], samples[other])
    return sorted(out.items())


def _with_pictures(sample: Sample, other: Sample) -> Sample:
    turns = [Turn(theirs.images, own.text, own.answer) for own, theirs in zip(sample.turns, other.turns, strict=True)]
    return replace(sample, turns=turns, groups=other.groups)


def reverse_times(sample: Sample) -> Sample:
    """The same frames in the same packages, the last one's time first."""
    assert sample.groups is not None
    times = [time for group in sample.groups for time in group][::-1]
    groups, start = [], 0
    for group in sample.groups:
        groups.append(times[start : start + len(group)])
        start += len(group)
    return replace(sample, groups=groups)
