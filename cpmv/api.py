"""The five-line way in: `load` a checkpoint, then `ask`, `stream` or `chat`.

`ask` takes files and a question. `chat` keeps the publisher's signature and semantics, so existing scripts run
unchanged. Both go the one way: messages -> `Processor` -> `ModelInputs` -> `Engine`, which one model's calls share,
from any thread. Beam search and the reference's mistakes are `generate`'s alone.
"""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from .engine.ahead import MediaAhead
from .engine.engine import Engine
from .engine.generate import generate, is_reference
from .engine.output import Output, Piece
from .engine.request import Request
from .engine.sampling import SamplingParams
from .errors import CpmvError, MessageError
from .inputs.media import media_kind
from .inputs.messages import Image, Pdf, Text, Video
from .inputs.processor import Processor
from .inputs.text import Tokenizer
from .model.adapter import load_adapter, read_adapter
from .model.config import ModelConfig, ModelInputs
from .model.minicpmv import MiniCPMV
from .weights import checkpoint, hub
from .weights.plan import free_memory

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image

    from .engine.parallel_group import Group

    Media: TypeAlias = str | Path | bytes | PIL.Image.Image | np.ndarray | Image | Video | Pdf

log = logging.getLogger("cpmv")

# Room of a model's own engine, in tokens of prompts and answers together; it is made anew when one request needs more.
_ENGINE_TOKENS = 16384

REFERENCE_MAX_INP_LENGTH = 16384  # tokens; the published chat() truncates there, we refuse


