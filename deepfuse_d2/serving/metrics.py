"""What Prometheus is told."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .pool import Pool

__all__ = ["Metrics"]

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Of one server, apart from those of others in the process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        own = self._registry
        self.requests = Counter(
            "deepfuse_requests", "Requests for predictions", ["model", "status"], registry=own
        )
        self.seconds = Histogram(
            "deepfuse_request_seconds", "From the head of a request to its answer, of those with "
            "one", ["model"], buckets=_SECONDS, registry=own,
        )  # fmt: skip
        self.batches = Histogram(
            "deepfuse_batch_size",
            "Images that a process took at once",
            buckets=_BATCHES,
            registry=own,
        )

    def watch(self, pool: Pool) -> None:
        for name, text, value in (
            ("deepfuse_waiting", "Images that wait for a process", lambda: pool.waiting),
            ("deepfuse_workers_ready", "Processes with models", lambda: pool.ready),
            ("deepfuse_worker_restarts", "Processes that were replaced", lambda: pool.restarts),
        ):
            Gauge(name, text, registry=self._registry).set_function(value)

    def text(self) -> bytes:
        return generate_latest(self._registry)
