"""What `/metrics` shows: the field's names under the prefix `cpmv:`, in Prometheus' text form.

Gauges and totals are read from the engines when somebody asks; times are observed when a request ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..engine.engine import EngineStats
from ..engine.request import Request

disable_created_metrics()  # a second series for each, of when it began

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)


class Metrics:
    """All of one server's. queued, decoding: how many requests wait for the engine's door and for a decoder."""

    def __init__(
        self,
        model: str,
        stats: Callable[[], list[EngineStats]],
        under_way: Callable[[], int],
        decoding: Callable[[], int],
    ) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_EngineCollector(model, stats, under_way, decoding))
        label = ["model_name"]

        def histogram(name: str, help: str, buckets: Iterable[float]) -> Histogram:
            found = Histogram(f"cpmv:{name}", help, label, registry=self._registry, buckets=tuple(buckets))
            return found.labels(model)

        self._first = histogram("time_to_first_token_seconds", "Time to the first token", _SECONDS)
        self._per_token = histogram("request_time_per_output_token_seconds", "Mean time of a token", _STEP_SECONDS)
        self._latency = histogram("e2e_request_latency_seconds", "Time from arrival to end", _SECONDS)
        self._queue = histogram("request_queue_time_seconds", "Time until a request runs", _SECONDS)
        self._prompt = histogram("request_prompt_tokens", "Tokens of a prompt", _TOKENS)
        self._generated = histogram("request_generation_tokens", "Tokens of an answer", _TOKENS)
        self._visual = Counter("cpmv:visual_tokens", "Tokens of pictures and frames", label, registry=self._registry)
        self._ended = Counter(
            "cpmv:request_success", "Answers by how they ended", [*label, "finished_reason"], registry=self._registry
        )
        self._responses = Counter(
            "cpmv:http_responses", "Responses by path and status", ["path", "status"], registry=self._registry
        )
        self._model = model

    def observe(self, request: Request, num_visual_tokens: int) -> None:
        """Record an answer that has ended."""
        timing, output = request.timing, request.output
        if output is None or timing.finished is None:
            return
        self._ended.labels(self._model, output.finish_reason).inc()
        self._prompt.observe(output.num_prompt_tokens)
        self._generated.observe(len(output.token_ids))
        self._latency.observe(timing.finished - timing.arrived)
        self._visual.labels(self._model).inc(num_visual_tokens)
        if timing.admitted is not None:
            self._queue.observe(timing.admitted - timing.arrived)
        if timing.first_token is not None:
            self._first.observe(timing.first_token - timing.arrived)
            if len(output.token_ids) > 1:
                self._per_token.observe((timing.finished - timing.first_token) / (len(output.token_ids) - 1))

    def count_response(self, path: str, status: int) -> None:
        self._responses.labels(path, str(status)).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)


class _EngineCollector(Collector):
    """The engines' own numbers, summed, at the moment they are asked for."""

    def __init__(
        self,
        model: str,
        stats: Callable[[], list[EngineStats]],
        under_way: Callable[[], int],
        decoding: Callable[[], int],
    ) -> None:
        self._model, self._stats, self._under_way, self._decoding = model, stats, under_way, decoding

    def collect(self) -> Iterable[Metric]:
        engines = self._stats()

        def total(name: str) -> int:
            return sum(int(getattr(one, name)) for one in engines)

        used, blocks = total("used_blocks"), total("total_blocks")
        gauges = {
            "num_requests_running": ("Requests that are generated now", total("running")),
            "num_requests_waiting": ("Requests that wait for the engine", total("waiting")),
            "num_requests_under_way": ("Requests that the server holds in any state", self._under_way()),
            "num_requests_waiting_for_media": ("Requests that wait for a decoding process", self._decoding()),
            "kv_cache_usage_perc": ("Share of the cache's blocks in use, 0 to 1", used / blocks if blocks else 0.0),
            "kv_cache_blocks_used": ("Blocks in use", used),
            "image_cache_bytes": ("Bytes of encoded pictures kept", total("image_bytes")),
        }
        for name, (help, value) in gauges.items():
            gauge = GaugeMetricFamily(f"cpmv:{name}", help, labels=["model_name"])
            gauge.add_metric([self._model], float(value))
            yield gauge
        counters = {
            "prompt_tokens": ("Prompt tokens read", total("prompt_tokens")),
            "generation_tokens": ("Tokens generated", total("generated_tokens")),
            "prefix_cache_queries": ("Prompt tokens looked up in the cache", total("prompt_tokens")),
            "prefix_cache_hits": ("Prompt tokens found in the cache", total("prefix_hit_tokens")),
            "mm_cache_queries": ("Pictures looked up", total("image_hits") + total("image_misses")),
            "mm_cache_hits": ("Pictures found already encoded", total("image_hits")),
            "num_preemptions": ("Requests that had to be computed again", total("preemptions")),
            "spec_decode_num_draft_tokens": ("Tokens guessed", total("drafted")),
            "spec_decode_num_accepted_tokens": ("Tokens guessed rightly", total("accepted")),
        }
        for name, (help, value) in counters.items():
            counter = CounterMetricFamily(f"cpmv:{name}", help, labels=["model_name"])
            counter.add_metric([self._model], float(value))
            yield counter
