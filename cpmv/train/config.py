"""What a run is: `TrainConfig`, and presets as functions, each opening with its command, time and expected result.

Models are described by the released file format: `tiny_m()` and the others return the dictionaries that a
`config.json` and a `preprocessor_config.json` hold, and `cpmv.model.config.from_hf` reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import CpmvError

PATCH = 14
Shape = tuple[int, int]  # rows, columns of patches


@dataclass(frozen=True)
class Combination:
    """The patch grids of one step: text and scenes are split evenly over `pictures`; clips use `clips`.

    Of composed samples: `single` pictures, a `page` of (width, height) px before it is resized and sliced, and frames.
    """

    pictures: tuple[Shape, ...]
    clips: Shape
    single: Shape | None = None
    page: tuple[int, int] | None = None
    frame: Shape | None = None


# Ten picture grids of 130 to 361 patches, aspect 1:4 to 4:1, and five clip grids. A model trained on a single grid
# reads nothing on another; these, with phase-shifted position ids, carry over to grids never seen.
TEN_GRIDS = (
    Combination(((19, 19), (12, 12)), (8, 8)),
    Combination(((16, 16), (14, 17)), (6, 10)),
    Combination(((21, 15), (13, 10)), (10, 6)),
    Combination(((10, 22), (32, 8)), (7, 8)),
    Combination(((25, 10), (8, 30)), (9, 8)),
)
# The preprocessing enlarges or shrinks every unsliced picture and every frame to about 256 patches, so these are the
# grids that users' pictures have; pages are cut into 2 to 9 slices.
REAL_GRIDS = (
    Combination(((19, 19), (12, 12)), (8, 8), (16, 16), (448, 448), (16, 16)),
    Combination(((16, 16), (14, 17)), (6, 10), (13, 20), (300, 420), (13, 20)),
    Combination(((21, 15), (13, 10)), (10, 6), (20, 13), (448, 672), (18, 14)),
    Combination(((10, 22), (32, 8)), (16, 16), (11, 23), (640, 480), (16, 16)),
    Combination(((25, 10), (8, 30)), (14, 18), (23, 11), (224, 448), (14, 18)),
    Combination(((16, 16), (7, 38)), (9, 8), (18, 14), (448, 336), (11, 23)),
    Combination(((13, 20), (40, 6)), (18, 14), (14, 18), (672, 672), (20, 13)),
)
UNSEEN_GRIDS = ((17, 17), (18, 14), (13, 19), (24, 12), (11, 26))


@dataclass(frozen=True)
class Schedule:
    """Learning-rate shape over a run: warm-up, then constant ("constant"), cosine to the floor ("cosine"), a straight
    line to the floor ("linear"), or constant and such a line over the last `decay_fraction` ("wsd")."""

    kind: str = "wsd"
    warmup_steps: int = 100
    decay_fraction: float = 0.3
    floor: float = 0.03  # of the peak

    def __post_init__(self) -> None:
        if self.kind not in ("wsd", "cosine", "linear", "constant"):
            raise CpmvError(f"schedule {self.kind!r} is unknown; use wsd, cosine, linear or constant")


@dataclass(frozen=True)
class ComposedConfig:
    """Composed samples of a step on each GPU (`train/composed.py`): places, and which kinds fill them at what weight.

    singles: pictures; pages: pictures that are sliced; packages: groups of up to six frames; texts: conversations
    without pictures. tokens: length of the row they share. Kinds outside `whole_page_kinds` are drawn larger on a page.
    corrupted_singles, corrupted_pages: of the singles and pages, so many have text regions that are noisy or covered.
    single_glyphs, page_glyphs, frame_glyphs: room for glyphs of up to 16, 27 and 41 px a sheet on average; where a
    document does not fit, another is drawn.
    """

    singles: int = 64
    pages: int = 12
    packages: int = 12
    texts: int = 16
    tokens: int = 14336
    corrupted_singles: int = 0
    corrupted_pages: int = 0
    single_glyphs: tuple[int, int, int] = (80, 30, 9)
    page_glyphs: tuple[int, int, int] = (220, 80, 14)
    frame_glyphs: tuple[int, int, int] = (12, 12, 8)
    single_kinds: dict[str, float] = field(default_factory=dict)
    page_kinds: dict[str, float] = field(default_factory=dict)
    clip_kinds: dict[str, float] = field(default_factory=dict)
    text_kinds: dict[str, float] = field(default_factory=dict)
    whole_page_kinds: tuple[str, ...] = ("page", "corrupted")
    workers: int = 14  # processes that make documents, on each GPU


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run, written beside its results as `run.json`.

    mix: samples a step of each kind, over all GPUs. steps: length of the run; None means as many as fit `seconds`.
    seconds: wall-clock budget of the whole process: building, compiling, training, evaluating, exporting.
    length_power: an answer of n learnt tokens counts n ** (1 - power) times in the language loss; 0: every token alike.
    draw_ahead: on a GPU, draw the next step's batch beside this step. Off: recorded so, a run read an index out of
    bounds within a minute; what was wrong has been put right since, and not been run again on a GPU.
    trained: which parts learn, of "vision", "resampler", "language", "embeddings"; the others stay bit-identical.
    aux_weight: weight of the dense patch loss and of the query loss; it falls linearly from `aux_fade[0]` of the run
    to 2 % of itself at `aux_fade[1]`.
    """

    model: dict[str, Any]
    preprocessor: dict[str, Any]
    sequence_length: int = 176  # of a sample at most: chat template, 16 visual tokens, question, answer
    tokens_per_sample: int | None = None  # mean; samples then share one row without padding (GPU, bf16)
    drawer: str = "device"  # "device": cpmv.train.draw on an atlas; "words": single words, nothing to install
    mix: dict[str, int] = field(default_factory=lambda: {"text": 200, "scene": 72, "clip": 48})
    combinations: tuple[Combination, ...] = TEN_GRIDS
    composed: ComposedConfig | None = None
    unseen_grids: tuple[Shape, ...] = UNSEEN_GRIDS
    steps: int | None = None
    seconds: float | None = None
    peak_lr: float = 2e-3
    adam_scale: float = 0.6  # AdamW's rate as a share of Muon's
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    schedule: Schedule = Schedule()
    length_power: float = 0.0
    draw_ahead: bool = False
    aux_weight: float = 0.5
    aux_fade: tuple[float, float] = (0.12, 0.9)
    trained: tuple[str, ...] = ("vision", "resampler", "language", "embeddings")
    seed: int = 0
    log_every: int = 25
    save_every_s: float = 300.0  # 0: only at the end
    evaluate_every_s: float = 90.0
    evaluate_samples: int = 64  # a set
    export_dtype: str = "float16"
    keep_stable: bool = True  # also export the weights from just before a "wsd" decay, to train on from
    alarm_after: int = 300  # steps; 0 turns the collapse alarm off
    precision: str = "auto"  # "bf16" autocast or "fp32"; auto: bf16 on CUDA
    compile: str = "auto"  # "on", "off", "aot" (tracing only, for tests); auto: on on CUDA
    graphs: str = "auto"  # CUDA graphs: "whole" (with drawing), "step" (without), "off"; auto: whole on CUDA
    peak_tflops: float | None = None
    tensorboard: bool = True
    profile_step: int | None = None  # write where this step's time goes

    def __post_init__(self) -> None:
        if self.steps is None and self.seconds is None:
            raise CpmvError("a run needs a length; give --steps or --seconds")
        unknown = set(self.trained) - {"vision", "resampler", "language", "embeddings"}
        if unknown or not self.trained:
            raise CpmvError(f"cannot train {sorted(unknown)}; choose of vision, resampler, language, embeddings")

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _model(
    *,
    vision: tuple[int, int, int, int],
    language: tuple[int, int, int, int, int],
    vocab_size: int,
    head_dim: int = 64,
    scale_resolution: int = 224,
    query_num: int = 16,
) -> dict[str, Any]:
    """A `config.json` in the released layout.

    vision: width, layers, MLP width, heads; language: width, layers, heads, key-value heads, MLP width.
    """
    vision_width, vision_layers, vision_mlp, vision_heads = vision
    width, layers, heads, kv_heads, mlp = language
    return {
        "architectures": ["MiniCPMV"],
        "model_type": "minicpmv",
        "version": 4.5,
        "vocab_size": vocab_size,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "max_position_embeddings": 8192,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "query_num": query_num,
        "image_size": scale_resolution,
        "patch_size": PATCH,
        "slice_mode": True,
        "slice_config": {
            "max_slice_nums": 9,
            "patch_size": PATCH,
            "scale_resolution": scale_resolution,
            "model_type": "minicpmv",
        },
        "use_image_id": True,
        "batch_vision_input": True,
        "vision_batch_size": 16,
        "drop_vision_last_layer": False,
        "batch_3d_resampler": True,
        "vision_config": {
            "hidden_size": vision_width,
            "image_size": 980,
            "intermediate_size": vision_mlp,
            "num_attention_heads": vision_heads,
            "num_hidden_layers": vision_layers,
            "patch_size": PATCH,
            "num_channels": 3,
            "hidden_act": "gelu_pytorch_tanh",
            "layer_norm_eps": 1e-6,
            "attention_dropout": 0.0,
            "model_type": "siglip_vision_model",
        },
    }


