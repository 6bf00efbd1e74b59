"""Composed samples: the processor's tokens, the preprocessing's slices, and a probe that knows right from wrong."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_draw_samples import synthetic_atlas

from cpmv.inputs.processor import Processor
from cpmv.inputs.text import Tokenizer
from cpmv.model.config import ModelConfig, from_hf
from cpmv.train.composed import LONGEST, Composer, PagePlan, Room, blank_fields
from cpmv.train.composed_probe import ComposedProbe
from cpmv.train.composed_steps import ComposedSteps, enlarged, stream_steps
from cpmv.train.config import Combination, ComposedConfig, preprocessor_json, tiny_m, tiny_xs
from cpmv.train.draw.display import Look
from cpmv.train.draw.document import RECT, Document, Mark, Run, Sheet, Turn
from cpmv.train.draw.tokenizer import write_tokenizer
from cpmv.train.init import build
from cpmv.train.joint import JointObjective, combination_of
from cpmv.train.joint_model import IGNORE, JointModel

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny_a"
GRIDS = (
    Combination(((4, 4),), (4, 4), (4, 6), (224, 448), (4, 4)),
    Combination(((4, 4),), (4, 4), (6, 4), (300, 230), (4, 6)),
)
COMPOSED = ComposedConfig(
    singles=4, pages=1, packages=3, texts=1, tokens=1400,
    single_kinds={"single": 1.0}, page_kinds={"page": 1.0}, clip_kinds={"clip": 1.0}, text_kinds={"text": 1.0},
)  # fmt: skip


class ToyMaker:
    """Documents of every shape with little on them."""

    def make(self, kind: str, rng: np.random.Generator, width: int, height: int) -> Document:
        def sheet() -> Sheet:
            mark = Mark(RECT, (width * 0.1, height * 0.1, width * 0.5, height * 0.6), (0.8, 0.1, 0.1))
            return Sheet(width, height, marks=[mark], runs=[Run("ab", 2, height - 4, 12, 0)])

        if kind == "text":
            return Document("sum", [], [Turn("What is 1 + 1?", "2", thinking="1 + 1 = 2")])
        if kind == "clip":
            groups = [[3, 5, 9], [12]] if rng.random() < 0.5 else [[4, 4 + int(rng.integers(1, 9))]]
            count = sum(map(len, groups))
            return Document("clip", [sheet() for _ in range(count)], [Turn("Where?", "left", count)], groups=groups)
        if kind == "page":
            return Document("page", [sheet()], [Turn("Read the text.", "ab", 1)])
        turns = [Turn("What is this?", "a block", 1)]
        if rng.random() < 0.5:
            turns.append(Turn("And this?", "a block too", 1))
        return Document("single", [sheet() for _ in turns], turns)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, json.loads((GOLDEN / "tokenizer_config.json").read_text()))
    return Tokenizer.from_folder(folder)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    model = tiny_m()
    return from_hf(model, preprocessor_json(model))


@pytest.fixture(scope="module")
def steps(config: ModelConfig, tokenizer: Tokenizer) -> ComposedSteps:
    rooms = [Room(combination, COMPOSED, config) for combination in GRIDS]
    key_of = partial(combination_of, seed=0, num=len(rooms))
    return ComposedSteps(rooms, key_of, synthetic_atlas(), tokenizer, config, ToyMaker(), (0, 0))


@pytest.fixture(scope="module")
def objective(steps: ComposedSteps, config: ModelConfig) -> JointObjective:
    model = JointModel(build(config, torch.device("cpu"), 0), 3)
    composer = Composer(steps.rooms, steps.atlas, config, torch.device("cpu"), look=Look(0, 0, 0, 0, 0, 0))
    batches = partial(stream_steps, steps, workers=0)
    return JointObjective(model, None, {}, GRIDS, shift=False, composer=composer, host_batches=batches)  # type: ignore[arg-type]


def test_tokens_are_those_of_the_processor(steps: ComposedSteps, config: ModelConfig, tokenizer: Tokenizer) -> None:
    processor, rng = Processor(config, tokenizer), np.random.default_rng(5)
    room = steps.rooms[0]
    page = ToyMaker().make("page", rng, *room.page.refined)
    ids, labels, bounds = steps.encode(page, room, "pages")
    picture = Image.new("RGB", room.page.source)
    chat = [{"role": "user", "content": [picture, "Read the text."]}, {"role": "assistant", "content": "ab"}]
    inputs = processor(chat, supervised=True)
    assert ids == inputs.input_ids.tolist() and labels == inputs.labels.tolist()  # type: ignore[union-attr]
    assert bounds == [tuple(b) for b in inputs.image_bounds.tolist()] and len(bounds) == 1 + room.page.num_slices
    deep = steps.encode(ToyMaker().make("text", rng, 1, 1), room, "texts")
    assert tokenizer.decode([i for i in deep[1] if i != IGNORE]) == "1 + 1 = 2\n</think>\n\n2<|im_end|>"


def test_a_step_holds_whole_documents_with_their_answers_alone(steps: ComposedSteps, tokenizer: Tokenizer) -> None:
    for number in range(4):
        batch, room = steps[number], steps.rooms[steps.key_of(number)]
        fields = blank_fields(room, steps.atlas).over(batch.flat)
        assert {"single", "page", "clip", "sum"} <= set(batch.tasks)
        start = 0
        for task, end in zip(batch.tasks, batch.ends, strict=True):
            answered = fields.targets[start:end]
            said = tokenizer.decode(answered[answered != IGNORE].tolist())
            assert (
                said.endswith("<|im_end|>")
                and {"page": "ab", "clip": "left", "sum": "2", "single": "a block"}[task] in said
            )
            assert fields.positions[start:end].tolist() == list(range(end - start))
            start = end
        offsets = fields.offsets.tolist()
        assert offsets[: len(batch.ends) + 1] == [0, *batch.ends] and offsets[-1] == COMPOSED.tokens
        assert max(b - a for a, b in zip(offsets, offsets[1:], strict=False)) <= LONGEST
        unk = tokenizer.token_id("<unk>")
        rows = fields.rows[fields.rows < COMPOSED.tokens - 1]
        assert sorted(rows.tolist()) == (fields.ids == unk).nonzero()[:, 0].tolist()


def test_a_step_is_the_same_again_and_in_a_worker(steps: ComposedSteps) -> None:
    first = next(stream_steps(steps, 2, 1))
    assert torch.equal(first.flat, steps[2].flat) and first.ends == steps[2].ends
    assert not torch.equal(first.flat, steps[2 + len(GRIDS) * 3].flat)


def test_slices_are_those_of_the_preprocessing(objective: JointObjective, steps: ComposedSteps) -> None:
    """A page drawn and cut on the device looks as the processor cuts a picture of it."""
    key = steps.key_of(0)
    objective.feed(key, 0)
    batch = objective.load(key, torch.Generator().manual_seed(0))[0]
    room = steps.rooms[key]
    overview, slices = batch.passes[1], batch.passes[2]
    assert slices.patches.shape[0] == room.page.num_slices

    def pictures(patches: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
        split = patches.float().unflatten(1, shape)
        return split.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)  # [N, C, H, W]

    tiles = pictures(slices.patches, room.page.slice)
    across, down = room.page.grid
    whole = tiles.unflatten(0, (down, across)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
    plain = Image.fromarray(((whole + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    processor = Processor(steps.processor.config, steps.processor.tokenizer)
    inputs = processor([{"role": "user", "content": [plain, "?"]}])
    sizes = inputs.tgt_sizes.tolist()
    assert sizes == [list(room.page.overview), *([list(room.page.slice)] * room.page.num_slices)]
    counts = [h * w for h, w in sizes]
    theirs = [p.float() / 127.5 - 1 for p in inputs.patches.split(counts)]
    assert (overview.patches[0].float() - theirs[0]).abs().mean() < 0.01
    for mine, other in zip(slices.patches, theirs[1:], strict=True):
        assert (mine.float() - other).abs().max() < 0.01


def test_clips_have_their_times_and_their_padding_hidden(objective: JointObjective, steps: ComposedSteps) -> None:
    key = steps.key_of(1)
    objective.feed(key, 1)
    clips = objective.load(key, torch.Generator().manual_seed(0))[0].passes[-1]
    assert clips.temporal is not None and clips.mask is not None
    length = clips.patches.shape[1]
    present = clips.mask.unflatten(1, (-1, length))
    assert (present.any(2) == present.all(2)).all()
    assert ((clips.temporal >= 0) <= present.all(2)).all() and (clips.temporal >= 0).any()


def test_an_enlarged_sheet_keeps_angles_and_grows_places() -> None:
    sheet = Sheet(50, 40, marks=[Mark(4, (10, 10, 5, 1.0, 2.0), (0, 0, 0))], runs=[Run("a", 3, 4, 12, 0)])
    large = enlarged(sheet, 2.0, 100, 80)
    assert large.marks[0].places == (20, 20, 10, 1.0, 2.0)
    assert (large.runs[0].x, large.runs[0].y, large.runs[0].em) == (6, 8, 24)


def test_a_page_that_would_not_be_sliced_is_refused(config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="not sliced"):
        PagePlan.of((200, 200), config)


def test_the_probe_tells_right_answers_from_wrong(tokenizer: Tokenizer) -> None:
    """After one text has been learnt by heart, and before."""
    model = tiny_xs(4096)
    config = from_hf(model, preprocessor_json(model))
    composed = ComposedConfig(singles=0, pages=0, packages=0, texts=2, tokens=900, text_kinds={"text": 1.0})
    grids = (Combination(((4, 4),), (4, 4), (4, 4), (112, 224), (4, 4)),)
    rooms = [Room(grids[0], composed, config)]
    steps = ComposedSteps(rooms, lambda step: 0, synthetic_atlas(), tokenizer, config, ToyMaker(), (0,))
    network = JointModel(build(config, torch.device("cpu"), 0), 3)
    composer = Composer(rooms, steps.atlas, config, torch.device("cpu"))
    batches = partial(stream_steps, steps, workers=0)
    objective = JointObjective(network, None, {}, grids, composer=composer, host_batches=batches)  # type: ignore[arg-type]
    probe = ComposedProbe(network, composer, steps, None)
    assert probe.run(objective) == {"composed": {"exact": 0.0, "n": 2.0}, "sum": {"exact": 0.0, "n": 2.0}}
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(60):
        objective.feed(0, step)
        [batch] = objective.load(0, None)
        loss = objective.sums(batch)[0] / objective.counts(batch)[0]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert probe.run(objective)["composed"]["exact"] == 1.0
