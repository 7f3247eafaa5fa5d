"""A server from its models to its end: processes, address, signals."""

import logging
import signal
import socket
from collections.abc import Callable, Mapping, Sequence

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..config.loading import load_config
from ..errors import ConfigError, WeightsError
from ..inference.packing import labels_of
from ..inference.processes import choose_workers, devices_of
from .app import build_app
from .limits import Limits
from .metrics import Metrics
from .pool import Pool
from .worker import Model

__all__ = ["Limits", "http_server", "serve"]

_LOGGER = logging.getLogger(__name__)
_MORE = 30.0  # seconds that a client may take to read an answer


def serve(
    models: Mapping[str, str],
    *,
    weights: str | None = None,
    opts: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    workers: int | None = None,
    threads: int | None = None,
    batch: int = 8,
    dtype: str = "float32",
    engine: str = "native",
    limits: Limits | None = None,
    tell: Callable[[str], None] = _LOGGER.info,
) -> None:
    """Serve models until SIGTERM or SIGINT, then finish what was taken and return.

    Args:
        models: folder, or config where `weights` are given, by the name in the address.
        port: 0 takes a free one.
        workers: processes, each with all models; by default as many as cores and memory allow.
        threads: of each.
        batch: images that a process takes at once, if as many wait.
        dtype, engine: see :class:`.Predictor`.
        tell: called with the address when the first process is ready.

    Raises:
        ConfigError: the address cannot be taken.
        PredictionError: no process could load the models.
    """
    limits = limits or Limits()
    described: dict[str, Model] = {}
    devices: tuple[str, ...] = ()
    for name, folder in models.items():
        cfg = load_config(folder, [*opts, *(["MODEL.WEIGHTS", weights] if weights else [])])
        if not cfg.MODEL.WEIGHTS:
            raise WeightsError(f"{folder} has no weights: give a model folder, or --weights.")
        devices = devices_of(cfg)
        options = {"dtype": dtype, "engine": engine, "max_pixels": limits.pixels}
        described[name] = Model(folder, weights, tuple(opts), options, devices, labels_of(cfg))
    listening = _listen(host, port)
    workers, threads = choose_workers(workers, threads, devices)
    metrics = Metrics()
    pool = Pool(
        described, workers, threads, batch=batch, timeout=limits.answer,
        watch=metrics.batches.observe,
    )  # fmt: skip
    try:
        pool.wait_until_ready()
        metrics.watch(pool)
        labels = {name: model.labels for name, model in described.items()}
        app = build_app(pool, list(models), labels, limits, metrics)
        shown = f"[{host}]" if ":" in host else host
        tell(
            f"{', '.join(models)} at http://{shown}:{listening.getsockname()[1]}/predict, "
            f"{workers} processes of {threads} threads; the page /docs tells more."
        )
        _run(app, listening, limits)
    finally:
        listening.close()
        pool.close()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror or error}; --port 0 takes a free one."
        ) from error


def _run(app: FastAPI, listening: socket.socket, limits: Limits) -> None:
    # uvicorn hands on the signal that ended it; that end is a good one
    before = {
        number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        http_server(app, limits).run([listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def http_server(app: FastAPI, limits: Limits) -> uvicorn.Server:
    """Return what speaks HTTP; at its end it finishes what it took."""

    class Patient(_Impatient):
        head, request = limits.read, limits.read + limits.answer + _MORE

    config = uvicorn.Config(
        app, http=Patient, loop="asyncio", ws="none", lifespan="off", log_level="warning",
        access_log=False, limit_concurrency=limits.connections,
        server_header=False, timeout_graceful_shutdown=round(limits.read + limits.answer),
    )  # fmt: skip
    return uvicorn.Server(config)


class _Impatient(H11Protocol):
    """A connection that is closed when its client does nothing, or reads nothing.

    uvicorn itself waits for ever for the head of a first request, and for a client that does not
    take its answer; each would keep one of the connections.

    Attributes:
        head: seconds until a request must have begun, from the last one on.
        request: seconds that a request may take, with the reading of its answer.
    """

    head = request = 60.0

    def connection_made(self, transport) -> None:
        super().connection_made(transport)
        self._seen: object = None
        self._checks = 0
        self.loop.call_later(self.head, self._check)

    def _check(self) -> None:
        if self.transport.is_closing():
            return
        runs = self.cycle is not None and not self.cycle.response_complete
        self._checks = self._checks + 1 if self.cycle is self._seen else 0
        if self.cycle is self._seen and (not runs or self._checks * self.head > self.request):
            self.transport.abort()
            return
        self._seen = self.cycle
        self.loop.call_later(self.head, self._check)
