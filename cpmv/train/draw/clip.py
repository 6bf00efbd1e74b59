"""Short clips of two shapes that move, stand still or appear later, with questions on direction, speed and order.

2 to 6 frames, a time step of 0.1 to 2 s between them and a random start time; positions follow the true times, so speed
is distance a second and only the temporal ids tell it. Frames beyond a clip's number are blank and masked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import shapes as shapes_module
from .chance import Chance
from .phrases import PhraseBank, Segments, Wordings
from .prompts import CLIP, COLOURS, DIRECTIONS, SHAPES, YES_NO
from .shapes import Shapes

MAX_FRAMES = 6
OBJECTS = 2
MAX_TEMPORAL_ID = 600  # tenths of a second: one minute
WEIGHTS = {"direction": 8.0, "faster": 1.0, "slower": 0.6, "first": 1.2, "last": 0.8, "moves": 0.6, "shape": 0.4}


class ClipWords:
    """Phrase rows of everything a clip question or answer may name, [language, ...]."""

    def __init__(self, bank: PhraseBank) -> None:
        self.colour = bank.add_all(list(COLOURS), [chinese for chinese, _ in COLOURS.values()])
        self.shape = bank.add_all(list(SHAPES), [chinese for _, chinese in SHAPES.values()])
        self.direction = bank.add_all(list(DIRECTIONS), list(DIRECTIONS.values()))
        self.yes_no = bank.add_all(*[[no, yes] for yes, no in YES_NO])
        self.wordings = Wordings(bank, CLIP)
        self.kind_weights = [WEIGHTS[kind] for kind in CLIP]


@dataclass
class Clip:
    """B clips of two objects; shapes are those of all B * 6 frames."""

    shapes: Shapes
    frame_mask: Tensor  # bool [B, F]
    temporal_ids: Tensor  # int64 [B, F], tenths of a second
    heading: Tensor  # int64 [B, 2], eighths of a turn clockwise from right; meaningless where still
    moves: Tensor  # bool [B, 2]
    length: Tensor  # float [B, 2], distance moved over the clip as a share of the shorter side
    appears: Tensor  # int64 [B, 2], first frame in which the object is shown
    seen: Tensor  # float [B, 2], the part of `length` that happens while it is shown
    colour: Tensor
    kind: Tensor


def draw_times(chance: Chance, batch: int) -> tuple[Tensor, Tensor]:
    """Temporal ids [B, F] with steps of 1 to 20 tenths, and the mask of existing frames [B, F]."""
    number = 2 + chance.integer(batch, high=MAX_FRAMES - 1)
    step = (20.0 ** chance.uniform(batch)).round().long().clamp(1, 20)
    jitter = (chance.integer(batch, MAX_FRAMES, high=3) - 1) * (step > 3).unsqueeze(1)
    # A quarter begin near the clip's own start, the others anywhere in it: the order of two times is learnt anew for
    # every part of the table.
    last = torch.where(chance.chosen(batch, share=0.25), 30, MAX_TEMPORAL_ID - 110)
    start = (chance.uniform(batch) * last).long() + 1
    frame = torch.arange(MAX_FRAMES, device=chance.device)
    ids = start.unsqueeze(1) + frame * step.unsqueeze(1) + jitter
    return ids, frame < number.unsqueeze(1)


def draw_clip(chance: Chance, base: Tensor, colours: Tensor, barred: Tensor, height: int, width: int) -> Clip:
    """Two objects of different colours with their paths. base: [B, 3] paper colour."""
    batch = base.shape[0]
    ids, mask = draw_times(chance, batch)
    kind, colour = shapes_module.choose_pairs(chance, base, colours, barred, OBJECTS)
    colour, kind = _different_colours(chance, base, colours, barred, kind, colour)
    side = float(min(height, width))
    radius = side * chance.uniform(batch, OBJECTS, low=0.1, high=0.17)
    heading = chance.integer(batch, OBJECTS, high=8)
    # A tenth of the clips share one heading; a twelfth of the objects stand still.
    heading = torch.where(chance.chosen(batch, 1, share=0.1), heading[:, :1], heading)
    moves = ~chance.chosen(batch, OBJECTS, share=0.08)
    length = side * chance.uniform(batch, OBJECTS, low=0.22, high=0.62) * moves
    angle = heading * (torch.pi / 4)
    dx, dy = angle.cos() * length, angle.sin() * length
    last = mask.sum(1, keepdim=True) - 1
    begin, end = ids[:, :1], ids.gather(1, last)
    done = ((ids - begin) / (end - begin).clamp(min=1)).clamp(0, 1)  # [B, F]
    room_x, room_y = (width - 2 * radius - dx.abs() - 2).clamp(min=0), (height - 2 * radius - dy.abs() - 2).clamp(min=0)
    x0 = 1 + radius + room_x * chance.uniform(batch, OBJECTS) + (-dx).clamp(min=0)
    y0 = 1 + radius + room_y * chance.uniform(batch, OBJECTS) + (-dy).clamp(min=0)
    later = chance.chosen(batch, 1, share=0.3)
    # A late object is there for at least one frame; the other is there from the first.
    late_frame = 1 + chance.integer(batch, high=last[:, 0])
    which = chance.integer(batch, 1, high=OBJECTS)
    appears = torch.where(later & (torch.arange(OBJECTS, device=base.device) == which), late_frame.unsqueeze(1), 0)
    seen = length / side * (1 - done.gather(1, appears))
    frame = torch.arange(MAX_FRAMES, device=base.device).view(1, -1, 1)
    shown = (frame >= appears.unsqueeze(1)) & mask.unsqueeze(2)
    rgb = (colours[colour] + chance.uniform(batch, OBJECTS, 3, low=-0.05, high=0.05)).clamp(0, 1)

    def every_frame(values: Tensor) -> Tensor:
        return values.unsqueeze(1).expand(-1, MAX_FRAMES, *values.shape[1:]).flatten(0, 1)

    shapes = Shapes(
        kind=every_frame(kind),
        colour=every_frame(colour),
        x=(x0.unsqueeze(1) + dx.unsqueeze(1) * done.unsqueeze(2)).flatten(0, 1),
        y=(y0.unsqueeze(1) + dy.unsqueeze(1) * done.unsqueeze(2)).flatten(0, 1),
        radius=every_frame(radius),
        angle=every_frame(torch.zeros_like(radius)),
        rgb=every_frame(rgb),
        shown=shown.flatten(0, 1).float(),
    )
    return Clip(shapes, mask, ids, heading, moves, length / side, appears, seen, colour, kind)


def _different_colours(
    chance: Chance, base: Tensor, colours: Tensor, barred: Tensor, kind: Tensor, colour: Tensor
) -> tuple[Tensor, Tensor]:
    """Give the second object another colour than the first, still visible and not barred."""
    distance = (base.unsqueeze(1) - colours.unsqueeze(0)).square().sum(2)
    allowed = (distance > 0.16) & ~barred.t()[kind[:, 1]]
    allowed = allowed & (torch.arange(colours.shape[0], device=base.device) != colour[:, :1])
    second = chance.one_of(allowed)
    return torch.stack([colour[:, 0], second], 1), kind


def owner_of(shapes: Shapes, x: Tensor, y: Tensor) -> Tensor:
    """The object that covers each point; the second lies over the first. x, y: [P] -> [N, P]."""
    dx, dy = x.unsqueeze(0) - shapes.x[:, 1:], y.unsqueeze(0) - shapes.y[:, 1:]
    radius = shapes.radius[:, 1:].expand_as(dx)
    inside = shapes_module.distance_to(shapes.kind[:, 1:].expand_as(dx), dx, dy, radius, torch.zeros_like(dx)) < 0.5
    return (inside & (shapes.shown[:, 1:] > 0)).long()


def ask(
    chance: Chance, clip: Clip, words: ClipWords, bank: PhraseBank, weights: Tensor, language: Tensor
) -> tuple[Segments, Segments, Tensor]:
    """A question that fits each clip. weights: [K] in the order of CLIP. Returns question, answer and kind [B]."""
    batch = language.shape[0]
    target = chance.integer(batch, high=OBJECTS)
    target = torch.where(_at(clip.moves, target), target, 1 - target)
    last = clip.frame_mask.sum(1, keepdim=True) - 1
    visible = (clip.appears < last) & ((clip.seen > 0.12) | ~clip.moves)  # its motion, or rest, can be seen
    whole = clip.appears == 0
    colour = words.colour[language.unsqueeze(1), clip.colour]  # [B, 2]
    speed = clip.length
    quick = (speed[:, 1] > speed[:, 0]).long()
    clear_speed = ((speed[:, 0] - speed[:, 1]).abs() > 0.12) & whole.all(1)
    early = (clip.appears[:, 0] > clip.appears[:, 1]).long()
    ordered = clip.appears[:, 0] != clip.appears[:, 1]
    still = chance.integer(batch, high=OBJECTS)
    still = torch.where(clip.moves.all(1) | chance.chosen(batch, share=0.4), still, clip.moves.long().argmin(1))
    zero = torch.zeros_like(target)
    shape_of = words.shape[language, _at(clip.kind, target)]
    columns = {
        "direction": (_at(clip.moves & visible, target), _at(colour, target),
                      words.direction[language, _at(clip.heading, target)]),
        "faster": (clear_speed, zero, _at(colour, quick)),
        "slower": (clear_speed, zero, _at(colour, 1 - quick)),
        "first": (ordered, zero, _at(colour, early)),
        "last": (ordered, zero, _at(colour, 1 - early)),
        "moves": (_at(visible, still), _at(colour, still), words.yes_no[language, _at(clip.moves, still).long()]),
        "shape": (torch.ones_like(ordered), _at(colour, target), shape_of),
    }  # fmt: skip
    valid, slot, answer = (torch.stack(list(c), 1) for c in zip(*[columns[kind] for kind in CLIP], strict=True))
    score = (1 - chance.uniform(batch, len(CLIP))).log() / weights
    kind = torch.where(valid, score, -1e9).argmax(1)
    parts = words.wordings.ask(chance, kind, language)
    question = [bank.segment(row) for row in (parts[:, 0], _at(slot, kind), parts[:, 1])]
    return question, [bank.segment(_at(answer, kind))], kind


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index.unsqueeze(1))[:, 0]
