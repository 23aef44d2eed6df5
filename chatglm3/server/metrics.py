"""What Prometheus reads at /metrics: vLLM's names, with `chatglm3:` in front."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chatglm3.engine import Stats

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS = tuple(m * 10**e for e in range(5) for m in (1, 2, 5))

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Counters and histograms of one server. All labels have few values, whatever clients send."""

    def __init__(self, model_name: str) -> None:
        self._registry = CollectorRegistry()
        self._model = model_name
        self._ttft = self._histogram(
            "time_to_first_token_seconds", "From a request to its first token", _LONG
        )
        self._itl = self._histogram("inter_token_latency_seconds", "From one token to the next", _SHORT)
        self._e2e = self._histogram("e2e_request_latency_seconds", "From a request to its last token", _LONG)
        self._prompt = self._histogram("request_prompt_tokens", "Prompt tokens of a request", _TOKENS)
        self._generated = self._histogram("request_generation_tokens", "Tokens of its answers", _TOKENS)
        self._success = self._counter("request_success", "Finished answers", "finished_reason")
        self._rejected = self._counter("request_rejected", "Requests answered with an error", "status")
        self._gone = self._counter("request_cancelled", "Requests whose client went away")

    def watch(self, stats: Callable[[], Stats]) -> None:
        """Report an engine's own numbers as well."""
        self._registry.register(_EngineNumbers(stats, self._model))

    def first_token(self, seconds: float) -> None:
        """An answer began, so long after its request."""
        self._ttft.observe(seconds)

    def next_token(self, seconds: float) -> None:
        """An answer went on, so long after its token before."""
        self._itl.observe(seconds)

    def answered(
        self, seconds: float, prompt_tokens: int, generated_tokens: int, reasons: Iterable[str]
    ) -> None:
        """A request is done; reasons: why each of its answers ended."""
        self._e2e.observe(seconds)
        self._prompt.observe(prompt_tokens)
        self._generated.observe(generated_tokens)
        for reason in reasons:
            self._success.labels(self._model, reason).inc()

    def rejected(self, status: int) -> None:
        """A request was answered with an error."""
        self._rejected.labels(self._model, str(status)).inc()

    def cancelled(self) -> None:
        """A client went away before its answer was complete."""
        self._gone.labels(self._model).inc()

    def page(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _histogram(self, name: str, text: str, buckets: Iterable[float]) -> Histogram:
        histogram = Histogram(
            f"chatglm3:{name}", text, ["model_name"], buckets=tuple(buckets), registry=self._registry
        )
        return histogram.labels(self._model)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"chatglm3:{name}", text, ["model_name", *labels], registry=self._registry)


class _EngineNumbers(Collector):
    """The engine's gauges and counters, read when they are asked for."""

    def __init__(self, stats: Callable[[], Stats], model_name: str) -> None:
        self._stats = stats
        self._model = model_name

    def collect(self) -> Iterator[Metric]:
        """One family for each number."""
        stats = self._stats()
        blocks = stats.blocks_used + stats.blocks_cached + stats.blocks_free
        gauges = {
            "num_requests_running": ("Answers that take part in steps", stats.running),
            "num_requests_waiting": ("Answers that wait for a place", stats.waiting),
            "kv_cache_usage_perc": (
                "Share of the cache's blocks in use, from 0 to 1",
                stats.blocks_used / blocks,
            ),
        }
        counters = {
            "prompt_tokens": ("Tokens of prompts", stats.prompt_tokens),
            "generation_tokens": ("Generated tokens", stats.generated_tokens),
            "prefix_cache_queries": ("Prompt tokens looked up in the prefix cache", stats.prefix_queries),
            "prefix_cache_hits": ("Prompt tokens found there", stats.prefix_hits),
            "num_preemptions": ("Answers that gave their blocks to older ones", stats.preemptions),
        }
        for name, (text, value) in gauges.items():
            gauge = GaugeMetricFamily(f"chatglm3:{name}", text, labels=["model_name"])
            gauge.add_metric([self._model], value)
            yield gauge
        for name, (text, value) in counters.items():
            counter = CounterMetricFamily(f"chatglm3:{name}", text, labels=["model_name"])
            counter.add_metric([self._model], value)
            yield counter
