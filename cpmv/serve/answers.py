"""From the engine's pieces to what clients read: one `Choice` per answer, whole responses, and stream events.

`reasoning` and `reasoning_content` always carry the same text, because clients differ in which they know.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from ..engine.output import Output, Piece
from ..engine.sampling import TokenLogprob
from ..inputs.text import Tokenizer
from ..model.config import ModelInputs
from .tools import Call, CallSplitter

DONE = b"data: [DONE]\n\n"


class Choice:
    """One answer in the making. tool_names: functions it may call, None when it was offered none."""

    def __init__(self, index: int, tokenizer: Tokenizer, tool_names: list[str] | None, num_top: int | None) -> None:
        self.index = index
        self._tokenizer, self._num_top = tokenizer, num_top
        self._splitter = None if tool_names is None else CallSplitter(tool_names)
        self._texts: list[str] = []
        self.calls: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.num_reasoning_tokens = 0
        self.num_tokens = 0
        self.output: Output | None = None

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        """Take a piece; return the deltas it makes, each with the log-probabilities of its tokens under "logprobs"."""
        self.num_tokens += len(piece.token_ids)
        if piece.kind == "thinking":
            self.num_reasoning_tokens += len(piece.token_ids)
            return [{"delta": {"reasoning": piece.text, "reasoning_content": piece.text}}]
        entries = self._entries(piece.logprobs)
        self.logprobs += entries or []
        deltas = self._deltas([piece.text] if self._splitter is None else self._splitter.put(piece.text))
        if entries is not None:
            deltas = deltas or [{"delta": {"content": ""}}]
            deltas[0]["logprobs"] = {"content": entries, "refusal": None}
        return deltas

    def finish(self, output: Output) -> list[dict[str, Any]]:
        """Take the finished answer; return the deltas that were held back."""
        self.output = output
        self.num_tokens = len(output.token_ids)
        return self._deltas([] if self._splitter is None else self._splitter.flush())

    def _deltas(self, parts: list[Any]) -> list[dict[str, Any]]:
        deltas: list[dict[str, Any]] = []
        for part in parts:
            if isinstance(part, Call):
                call = part.as_openai()
                deltas.append({"delta": {"tool_calls": [{"index": len(self.calls), **call}]}})
                self.calls.append(call)
            else:
                self._texts.append(part)
                deltas.append({"delta": {"content": part}})
        return deltas

    @property
    def finish_reason(self) -> str | None:
        """OpenAI's word for why the answer ended."""
        if self.output is None:
            return None
        return "tool_calls" if self.calls and self.output.finish_reason == "stop" else self.output.finish_reason

    def message(self) -> dict[str, Any]:
        """The whole answer as an assistant's message."""
        assert self.output is not None
        content: str | None = self.output.text if self._splitter is None else "".join(self._texts).strip()
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if self.calls:
            message |= {"content": content or None, "tool_calls": self.calls}
        thinking = self.output.thinking or None
        return message | {"reasoning": thinking, "reasoning_content": thinking}

    def whole(self) -> dict[str, Any]:
        logprobs = None if self._num_top is None else {"content": self.logprobs, "refusal": None}
        return {
            "index": self.index,
            "message": self.message(),
            "finish_reason": self.finish_reason,
            "logprobs": logprobs,
        }

    def _entries(self, logprobs: list[TokenLogprob] | None) -> list[dict[str, Any]] | None:
        if self._num_top is None or logprobs is None:
            return None
        return [
            {**self._token(one.token_id, one.logprob), "top_logprobs": [self._token(*top) for top in one.top]}
            for one in logprobs
        ]

    def _token(self, token_id: int, logprob: float) -> dict[str, Any]:
        data = self._tokenizer.token_bytes(token_id)
        # JSON has no infinities; a token that cannot come at all is reported as OpenAI does.
        return {"token": data.decode("utf-8", "replace"), "logprob": max(logprob, -9999.0), "bytes": list(data)}


class Reply:
    """What all answers to one request have in common: its id, its time, the model's name, its usage."""

    def __init__(self, id: str, model: str, inputs: ModelInputs) -> None:
        self.id, self.model, self.created = id, model, int(time.time())
        self.num_prompt_tokens = len(inputs)
        self.num_image_tokens, self.num_video_tokens = count_visual_tokens(inputs)

    @property
    def num_visual_tokens(self) -> int:
        return self.num_image_tokens + self.num_video_tokens

    def whole(self, choices: list[Choice], num_cached: int) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "chat.completion",
            "created": self.created,
            "model": self.model,
            "choices": [choice.whole() for choice in choices],
            "usage": self.usage(choices, num_cached),
            "system_fingerprint": None,
        }

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        """One event of a stream."""
        body = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
            **more,
        }
        return event(body)

    def usage(self, choices: list[Choice], num_cached: int) -> dict[str, Any]:
        """Token counts. The prompt counts once, whatever `n`; visual tokens are a part of it."""
        written = sum(choice.num_tokens for choice in choices)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.num_prompt_tokens + written,
            "prompt_tokens_details": {
                "cached_tokens": num_cached,
                "audio_tokens": 0,
                "visual_tokens": self.num_visual_tokens,
                "image_tokens": self.num_image_tokens,
                "video_tokens": self.num_video_tokens,
            },
            "completion_tokens_details": {
                "reasoning_tokens": sum(choice.num_reasoning_tokens for choice in choices),
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def event(body: dict[str, Any]) -> bytes:
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def count_visual_tokens(inputs: ModelInputs) -> tuple[int, int]:
    """Tokens of pictures and pages, and tokens of video frames: groups with times are frames."""
    sizes = (inputs.image_bounds[:, 1] - inputs.image_bounds[:, 0]).tolist()
    frames = sum(size for size, ids in zip(sizes, inputs.temporal_ids, strict=True) if ids and ids[0] >= 0)
    return int(sum(sizes) - frames), int(frames)
