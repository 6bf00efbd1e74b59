"""Other programs doing the same work on the same machine, turn by turn with ours.

A peer that is not installed raises `PeerError` with one clear line. `TransformersPeer` shares our weights, so that its
logits can be compared as well; it has the language model's `generate` and SigLIP, and no resampler. The vision peer
has its own random weights. `LlamaCppPeer` and `VllmPeer` time whole programs.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import CpmvError
from ..model.config import LanguageConfig
from ..model.layers import Linear
from ..weights.packed import PackedLinear
from .timing import Work, timed
from .workloads import Bench

log = logging.getLogger("cpmv")


class PeerError(CpmvError):
    """A peer that cannot be compared with here."""


class Peer(Protocol):
    """versions: of the program. works: by name, what does the same as the workload of that key."""

    name: str
    versions: dict[str, str]

    def works(self, key: str) -> dict[str, Work]: ...
    def agreement(self) -> str | None: ...


def open_peer(name: str, bench: Bench, model: str | None, quick: bool = False) -> Peer:
    """Prepare a peer. quick: only for the lines that matter most.

    Raises PeerError when it is not here, or has no way to hold this model.
    """
    if name == "transformers":
        return TransformersPeer(bench, quick)
    if name == "llama.cpp":
        return LlamaCppPeer(model)
    return VllmPeer(bench.config.language)


class TransformersPeer:
    """transformers' Qwen3 with its default cache and with its static one, not compiled; SigLIP with SDPA."""

    name = "transformers"

    def __init__(self, bench: Bench, quick: bool) -> None:
        if importlib.util.find_spec("transformers") is None:
            raise PeerError("transformers is not installed, so it is not compared with; pip install transformers")
        import transformers

        transformers.utils.logging.set_verbosity_error()
        self.versions = {"transformers": str(transformers.__version__)}
        self._bench, self._quick = bench, quick
        self._language = qwen3_with_our_weights(bench)
        self._vision: Any = None

    def works(self, key: str) -> dict[str, Work]:
        kind, *rest = key.split("-")
        if kind == "decode":
            rows, context = int(rest[0][1:]), int(rest[1][1:])
            if rows > 8 or (self._quick and rows * context > 4096):  # longer than everything else together
                return {}
            found = {"transformers": self._decode(rows, context, static=False)}
            if rows == 1:
                found["transformers, static cache"] = self._decode(rows, context, static=True)
            return found
        if kind == "prefill":
            return {"transformers": self._prefill(int(rest[0]))}
        if kind == "vision" and rest[0] == "slices":
            return {"transformers (tower alone)": self._tower(int(rest[1]))}
        return {}

    def _ids(self, rows: int, length: int) -> Tensor:
        b = self._bench
        ids = torch.randint(b.config.language.vocab_size, (rows, length), generator=b.generator)
        return ids.to(b.device)

    def _decode(self, rows: int, context: int, static: bool) -> Work:
        """Seconds of a token: those of an answer of 9 less those of an answer of 1, over 8."""
        options: dict[str, Any] = {"cache_implementation": "static", "disable_compile": True} if static else {}
        more = 8
        ids = self._ids(rows, context)

        def seconds(count: int) -> float:
            def run() -> None:
                out = self._language.generate(
                    ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=count,
                    min_new_tokens=count, eos_token_id=None, pad_token_id=0, **options,
                )  # fmt: skip
                assert out.shape[1] == context + count

            return timed(self._bench.device, run)

        return lambda: (seconds(1 + more) - seconds(1)) / more

    def _prefill(self, length: int) -> Work:
        @torch.inference_mode()
        def run() -> None:
            ids = self._ids(1, length)
            logits = self._language(ids, use_cache=True, logits_to_keep=1).logits
            int(logits[0, -1].argmax())

        return lambda: timed(self._bench.device, run)

    def _tower(self, count: int) -> Work:
        vision = self._vision = self._vision or siglip_of_our_size(self._bench)
        side = self._bench.config.image.scale_resolution
        pixels = torch.rand(count, 3, side, side, dtype=self._bench.network.dtype, device=self._bench.device)

        @torch.inference_mode()
        def run() -> None:
            for part in pixels.split(60):  # as much as its attention and activations are at ease with
                vision(part)

        return lambda: timed(self._bench.device, run)

    @torch.inference_mode()
    def agreement(self) -> str:
        """Compare logits of a random prompt with ours, which share the weights."""
        ids = self._ids(1, 128)
        theirs = self._language(ids).logits[0].float()
        ours = self._bench.network(self._bench.network.embed_tokens(ids))[0].float()
        error = ((ours - theirs).norm() / theirs.norm()).item()
        same = (ours.argmax(-1) == theirs.argmax(-1)).float().mean().item()
        return f"logits of 128 positions differ by {error:.1e} relative; same likeliest token at {same:.0%}"


