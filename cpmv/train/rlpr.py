"""The reward of RLPR (arXiv 2506.18254) for answers that no rule can check: how likely the reference becomes.

The response's answer is replaced by the reference where it stands, tags and white space kept, and one pass of the
policy that responded gives the probability of each of the reference's tokens:

    r   = mean of the token probabilities after the response's reasoning
    r'  = the same with the reasoning left out, by the policy at the start of the run, once for each prompt
    reward = clip(r - r', 0, 1)

In fast mode everything before the last line of a response counts as its reasoning. A response without any earns r = r',
so nothing; a response whose tags are broken is closed before the reference.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..inputs.text import Tokenizer
from ..model.config import ModelInputs
from .rewards import CLOSE
from .rollouts import Line, Rollout

_CLOSED = f"\n{CLOSE}\n\n"  # what the template writes between reasoning and answer


def mean_probability(log_probs: Tensor) -> float:
    """Mean of token probabilities: neither their product nor the mean logarithm. 0 for no token."""
    return float(log_probs.double().exp().mean()) if log_probs.numel() else 0.0


def debiased(probability: float, baseline: float) -> float:
    """What the reasoning adds, clipped to [0, 1]."""
    return min(1.0, max(0.0, probability - baseline))


def with_reference(tokenizer: Tokenizer, rollout: Rollout, reference: str, *, deep: bool) -> tuple[list[int], int]:
    """A response's tokens with the reference for its answer: (tokens, place of the reference's first).

    Tokens before the answer stay as they were drawn.
    """
    ids = rollout.ids[:-1] if rollout.finished else rollout.ids
    kept, between = _before_answer(tokenizer, ids, deep)
    head = [*kept, *tokenizer.encode(between)]
    return [*head, *tokenizer.encode_plain(reference)], len(head)


def _before_answer(tokenizer: Tokenizer, ids: Sequence[int], deep: bool) -> tuple[list[int], str]:
    """The tokens before the answer, and the text between them and it."""
    if not deep:
        # Everything up to the last line end, at whole tokens.
        text = tokenizer.decode(ids).rstrip()
        if "\n" not in text:
            return [], ""
        return _tokens_within(tokenizer, ids, text[: text.rindex("\n") + 1])
    text = tokenizer.decode(ids)
    if CLOSE not in text:
        return list(ids), _CLOSED
    end = text.index(CLOSE) + len(CLOSE)
    rest = text[end:]
    return _tokens_within(tokenizer, ids, text[:end] + rest[: len(rest) - len(rest.lstrip())])


def _tokens_within(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> tuple[list[int], str]:
    """As many tokens as lie wholly within `text`, a beginning of what they say; and what is then missing of it."""
    wanted = text.encode()
    kept: list[int] = []
    size = 0
    for token in ids:
        length = len(tokenizer.token_bytes(token))
        if size + length > len(wanted):
            break
        kept.append(token)
        size += length
    return kept, wanted[size:].decode("utf-8", "replace")


def baseline_line(tokenizer: Tokenizer, plain: ModelInputs, reference: str) -> Line:
    """The sequence whose tokens give r': the reference right after the prompt. plain: the prompt in fast mode, whose
    empty think block is what leaving the reasoning out looks like."""
    return Line(plain, tokenizer.encode_plain(reference))


def reference_line(tokenizer: Tokenizer, prompt: ModelInputs, rollout: Rollout, reference: str, *, deep: bool) -> Line:
    """The sequence whose counted tokens give r."""
    ids, first = with_reference(tokenizer, rollout, reference, deep=deep)
    return Line(prompt, ids, first)
