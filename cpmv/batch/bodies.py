"""A request's body, in OpenAI's words, made into what the engine takes; and its answers made into a body again.

Fields the model cannot serve are refused by name, never dropped. What a body does not say comes from the command's
`Defaults`. Fields that only describe the request (`model`, `metadata`, `user`, ...) change no answer.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..engine.sampling import SamplingParams
from ..errors import MessageError

if TYPE_CHECKING:
    from ..engine.output import Output
    from ..engine.sampling import TokenLogprob
    from ..inputs.text import Tokenizer

MAX_ANSWERS = 128  # n, as OpenAI bounds it
_DESCRIBING = {"model", "metadata", "user", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
_SAMPLING = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "stop": "stop",
    "seed": "seed",
}
_MEDIA_OPTIONS = ("max_slice_nums", "use_image_id", "fps", "packing")
# What may stand there as long as it asks for nothing.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True,),
    "stream_options": (),
}
_OTHER = {"messages", "n", "logprobs", "top_logprobs", "tools", "chat_template_kwargs", "mm_processor_kwargs"}


@dataclass(frozen=True)
class Defaults:
    """What applies where a body says nothing."""

    params: SamplingParams
    thinking: bool = False
    processor: Mapping[str, Any] = field(default_factory=dict)  # max_slice_nums, fps, packing


@dataclass(frozen=True)
class Ask:
    """One request: what to process, how to answer, and how many answers."""

    messages: Any
    params: SamplingParams
    num_answers: int
    thinking: bool
    processor: dict[str, Any]

    def params_of(self, index: int) -> SamplingParams:
        """Parameters of the index-th answer: with a seed, each draws its own numbers."""
        seed = self.params.seed
        return self.params if seed is None or not index else self.params.replace(seed=seed + index)


def read_body(body: Mapping[str, Any], defaults: Defaults) -> Ask:
    """Read one chat-completion body. Raises MessageError for a field that is unknown or asks for what there is not."""
    given = {name: value for name, value in body.items() if value is not None}
    _check_fields(given)
    template, options = _object(given, "chat_template_kwargs"), _object(given, "mm_processor_kwargs")
    _check_known(template, ("enable_thinking",), "chat_template_kwargs")
    _check_known(options, _MEDIA_OPTIONS, "mm_processor_kwargs")
    thinking = template.get("enable_thinking", defaults.thinking)
    if not isinstance(thinking, bool):
        raise MessageError(f"chat_template_kwargs.enable_thinking is {thinking!r}; give true or false")
    count = given.get("n", 1)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_ANSWERS:
        raise MessageError(f"n is {count!r}; give an integer from 1 to {MAX_ANSWERS}")
    processor = {**defaults.processor, **options}
    if given.get("tools") and given.get("tool_choice") != "none":
        processor["tools"] = given["tools"]
    if "messages" not in given:
        raise MessageError("the body has no messages; add a list of messages with role and content")
    return Ask(given["messages"], _params(given, defaults), count, thinking, processor)


def _check_fields(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                raise MessageError(f"{name}={value!r} is not supported in a batch; leave it out")
        elif name not in _SAMPLING and name not in _OTHER and name not in _DESCRIBING:
            raise MessageError(f"the body has the unknown field {name!r}; leave it out")


def _params(given: Mapping[str, Any], defaults: Defaults) -> SamplingParams:
    changes = {ours: given[name] for name, ours in _SAMPLING.items() if name in given}
    wanted = given.get("logprobs", False)
    if not isinstance(wanted, bool):
        raise MessageError(f"logprobs is {wanted!r}; give true or false, and top_logprobs for their number")
    if "top_logprobs" in given and not wanted:
        raise MessageError("top_logprobs needs logprobs: true")
    if wanted:
        changes["logprobs"] = given.get("top_logprobs", 0)
    return defaults.params.replace(**changes) if changes else defaults.params


def _object(given: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = given.get(name, {})
    if not isinstance(value, Mapping):
        raise MessageError(f"{name} is {value!r}; give a JSON object")
    return value


def _check_known(options: Mapping[str, Any], allowed: Sequence[str], where: str) -> None:
    for name in options:
        if name not in allowed:
            raise MessageError(f"{where} has the unknown field {name!r}; allowed are {', '.join(allowed)}")


def completion(
    outputs: Sequence[Output],
    *,
    id: str,
    model: str,
    num_visual_tokens: int,
    num_cached_tokens: int,
    tokenizer: Tokenizer,
) -> dict[str, Any]:
    """Return OpenAI's chat.completion object for the answers of one request."""
    prompt, written = outputs[0].num_prompt_tokens, sum(len(output.token_ids) for output in outputs)
    return {
        "id": f"chatcmpl-{id.removeprefix('batch_req_')}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [_choice(index, output, tokenizer) for index, output in enumerate(outputs)],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": written,
            "total_tokens": prompt + written,
            "prompt_tokens_details": {"cached_tokens": num_cached_tokens, "visual_tokens": num_visual_tokens},
        },
    }


def _choice(index: int, output: Output, tokenizer: Tokenizer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": output.text}
    if output.thinking:
        message |= {"reasoning": output.thinking, "reasoning_content": output.thinking}
    logprobs = None
    if output.logprobs is not None:
        logprobs = {"content": [_logprob(one, tokenizer) for one in output.logprobs]}
    return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": output.finish_reason}


def _logprob(report: TokenLogprob, tokenizer: Tokenizer) -> dict[str, Any]:
    def entry(token_id: int, logprob: float) -> dict[str, Any]:
        raw = tokenizer.token_bytes(token_id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(raw)}

    top = [entry(token_id, logprob) for token_id, logprob in report.top]
    return {**entry(report.token_id, report.logprob), "top_logprobs": top}