def tiny_m(vocab_size: int = 4096) -> dict[str, Any]:
    """The bundled model: 21.2M parameters with 4,096 ids. 224x224 pixels become 16 tokens."""
    return _model(vision=(256, 6, 1024, 4), language=(384, 8, 6, 2, 1024), vocab_size=vocab_size)


def tiny_s(vocab_size: int = 4096) -> dict[str, Any]:
    """The small one, for ablations: about half of `tiny_m`."""
    return _model(vision=(192, 6, 768, 3), language=(256, 8, 4, 1, 704), vocab_size=vocab_size)


def tiny_xs(vocab_size: int = 512) -> dict[str, Any]:
    """As small as still learns to read a word, for the CPU."""
    return _model(vision=(96, 2, 384, 2), language=(128, 2, 2, 1, 256), vocab_size=vocab_size, scale_resolution=112)


def preprocessor_json(model: dict[str, Any]) -> dict[str, Any]:
    """The `preprocessor_config.json` that belongs to a `config.json` made here."""
    return {
        "image_processor_type": "MiniCPMVImageProcessor",
        "processor_class": "MiniCPMVProcessor",
        "version": model["version"],
        "max_slice_nums": model["slice_config"]["max_slice_nums"],
        "scale_resolution": model["slice_config"]["scale_resolution"],
        "patch_size": model["patch_size"],
        "use_image_id": model["use_image_id"],
        "image_feature_size": model["query_num"],
        "slice_mode": True,
        "im_start": "<image>",
        "im_end": "</image>",
        "slice_start": "<slice>",
        "slice_end": "</slice>",
        "unk": "<unk>",
        "im_id_start": "<image_id>",
        "im_id_end": "</image_id>",
        "norm_mean": [0.5, 0.5, 0.5],
        "norm_std": [0.5, 0.5, 0.5],
    }


