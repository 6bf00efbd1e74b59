"""The CPU preset: words are drawn right, answered by the probe as inference would, and learnt (in short)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toy_drawer import logged

from cpmv.inputs.text import Tokenizer
from cpmv.train.__main__ import configure, main, parser
from cpmv.train.config import tiny_words
from cpmv.train.draw import Grid
from cpmv.train.init import build
from cpmv.train.joint_model import JointModel
from cpmv.train.probe import Probe
from cpmv.train.words import LETTERS, WordsDrawer, words_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return words_tokenizer()


def test_words_carry_their_letters_where_their_ink_is(tokenizer: Tokenizer) -> None:
    drawn = WordsDrawer(tokenizer).draw("text", 20, Grid(4, 8), torch.Generator().manual_seed(0))
    for row in range(20):
        answer = tokenizer.decode(drawn.labels[row][drawn.labels[row] >= 0].tolist()).removesuffix("<|im_end|>")
        shown = {LETTERS[c - 1] for c in drawn.lattice[row].unique().tolist() if c}
        assert shown <= set(answer) and len(shown) >= min(1, len(answer))
        picture = drawn.pixels[row, 0].mean(0)
        fine = torch.nn.functional.interpolate((drawn.dense[row, 0] > 0).float()[None, None], size=picture.shape)[0, 0]
        if fine.sum() > 200:
            assert picture[fine > 0].std() > 2 * picture[fine == 0].std()


def test_held_out_words_are_other_words(tokenizer: Tokenizer) -> None:
    train, held = WordsDrawer(tokenizer), WordsDrawer(tokenizer, held_out=True)
    assert len(held.words) > 100 and not set(train.words) & set(held.words)


def test_drawing_follows_its_generator(tokenizer: Tokenizer) -> None:
    drawer = WordsDrawer(tokenizer)
    a, b, c = (drawer.draw("text", 3, Grid(3, 6), torch.Generator().manual_seed(s)).pixels for s in (1, 1, 2))
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_the_probe_decodes_as_inference_does(tokenizer: Tokenizer) -> None:
    config = tiny_words()
    drawer = WordsDrawer(tokenizer)
    from cpmv.model.config import from_hf

    model = JointModel(build(from_hf(config.model, config.preprocessor), "cpu", 0), drawer.num_classes).train()
    import dataclasses

    config = dataclasses.replace(config, evaluate_samples=3, unseen_grids=())
    probe = Probe(model, drawer, None, config, tokenizer, None)
    one = probe.sets[0]
    with torch.no_grad():
        given = probe.greedy(probe._embed(one), one.prompt_lengths)
        tokens = torch.cat([model.encode(p)[1] for p in one.batch.passes])
        for row in range(3):
            ids = one.batch.input_ids[row : row + 1].clone()
            length = int(one.prompt_lengths[row])
            for step in range(min(given.shape[1], ids.shape[1] - length)):
                rows = one.batch.rows[:16]  # of the first sample: a batch of one
                hidden = model.hidden(ids[:, : length + step], tokens[row : row + 1], rows)
                token = int(model.model.llm.head(hidden[:, -1]).argmax())
                assert token == given[row, step]
                if token in tokenizer.eos_token_ids:
                    break
                ids[0, length + step] = token


def test_a_short_run_learns_and_leaves_weights_scores_and_samples(tmp_path: Path) -> None:
    command = ["pretrain", "--preset", "tiny-words", "--steps", "60", "--out", str(tmp_path), "--no-tensorboard"]
    assert main([*command, "--device", "cpu", "--save-every", "0"]) == 0
    lines = logged(tmp_path)
    assert lines[-1]["lm"] < 3.2 and lines[-1]["dense"] < 1.5
    assert set(logged(tmp_path, "eval")[-1]["scores"]) >= {"trained", "unseen", "held-out", "blank"}
    for name in ("run.json", "samples.png", "final/model-00001-of-00001.safetensors", "stable"):
        assert (tmp_path / name).exists(), name
    assert not (tmp_path / "state").exists()


def test_command_line_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrain", "--preset", "tiny-j1", "--out", str(tmp_path), "--steps", "1", "--device", "cpu"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: this preset draws from a glyph atlas; give --atlas FILE and --tokenizer FOLDER"
    )


def test_help_shows_every_presets_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--help"])
    text = capsys.readouterr().out
    assert text.count("Command:") == text.count("Expected:") >= 3


def test_a_smoke_run_is_short_and_keeps_the_model() -> None:
    args = parser().parse_args(["pretrain", "--preset", "tiny-j1", "--out", "x", "--smoke", "--seconds", "540"])
    config = configure(args)
    assert config.steps == 120 and config.seconds is None and config.model["hidden_size"] == 384
