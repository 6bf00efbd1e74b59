"""A model that answers by rule, with the bundled model's real processor: runs are about everything but the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from cpmv.engine.output import Output
from cpmv.evals.samples import Sample, picture, write_set
from cpmv.inputs.processor import Processor
from cpmv.inputs.text import Tokenizer
from cpmv.model.config import ModelConfig, ModelInputs, from_hf
from cpmv.weights.hub import BUNDLED


def read_bundled() -> tuple[ModelConfig, Tokenizer]:
    import json

    files = (json.loads((BUNDLED / name).read_text()) for name in ("config.json", "preprocessor_config.json"))
    return from_hf(*files), Tokenizer.from_folder(BUNDLED)


class Stub:
    """Answers each prompt with `answer(its last question, brightest value of its first patch)`."""

    device, dtype, format = torch.device("cpu"), torch.float32, "stub"

    def __init__(self, answer: Callable[[str, int], str], fail_after: int = 10**9) -> None:
        config, tokenizer = read_bundled()
        self.processor = Processor(config, tokenizer)
        self.network = torch.nn.Linear(2, 2)
        self.answer, self.fail_after, self.prompts = answer, fail_after, 0

    def generate(self, inputs: Sequence[ModelInputs], params: Any, *, thinking: bool = False) -> list[Output]:
        if self.prompts + len(inputs) > self.fail_after:
            raise KeyboardInterrupt
        self.prompts += len(inputs)
        return [self._output(prompt, thinking) for prompt in inputs]

    def _output(self, prompt: ModelInputs, thinking: bool) -> Output:
        question = prompt.text.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0].split("</image>\n")[-1]
        brightest = int(prompt.patches[0].max()) if len(prompt.patches) else -1
        text = self.answer(question, brightest)
        return Output([1, 2], text, "so" if thinking else "", text, "stop", None, len(prompt))


def shade(value: int) -> Image.Image:
    return Image.new("RGB", (224, 224), (value, value, value))


def write_sets(folder: Path) -> None:
    """Three small sets: shades to name, moving shades, and sums."""
    names = {10: "black", 250: "white"}
    scenes = [picture(shade(v), "Which shade?", names[v], kind="shade", objects=[]) for v in (10, 250, 10, 250, 10)]
    write_set(folder / "scene_colour.zip", scenes)
    clips: list[Sample] = []
    for first, last, way, other in ((10, 250, "up", "down"), (250, 10, "down", "up")):
        clip = picture([shade(first), shade(last)], "Which way?", way, kind="direction", opposite=other)
        clip.groups = [[3, 8]]
        clips.append(clip)
    write_set(folder / "clip_direction.zip", clips)
    write_set(folder / "talk.zip", [picture([], "1+1=?", "2", kind="add"), picture([], "1+2=?", "3", kind="add")])


def by_shade(question: str, brightest: int) -> str:
    if question.startswith("1+"):
        return "2"
    if question == "Which way?":
        return "up" if brightest < 100 else "down"
    return "black" if brightest < 100 else "white"
