"""Data parallelism over the GPUs of one host: every rank draws its own share of a step, sums are added across ranks.

Losses are divided by counts of the whole step, so gradients are added, not averaged, and one GPU, two and four give
the same step. Start with `--gpus N`, or with torchrun.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import CpmvError


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def add(self, tensor: Tensor) -> None:
        """Sum a tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        """Give every rank rank 0's tensor."""
        if self.size > 1:
            dist.broadcast(tensor, 0)

    def agree(self, value: float, device: torch.device) -> float:
        """Return rank 0's number everywhere; decisions that depend on time are taken once."""
        if self.size == 1:
            return value
        held = torch.tensor([value], dtype=torch.float64, device=device)
        dist.broadcast(held, 0)
        return float(held)

    def close(self) -> None:
        """Leave together: a rank that goes while another still talks to it brings that one down."""
        if self.size > 1:
            dist.barrier()
            dist.destroy_process_group()


def join(device: torch.device) -> tuple[World, torch.device]:
    """Enter the process group torchrun's environment describes (NCCL on GPUs, else gloo); alone, a world of one."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(), device
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    if device.type == "cuda":
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    return World(rank, size), device


def relaunch(num_gpus: int, arguments: Sequence[str]) -> int:
    """Run this command once a GPU under torchrun; return its exit code."""
    available = torch.cuda.device_count()
    if num_gpus > available:
        raise CpmvError(f"--gpus {num_gpus} was asked for, but this machine has {available}; give --gpus at most that")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_gpus}"]
    return subprocess.run([*command, "-m", "cpmv.train", *arguments], check=False).returncode
