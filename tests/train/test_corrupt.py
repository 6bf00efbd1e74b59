"""Corruption: levels in their shares, no ink under a mask, the same again from the same numbers, loss on answers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cpmv.errors import MessageError
from cpmv.inputs.pdf import iter_pages
from cpmv.inputs.processor import Processor
from cpmv.inputs.text import Tokenizer
from cpmv.model.config import ModelConfig, from_hf
from cpmv.train.config import preprocessor_json, tiny_xs
from cpmv.train.corrupt import LEVELS, Plan, corrupt_page, draw_plan, pdf_regions
from cpmv.train.corrupt_pixels import (
    FAMILIES,
    FILLS,
    HIGH,
    LOW,
    MAX_REGIONS,
    NOISE,
    CorruptionArrays,
    Noise,
    corrupt,
)
from cpmv.train.draw.chance import Chance
from cpmv.train.draw.document import Region
from cpmv.train.draw.tokenizer import write_preprocessor, write_tokenizer

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_a"
CPU = torch.device("cpu")
WIDTH, HEIGHT = 168, 140


def regions() -> list[Region]:
    """Six rows of two phrases."""
    return [
        Region((10.0 + 78 * c, 8.0 + 21 * r, 74.0 + 78 * c, 22.0 + 21 * r), f"word{r} number{c}")
        for r in range(6)
        for c in range(2)
    ]


def page() -> Image.Image:
    """Paper with dark stripes, as ink, wherever a region is."""
    pixels = np.full((HEIGHT, WIDTH, 3), 240, np.uint8)
    for region in regions():
        left, top, right, bottom = (int(v) for v in region.box)
        pixels[top + 2 : bottom - 2, left + 2 : right - 2 : 3] = 20
    return Image.fromarray(pixels)


def pictures(count: int) -> torch.Tensor:
    one = torch.from_numpy(np.array(page())).permute(2, 0, 1).float() / 255
    return one.expand(count, -1, -1, -1).contiguous()


def plans(count: int) -> list[Plan]:
    return [draw_plan(regions(), WIDTH, HEIGHT, 3, sample, 0) for sample in range(count)]


def arrays_of(chosen: list[Plan]) -> CorruptionArrays:
    arrays = CorruptionArrays.empty(len(chosen))
    for number, plan in enumerate(chosen):
        arrays.put(number, plan)
    return arrays


def noise(count: int, seed: int = 0) -> Noise:
    return Noise.draw(Chance(CPU, torch.Generator().manual_seed(seed)), count, HEIGHT, WIDTH)


def inside(plan: Plan, number: int, grow: int = 0) -> tuple[slice, slice]:
    """Rows and columns of a target's box."""
    left, top, right, bottom = (v * (WIDTH, HEIGHT)[i % 2] for i, v in enumerate(plan.targets[number].box))
    rows = slice(max(0, int(np.floor(top)) - grow), int(np.ceil(bottom)) + grow)
    return rows, slice(max(0, int(np.floor(left)) - grow), int(np.ceil(right)) + grow)


def test_levels_come_in_their_shares_and_strengths_in_their_ranges() -> None:
    targets = [t for plan in plans(1500) for t in plan.targets]
    counts = Counter(t.level for t in targets)
    for level, share in LEVELS.items():
        assert abs(counts[level] / len(targets) - share) < 0.02
    assert all(0 <= t.strength <= 0.4 for t in targets if t.level == LOW)
    assert all((len(t.families) in (1, 2)) != (t.level == HIGH) for t in targets)
    assert {f for t in targets for f in t.families} == set(range(len(FAMILIES)))
    assert {t.fill for t in targets} == set(range(len(FILLS)))


def test_a_share_of_the_regions_is_chosen_in_reading_order_and_the_rest_stays() -> None:
    for plan in plans(200):
        numbers = [t.region for t in plan.targets]
        assert numbers == sorted(set(numbers)) and 1 <= len(numbers) <= min(MAX_REGIONS, 6)
        assert all(t.text == regions()[t.region].text for t in plan.targets)
    sizes = {len(plan.targets) for plan in plans(200)}
    assert min(sizes) == 2 and max(sizes) == 6  # 15 to 50 % of twelve


def test_phrases_are_preferred_to_single_words() -> None:
    mixed = [Region(r.box, r.text if i % 2 else "word") for i, r in enumerate(regions())]
    chosen = [t for s in range(300) for t in draw_plan(mixed, WIDTH, HEIGHT, 0, s, 0).targets]
    assert np.mean([" " in t.text for t in chosen]) > 0.65


