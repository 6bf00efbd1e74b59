"""`cpmv info`: what a checkpoint is and what memory it will need, from headers and configuration alone.

Files -> `Catalogue` -> `memory_plan`, the same plan with which `cpmv.load` refuses what cannot fit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from .arguments import described, number, parse, text

if TYPE_CHECKING:
    from ..device import Placement
    from ..model.minicpmv import MiniCPMV
    from ..weights.catalogue import Catalogue
    from ..weights.plan import MemoryPlan


@dataclass
class Info:
    """Tell a checkpoint's format and sizes, and the memory it will need, before anything is loaded."""

    model: Annotated[
        str,
        tyro.conf.Positional,
        described("folder, .gguf file, Hugging Face id, or modelscope:ID (an id is fetched first)", metavar="MODEL"),
    ]
    mmproj: Annotated[str | None, text("FILE"), described("vision half of a GGUF pair, if not beside it")] = None
    images: Annotated[int, number(int, "N", 0), described("plan for N images of full size (default: 1)")] = 1
    frames: Annotated[int, number(int, "N", 0), described("and N frames of video (default: 0)")] = 0
    packing: Annotated[int, number(int, "N", 1, 6), described("with N frames packed into 64 tokens (default: 1)")] = 1
    context: Annotated[
        int | None, number(int, "TOKENS", 1), described("tokens of prompt and answer (default: the media's and 2048)")
    ] = None
    device: Annotated[str | None, text("DEVICE"), described("auto, cpu, cuda, cuda:N or mps (default: auto)")] = None
    dtype: Annotated[str | None, text("DTYPE"), described("auto, bfloat16, float16, float32 (default: auto)")] = None
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, described("print one JSON object, sizes in bytes")] = False


def run(argv: list[str]) -> int:
    options = parse(Info, "info", argv)
    from ..device import choose
    from ..errors import ContextLengthError
    from ..weights.catalogue import compare, empty_model, open_catalogue, raise_problems
    from ..weights.checkpoint import decide_placing
    from ..weights.hub import resolve
    from ..weights.plan import memory_plan
    from .screen import print_json

    catalogue = open_catalogue(resolve(options.model, mmproj=options.mmproj))
    network = empty_model(catalogue.config)
    raise_problems(catalogue, compare(catalogue, network))
    place = choose(
        options.device, options.dtype, stored_dtype=catalogue.config.torch_dtype, stored_bytes=catalogue.nbytes
    )
    weights = decide_placing(catalogue, network, place.device, place.dtype).weight_bytes(catalogue, network)
    plan = memory_plan(
        catalogue.config,
        weights,
        place.device,
        place.dtype,
        num_images=options.images,
        num_frames=options.frames,
        packing=options.packing,
        context=options.context,
    )
    limit = catalogue.config.language.max_position_embeddings
    if plan.context > limit:
        raise ContextLengthError(plan.context, limit)
    if options.json:
        print_json(_report(options, catalogue, network, place, plan))
    else:
        print("\n".join([*_describe(options, catalogue, network), "", *_describe_plan(options, place, plan)]))
    return 0


def _num_parameters(network: MiniCPMV) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _describe(options: Info, catalogue: Catalogue, network: MiniCPMV) -> list[str]:
    from ..weights.plan import gigabytes

    config = catalogue.config
    language, vision, image = config.language, config.vision, config.image
    files = "1 file" if len(catalogue.files) == 1 else f"{len(catalogue.files)} files"
    most = f"up to {image.max_slice_nums} slices and an overview" if image.max_slice_nums > 1 else "never sliced"
    num_parameters = _num_parameters(network)
    size = f"{num_parameters / 1e9:.1f} billion" if num_parameters >= 1e8 else f"{num_parameters / 1e6:.1f} million"
    heads = f"{language.num_attention_heads} heads ({language.num_key_value_heads} for keys and values)"
    return [
        f"{options.model}: MiniCPM-V {config.version}",
        _row("format", f"{catalogue.format}, {gigabytes(catalogue.nbytes)} in {files}"),
        _row("parameters", size),
        _row("language", f"{language.num_hidden_layers} layers, {language.hidden_size} wide, {heads}"),
        _row("", f"vocabulary {language.vocab_size}, context {language.max_position_embeddings} tokens"),
        _row("vision", f"{vision.num_hidden_layers} layers, {vision.hidden_size} wide"),
        _row("images", f"{most}, near {image.scale_resolution} x {image.scale_resolution} pixels"),
        _row("", f"{config.resampler.query_num} tokens for each, and for each group of packed frames"),
    ]


def _describe_plan(options: Info, place: Placement, plan: MemoryPlan) -> list[str]:
    from ..weights.plan import gigabytes

    media = f"{options.images} image{'' if options.images == 1 else 's'}"
    if options.frames:
        media += f" and {options.frames} frame{'' if options.frames == 1 else 's'}"
    lines = [f"memory for {media}, {plan.context} tokens in all, {plan.num_visual_tokens} of them visual"]
    lines.append(_row("on", place.reason))
    lines += [_row(name, f"{gigabytes(size):>10}") for name, size in plan.items.items() if size]
    mapped = f", of which {gigabytes(plan.mapped)} stay in their files" if plan.mapped else ""
    lines.append(_row("total", f"{gigabytes(plan.total):>10}{mapped}"))
    verdict = "it fits" if plan.total <= plan.free else "too little"
    if plan.resident <= plan.free < plan.total:
        verdict = "it runs, but reads its weights from disk again and again, which is slow"
    lines.append(_row("free", f"{gigabytes(plan.free):>10}: {verdict}"))
    return lines


def _row(name: str, value: str) -> str:
    return f"  {name:<12}{value}"


def _report(
    options: Info, catalogue: Catalogue, network: MiniCPMV, place: Placement, plan: MemoryPlan
) -> dict[str, Any]:
    config = catalogue.config
    return {
        "model": options.model,
        "version": config.version,
        "format": catalogue.format,
        "files": [str(file) for file in catalogue.files],
        "bytes": catalogue.nbytes,
        "parameters": _num_parameters(network),
        "context_limit": config.language.max_position_embeddings,
        "device": str(place.device),
        "dtype": str(place.dtype).removeprefix("torch."),
        "images": options.images,
        "frames": options.frames,
        "context": plan.context,
        "visual_tokens": plan.num_visual_tokens,
        "memory": {
            "items": plan.items,
            "total": plan.total,
            "mapped": plan.mapped,
            "resident": plan.resident,
            "free": plan.free,
            "fits": plan.resident <= plan.free,
        },
    }
