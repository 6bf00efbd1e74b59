"""From a conversation to `ModelInputs`: the one path that chat, serving, training and evaluation share.

`messages` gives typed parts, `visuals` plans the pictures, `template` writes the chat text, `markup` turns it into ids
with every placeholder known by structure, and only then are pixels decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ..errors import CheckpointError, ContextLengthError, MessageError
from ..model.config import ModelConfig, ModelInputs
from .markup import Guard, PromptBuilder, mark_answers, media_marker, place_blocks
from .messages import Image, Message, Text, check_json, parse_messages
from .template import render_chat
from .text import END_OF_TURN, Tokenizer
from .visuals import Group, Visuals, read_temporal_ids


class Processor:
    """Make a conversation into what the model takes, with the checkpoint's tokenizer, template and image settings."""

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        self.config, self.tokenizer = config, tokenizer
        image = config.image
        placeholders = [image.im_start, image.im_end, image.slice_start, image.slice_end, image.unk]
        placeholders += [image.im_id_start, image.im_id_end]
        for content in placeholders:
            tokenizer.token_id(content)  # a CheckpointError now rather than at the first picture
        self._guard = Guard({*placeholders, "<|im_start|>", *END_OF_TURN, *tokenizer.special_tokens_map.values()})

    def __call__(
        self,
        msgs: Any,
        *,
        image: Any = None,
        enable_thinking: bool | None = False,
        max_slice_nums: int | None = None,
        use_image_id: bool | None = None,
        temporal_ids: Any = None,
        system_prompt: str = "",
        tools: Sequence[Mapping[str, Any]] | None = None,
        max_inp_length: int | None = None,
        fps: float | None = None,
        packing: int | None = None,
        progress: Callable[[int, int], None] | None = None,
        on_group: Callable[[Group], None] | None = None,
        supervised: bool = False,
    ) -> ModelInputs:
        """Process one conversation.

        msgs, image: as in `parse_messages`. enable_thinking: None leaves the template's argument out. max_slice_nums,
        use_image_id: None takes the checkpoint's. temporal_ids: groups covering all images, in order, in units of
        0.1 s. fps, packing: for videos that do not say; progress(frames done, frames in all) while they are decoded.
        Image ids count images and pages, not the frames of `Video` parts. max_inp_length: most tokens allowed, besides
        the model's own context. on_group: called with each group of slices when its pixels are there, in order, while
        later frames of a video are still being decoded.

        supervised: also return labels, the assistant's words and end markers; a conversation that ends with the
        assistant then gets no generation prompt. What the prompt would already contain is not learnt: "<think>\\n" with
        thinking, the empty think block without; a turn that does not begin so is learnt whole. A token never lies
        across the edge of an answer, as in generation.

        Raises MessageError, MediaError, ContextLengthError, CheckpointError.
        """
        limit = self._limit(max_inp_length)
        prompt, visuals = self._prompt(
            _with_system(parse_messages(msgs, image), system_prompt),
            limit,
            temporal_ids=temporal_ids,
            tools=tools,
            enable_thinking=enable_thinking,
            supervised=supervised,
            max_slice_nums=max_slice_nums,
            use_image_id=use_image_id,
            fps=fps,
            packing=packing,
            progress=progress,
        )
        loaded = visuals.load(on_group)
        return ModelInputs(
            input_ids=torch.tensor(prompt.ids, dtype=torch.int64),
            image_bounds=torch.tensor(prompt.bounds, dtype=torch.int64).reshape(-1, 2),
            patches=loaded.patches,
            tgt_sizes=loaded.tgt_sizes,
            temporal_ids=loaded.temporal_ids,
            text=prompt.text,
            media_hashes=loaded.media_hashes,
            labels=torch.tensor(prompt.labels, dtype=torch.int64) if supervised else None,
        )

    def encode(
        self, msgs: Any, *, enable_thinking: bool | None = False, temporal_ids: Any = None, **media: Any
    ) -> tuple[list[int], list[int], list[tuple[int, int]]]:
        """Return ids, labels and picture bounds of a supervised conversation without opening its pictures.

        Planned from their sizes alone, so that training which draws the pixels itself has the very same tokens. media:
        max_slice_nums and use_image_id, as in a call.
        """
        messages, limit = parse_messages(msgs), self._limit(None)
        prompt, _ = self._prompt(
            messages, limit, temporal_ids=temporal_ids, enable_thinking=enable_thinking, supervised=True, **media
        )
        return prompt.ids, prompt.labels, prompt.bounds

    def _prompt(
        self,
        messages: list[Message],
        limit: tuple[int, str],
        *,
        temporal_ids: Any,
        enable_thinking: bool | None,
        supervised: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **media: Any,
    ) -> tuple[PromptBuilder, Visuals]:
        """Write the prompt; its pictures are planned, not yet decoded."""
        groups = _temporal_groups(messages, temporal_ids)
        visuals = Visuals(self.config.image, temporal_ids=groups, limit=limit, **media)
        rendered = self._render(messages, visuals, tools, enable_thinking, supervised)
        prompt = PromptBuilder(self.tokenizer, self.config.image)
        prompt.write(place_blocks(rendered, visuals.blocks), self._guard, visuals.blocks)
        if len(prompt.ids) > limit[0]:
            raise ContextLengthError(len(prompt.ids), *limit)
        return prompt, visuals

    def _limit(self, max_inp_length: int | None) -> tuple[int, str]:
        context = self.config.language.max_position_embeddings
        if max_inp_length is None or (isinstance(max_inp_length, int) and max_inp_length >= context):
            return context, "the context"
        if not isinstance(max_inp_length, int) or isinstance(max_inp_length, bool) or max_inp_length < 1:
            raise MessageError(f"max_inp_length is {max_inp_length!r}; it must be an integer >= 1")
        return max_inp_length, "max_inp_length"

    def _render(
        self,
        messages: list[Message],
        visuals: Visuals,
        tools: Sequence[Mapping[str, Any]] | None,
        enable_thinking: bool | None,
        supervised: bool,
    ) -> str:
        """Return the chat text with markers in it, answers marked when they are to be learnt."""
        if enable_thinking is not None and not isinstance(enable_thinking, bool):
            raise MessageError(f"enable_thinking is {enable_thinking!r}; it must be True, False or None")
        hidden_tools = self._hide_tools(tools)
        turns = [self._hide_message(message, visuals) for message in messages]
        answers = sum(message.role == "assistant" for message in messages)
        if supervised and not answers:
            raise MessageError("the conversation has no assistant message, so there is nothing to learn from it")
        ends_with_answer = messages[-1].role == "assistant"
        rendered = self._chat(turns, hidden_tools, enable_thinking, not (supervised and ends_with_answer))
        if not supervised:
            return rendered
        header, prefix = self._answer_header(hidden_tools, enable_thinking)
        rendered, found = mark_answers(rendered, header, prefix)
        if found != answers:
            raise CheckpointError(
                f"the chat template shows {found} answers of {answers} between {header!r} and an end marker; "
                "train with a template that writes every assistant message so"
            )
        return rendered

    def _chat(self, turns: Any, tools: Any, enable_thinking: bool | None, add_generation_prompt: bool) -> str:
        return render_chat(
            turns,
            template=self.tokenizer.template_for(tools),
            tools=tools,
            enable_thinking=enable_thinking,
            add_generation_prompt=add_generation_prompt,
            special_tokens=self.tokenizer.special_tokens_map,
        )

    def _answer_header(self, tools: Any, enable_thinking: bool | None) -> tuple[str, str]:
        """Ask the template what it puts before an answer: (in every turn, and in this thinking mode only)."""
        probe = [{"role": "user", "content": "?"}]
        before = self._chat(probe, tools, None, False)
        every = self._chat(probe, tools, None, True)
        mode = self._chat(probe, tools, enable_thinking, True)
        header = every.removeprefix(before)
        if not every.startswith(before) or not any(literal in header for literal in self._guard.literals):
            raise CheckpointError("the chat template has no generation prompt, so answers cannot be told from prompts")
        return header, mode.removeprefix(every) if mode.startswith(every) else ""

    def _hide_tools(self, tools: Sequence[Mapping[str, Any]] | None) -> list[Any] | None:
        if not tools:
            return None
        if not isinstance(tools, (list, tuple)) or not all(isinstance(tool, Mapping) for tool in tools):
            raise MessageError("tools must be a list of JSON objects, each describing one function")
        check_json(tools, "tools")
        return [self._guard.hide_all(tool) for tool in tools]

    def _hide_message(self, message: Message, visuals: Visuals) -> dict[str, Any]:
        """The message as templates see it: one string of content, parts joined by line ends."""
        pieces: list[str] = []
        for part in message.content:
            if isinstance(part, Text):
                pieces.append(self._guard.hide(part.text))
            else:
                pieces += [media_marker(index) for index in visuals.add(part)]
        turn: dict[str, Any] = {"role": message.role, "content": "\n".join(pieces)}
        if message.reasoning_content is not None:
            turn["reasoning_content"] = self._guard.hide(message.reasoning_content)
        if message.tool_calls:
            turn["tool_calls"] = self._guard.hide_all(message.tool_calls)
        return turn


def _with_system(messages: list[Message], system_prompt: str) -> list[Message]:
    if not isinstance(system_prompt, str):
        raise MessageError(f"system_prompt is a {type(system_prompt).__name__}; pass a string, empty for none")
    if not system_prompt:
        return messages
    if messages[0].role == "system":
        raise MessageError("there are two system prompts: the system_prompt argument and the first message; keep one")
    return parse_messages([Message("system", [Text(system_prompt)]), *messages])


def _temporal_groups(messages: list[Message], temporal_ids: Any) -> list[list[int]] | None:
    if temporal_ids is None:
        return None
    media = [part for message in messages for part in message.content if not isinstance(part, Text)]
    if not all(isinstance(part, Image) for part in media):
        raise MessageError(
            "temporal_ids go with images only: a Video part has its own and pages of a PDF have none; leave them out, "
            "or send the frames as images"
        )
    return read_temporal_ids(temporal_ids, len(media))
