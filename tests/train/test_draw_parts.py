"""The parts of the drawing: atlas, glyph lookup, tokenizer, words, random choices, shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ImageFont

from cpmv.inputs.text import Tokenizer
from cpmv.train.draw import glyphs, shapes
from cpmv.train.draw.atlas import CELL, Atlas, build_atlas, complete_faces
from cpmv.train.draw.chance import Chance, cumulative, join
from cpmv.train.draw.charset import ASCII, LATIN, drawn_characters, fallback_of, han_by_frequency
from cpmv.train.draw.faces import FAMILIES, Face
from cpmv.train.draw.paper import contrasting_colour, luminance
from cpmv.train.draw.prompts import SHAPES
from cpmv.train.draw.text import text_limits
from cpmv.train.draw.tokenizer import VOCAB_SIZE, write_tokenizer
from cpmv.train.draw.words import SPACE, WordBank, is_held_out, piece_sorts

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_a"
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    size = write_tokenizer(folder, json.loads((GOLDEN / "tokenizer_config.json").read_text()))
    assert size <= VOCAB_SIZE
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    face = Face("Built in", "sans", "built-in", 0, False)

    def load(face: Face, size: int) -> ImageFont.FreeTypeFont:
        font = ImageFont.load_default(size)
        if not isinstance(font, ImageFont.FreeTypeFont):
            pytest.skip("this Pillow has no FreeType")
        return font

    return build_atlas([face], ASCII + "漢", load=load)


def test_every_drawn_character_is_one_token_also_inside_a_line(tokenizer: Tokenizer) -> None:
    assert all(len(tokenizer.encode(character)) == 1 for character in drawn_characters() + "\n")
    for line in ("Total: $12.50, a  b", "Größe ¿qué? 20%", "价格：12元，共3个", "he's\nit'll\n-x-"):
        ids = tokenizer.encode(line)
        assert len(ids) == len(line) and tokenizer.decode(ids) == line


def test_the_tokenizer_keeps_the_released_texts_and_order(tokenizer: Tokenizer) -> None:
    released = json.loads((GOLDEN / "tokenizer_config.json").read_text())
    texts = [entry["content"] for _, entry in sorted(released["added_tokens_decoder"].items(), key=lambda i: int(i[0]))]
    ids = [tokenizer.token_id(text) for text in texts]
    assert ids == list(range(ids[0], ids[0] + len(texts))) and ids[-1] == len(tokenizer) - 1
    assert tokenizer.chat_template == released["chat_template"]
    assert len(tokenizer.encode("<think>\n\n</think>\n\n")) == 4
    assert tokenizer.decode([0]) == "\x00"


def test_han_characters_are_distinct_and_enough() -> None:
    han = han_by_frequency()
    assert len(set(han)) == len(han) >= 3000
    assert len(set(drawn_characters())) == len(drawn_characters()) == len(LATIN) + 12 + 1000
    assert all(fallback_of(character) in ASCII for character in drawn_characters())


def test_an_atlas_survives_saving_to_within_a_level(atlas: Atlas, tmp_path: Path) -> None:
    atlas.save(tmp_path / "a.npz")
    again = Atlas.load(tmp_path / "a.npz")
    assert again.characters == atlas.characters and again.kinds == ["sans"] and not again.held_out.any()
    assert np.abs(again.cells.astype(int) - atlas.cells).max() <= 9
    assert np.array_equal(again.glyph, atlas.glyph) and np.abs(again.advance - atlas.advance).max() < 1e-3
    with pytest.raises(FileNotFoundError, match="python -m cpmv.train.draw.atlas"):
        Atlas.load(tmp_path / "b.npz")


def test_a_missing_glyph_is_noticed(atlas: Atlas) -> None:
    assert atlas.glyph[0, -1] == -1 and (atlas.glyph[0, :-1] >= 0).all()
    assert atlas.glyph[0, 0] == 0  # the space has no ink
    assert complete_faces(atlas)[0]


def layout_of(atlas: Atlas, text: str, em: float, size: int = 64) -> tuple[glyphs.TextLayout, glyphs.DeviceAtlas]:
    device_atlas = glyphs.DeviceAtlas(atlas, CPU)
    ids = torch.tensor([[[atlas.characters.index(character) for character in text]]])
    ends = (device_atlas.advance[0][ids] * em).cumsum(2) + 8
    start = torch.cat([torch.full((1, 1, 1), 8.0), ends[:, :, :-1]], 2)
    one, zero = torch.ones(1), torch.zeros(1)
    layout = glyphs.TextLayout(
        characters=ids, cell=device_atlas.glyph[0][ids], start=start, stop=ends[:, :, -1], em=torch.full((1, 1), em),
        top=torch.tensor([16.0]), pitch=torch.tensor([em * 1.3]), lines=torch.tensor([1]), cosine=one, sine=zero,
        block=one, table=glyphs.column_table(start, size), height=size, width=size,
    )  # fmt: skip
    return layout, device_atlas


@pytest.mark.parametrize("em", [14.0, 28.0])
def test_drawn_ink_equals_the_atlas_at_its_two_sizes(atlas: Atlas, em: float) -> None:
    """At em 28 and 14 with the pen on whole pixels, a picture is the cell itself."""
    layout, device_atlas = layout_of(atlas, "R", em)
    baseline = 16 + 0.79 * em * 1.3
    layout.top += round(baseline) - baseline
    picture = glyphs.ink(layout, device_atlas)[0]
    scale = int(28 / em)
    cell = torch.from_numpy(atlas.cells[atlas.glyph[0, atlas.characters.index("R")]]).float() / 255
    expected = cell.view(CELL // scale, scale, CELL // scale, scale).mean((1, 3))
    pen_y = 29 / scale
    if pen_y != int(pen_y):  # half-size cells have their pen between rows
        assert abs(float(picture.sum() - expected.sum())) < 0.05 * float(expected.sum())
        return
    top, left = round(baseline) - 29 // scale, 8 - 6 // scale
    part = picture[top : top + CELL // scale, left : left + CELL // scale]
    assert torch.allclose(part[3:34, 4:30], expected[3:34, 4:30], atol=0.01)


def test_classes_name_the_character_under_a_point_and_nothing_beside_it(atlas: Atlas) -> None:
    layout, _ = layout_of(atlas, "AB", 24.0)
    middle = (layout.start[0, 0] + torch.cat([layout.start[0, 0, 1:], layout.stop[0]])) / 2
    x = torch.cat([middle, torch.tensor([2.0, 62.0])])
    found = glyphs.classes_at(layout, x, torch.full_like(x, 16 + 0.79 * 24 * 1.3 - 5))[0]
    assert found.tolist() == [atlas.characters.index("A") + 1, atlas.characters.index("B") + 1, 0, 0]
    assert glyphs.classes_at(layout, x, torch.full_like(x, 3.0)).sum() == 0


def test_lines_respect_their_limit_and_never_end_in_a_space() -> None:
    bank, chance = WordBank(CPU), Chance(CPU, torch.Generator().manual_seed(0))
    mode = bank.choose_modes(chance, torch.arange(600) % 2 == 0)
    limit = 1 + torch.arange(600) % 24
    line, length = bank.compose(chance, mode, limit, 24)
    assert (length >= 1).all() and (length <= limit).all() and (length == limit).float().mean() < 0.9
    last = line.gather(1, (length - 1).unsqueeze(1))
    assert (line[:, 0] != SPACE).all() and (last != SPACE).all()
    assert (line >= 0).all() and (line < len(drawn_characters())).all()
    assert (line[mode < bank.num_latin] < bank.han_start).all()


def test_substitution_keeps_length_spaces_and_script() -> None:
    bank, chance = WordBank(CPU), Chance(CPU, torch.Generator().manual_seed(0))
    mode = bank.choose_modes(chance, torch.zeros(200, dtype=torch.bool))
    line, length = bank.compose(chance, mode, torch.full((200,), 20), 20)
    changed = bank.substitute(chance, line, length, torch.full((200,), 0.5), torch.zeros(200, dtype=torch.bool))
    used = torch.arange(20) < length.unsqueeze(1)
    assert ((changed == SPACE) == (line == SPACE))[used].all() and (changed[~used] == line[~used]).all()
    share = (changed != line)[used & (line != SPACE)].float().mean()
    assert 0.45 < share < 0.52


def test_held_out_words_are_a_tenth_and_the_rest_is_trained() -> None:
    trained, kept = (piece_sorts(held_out)["en"] for held_out in (False, True))
    assert not set(trained) & set(kept) and all(is_held_out(word) for word in kept)
    assert 0.07 < len(kept) / (len(kept) + len(trained)) < 0.13


def test_join_writes_segments_in_order_and_cuts_at_the_width() -> None:
    first = torch.tensor([[1, 2, 9], [3, 9, 9]]), torch.tensor([2, 1])
    second = torch.tensor([[5, 6], [7, 8]]), torch.tensor([2, 0])
    rows, used = join([first, second, first], 5)
    assert rows.tolist() == [[1, 2, 5, 6, 1], [3, 3, 0, 0, 0]] and used.tolist() == [6, 2]


def test_choices_follow_their_weights_and_masks() -> None:
    chance = Chance(CPU, torch.Generator().manual_seed(0))
    drawn = chance.weighted(4000, cumulative=cumulative([1.0, 0.0, 3.0], CPU))
    assert not (drawn == 1).any() and 0.2 < (drawn == 0).float().mean() < 0.3
    allowed = torch.tensor([[False, True, True, False]]).expand(500, -1)
    assert set(chance.one_of(allowed).tolist()) == {1, 2}
    assert set(chance.integer(500, high=torch.full((500,), 3)).tolist()) == {0, 1, 2}


def test_ink_always_stands_out_from_its_paper() -> None:
    chance = Chance(CPU, torch.Generator().manual_seed(0))
    base = chance.uniform(2000, 3)
    colour = contrasting_colour(chance, base, 0.3)
    assert ((luminance(colour) - luminance(base)).abs() > 0.27).all()
    assert (colour >= 0).all() and (colour <= 1).all()


def test_shapes_have_their_centre_inside_but_the_ring_and_stay_within_their_radius() -> None:
    count = len(SHAPES)
    kind, zero, one = torch.arange(count).view(1, -1), torch.zeros(1, count), torch.ones(1, count)
    centre = shapes.distance_to(kind, zero, zero, one * 10, zero)[0]
    assert ((centre < 0) == torch.tensor([name != "ring" for name in SHAPES])).all()
    angle = torch.linspace(0, 6.283, 200).view(-1, 1)
    far = shapes.distance_to(kind.expand(200, -1), 12.7 * angle.cos() * one, 12.7 * angle.sin() * one, one * 10, zero)
    assert (far > 0).all()
    areas = _areas(kind)
    assert (areas > 0.25 * 3.1416).all() and (areas < 1.1 * 3.1416).all()


def _areas(kind: torch.Tensor) -> torch.Tensor:
    """Area of each shape of radius 1, by counting."""
    steps = torch.linspace(-1.3, 1.3, 261)
    x, y = torch.meshgrid(steps, steps, indexing="xy")
    points = x.numel()
    distance = shapes.distance_to(
        kind.expand(points, -1), x.reshape(-1, 1).expand(-1, 6), y.reshape(-1, 1).expand(-1, 6),
        torch.ones(points, 6), torch.zeros(points, 6),
    )  # fmt: skip
    return (distance < 0).float().mean(0) * 2.61**2


def test_limits_shrink_with_the_picture() -> None:
    square, strip = text_limits(224, 224), text_limits(84, 280)
    assert (square.num_lines, square.latin, square.han) == (6, 24, 15)
    assert strip.num_lines == 5 and strip.latin == 24
    assert text_limits(448, 112).latin == 11 and text_limits(28, 28).num_lines == 1


def test_families_are_held_out_as_a_whole_and_both_groups_have_every_need() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    for held_out in (False, True):
        kinds = {family.kind for family in FAMILIES if family.held_out == held_out}
        assert {"han", "serif", "mono", "oldstyle"} <= kinds