def tiny_j1() -> TrainConfig:
    """Joint start of the bundled model: reading, scenes and clips, everything from random weights.

    Command:  cpmv train pretrain --preset tiny-j1 --seconds 540 --atlas atlas.npz --tokenizer tok --out runs/j1
    Time:     9 minutes on one H200, compiling included (measured 5,600 samples/s, 2.1M samples; 8,000 is the aim).
    Expected: paragraphs on training faces exact 68 %, CER 8 %, unseen grids as good; scenes 89 %, clips 48 %. Again
        with --init OUT/stable --seed 2: 76 %, 5 %, 97 %, 81 % (measured 2026-11-24), which is what is bundled.
    """
    model = tiny_m()
    # The drawn samples have 90 tokens on average, with a deviation of 25.
    return TrainConfig(model=model, preprocessor=preprocessor_json(model), seconds=540.0, tokens_per_sample=100)


# What fills the places of composed samples, by stage: kinds of `train/draw/documents.py` and their weights.
_SINGLES = {
    "label": 2.0,
    "receipt": 1.2,
    "table": 1.2,
    "form": 1.0,
    "chart": 2.0,
    "page": 0.6,
    "scene": 1.6,
    "several": 2.0,
}
_PAGES = {"page": 5.0, "table": 1.5, "receipt": 1.0, "form": 0.8, "chart": 0.8, "label": 0.6}


