#!/usr/bin/env python3
"""Throughput and waiting of `deepfuse serve`, and of DefaultPredictor in a plain FastAPI app.

    python -m benchmarks.serving   # 1, 4, 16, 64 clients, 60 s each: 12 minutes and more
    python -m benchmarks.serving --seconds 10 --clients 1 16

All servers run at the same time and are asked in turn; those that are not asked take no time of the
cores. The model is a Mask R-CNN with ResNet-18 and random weights that keep it busy.
"""

import argparse
import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2

from benchmarks.machine import measure_machine
from benchmarks.predict_many import packed_model, street_images
from benchmarks.serving.load import Load, ask, run_load

FLOOD = 300


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="a line (default: 60)")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--flood", type=int, default=FLOOD, help="clients (default: %(default)s)")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 256), metavar=("H", "W"))
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary, contextlib.ExitStack() as stack:
        folder = packed_model(Path(temporary), args.size)
        contents = [
            cv2.imencode(".jpg", image)[1].tobytes() for image in street_images(16, args.size)
        ]
        ours = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "deepfuse_d2",
            "serve",
            "--model",
            str(folder),
        ]
        port = free_port()
        plain = [sys.executable, "-W", "ignore", "-m", "benchmarks.serving.plain", str(folder)]
        ports = {
            "serve": stack.enter_context(serving([*ours, "--port", "0"])),
            "serve, --batch 1": stack.enter_context(
                serving([*ours, "--port", "0", "--batch", "1"])
            ),
            "DefaultPredictor, FastAPI": stack.enter_context(serving([*plain, str(port)], port)),
        }
        for one in ports.values():  # kernels are chosen for the shapes
            run_load(one, "/predict", contents, 4, 2)
        print(f"{measure_machine('cpu')}\n")
        print("| server | clients | images/s | p50, ms | p95, ms | p99, ms | not answered |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
        for clients in args.clients:
            for name, one in ports.items():
                tell(name, clients, run_load(one, "/predict", contents, clients, args.seconds))
        for name, one in ports.items():
            tell(name, args.flood, run_load(one, "/predict", contents, args.flood, args.seconds))
    return 0


def tell(name: str, clients: int, load: Load) -> None:
    times = " | ".join(f"{load.percentile(k):.0f}" for k in (50, 95, 99))
    print(f"| {name} | {clients} | {load.rate:.1f} | {times} | {load.others()} |", flush=True)


@contextlib.contextmanager
def serving(command: list[str], port: int = 0) -> Iterator[int]:
    """A server in a process of its own; yields its port when it answers."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        if not port:
            assert process.stdout is not None
            port = int(re.search(r":(\d+)/predict", process.stdout.readline())[1])
        while ask(port, "/nothing", b"") != "404":
            if process.poll() is not None:
                raise RuntimeError(f"{command} ended with exit code {process.returncode}")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


if __name__ == "__main__":
    sys.exit(main())
