"""Sets as files: what is written is read, the same seed gives the same bytes, controls change what they should."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from cpmv.evals import controls
from cpmv.evals.samples import EvalError, Sample, Turn, cut, picture, read_set, stack, strips, write_set
from cpmv.evals.tasks import SETS, TASKS, choose, load, repack


def plain(colour: str, size: tuple[int, int] = (28, 14)) -> Image.Image:
    return Image.new("RGB", size, colour)


def clip(answer: str, colours: str = "red green blue") -> Sample:
    sample = picture([plain(c) for c in colours.split()], "which way?", answer, kind="direction")
    sample.groups = [[3, 5], [7]]
    return sample


def test_a_set_is_read_as_it_was_written(tmp_path: Path) -> None:
    shot = Sample([Turn([plain("red")], "date?", "1"), Turn([plain("blue", (14, 14))], "date?", "2")], {"kind": "x"})
    written = [clip("left"), shot, picture([], "1+1?", "2")]
    write_set(tmp_path / "a.zip", written)
    found = read_set(tmp_path / "a.zip")
    assert [s.meta for s in found] == [s.meta for s in written] and [s.groups for s in found] == [
        [[3, 5], [7]],
        None,
        None,
    ]
    for one, other in zip(found, written, strict=True):
        assert [(t.text, t.answer) for t in one.turns] == [(t.text, t.answer) for t in other.turns]
        assert [(i.size, i.tobytes()) for i in one.images] == [(i.size, i.tobytes()) for i in other.images]
    assert len(read_set(tmp_path / "a.zip", 1)) == 1
    write_set(tmp_path / "b.zip", written)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_a_file_that_is_no_set_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"nothing")
    with pytest.raises(EvalError, match="not an evaluation set"):
        read_set(tmp_path / "a.zip")


def test_neighbours_of_one_size_share_a_strip() -> None:
    images = [plain("red"), plain("blue"), plain("red", (14, 14))]
    assert [len(strip) for strip in strips(images)] == [2, 1]
    back = cut(stack(images[:2]), 2)
    assert [i.tobytes() for i in back] == [i.tobytes() for i in images[:2]]


def test_repacking_keeps_frames_and_times() -> None:
    assert repack(clip("left"), 1).groups == [[3], [5], [7]]
    assert repack(clip("left"), 6).groups == [[3, 5, 7]]


def test_blank_pictures_keep_their_sizes_and_leave_text_out() -> None:
    found = controls.apply("blank", [picture([], "1+1?", "2"), clip("left")])
    assert [index for index, _ in found] == [1]
    assert {i.getpixel((0, 0)) for i in found[0][1].images} == {controls.BLANK}
    assert [i.size for i in found[0][1].images] == [(28, 14)] * 3


def test_shuffled_pictures_come_from_a_sample_of_the_same_form_with_another_answer() -> None:
    one, two, three = clip("left"), clip("right", "white white black"), clip("left", "pink pink pink")
    lone = picture(plain("red"), "what?", "red")
    found = dict(controls.apply("shuffled", [one, two, three, lone]))
    assert set(found) == {0, 1, 2}
    assert found[0].answer == "left" and found[0].images == two.images
    assert found[2].images == two.images and found[1].images in (one.images, three.images)


def test_reversed_times_stay_in_their_packages() -> None:
    found = controls.apply("reversed", [clip("left"), picture(plain("red"), "what?", "red")])
    assert [(index, sample.groups) for index, sample in found] == [(0, [[7, 5], [3]])]


def test_an_unknown_control_or_set_is_named() -> None:
    with pytest.raises(EvalError, match="upside"):
        controls.apply("upside", [])
    with pytest.raises(EvalError, match="handwriting"):
        choose(["handwriting"])
    with pytest.raises(EvalError, match=r"line\.zip does not exist"):
        load(TASKS["line"], SETS / "elsewhere")


def test_sets_are_chosen_by_name_or_group() -> None:
    assert [task.name for task in choose(["clip", "line"])] == ["line", "clip_direction", "clip_speed", "clip_order"]
    assert len(choose([])) == len(TASKS)