def load(
    source: str | Path | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    mmproj: str | Path | None = None,
    max_memory: int | str | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    gpus: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Open a MiniCPM-V 4.5 checkpoint in any published format.

    source: a folder, a `.gguf` file (with `mmproj` beside it), a Hugging Face id, or `modelscope:` and an id; None
    opens the bundled tiny model. device, dtype: None chooses the best there is. max_memory: bytes, or "8GB", that the
    model and its work may take; by default what is free. adapter: folder of a LoRA adapter, as `cpmv train sft --lora`
    or PEFT writes it, put beside the weights. gpus: how many of this host's GPUs share the decoder, one process each
    (2 or 4; device "cpu" gives processes instead). progress: called with (bytes done, bytes in all).
    Raises CheckpointError for files that are not whole, OutOfMemoryError before loading what cannot fit.
    """
    if gpus != 1:
        if adapter is not None or max_memory is not None:
            raise CpmvError("gpus goes with neither adapter nor max_memory; merge the adapter, leave the limit out")
        return _load_shared(source, mmproj, revision, device, dtype, gpus)
    given = None if adapter is None else read_adapter(adapter)  # a wrong one is told before the model is loaded
    found = hub.resolve(source, mmproj=mmproj, revision=revision)
    loaded = checkpoint.load(found, device=device, dtype=dtype, max_memory=max_memory, progress=progress)
    if given is not None:
        load_adapter(loaded.model, given)
    return Model(loaded.model, loaded.tokenizer, loaded.config, loaded.format)


def _load_shared(
    source: str | Path | None,
    mmproj: str | Path | None,
    revision: str | None,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    gpus: int,
) -> Model:
    from .engine.parallel_group import Origin, start

    kind = "cuda" if device in (None, "auto") else str(device)
    if kind not in ("cuda", "cpu"):
        raise CpmvError(f"gpus={gpus} takes the first {gpus} CUDA GPUs; leave device={kind!r} out")
    named = None if source is None else str(source)
    pair = None if mmproj is None else str(mmproj)
    group = start(Origin(named, pair, revision, kind, None if dtype is None else str(dtype)), gpus)
    part = group.part
    return Model(part.network, part.tokenizer, part.config, part.format, group)


class Model:
    """A loaded checkpoint with everything needed to answer.

    network: the `MiniCPMV` module. tokenizer, config: the checkpoint's. processor: messages -> `ModelInputs`.
    format: how the weights are stored ("bf16", "nf4", "awq", "gguf", ...).
    """

    def __init__(
        self, network: MiniCPMV, tokenizer: Tokenizer, config: ModelConfig, format: str, group: Group | None = None
    ) -> None:
        """group: the processes that share the decoder, when there are several."""
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.config = config
        self.format = format
        self.processor = Processor(config, tokenizer)
        self._group = group
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Model(MiniCPM-V {self.config.version}, {self.format}, {self.dtype}, {self.device})"

    @property
    def default_params(self) -> SamplingParams:
        """How answers are generated when nobody says; `chat` has the publisher's defaults instead."""
        return SamplingParams.default(self.config.greedy)

    @property
    def device(self) -> torch.device:
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    def ask(
        self,
        media: Media | Sequence[Media] | None,
        question: str,
        *,
        greedy: bool = False,
        params: SamplingParams | None = None,
        fps: float | None = None,
        packing: int | None = None,
        pages: str | Sequence[int] | None = None,
        enable_thinking: bool = False,
        max_slice_nums: int | None = None,
        system_prompt: str = "",
        progress: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> str:
        """Answer a question about pictures, videos or PDFs, and return the answer.

        media: a path, bytes, PIL image, array or part, or a list of them, told apart by content; None asks about
        nothing. fps: frames a second to sample (default 3); packing: frames a group, 1-6; pages: of PDFs, such as
        "1-3,7". greedy: always the likeliest token. `sampling` are fields of `SamplingParams` that replace the
        defaults. With `enable_thinking` the model reasons first; only its answer is returned.
        """
        content = [*_parts(media, fps, packing, pages), question]
        inputs = self.processor(
            [{"role": "user", "content": content}],
            enable_thinking=enable_thinking,
            max_slice_nums=max_slice_nums,
            system_prompt=system_prompt,
            progress=progress,
            on_group=self._ahead(),
        )
        output = self.generate(
            inputs, _sampling(params or self.default_params, greedy, sampling), thinking=enable_thinking
        )
        assert isinstance(output, Output)
        return output.text

    def stream(
        self,
        msgs: Sequence[Any],
        *,
        greedy: bool = False,
        params: SamplingParams | None = None,
        enable_thinking: bool = False,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        temporal_ids: Sequence[Any] | None = None,
        system_prompt: str = "",
        tools: Sequence[dict[str, Any]] | None = None,
        progress: Callable[[int, int], None] | None = None,
        **sampling: Any,
    ) -> Iterator[Piece]:
        """Yield the answer to a conversation piece by piece; `str(piece)` is its text, `piece.kind` its part.

        msgs: as `chat` takes them. The prompt is prepared, and mistakes are raised, before the first piece is asked.
        """
        chosen = _sampling(params or self.default_params, greedy, sampling)
        inputs = self.processor(
            msgs,
            enable_thinking=enable_thinking,
            max_slice_nums=max_slice_nums,
            use_image_id=use_image_id,
            temporal_ids=temporal_ids,
            system_prompt=system_prompt,
            tools=tools,
            progress=progress,
            on_group=self._ahead(),
        )
        return self._stream(inputs, chosen, enable_thinking)

    def _stream(
        self, inputs: ModelInputs, params: SamplingParams, thinking: bool, raw: bool = False
    ) -> Iterator[Piece]:
        if params.num_beams > 1:
            raise MessageError(
                f"num_beams={params.num_beams} cannot stream: beams are known only at the end; use generate"
            )
        engine = self._engine_for(self._tokens_of(inputs, params))
        return engine.stream(engine.add(inputs, params, thinking=thinking, raw=raw))

    def chat(
        self,
        image: Any = None,
        msgs: Any = None,
        tokenizer: Any = None,
        processor: Any = None,
        vision_hidden_states: Any = None,
        max_new_tokens: int = 2048,
        min_new_tokens: int = 0,
        sampling: bool = True,
        max_inp_length: int = REFERENCE_MAX_INP_LENGTH,
        system_prompt: str = "",
        stream: bool = False,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        temporal_ids: Sequence[Any] | None = None,
        enable_thinking: bool = False,
        compat: str | None = None,
        **kwargs: Any,
    ) -> str | list[str] | Iterator[str]:
        """Answer as the published `chat()` does: same arguments, defaults and form of result.

        msgs: [{"role", "content"}], content a string or a list of strings, PIL images and parts; or a list of such
        conversations, answered as a batch. stream=True returns an iterator of strings and needs sampling=True.
        sampling=False is beam search with 3 beams. The returned text keeps its `<think>` block when thinking.
        compat="reference" also reproduces the published code's mistakes that change answers (docs/parity.md).
        """
        _check_unused(tokenizer, self.tokenizer, vision_hidden_states)
        if isinstance(image, list) and msgs is None:  # chat(msgs): the first argument was the conversation
            image, msgs = None, image
        if not msgs:
            raise MessageError("msgs is empty; pass at least one {'role': 'user', 'content': ...}")
        params = SamplingParams.reference(
            sampling, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens, **kwargs
        )
        batched = isinstance(msgs, (list, tuple)) and isinstance(msgs[0], (list, tuple))
        if stream and not sampling:
            raise MessageError("stream=True needs sampling=True: beams are known only at the end; drop one of the two")
        if stream and batched:
            raise MessageError("stream=True takes one conversation; a list of conversations was given")
        if batched and image is not None:
            raise MessageError("image must be None when msgs is a list of conversations; put images into the contents")
        conversations = list(msgs) if batched else [msgs]
        per_row = _temporal_per_conversation(temporal_ids, len(conversations), batched)
        inputs = [
            self.processor(
                conversation,
                image=image,
                enable_thinking=enable_thinking,
                max_slice_nums=max_slice_nums,
                use_image_id=use_image_id,
                temporal_ids=ids,
                system_prompt=system_prompt,
                max_inp_length=max_inp_length,
                on_group=None if is_reference(compat) or params.num_beams > 1 else self._ahead(),
            )
            for conversation, ids in zip(conversations, per_row, strict=True)
        ]
        if stream:
            return self._reference_stream(inputs[0], params, enable_thinking)
        outputs = self.generate(inputs, params, thinking=enable_thinking, compat=compat)
        assert isinstance(outputs, list)
        texts = [output.raw_text for output in outputs]
        return texts if batched else texts[0]

    def _reference_stream(self, inputs: ModelInputs, params: SamplingParams, thinking: bool) -> Iterator[str]:
        """Pieces in the published form: the thinking prefix a character at a time, then text as it comes."""
        pieces = self._stream(inputs, params, thinking, raw=True)
        return itertools.chain("<think>\n" if thinking else "", map(str, pieces))

    def generate(
        self,
        inputs: ModelInputs | Sequence[ModelInputs],
        params: SamplingParams | None = None,
        *,
        thinking: bool = False,
        compat: str | None = None,
    ) -> Output | list[Output]:
        """Generate from prepared inputs; a list of inputs is one batch and gives a list.

        thinking: the prompt ended inside a `<think>` block, so the output begins with reasoning.
        """
        chosen = params or self.default_params
        if is_reference(compat) or chosen.num_beams > 1:
            self._alone("beam search or compat='reference'")
            return generate(self.network, self.tokenizer, inputs, chosen, thinking=thinking, compat=compat)
        prompts = [inputs] if isinstance(inputs, ModelInputs) else list(inputs)
        if not prompts:
            return []
        engine = self._engine_for(max(self._tokens_of(prompt, chosen) for prompt in prompts))
        requests: list[Request] = []
        try:
            requests += (engine.add(prompt, chosen, thinking=thinking) for prompt in prompts)
            outputs = [engine.wait(request) for request in requests]
        except BaseException:  # nobody waits for the others any more
            for request in requests:
                engine.cancel(request)
            raise
        return outputs[0] if isinstance(inputs, ModelInputs) else outputs

    @property
    def engine(self) -> Engine:
        """The engine that this model's calls share, made at the first one. Several threads may call the model."""
        return self._engine_for(0)

    def _engine_for(self, num_tokens: int) -> Engine:
        """Return the engine, made anew when a request of so many tokens would not fit."""
        with self._engine_lock:
            if self._engine is None or self._engine.capacity < num_tokens:
                per_token = self.network.cache_spec().bytes_per_token
                wanted = max(_ENGINE_TOKENS, 1 << max(0, num_tokens - 1).bit_length())
                affordable = free_memory(self.device) // 2 // per_token
                tokens = max(num_tokens, min(wanted, affordable))
                self._engine = self.new_engine(cache_bytes=(tokens + 16) * per_token)
            return self._engine

    def new_engine(self, **options: Any) -> Engine:
        """Make an engine of one's own, over all processes that share the decoder; options as `Engine` takes them."""
        if self._group is not None:
            return self._group.engine(**options)
        return Engine(self.network, self.tokenizer, **options)

    def close(self) -> None:
        """End the other processes, where the decoder is shared; the model cannot answer any more."""
        if self._group is not None:
            self._group.close()

    def _alone(self, what: str) -> None:
        if self._group is not None:
            raise CpmvError(f"{what} is for a model in one process; load it without gpus")

    def _ahead(self) -> MediaAhead | None:
        """What encodes a prompt's first pictures while its last are decoded; a CPU does both, one after the other."""
        return None if self.device.type == "cpu" else MediaAhead(lambda: self.engine)

    def _tokens_of(self, inputs: ModelInputs, params: SamplingParams) -> int:
        """The most tokens that a request can come to."""
        context = self.network.config.language.max_position_embeddings
        return min(context, len(inputs) + params.max_new_tokens)

    def logits(self, inputs: ModelInputs, *, compat: str | None = None) -> Tensor:
        """Return float32 logits [S, V] of every position of one prompt.

        compat="reference" hides tokens with id 0 from attention, as the published code does when not streaming.
        """
        self._alone("logits")
        return self.network.logits(inputs, inputs.input_ids != 0 if is_reference(compat) else None)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> None:
        """Write the checkpoint in the released layout; quantised weights stay as they are stored."""
        self._alone("save")
        checkpoint.save(self.network, self.tokenizer, folder, overwrite=overwrite)

    def to(self, device: str | torch.device) -> Model:
        """Move to another device and return self."""
        self._alone("to")
        self.network.to(torch.device(device))
        with self._engine_lock:
            self._engine = None  # its cache and weights are where the model was
        return self

    def cuda(self, device: int | None = None) -> Model:
        """Move to a CUDA GPU where there is one; else warn and stay, so that scripts written for one still run."""
        if not torch.cuda.is_available():
            log.warning("cuda() was asked for, but torch sees no CUDA GPU; the model stays on %s", self.device)
            return self
        return self.to(torch.device("cuda", device if device is not None else torch.cuda.current_device()))

    def cpu(self) -> Model:
        return self.to("cpu")

    def eval(self) -> Model:
        """Return self: a loaded model is always ready to answer."""
        return self


def _parts(
    media: Any, fps: float | None, packing: int | None, pages: str | Sequence[int] | None
) -> list[Image | Video | Pdf | Text]:
    """Turn what a person passes to `ask` into parts, by content; refuse options that nothing given can use."""
    given = [] if media is None else list(media) if isinstance(media, (list, tuple)) else [media]
    parts: list[Image | Video | Pdf | Text] = []
    for one in given:
        if isinstance(one, (Image, Video, Pdf, Text)):
            parts.append(one)
            continue
        kind = media_kind(one)
        if kind == "video":
            parts.append(Video(one, fps=fps, packing=packing))
        elif kind == "pdf":
            parts.append(Pdf(one, pages=pages))
        else:
            parts.append(Image(one))
    for option, value, needed in (("fps", fps, Video), ("packing", packing, Video), ("pages", pages, Pdf)):
        if value is not None and not any(isinstance(part, needed) for part in parts):
            raise MessageError(f"{option}={value!r} was given, but no {needed.__name__.lower()} is among the files")
    return parts


def _sampling(params: SamplingParams, greedy: bool, overrides: dict[str, Any]) -> SamplingParams:
    base = params
    if greedy:
        base = base.replace(temperature=0.0, repetition_penalty=1.0, num_beams=1)
    return base.replace(**overrides) if overrides else base


def _temporal_per_conversation(ids: Any, count: int, batched: bool) -> list[Any]:
    if ids is None:
        return [None] * count
    if not batched:
        return [ids]
    if len(ids) != count:
        raise MessageError(f"temporal_ids has {len(ids)} entries for {count} conversations; give one list for each")
    return list(ids)


def _check_unused(tokenizer: Any, own: Tokenizer, vision_hidden_states: Any) -> None:
    if tokenizer is not None and tokenizer is not own and len(tokenizer) != len(own):
        raise MessageError(
            f"the tokenizer given has {len(tokenizer)} tokens but the model's own has {len(own)}; "
            "leave it out, the model brings its own"
        )
    if vision_hidden_states is not None:
        raise MessageError("vision_hidden_states is not supported; pass the images, their features are computed once")
