"""Drawn batches: what they contain agrees with itself, with the processor, and with the rules of graph capture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cpmv.inputs.processor import Processor
from cpmv.inputs.text import Tokenizer
from cpmv.model.config import from_hf
from cpmv.train.draw.atlas import CELL, Atlas
from cpmv.train.draw.charset import LATIN, drawn_characters
from cpmv.train.draw.prompts import CLIP, COLOURS, DIRECTIONS, HELD_OUT_PAIRS, PLACES, SCENE, SHAPES, TALK
from cpmv.train.draw.sample import KINDS, Batch, Drawer, Grid
from cpmv.train.draw.tokenizer import write_preprocessor, write_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_a"
GRIDS = [Grid(16, 16), Grid(7, 7), Grid(6, 20), Grid(20, 6)]


def synthetic_atlas() -> Atlas:
    """Three faces of solid blocks: one Latin, one Han, one held out."""
    characters = drawn_characters()
    cells = np.zeros((2, CELL, CELL), np.uint8)
    cells[1, 8:30, 6:20] = 255
    glyph = np.ones((3, len(characters)), np.int32)
    glyph[:, 0] = 0
    glyph[[0, 2], len(LATIN) :] = -1
    advance = np.full(glyph.shape, 0.6, np.float32)
    advance[1, len(LATIN) :] = 1.0
    names, kinds = ["latin", "han", "new"], ["sans", "han", "serif"]
    return Atlas(characters, cells, glyph, advance, names, names, kinds, np.array([False, False, True]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, json.loads((GOLDEN / "tokenizer_config.json").read_text()))
    write_preprocessor(folder, json.loads((GOLDEN / "preprocessor_config.json").read_text()))
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def drawer(tokenizer: Tokenizer) -> Drawer:
    return Drawer(synthetic_atlas(), tokenizer)


def drawn(drawer: Drawer, kind: str, batch: int = 8, grid: Grid = GRIDS[0], seed: int = 0) -> Batch:
    return drawer.draw(kind, batch, grid, torch.Generator().manual_seed(seed))


def spoken(tokenizer: Tokenizer, batch: Batch, row: int) -> tuple[str, str]:
    """Question and answer of a sample."""
    text = tokenizer.decode(batch.input_ids[row, : batch.lengths[row]].tolist())
    question = text.split("<|im_end|>")[0].removeprefix("<|im_start|>user\n").split("</image>\n")[-1]
    answer = tokenizer.decode(batch.labels[row][batch.labels[row] >= 0].tolist())
    return question, answer.removesuffix("<|im_end|>")


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("grid", GRIDS[:3], ids=str)
def test_shapes_ranges_and_lengths_hold_for_every_kind_and_grid(drawer: Drawer, kind: str, grid: Grid) -> None:
    batch = drawn(drawer, kind, 24 if kind != "clip" else 6, grid, seed=3)
    size, frames = batch.input_ids.shape[0], {"clip": 6, "textonly": 0}.get(kind, 1)
    assert batch.pixels.shape == (size, frames, 3, grid.rows * 14, grid.cols * 14)
    assert batch.dense.shape == (size, frames, grid.rows * 2, grid.cols * 2)
    assert batch.lattice.shape == (size, 32, 32)
    assert batch.pixels.numel() == 0 or (batch.pixels.abs() <= 1).all() and batch.pixels.std() > 0.01
    assert batch.dense.numel() == 0 or -100 <= batch.dense.min() and batch.dense.max() < drawer.num_classes
    assert (batch.lengths <= drawer.sequence_length).all() and (batch.lengths > 10).all()
    assert ((batch.labels >= 0).sum(1) >= 2).all()


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_same_seed_draws_the_same_and_another_seed_does_not(drawer: Drawer, kind: str) -> None:
    first, again, other = (drawn(drawer, kind, 3, GRIDS[1], seed) for seed in (1, 1, 2))
    assert torch.equal(first.pixels, again.pixels) and torch.equal(first.input_ids, again.input_ids)
    assert not torch.equal(first.input_ids, other.input_ids)


@pytest.mark.parametrize("kind", list(KINDS))
def test_nothing_depends_on_values_or_leaves_the_device(tokenizer: Tokenizer, kind: str) -> None:
    """On the meta device a read-back, a shape that depends on data or a tensor elsewhere is an error."""
    batch = Drawer(synthetic_atlas(), tokenizer, "meta").draw(kind, 2, GRIDS[1])
    assert batch.pixels.device.type == batch.labels.device.type == batch.dense.device.type == "meta"


@pytest.mark.parametrize("kind", list(KINDS))
def test_no_tensor_is_made_from_python_numbers_while_drawing(drawer: Drawer, kind: str) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    drawn(drawer, kind, 2, GRIDS[1])
    with Watch():
        drawn(drawer, kind, 2, GRIDS[1])
    banned = ("lift_fresh", "_local_scalar_dense", "nonzero", "masked_select", "item")
    assert len(seen) > 50 and not [name for name in seen if any(word in name for word in banned)]


@pytest.mark.parametrize(("kind", "frames"), [("text", 1), ("scene", 1), ("clip", 2), ("textonly", 0)])
def test_ids_and_labels_equal_what_the_processor_makes(
    drawer: Drawer, tokenizer: Tokenizer, folder: Path, kind: str, frames: int
) -> None:
    hf = json.loads((GOLDEN / "config.json").read_text()) | {"query_num": 16, "vocab_size": len(tokenizer)}
    hf["slice_config"] = None
    processor = Processor(from_hf(hf, json.loads((folder / "preprocessor_config.json").read_text())), tokenizer)
    batch = drawn(drawer, kind, 6, GRIDS[1], seed=4)
    for row in range(6):
        question, answer = spoken(tokenizer, batch, row)
        content = [Image.new("RGB", (98, 98))] * frames + [question]
        msgs = [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
        options = {"use_image_id": False, "temporal_ids": [[3, 5]]} if kind == "clip" else {}
        expected = processor(msgs, supervised=True, **options)
        length = int(batch.lengths[row])
        assert batch.input_ids[row, :length].tolist() == expected.input_ids[:length].tolist()
        assert expected.labels is not None
        assert batch.labels[row, :length].tolist() == expected.labels[:length].tolist()
        bounds = expected.image_bounds.tolist()
        assert bounds == ([[batch.visual_start, batch.visual_start + 16]] if frames else [])


def test_read_answers_are_the_labels_of_the_picture(drawer: Drawer, tokenizer: Tokenizer) -> None:
    """The set of characters found at the label points of a large single line is that of the answer."""
    batch = drawn(drawer, "text", 64, Grid(12, 12), seed=5)
    compared = 0
    for row in range(64):
        _, answer = spoken(tokenizer, batch, row)
        found = {drawn_characters()[index - 1] for index in batch.dense[row].flatten().tolist() if index > 0}
        assert found <= set(answer)
        if len(answer) <= 8 and "\n" not in answer:
            compared += found == set(answer.replace(" ", ""))
    assert compared >= 3


def test_text_is_visible_and_sized_to_fit(drawer: Drawer) -> None:
    for grid in GRIDS:
        batch = drawn(drawer, "text", 16, grid, seed=6)
        inside = batch.dense[:, 0] > 0
        assert inside.flatten(1).any(1).all()
        luminance = batch.pixels[:, 0].mean(1)
        assert (luminance.flatten(1).amax(1) - luminance.flatten(1).amin(1) > 0.2).all()


def test_every_scene_question_is_answered_by_the_labels(drawer: Drawer, tokenizer: Tokenizer) -> None:
    """Counts, existence and descriptions agree with the objects found by connected dense labels."""
    names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    kinds = list(SCENE)
    checked = set()
    batch = drawn(drawer, "scene", 160, Grid(12, 12), seed=7)
    for row in range(160):
        classes = batch.dense[row, 0] - drawer.first_shape_class
        present = {names[index] for index in classes.flatten().tolist() if index >= 0}
        question, answer = spoken(tokenizer, batch, row)
        kind = kinds[int(batch.task[row])]
        if any(ord(c) > 127 for c in question):
            continue
        if kind == "exists":
            asked = next(name for name in names if f" {name}" in question)
            assert (answer == "yes") == (asked in present), (question, answer, present)
        elif kind == "describe":
            listed = answer.replace(" and ", ", ").split(", ")
            assert {item.split(" ", 1)[1] for item in listed} == present
        elif kind in ("largest", "smallest", "leftmost", "rightmost"):
            assert answer in present
        elif kind == "colour_of":
            assert [name for name in present if name.split()[1] in question] == [f"{answer} {name_of(question)}"]
        elif kind == "count":
            assert int(answer) >= len(present)
        elif kind == "where_is":
            assert answer in PLACES
        else:
            continue
        checked.add(kind)
    assert {"exists", "describe", "colour_of", "count", "where_is"} <= checked


def name_of(question: str) -> str:
    return next(shape for shape in SHAPES if shape in question)


def test_all_question_kinds_are_asked_in_both_languages(drawer: Drawer, tokenizer: Tokenizer) -> None:
    for kind, number in (("scene", len(SCENE)), ("clip", len(CLIP)), ("textonly", len(TALK) + 1)):
        batch = drawn(drawer, kind, 320, Grid(3, 3) if kind == "clip" else GRIDS[1], seed=8)
        assert set(batch.task.tolist()) == set(range(number))
        questions = [spoken(tokenizer, batch, row)[0] for row in range(100)]
        chinese = sum(any("\u4e00" <= c <= "\u9fff" for c in question) for question in questions)
        assert 10 < chinese < 50


def test_held_out_pairs_are_neither_drawn_nor_named_in_training(drawer: Drawer, tokenizer: Tokenizer) -> None:
    banned = {list(COLOURS).index(c) * len(SHAPES) + list(SHAPES).index(s) for c, s in HELD_OUT_PAIRS}
    batch = drawn(drawer, "scene", 256, GRIDS[1], seed=9)
    assert not banned & set((batch.dense - drawer.first_shape_class).unique().tolist())
    said = " ".join(" ".join(spoken(tokenizer, batch, row)) for row in range(256))
    assert not [pair for pair in HELD_OUT_PAIRS if " ".join(pair) in said]


def test_clips_move_the_way_the_answer_says(drawer: Drawer, tokenizer: Tokenizer) -> None:
    batch = drawn(drawer, "clip", 48, Grid(8, 8), seed=10)
    steps = dict(zip(DIRECTIONS, [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)], strict=True))
    checked = 0
    for row in range(48):
        question, answer = spoken(tokenizer, batch, row)
        colour = next((name for name in COLOURS if f"the {name} " in question), None)
        if answer not in steps or colour is None:
            continue
        frames = int(batch.frame_mask[row].sum())
        pairs = (batch.dense[row] - drawer.first_shape_class).clamp(min=-1)
        mine = (pairs >= 0) & (pairs // len(SHAPES) == list(COLOURS).index(colour))
        places = [mine[frame].nonzero().float().mean(0) for frame in range(frames) if mine[frame].sum() > 3]
        if len(places) < 2:
            continue
        dy, dx = (places[-1] - places[0]).tolist()
        wanted = steps[answer]
        moved = [round(value / max(abs(dx), abs(dy), 1e-6) * 0.8) for value in (dx, dy)]
        assert moved[0] == wanted[0] and moved[1] == wanted[1], (question, answer, dx, dy)
        checked += 1
    assert checked > 8


def test_times_of_a_clip_rise_and_missing_frames_are_masked(drawer: Drawer) -> None:
    batch = drawn(drawer, "clip", 64, GRIDS[1], seed=11)
    later, both = batch.temporal_ids[:, 1:] - batch.temporal_ids[:, :-1], batch.frame_mask[:, 1:]
    assert (later[both] >= 1).all() and (later[both] <= 22).all()
    assert (batch.temporal_ids[~batch.frame_mask] == -1).all()
    assert (batch.dense[~batch.frame_mask] == -100).all() and (batch.pixels[~batch.frame_mask] == 0).all()
    assert set(batch.frame_mask.sum(1).tolist()) == {2, 3, 4, 5, 6}


def test_sums_in_text_only_samples_are_right(drawer: Drawer, tokenizer: Tokenizer) -> None:
    batch = drawn(drawer, "textonly", 300, GRIDS[1], seed=12)
    signs = {"add": "+", "subtract": "-", "multiply": "*"}
    checked = 0
    for row in range(300):
        kind = [*TALK, "talk"][int(batch.task[row])]
        question, answer = spoken(tokenizer, batch, row)
        numbers = [int(n) for n in "".join(c if c.isdigit() else " " for c in question).split()]
        if kind in signs and len(numbers) == 2:
            first, second = numbers
            assert int(answer) == {"+": first + second, "-": first - second, "*": first * second}[signs[kind]]
            checked += 1
        elif kind == "copy":
            assert question.endswith(answer)
        elif kind == "upper" and "capitals?" in question:
            assert answer == question.split(" in ")[0].upper()
    assert checked > 20


def test_held_out_drawers_use_other_faces_and_words(tokenizer: Tokenizer, drawer: Drawer) -> None:
    held_out = Drawer(synthetic_atlas(), tokenizer, held_out=True)
    assert held_out.pools.latin.unique().tolist() == [2] and drawer.pools.latin.unique().tolist() == [0]
    texts = [{"".join(map(str, row)) for row in d.words.pieces[d.words.start[0] : d.words.start[2]].tolist()}
             for d in (drawer, held_out)]  # fmt: skip
    assert texts[0] and texts[1] and not texts[0] & texts[1]


def test_an_unknown_kind_is_refused(drawer: Drawer) -> None:
    with pytest.raises(ValueError, match="unknown kind 'song'; one of text, scene, clip, textonly"):
        drawer.draw("song", 1, GRIDS[1])
