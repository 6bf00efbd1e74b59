"""The server as replicas behind Ray Serve: each holds one model and the whole application; Ray routes and scales.

Every replica is the server as it is alone, with its own engine, decoders and limits. Ray adds replicas while each has
more requests than it answers at once, and drops them when they idle. Its proxies listen; ports are opened by Ray.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..serve.settings import Settings
from .ray_session import ClusterError, connected, count_gpus, one_line

if TYPE_CHECKING:
    from starlette.types import ASGIApp

NAME = "cpmv"


@dataclass(frozen=True)
class Served:
    """What a replica needs: the server's settings, the model and how to load it, and the engine's options."""

    settings: Settings
    model: str | None
    load: dict[str, Any]
    engine: dict[str, Any]

    def application(self) -> ASGIApp:
        """Load the model and build the application; called on the replica."""
        from ..api import load
        from ..engine.engine import Engine
        from ..serve.app import Service, build

        model = load(self.model, **self.load)
        engine = Engine(model.network, model.tokenizer, **self.engine)
        return build(Service(self.settings, model.config, model.tokenizer, [engine]))


def read_replicas(given: str) -> tuple[int, int]:
    """Read "4" or "1-8" as (fewest, most). Raises ClusterError."""
    low, _, high = given.partition("-")
    try:
        fewest, most = int(low), int(high or low)
    except ValueError:
        fewest, most = 0, 0
    if not 1 <= fewest <= most:
        raise ClusterError(f"replicas {given!r} are no number and no range; give 4, or 1-8 to scale between")
    return fewest, most


def serve_on_ray(served: Served, address: str, replicas: tuple[int, int], announce: Callable[[], None]) -> int:
    """Deploy, call `announce` when requests are answered, and serve until SIGTERM or Ctrl-C; return the exit code.

    The deployment is taken down at the end; one replica takes one GPU where the cluster has any.
    Raises ClusterError when Ray is missing, cannot be reached, or no replica becomes ready.
    """
    ended, by_interrupt = threading.Event(), threading.Event()

    def end(signum: int, frame: object) -> None:
        if signum == signal.SIGINT:
            by_interrupt.set()
        ended.set()

    with connected(address) as ray:
        from ray import serve

        try:
            serve.start(http_options={"host": served.settings.host, "port": served.settings.port})
            serve.run(_application(serve, served, replicas, count_gpus(ray) > 0), name=NAME, route_prefix="/")
        except Exception as error:  # RuntimeError, RayActorError, and what the replica's constructor raised
            serve.shutdown()
            raise ClusterError(f"no replica became ready on Ray ({one_line(error)})") from error
        for kind in (signal.SIGTERM, signal.SIGINT):
            signal.signal(kind, end)
        announce()
        try:
            ended.wait()
        finally:
            serve.shutdown()
    return 128 + signal.SIGINT if by_interrupt.is_set() else 0


def _application(serve: Any, served: Served, replicas: tuple[int, int], with_gpu: bool) -> Any:
    """Bind the deployment: the application is built on each replica, and its lifespan starts and stops the engine."""

    def build() -> ASGIApp:
        return served.application()

    settings = served.settings
    deployment = serve.deployment(
        serve.ingress(build)(),
        name=NAME,
        ray_actor_options={"num_gpus": 1} if with_gpu else {"num_cpus": 1},
        max_ongoing_requests=settings.max_num_seqs + settings.max_queue,
        graceful_shutdown_timeout_s=settings.drain_s,
        autoscaling_config={
            "min_replicas": replicas[0],
            "max_replicas": replicas[1],
            "target_ongoing_requests": settings.max_num_seqs,
        },
    )
    return deployment.bind()