def test_answers_are_numbered_and_fit_and_prompts_point_at_the_boxes() -> None:
    framed = 0
    for plan in plans(300):
        turn = plan.turn()
        assert turn.answer.splitlines() == [f"{n}. {t.text}" for n, t in enumerate(plan.targets, 1)]
        framed += plan.framed
        lines = turn.question.splitlines()[1:]
        assert len(lines) == (0 if plan.framed else len(plan.targets))
        for line, target in zip(lines, plan.targets, strict=False):
            numbers = [int(n) for n in line.split("<box>")[1].split("</box>")[0].split()]
            assert all(0 <= n <= 999 for n in numbers)
            np.testing.assert_allclose(np.array(numbers) / 1000, target.box, atol=1.001e-3)
    assert 100 < framed < 200
    short = draw_plan(regions(), WIDTH, HEIGHT, 0, 0, 0, max_characters=40)
    assert len(short.turn().answer) <= 40


def test_nothing_can_be_asked_of_a_page_without_text() -> None:
    with pytest.raises(MessageError, match="none of 1 regions"):
        draw_plan([Region((0, 0, 5, 5), "  ")], WIDTH, HEIGHT, 0, 0, 0)
    with pytest.raises(MessageError, match="max_regions is 9"):
        draw_plan(regions(), WIDTH, HEIGHT, 0, 0, 0, max_regions=9)


@pytest.mark.parametrize("fill", range(len(FILLS)))
def test_no_ink_is_left_in_a_masked_box(fill: int) -> None:
    chosen = plans(12)
    arrays = arrays_of(chosen)
    arrays.level = torch.where(arrays.level > 0, HIGH, 0)
    arrays.fill = torch.full_like(arrays.fill, fill)
    same = noise(12)
    out = corrupt(pictures(12), arrays, Chance(CPU), same)
    inverted = corrupt(torch.where(pictures(12) < 0.5, 240 / 255, pictures(12)), arrays, Chance(CPU), same)
    for row, plan in enumerate(chosen):
        for number in range(len(plan.targets)):
            box = (row, slice(None), *inside(plan, number))
            if fill != NOISE:  # one flat colour
                assert (out[box].amax((1, 2)) - out[box].amin((1, 2)) < 1e-4).all()
            # What was written there changes nothing: the page with and without its ink gives the same pixels.
            torch.testing.assert_close(out[box], inverted[box], atol=1e-4, rtol=0)


def test_outside_the_regions_a_picture_stays_to_the_bit() -> None:
    chosen = plans(16)
    out = corrupt(pictures(16), arrays_of(chosen), Chance(CPU), noise(16))
    assert (out >= 0).all() and (out <= 1).all()
    for row, plan in enumerate(chosen):
        outside = torch.ones(HEIGHT, WIDTH, dtype=torch.bool)
        for number, target in enumerate(plan.targets):
            outside[inside(plan, number, target.pad if target.level == HIGH else 0)] = False
        assert torch.equal(out[row, :, outside], pictures(1)[0, :, outside])
    empty = CorruptionArrays.empty(2)
    assert torch.equal(corrupt(pictures(2), empty, Chance(CPU), noise(2)), pictures(2))


@pytest.mark.parametrize("family", range(len(FAMILIES)), ids=FAMILIES)
def test_every_family_changes_more_as_it_grows_stronger(family: int) -> None:
    differences = []
    for strength in (0.1, 0.4, 0.9):
        arrays = CorruptionArrays.empty(1)
        arrays.boxes[0, 0] = torch.tensor(regions()[2].box) / torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
        arrays.level[0, 0], arrays.strength[0, 0], arrays.family[0, 0, 0] = LOW, strength, family
        arrays.height[0, 0], arrays.offset[0, 0] = 14 / HEIGHT, 0.5
        out = corrupt(pictures(1), arrays, Chance(CPU), noise(1))
        differences.append(float((out - pictures(1)).abs().sum()))
    assert 0 < differences[0] < differences[1] < differences[2]


def test_a_batch_gives_what_its_pictures_give_one_by_one() -> None:
    chosen, all_noise = plans(6), noise(6)
    together = corrupt(pictures(6), arrays_of(chosen), Chance(CPU), all_noise)
    for row, plan in enumerate(chosen):
        own = Noise(
            *(getattr(all_noise, name)[row : row + 1] for name in ("normal", "uniform", "colour", "blots", "rows"))
        )
        alone = corrupt(pictures(1), arrays_of([plan]), Chance(CPU), own)
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)


