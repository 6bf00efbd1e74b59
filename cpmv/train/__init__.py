"""Training: one loop (`loop`) for every objective (`joint`, `sft`), on one GPU, several, or a CPU.

Read in the order of a run: `config` says what is trained, `init` where it starts, `draw` makes pictures with their
answers, `joint` and `sft` turn a batch into losses, `optim` and `step` losses into a step, `state` keeps it, `metrics`
and `probe` tell how it goes, and `pretrain` puts a whole run together.
"""