def tiny_j2() -> TrainConfig:
    """Documents: pages that are sliced, receipts, labels, forms, tables, charts, several pictures; real clip sizes.

    Command:  cpmv train pretrain --preset tiny-j2 --init runs/j1b/final --atlas atlas.npz --tokenizer tok --out runs/j2
    Time:     8 minutes on one H100 or H200.
    Expected: see docs/tiny-model.md.
    """
    model = tiny_m()
    return TrainConfig(
        model=model,
        preprocessor=preprocessor_json(model),
        seconds=480.0,
        tokens_per_sample=100,
        mix={"text": 112, "scene": 32, "clip": 24, "textonly": 16},
        combinations=REAL_GRIDS,
        composed=ComposedConfig(
            singles=88, pages=16, packages=0, texts=0, tokens=14336, single_kinds=_SINGLES, page_kinds=_PAGES
        ),
        schedule=Schedule("constant", warmup_steps=200),
        aux_fade=(0.5, 1.2),
        evaluate_every_s=240.0,
        evaluate_samples=32,
        keep_stable=False,
    )


def tiny_s2() -> TrainConfig:
    """Corruption, instructions, thinking and packed clips together, and the decay of the rate.

    A sixth of the pages and pictures have regions that are noisy or covered and asked for; thinking tasks come half
    in fast and half in deep mode; clips in packages of 1 to 6 frames. The auxiliary losses have done their work.

    Command:  cpmv train pretrain --preset tiny-s2 --init runs/j2/final --atlas atlas.npz --tokenizer tok --out runs/s2
    Time:     9.5 minutes on one H100 or H200.
    Expected: see docs/tiny-model.md.
    """
    start = tiny_j2()
    assert start.composed is not None
    composed = dataclasses.replace(
        start.composed,
        singles=80,
        pages=14,
        packages=20,
        texts=24,
        tokens=16384,
        corrupted_singles=10,
        corrupted_pages=4,
        single_kinds={**_SINGLES, "think": 3.0},
        page_kinds={**_PAGES, "think": 0.6},
        clip_kinds={"clip": 1.0, "think_clip": 0.15},
        text_kinds={"text": 1.0, "think_text": 1.0},
    )
    return dataclasses.replace(
        start,
        seconds=570.0,
        mix={"text": 112, "scene": 32, "clip": 16},
        composed=composed,
        schedule=Schedule("wsd", warmup_steps=100, decay_fraction=0.65, floor=0.01),
        aux_weight=0.0,
        evaluate_every_s=1e9,
    )


# Pictures that are neither sliced nor tiny become about 256 patches of any aspect: nearly half of the reading is on the
# square one, the rest on these and on grids of other sizes, so that none is forgotten.
J3_GRIDS = (
    Combination(((16, 16), (12, 12)), (11, 11), (16, 16), (448, 448), (16, 16)),
    Combination(((16, 16), (21, 15)), (8, 8), (13, 20), (430, 510), (13, 20)),
    Combination(((16, 16), (10, 22)), (14, 18), (18, 14), (448, 672), (18, 14)),
    Combination(((16, 16), (13, 20)), (10, 13), (16, 16), (640, 480), (16, 16)),
    Combination(((16, 16), (25, 10)), (9, 13), (20, 13), (448, 448), (14, 18)),
    Combination(((20, 13), (8, 30)), (13, 10), (11, 23), (500, 420), (16, 16)),
    Combination(((18, 14), (32, 8)), (16, 16), (14, 18), (672, 672), (20, 13)),
    Combination(((19, 19), (14, 17)), (12, 12), (16, 16), (224, 448), (15, 17)),
)