def qwen3_with_our_weights(bench: Bench) -> Any:
    """Build transformers' Qwen3 around our decoder's own tensors; quantised ones are dequantised for it."""
    from transformers import Qwen3Config, Qwen3ForCausalLM
    from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

    c = bench.config.language
    if c.rope_scaling:
        raise PeerError("this model scales its rotary positions, which the comparison does not set up")
    config = Qwen3Config(**_qwen3_fields(c), attn_implementation="sdpa", dtype=bench.network.dtype)
    with torch.device("meta"):
        language = Qwen3ForCausalLM(config)
    dtype, llm = bench.network.dtype, bench.network.llm
    state = {}
    for name, module in llm.named_modules():
        if isinstance(module, PackedLinear):
            state[f"{name}.weight"] = module.dequantize(dtype)
        elif isinstance(module, Linear) or next(module.parameters(recurse=False), None) is not None:
            state |= {f"{name}.{key}": p.detach().to(dtype) for key, p in module.named_parameters(recurse=False)}
    wanted = set(language.state_dict())
    if c.tie_word_embeddings:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    missing = wanted - set(state)
    if missing:
        raise PeerError(f"our decoder has no {sorted(missing)[0]!r}, so transformers cannot share its weights")
    language.load_state_dict({name: state[name] for name in wanted}, assign=True)
    with torch.device(bench.device):
        language.model.rotary_emb = Qwen3RotaryEmbedding(config=config)
    return language.eval()


def _qwen3_fields(c: LanguageConfig) -> dict[str, Any]:
    names: tuple[str, ...] = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    names += ("num_key_value_heads", "head_dim", "rms_norm_eps", "max_position_embeddings", "tie_word_embeddings")
    fields: dict[str, Any] = {name: getattr(c, name) for name in names}
    return fields | {
        "rope_theta": c.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": c.rope_theta},
    }


def siglip_of_our_size(bench: Bench) -> Any:
    """Build transformers' SigLIP tower for one slice's grid, with random weights."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    c = bench.config.vision
    config = SiglipVisionConfig(
        hidden_size=c.hidden_size, intermediate_size=c.intermediate_size, num_hidden_layers=c.num_hidden_layers,
        num_attention_heads=c.num_attention_heads, image_size=bench.config.image.scale_resolution,
        patch_size=c.patch_size, attn_implementation="sdpa", vision_use_head=False,
    )  # fmt: skip
    with torch.device(bench.device):
        return SiglipVisionModel(config).to(bench.network.dtype).eval()


class LlamaCppPeer:
    """`llama-bench` on a GGUF file: prefill and decode of one sequence."""

    name = "llama.cpp"

    def __init__(self, model: str | None) -> None:
        program = shutil.which("llama-bench")
        if program is None:
            raise PeerError("llama-bench is not on the PATH, so llama.cpp is not compared with; build llama.cpp")
        if model is None or not model.endswith(".gguf"):
            raise PeerError("llama.cpp reads GGUF files alone; give MODEL as a .gguf file to compare with it")
        self._command = [program, "-m", model, "-r", "1", "-o", "json"]
        self.versions: dict[str, str] = {}

    def works(self, key: str) -> dict[str, Work]:
        kind, *rest = key.split("-")
        if kind == "prefill":
            return {"llama.cpp": lambda: self._seconds("-p", rest[0], "-n", "0") * int(rest[0])}
        if kind == "decode" and rest[0] == "b1":
            return {"llama.cpp": lambda: self._seconds("-p", "0", "-n", "16", "-d", rest[1][1:])}
        return {}

    def _seconds(self, *options: str) -> float:
        """Seconds of a token."""
        done = subprocess.run([*self._command, *options], capture_output=True, text=True)
        if done.returncode:
            raise PeerError(f"llama-bench failed: {(done.stderr.strip().splitlines() or ['no word'])[-1]}")
        found = json.loads(done.stdout)[-1]
        self.versions["llama.cpp"] = str(found.get("build_commit", "unknown"))
        return 1 / float(found["avg_ts"])

    def agreement(self) -> str | None:
        return None


class VllmPeer:
    """vLLM's decoder of the same dimensions with dummy weights, prefix cache off."""

    name = "vllm"

    def __init__(self, config: LanguageConfig) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise PeerError("vllm is not installed, so it is not compared with; pip install vllm where it can run")
        import vllm

        self._folder = tempfile.TemporaryDirectory(prefix="cpmv-bench-")
        fields = _qwen3_fields(config) | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
        Path(self._folder.name, "config.json").write_text(json.dumps(fields | {"torch_dtype": "bfloat16"}))
        self.versions = {"vllm": str(vllm.__version__)}
        self._vocab_size = config.vocab_size
        self._params: Callable[..., Any] = vllm.SamplingParams
        # Half of the memory, because our model stands beside it.
        self._llm = vllm.LLM(
            self._folder.name, load_format="dummy", skip_tokenizer_init=True, enable_prefix_caching=False,
            gpu_memory_utilization=0.45, max_model_len=16384,
        )  # fmt: skip

    def works(self, key: str) -> dict[str, Work]:
        kind, *rest = key.split("-")
        if kind == "prefill":
            return {"vllm": lambda: self._seconds(1, int(rest[0]), 1)}
        if kind == "decode":
            rows, context, more = int(rest[0][1:]), int(rest[1][1:]), 32
            return {"vllm": lambda: (self._seconds(rows, context, 1 + more) - self._seconds(rows, context, 1)) / more}
        return {}

    def _seconds(self, rows: int, length: int, count: int) -> float:
        ids = torch.randint(self._vocab_size, (rows, length)).tolist()
        params = self._params(temperature=0.0, max_tokens=count, ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        self._llm.generate([{"prompt_token_ids": row} for row in ids], params, use_tqdm=False)
        return time.perf_counter() - start

    def agreement(self) -> str | None:
        return None
