"""A3b: rewards for answers that no rule checks, when a third of the tasks has none (RLPR; TR figure 3).

    cpmv eval draw sets --seed 77 --per-set 500 --sets thinking
    python experiments/a3b_rewards.py run --sets sets --atlas atlas.npz --out runs/a3b --together 6
    python experiments/a3b_rewards.py report runs/a3b docs/results/a3b-rewards.json

Drawn thinking tasks, half of the prompts in deep mode. Sums without a picture count as unverifiable in all arms:

    rules        they earn no accuracy
    both         they earn RLPR's probability reward
    no-debias    as both, without the baseline
    no-filter    as both, learning from every prompt
    probability  every task is judged by probability
    all-rules    every task is judged by its rule: what rules would give if they could check everything

Expected: both > rules, above all on the sums; without debiasing and without the filter a little less. The drawn
prompts have no end, so r' is that of the policy when a prompt is drawn, not of the run's start.
"""

from __future__ import annotations

from a3_hybrid import Arms, main

from cpmv.train.reward_mix import Weights

UNCHECKED = r"think_(sum|change)_text|think_days_between"
BOTH = {"task_rules": ((UNCHECKED, "probability"),)}
ARMS: Arms = {
    "none": None,
    "rules": {"task_rules": ((UNCHECKED, "none"),)},
    "both": BOTH,
    "no-debias": {**BOTH, "rewards": Weights(debias=False)},
    "no-filter": {**BOTH, "filter_beta": None},
    "probability": {"rule": "probability"},
    "all-rules": {},
}

if __name__ == "__main__":
    raise SystemExit(main(arms=ARMS, script=__file__))