def test_the_same_numbers_give_the_same_page_and_other_epochs_differ() -> None:
    first, turn = corrupt_page(page(), regions(), 5, 11, 2)
    again, same_turn = corrupt_page(page(), regions(), 5, 11, 2)
    assert first.tobytes() == again.tobytes() and turn == same_turn
    seen = {corrupt_page(page(), regions(), *key)[0].tobytes() for key in ((5, 11, 3), (5, 12, 2), (6, 11, 2))}
    assert len(seen | {first.tobytes()}) == 4
    assert first.size == page().size and turn.num_sheets == 1
    assert draw_plan(regions(), WIDTH, HEIGHT, 5, 11, 2) == draw_plan(regions(), WIDTH, HEIGHT, 5, 11, 2)


@pytest.fixture(scope="module")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, json.loads((GOLDEN / "tokenizer_config.json").read_text()))
    write_preprocessor(folder, json.loads((GOLDEN / "preprocessor_config.json").read_text()))
    model = tiny_xs(4096)
    config: ModelConfig = from_hf(model, preprocessor_json(model))
    return Processor(config, Tokenizer.from_folder(folder))


@pytest.mark.parametrize("sample", range(6))
def test_the_loss_covers_exactly_the_answer(processor: Processor, sample: int) -> None:
    picture, turn = corrupt_page(page(), regions(), 0, sample, 0, language=sample % 2)
    messages = [{"role": "user", "content": [picture, turn.question]}, {"role": "assistant", "content": turn.answer}]
    inputs = processor(messages, supervised=True)
    assert inputs.labels is not None
    learnt = inputs.labels >= 0
    assert processor.tokenizer.decode(inputs.labels[learnt].tolist()) == f"{turn.answer}<|im_end|>"
    assert torch.equal(inputs.labels[learnt], inputs.input_ids[learnt])


def pdf_of(lines: list[tuple[int, int, str]], rotate: int = 0, origin: int = 0) -> bytes:
    """A PDF page of 200 x 120 points with lines of Helvetica at (x, y)."""
    text = b"".join(b"1 0 0 1 %d %d Tm (%s) Tj " % (x + origin, y + origin, s.encode()) for x, y, s in lines)
    stream = b"BT /F1 14 Tf %s ET" % text
    box = b"[%d %d %d %d]" % (origin, origin, origin + 200, origin + 120)
    objects = [
        b"<</Type /Catalog /Pages 2 0 R>>",
        b"<</Type /Pages /Kids [3 0 R] /Count 1>>",
        b"<</Type /Page /Parent 2 0 R /Rotate %d /MediaBox %s /Contents 4 0 R "
        b"/Resources <</Font <</F1 5 0 R>>>>>>" % (rotate, box),
        b"<</Length %d>>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return out + b"xref\n0 6\n0000000000 65535 f \n%strailer\n<</Size 6 /Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        len(out),
    )


LINES = [(12, 90, "Invoice for spring work"), (12, 60, "Total, please: 42")]


@pytest.mark.parametrize("origin", [0, 30])
@pytest.mark.parametrize("rotate", [0, 90, 180, 270])
def test_regions_of_a_pdf_cover_its_ink(rotate: int, origin: int) -> None:
    data = pdf_of(LINES, rotate, origin)
    found = pdf_regions(data, 1, 96)
    pixels = np.array(next(iter(iter_pages(data, [1], 96))).convert("L"))
    ink = pixels < 128
    assert ink.sum() > 200
    covered = np.zeros_like(ink)
    for region in found:
        left, top, right, bottom = region.box
        area = (slice(max(0, int(top) - 1), int(bottom) + 2), slice(max(0, int(left) - 1), int(right) + 2))
        assert ink[area].any()
        covered[area] = True
    assert not (ink & ~covered).any()
    assert covered.mean() < 0.5


def test_regions_of_a_pdf_are_phrases_and_can_be_corrupted() -> None:
    data = pdf_of(LINES)
    found = pdf_regions(data, 1, 96)
    assert [r.text for r in found] == ["Invoice for spring work", "Total,", "please:", "42"]
    image = next(iter(iter_pages(data, [1], 96)))
    out, turn = corrupt_page(image, found, 1, 2, 3)
    assert out.tobytes() != image.convert("RGB").tobytes()
    assert all(line.split(". ", 1)[1] in [r.text for r in found] for line in turn.answer.splitlines())
    with pytest.raises(MessageError, match="page 2"):
        pdf_regions(data, 2)
