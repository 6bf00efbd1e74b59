"""Ray, when it is installed: connected to a cluster for the time of a `with` block."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CpmvError

LOCAL = "ray"  # the address that means: the cluster this machine belongs to, or one begun here


class ClusterError(CpmvError):
    """A cluster that cannot be reached or used."""


def import_ray() -> Any:
    """Return the `ray` module. Raises ClusterError when it is not installed."""
    try:
        import ray
    except ImportError:
        raise ClusterError("--cluster needs Ray; run pip install 'cpmv[cluster]' on every machine of it") from None
    return ray


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to "ray" or an address ("host:6379", "ray://host:10001") and yield the module.

    A connection that was there before stays. Raises ClusterError.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    logging.getLogger("ray").setLevel(logging.ERROR)  # its notes are no part of what a command says
    try:
        ray.init(address=None if address == LOCAL else address, log_to_driver=False, logging_level="error")
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and types of its own
        raise ClusterError(f"the Ray cluster {address!r} cannot be used ({one_line(error)})") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def count_gpus(ray: Any) -> int:
    """How many GPUs the connected cluster has."""
    return int(ray.cluster_resources().get("GPU", 0))


def one_line(error: BaseException) -> str:
    """The last words of an error: Ray puts the remote traceback before them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
