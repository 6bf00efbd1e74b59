"""What a model is made of, read from the released `config.json` and `preprocessor_config.json`, and what it is fed.

Every size comes from the files; nothing here knows the numbers of the released 8.7B checkpoint. `ModelInputs` is the
one thing that crosses from `inputs` to the model: a conversation as tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

SUPPORTED_VERSIONS = ("4.5",)
RESAMPLER_HEAD_DIM = 128  # the released resampler has embed_dim // 128 heads; no file states it


@dataclass(frozen=True)
class VisionConfig:
    """SigLIP2 encoder. `num_hidden_layers` counts the blocks that run (see `drop_vision_last_layer`)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_size: int
    patch_size: int
    num_channels: int = 3
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    batch_size: int = 16  # `vision_batch_size`: most slices in one pass of the tower

    @property
    def grid_side(self) -> int:
        """Rows (and columns) of the learned position table."""
        return self.image_size // self.patch_size

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class ResamplerConfig:
    """The unified 3D-Resampler: any number of slices or frames -> `query_num` tokens a group."""

    query_num: int
    embed_dim: int
    kv_dim: int
    num_heads: int
    grid_side: int = 70  # side of the precomputed 2-D table; it grows when a slice is larger
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True)
class LanguageConfig:
    """Qwen3 decoder."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    rope_scaling: dict[str, Any] | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    tie_word_embeddings: bool = False
    scale_emb: float = 1.0


@dataclass(frozen=True)
class ImageConfig:
    """How pictures become slices, pixels and placeholder text (`preprocessor_config.json`)."""

    scale_resolution: int = 448
    patch_size: int = 14
    max_slice_nums: int = 9
    image_feature_size: int = 64
    slice_mode: bool = True
    use_image_id: bool = True
    norm_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    norm_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    im_start: str = "<image>"
    im_end: str = "</image>"
    slice_start: str = "<slice>"
    slice_end: str = "</slice>"
    unk: str = "<unk>"
    im_id_start: str = "<image_id>"
    im_id_end: str = "</image_id>"


@dataclass(frozen=True)
class ModelConfig:
    """A whole checkpoint: the three parts, the preprocessing, and the files' own dictionaries.

    greedy: generation_config.json says `"do_sample": false`, so answers are the likeliest unless a caller draws.
    """

    version: str
    vision: VisionConfig
    resampler: ResamplerConfig
    language: LanguageConfig
    image: ImageConfig
    torch_dtype: str = "bfloat16"
    quantization: dict[str, Any] | None = None
    greedy: bool = False
    hf: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)  # config.json as read, for `save`
    hf_preprocessor: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)


@dataclass
class ModelInputs:
    """One conversation as the model takes it. Made by `inputs.processor`, used by model, engine and training.

    input_ids: int64 [S]. Positions inside `image_bounds` hold placeholders that the resampler's output replaces.
    image_bounds: int64 [G, 2], half-open, one row a resampler group, in text order.
    patches: uint8 [P, C, p, p], the patches of all slices, slice after slice, row-major within a slice.
    tgt_sizes: int64 [N, 2], (rows, columns) of patches of each slice; the products sum to P.
    temporal_ids: G lists with one id a slice, in units of 0.1 s; -1 means "a picture, no time".
    media_hashes: G digests of what each group shows, equal for equal pixels and times.
    text: the prompt with placeholders spelled out.
    labels: int64 [S] or None; -100 where nothing is learnt.
    """

    input_ids: Tensor
    image_bounds: Tensor
    patches: Tensor
    tgt_sizes: Tensor
    temporal_ids: list[list[int]]
    text: str
    media_hashes: list[str] = field(default_factory=list)
    labels: Tensor | None = None

    def __len__(self) -> int:
        return int(self.input_ids.shape[0])


def from_hf(config: dict[str, Any], preprocessor: dict[str, Any] | None = None) -> ModelConfig:
    """Read the released configuration files (parsed JSON) into a `ModelConfig`.

    Missing optional fields take the defaults of the released configuration class. Raises CheckpointError for another
    model, an unknown version, or a setting this code would have to ignore.
    """
    _check_family(config)
    vision_hf = config.get("vision_config") or {}
    vision = _read_vision(config, vision_hf)
    language = _read_language(config)
    image = _read_image(config, preprocessor or {})
    if image.patch_size != vision.patch_size:
        raise CheckpointError(
            f"preprocessor_config.json has patch_size {image.patch_size} but vision_config has {vision.patch_size}; "
            "the two files do not belong together"
        )
    query_num = int(config.get("query_num", 64))
    if image.image_feature_size != query_num:
        raise CheckpointError(
            f"preprocessor_config.json has image_feature_size {image.image_feature_size} but config.json has "
            f"query_num {query_num}; the two files do not belong together"
        )
    resampler = ResamplerConfig(
        query_num=query_num,
        embed_dim=language.hidden_size,
        kv_dim=vision.hidden_size,
        num_heads=max(1, language.hidden_size // RESAMPLER_HEAD_DIM),
    )
    return ModelConfig(
        version=str(config["version"]),
        vision=vision,
        resampler=resampler,
        language=language,
        image=image,
        torch_dtype=str(config.get("torch_dtype") or config.get("dtype") or "bfloat16").removeprefix("torch."),
        quantization=config.get("quantization_config"),
        hf=dict(config),
        hf_preprocessor=dict(preprocessor or {}),
    )


def _check_family(config: dict[str, Any]) -> None:
    model_type = config.get("model_type")
    if model_type != "minicpmv" and "MiniCPMV" not in (config.get("architectures") or []):
        raise CheckpointError(
            f"config.json describes model_type {model_type!r}, not MiniCPM-V; point at a MiniCPM-V 4.5 checkpoint"
        )
    version = config.get("version")
    if version is None or str(version) not in SUPPORTED_VERSIONS:
        raise CheckpointError(
            f"config.json has MiniCPM-V version {version}; this package runs {', '.join(SUPPORTED_VERSIONS)}"
        )


def _require(config: dict[str, Any], name: str, where: str = "config.json") -> Any:
    value = config.get(name)
    if value is None:
        raise CheckpointError(f"{where} has no {name!r}; the file is incomplete")
    return value


def _read_vision(config: dict[str, Any], vision: dict[str, Any]) -> VisionConfig:
    where = "vision_config in config.json"
    act = vision.get("hidden_act", "gelu_pytorch_tanh")
    if act != "gelu_pytorch_tanh":
        raise CheckpointError(f"{where} has hidden_act {act!r}; only 'gelu_pytorch_tanh' is known")
    num_layers = int(_require(vision, "num_hidden_layers", where))
    # The released configuration class drops the last block when the field is absent.
    if config.get("drop_vision_last_layer", True):
        num_layers -= 1
    out = VisionConfig(
        hidden_size=int(_require(vision, "hidden_size", where)),
        intermediate_size=int(_require(vision, "intermediate_size", where)),
        num_hidden_layers=num_layers,
        num_attention_heads=int(_require(vision, "num_attention_heads", where)),
        image_size=int(_require(vision, "image_size", where)),
        patch_size=int(_require(vision, "patch_size", where)),
        num_channels=int(vision.get("num_channels", 3)),
        hidden_act=act,
        layer_norm_eps=float(vision.get("layer_norm_eps", 1e-6)),
        batch_size=int(config.get("vision_batch_size", 16)),
    )
    if out.hidden_size % out.num_attention_heads:
        raise CheckpointError(
            f"{where}: hidden_size {out.hidden_size} is no multiple of num_attention_heads {out.num_attention_heads}"
        )
    return out


def _read_language(config: dict[str, Any]) -> LanguageConfig:
    if config.get("use_sliding_window"):
        raise CheckpointError("config.json sets use_sliding_window; MiniCPM-V 4.5 has none and it is not supported")
    act = config.get("hidden_act", "silu")
    if act != "silu":
        raise CheckpointError(f"config.json has hidden_act {act!r}; only 'silu' is known")
    num_heads = int(_require(config, "num_attention_heads"))
    rope = config.get("rope_scaling")
    theta = config.get("rope_theta")
    if theta is None and isinstance(config.get("rope_parameters"), dict):  # newer configuration files nest both
        nested = config["rope_parameters"]
        theta, rope = nested.get("rope_theta"), rope or (nested if nested.get("rope_type") != "default" else None)
    return LanguageConfig(
        vocab_size=int(_require(config, "vocab_size")),
        hidden_size=int(_require(config, "hidden_size")),
        intermediate_size=int(_require(config, "intermediate_size")),
        num_hidden_layers=int(_require(config, "num_hidden_layers")),
        num_attention_heads=num_heads,
        num_key_value_heads=int(config.get("num_key_value_heads") or num_heads),
        head_dim=int(config.get("head_dim") or 128),  # Qwen3's default; never hidden_size / heads
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=float(theta if theta is not None else 1e6),
        max_position_embeddings=int(_require(config, "max_position_embeddings")),
        rope_scaling=rope,
        hidden_act=act,
        attention_bias=bool(config.get("attention_bias", False)),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        scale_emb=float(config.get("scale_emb", 1.0)),
    )


def _read_image(config: dict[str, Any], pre: dict[str, Any]) -> ImageConfig:
    """The preprocessor's settings; what it leaves out comes from config.json's slice_config, then the defaults."""
    slices = config.get("slice_config") or {}
    defaults = ImageConfig()

    def read(name: str, fallback: Any = None) -> Any:
        for source in (pre, slices):
            if source.get(name) is not None:
                return source[name]
        return getattr(defaults, name) if fallback is None else fallback

    patch_size = (config.get("vision_config") or {}).get("patch_size")
    strings = ("im_start", "im_end", "slice_start", "slice_end", "unk", "im_id_start", "im_id_end")
    return ImageConfig(
        scale_resolution=int(read("scale_resolution")),
        patch_size=int(read("patch_size", patch_size)),
        max_slice_nums=int(read("max_slice_nums", None if pre or slices else 1)),
        image_feature_size=int(read("image_feature_size", config.get("query_num", 64))),
        slice_mode=bool(read("slice_mode")),
        use_image_id=bool(pre.get("use_image_id", config.get("use_image_id", True))),
        norm_mean=tuple(float(x) for x in read("norm_mean")),  # type: ignore[arg-type]
        norm_std=tuple(float(x) for x in read("norm_std")),  # type: ignore[arg-type]
        **{name: str(read(name)) for name in strings},
    )