def tiny_j3() -> TrainConfig:
    """Everything the bundled model does, in one batch, on from the bundle: what it was weakest at most.

    A document holds up to nine questions about one picture, so that answers of a word (left or right, how many, which
    way, the largest) are as many as lines of text. Names and labels are any words, dates of examples any format. The
    rate decays over the last half of the same run.

    Command:  cpmv train pretrain --preset tiny-j3 --gpus 2 --init cpmv/bundled --atlas atlas.npz --tokenizer tok
        --out runs/j3
    Time:     8.5 minutes on two H100s (9,100 documents a second, 4.1M in all).
    Expected: the scores of docs/tiny-model.md.
    """
    model = tiny_m()
    composed = ComposedConfig(
        singles=112,
        pages=20,
        packages=36,
        texts=32,
        tokens=32768,
        corrupted_singles=13,
        corrupted_pages=3,
        single_glyphs=(56, 8, 2),
        page_glyphs=(130, 150, 12),
        frame_glyphs=(2, 2, 2),
        single_kinds={
            "scene": 4.4,
            "chart": 3.0,
            "table": 2.2,
            "form": 1.3,
            "label": 1.8,
            "receipt": 1.0,
            "several": 1.8,
            "think": 2.8,
            "page": 0.8,
        },
        page_kinds={**_PAGES, "page": 9.0, "think": 0.4},
        clip_kinds={"clip": 1.0, "think_clip": 0.1},
        text_kinds={"text": 1.3, "think_text": 1.0},
    )
    return TrainConfig(
        model=model,
        preprocessor=preprocessor_json(model),
        seconds=505.0,
        tokens_per_sample=90,
        mix={"text": 416, "scene": 112, "clip": 80, "textonly": 48},  # over two GPUs; composed ones are on each
        combinations=J3_GRIDS,
        composed=composed,
        unseen_grids=((17, 17), (13, 19), (24, 12), (11, 26), (15, 15)),
        peak_lr=2e-3,
        schedule=Schedule("wsd", warmup_steps=80, decay_fraction=0.5, floor=0.01),
        length_power=0.5,
        aux_weight=0.3,
        aux_fade=(0.05, 0.6),
        evaluate_every_s=1e9,
        evaluate_samples=32,
        keep_stable=False,
    )


def tiny_j1_s() -> TrainConfig:
    """The same start with the small model, for ablations.

    Command:  cpmv train pretrain --preset tiny-j1-s --seconds 120 --atlas atlas.npz --tokenizer tok --out runs/j1-s
    Time:     2 minutes on one H200.
    Expected: paragraphs of training faces at CER about 20 % on trained and unseen grids alike.
    """
    model = tiny_s()
    return TrainConfig(model=model, preprocessor=preprocessor_json(model), seconds=120.0, tokens_per_sample=100)


def tiny_words() -> TrainConfig:
    """Learn to read single words on a CPU; no atlas, no GPU.

    Command:  cpmv train pretrain --preset tiny-words --out runs/words
    Time:     8 minutes on 2 cores (430 samples/s).
    Expected: words never seen in training read exactly in >= 80 %, on pages of a shape never seen too; blank page: 0.
    """
    model = tiny_xs()
    return TrainConfig(
        model=model,
        preprocessor=preprocessor_json(model),
        drawer="words",
        mix={"text": 64},
        combinations=(
            Combination(((3, 8),), (3, 8)),
            Combination(((4, 8),), (4, 8)),
            Combination(((4, 6),), (4, 6)),
        ),
        unseen_grids=((3, 9), (5, 7)),
        steps=3000,
        peak_lr=3e-3,
        log_every=50,
        evaluate_samples=128,
        evaluate_every_s=120.0,
    )


PRESETS: dict[str, Callable[[], TrainConfig]] = {
    "tiny-j1": tiny_j1,
    "tiny-j1-s": tiny_j1_s,
    "tiny-j2": tiny_j2,
    "tiny-s2": tiny_s2,
    "tiny-j3": tiny_j3,
    "tiny-words": tiny_words,
}
