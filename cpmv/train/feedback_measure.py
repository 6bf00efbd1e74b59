"""How much of what responses say is wrong: CHAIR and recall of objects, and which of two policies goes on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from .feedback_claims import Claim
from .feedback_judges import Verdict
from .feedback_prompts import Asked

Numbers = dict[str, float]


def measure(
    asked: Sequence[Asked], claims: Sequence[Sequence[Claim]], verdicts: Sequence[Sequence[Verdict]]
) -> Numbers:
    """Numbers of one response to each prompt.

    chair: share of claims that are rejected (CHAIRi). chair_answers: share of responses with one (CHAIRs). recall:
    share of the objects there that are named; where contents are unknown, accepted claims a response instead.
    """
    made = sum(map(len, claims))
    wrong = sum(verdict.rejected for row in verdicts for verdict in row)
    told_wrong = sum(any(verdict.rejected for verdict in row) for row in verdicts)
    numbers = {
        "n": len(asked),
        "claims": made,
        "chair": wrong / max(1, made),
        "chair_answers": told_wrong / max(1, len(asked)),
    }
    if all(one.objects is not None for one in asked):
        found = sum(sum((_named(row) & Counter(one.objects)).values()) for one, row in zip(asked, claims, strict=True))
        numbers["recall"] = found / max(1, sum(len(one.objects or ()) for one in asked))
    else:
        numbers["accepted"] = (made - wrong) / max(1, len(asked))
    return numbers


def _named(claims: Sequence[Claim]) -> Counter[tuple[str, str]]:
    return Counter((claim.shape[0], claim.shape[1]) for claim in claims if claim.shape is not None)


def better(new: Numbers, old: Numbers, slack: float) -> bool:
    """Whether fewer of the claims are wrong, at equal recall. slack: share of recall that may be lost."""
    name = "recall" if "recall" in old else "accepted"
    least = old[name] - slack if name == "recall" else old[name] * (1 - slack)
    return new["chair"] < old["chair"] and new[name] >= least


def plot(rounds: Sequence[dict[str, Any]], path: Any) -> bool:
    """Draw what rounds report; whether matplotlib was there to do it."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(11, 3.2))
    numbers = range(len(rounds) + 1)
    scores = [rounds[0]["before"], *(row["after"] for row in rounds)]
    axes[0].plot(numbers, [100 * s["chair"] for s in scores], "o-", label="CHAIRi")
    axes[0].plot(numbers, [100 * s["chair_answers"] for s in scores], "o--", label="CHAIRs")
    name = "recall" if "recall" in scores[0] else "accepted"
    axes[1].plot(numbers, [s[name] * (100 if name == "recall" else 1) for s in scores], "o-", label=name)
    axes[2].plot(list(numbers)[1:], [100 * row["rejected_share"] for row in rounds], "o-", label="rejected of sampled")
    for axis in axes:
        axis.set_xlabel("round")
        axis.legend()
    axes[0].set_ylabel("%, held-out")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
