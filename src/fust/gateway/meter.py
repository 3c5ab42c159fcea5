"""Counts what the model surface does, for `/metrics`."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_RATES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000)


class Meter:
    """The gateway's metrics."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "fust_model_requests",
            "Requests by endpoint and status.",
            ["endpoint", "status"],
            registry=registry,
        )
        self.tokens = Counter(
            "fust_model_tokens", "Tokens by kind: prompt, cached, completion.", ["kind"], registry=registry
        )
        self.running = Gauge("fust_model_requests_running", "Requests in flight.", registry=registry)
        self.first_token_s = Histogram(
            "fust_model_time_to_first_token_seconds",
            "Until the first token of a stream.",
            buckets=_SECONDS,
            registry=registry,
        )
        self.tokens_per_s = Histogram(
            "fust_model_tokens_per_second",
            "Generated tokens per second of a request.",
            buckets=_RATES,
            registry=registry,
        )
