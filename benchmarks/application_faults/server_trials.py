"""One function a fault of serve: good clients go on asking meanwhile, and what they get counts."""

import contextlib
import http.client
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2

from benchmarks.fault_injection.trials import Outcome
from benchmarks.prediction_memory import images
from benchmarks.serving.load import ask, run_load

from .deadly import DEADLY, deadly_environment
from .many_trials import ManyImages, workers_of

__all__ = ["SERVER_TRIALS", "RunningServer"]

_QUEUE = 32


class RunningServer:
    """`deepfuse serve` with two processes, as the trials find it and leave it."""

    def __init__(self, many: ManyImages):
        self._many = many
        self.contents = [cv2.imencode(".png", image)[1].tobytes() for image in images(16)]
        self.start()

    def start(self) -> None:
        # home, cache and temporary files of the server are to lie on a disk without room
        self._disk = self._many.folder / "disk"
        self._disk.mkdir()
        mounted = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(self._disk)]
        self.is_full = os.geteuid() == 0 and not subprocess.run(mounted).returncode
        if self.is_full:
            with contextlib.suppress(OSError):
                (self._disk / "filler").write_bytes(bytes(2**20))
        places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME"), str(self._disk))
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "deepfuse_d2", "serve", "--model",
             str(self._many.model), "--port", "0", "--workers", "2", "--threads", "1",
             "--queue", str(_QUEUE), "--read-timeout", "5", "--max-bytes", "1000000"],
            stdout=subprocess.PIPE, text=True,
            env=deadly_environment(self._many.folder) | (places if self.is_full else {}),
        )  # fmt: skip
        assert self.process.stdout is not None
        found = re.search(r"http://(\S+):(\d+)/", self.process.stdout.readline())
        assert found is not None, "the server says where it is"
        self.host, self.port = found[1], int(found[2])

    def __enter__(self) -> "RunningServer":
        return self

    def __exit__(self, *_) -> None:
        self.process.kill()
        self.process.wait()
        if self.is_full:
            subprocess.run(["umount", "--lazy", str(self._disk)], check=True)

    @contextlib.contextmanager
    def asked(self, clients: int = 4) -> Iterator[Counter]:
        """While good clients ask one image after the other; yields what they got."""
        got: Counter = Counter()
        stop = threading.Event()

        def client(number: int) -> None:
            while not stop.is_set():
                got[ask(self.port, "/predict?output=boxes", self.contents[number])] += 1

        threads = [threading.Thread(target=client, args=(k,)) for k in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield got
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def metric(self, name: str) -> float:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        return float(re.search(rf"^{name} (\S+)$", text, flags=re.M)[1])

    def memory(self) -> float:
        """MiB of the process that clients speak with."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096 / 2**20


def kill_workers(server: RunningServer, kills: int) -> Outcome:
    """SIGKILL for a process that predicts, again and again."""
    generator = random.Random(0)
    with server.asked() as got:
        for _ in range(kills):
            _wait_for(lambda: workers_of(server.process.pid))
            os.kill(generator.choice(workers_of(server.process.pid)), signal.SIGKILL)
            enough = got["200"] + generator.randrange(1, 10)
            _wait_for(lambda enough=enough: got["200"] >= enough)
        _wait_for(lambda: server.metric("deepfuse_workers_ready") == 2)
    restarts = server.metric("deepfuse_worker_restarts")
    return Outcome(
        f"{kills} killed, {restarts:.0f} replaced; good clients got {_told(got)}", _but(got, "200")
    )


def out_of_memory(server: RunningServer, kills: int) -> Outcome:
    """An image of which every process dies that decodes it."""
    with server.asked() as got:
        deadly = ask(server.port, "/predict", server.contents[0] + DEADLY)
        _wait_for(lambda: server.metric("deepfuse_workers_ready") == 2)
    lost = _but(got, "200") + ([] if deadly == "500" else [f"{deadly} for the deadly image"])
    return Outcome(
        f"three processes died of it, and were replaced; its client got {deadly}, good ones "
        f"{_told(got)}",
        lost,
    )


def bad_inputs(server: RunningServer, kills: int) -> Outcome:
    """A flood of what is no image, half of one, or far too much."""
    good = server.contents[0]
    bad = [
        b"", b"hello", b"\x80\x04cos\nsystem\n(S'true'\ntR.", b"%!PS-Adobe-3.0 EPSF-3.0\n",
        good[:40], good[: len(good) // 2], _bomb(), bytes(3_000_000), str(__file__).encode(),
        b"file:///etc/passwd", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ]  # fmt: skip
    answers: Counter = Counter()

    def client() -> None:
        for content in 5 * bad:
            answers[ask(server.port, "/predict", content)] += 1

    before = server.memory()
    with server.asked() as got:
        threads = [threading.Thread(target=client) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _wait_for(lambda: got["200"] > 4)
    let_in = [f"{n} x {status}" for status, n in answers.items() if status[0] in "25"]
    grown = server.memory() - before
    return Outcome(
        f"bad ones got {_told(answers)}; good ones {_told(got)}; {grown:+.0f} MiB",
        _but(got, "200") + let_in + (["memory"] if grown > 200 else []),
    )


def flood(server: RunningServer, kills: int) -> Outcome:
    """Many more good clients than can be served."""
    before = server.memory()
    load = run_load(server.port, "/predict?output=boxes", server.contents, 200, 8)
    grown = server.memory() - before
    lost = _but(load.statuses, "200", "429")
    return Outcome(
        f"200 clients at once got {_told(load.statuses)}; the answered waited "
        f"{load.percentile(99) / 1000:.1f} s at most (99 of 100); {grown:+.0f} MiB",
        lost + (["memory"] if grown > 200 else []),
    )


def slow_clients(server: RunningServer, kills: int) -> Outcome:
    """Clients that send a byte a second, or nothing, or do not read."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n"
    begins = [head + b"a", b"POST /pre", b""]
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(90)
        ]
        with server.asked() as got:
            for number, client in enumerate(clients):
                client.sendall(begins[number % 3])
            begin = time.monotonic()
            while time.monotonic() - begin < 12:
                for client in clients[::3]:
                    with contextlib.suppress(OSError):
                        client.sendall(b"a")
                time.sleep(1)
        answers: Counter = Counter()
        for client in clients:
            client.settimeout(5)
            try:
                words = client.recv(100).split()
                answers[words[1].decode() if words else "closed"] += 1
            except TimeoutError:
                answers["kept"] += 1
            except OSError:
                answers["closed"] += 1
    lost = _but(got, "200") + _but(answers, "408", "closed")
    return Outcome(f"slow ones got {_told(answers)}; good ones {_told(got)}", lost)


def disconnects(server: RunningServer, kills: int) -> Outcome:
    """Clients that send an image and are gone."""
    content = server.contents[0]
    request = (
        f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        + content
    )
    with server.asked() as got:
        for number in range(200):
            with socket.create_connection(("127.0.0.1", server.port)) as client:
                client.sendall(request[: len(request) // (1 + number % 2)])
        _wait_for(lambda: got["200"] > 4)
    _wait_for(lambda: server.metric("deepfuse_waiting") == 0)
    return Outcome(
        f"200 vanished, half of them in the midst of an image; good ones got {_told(got)}, and "
        "nothing waits any more",
        _but(got, "200", "429"),
    )


def let_in(server: RunningServer, kills: int) -> Outcome:
    """Somebody who tries addresses, file names and another way in."""
    paths = ("/../etc/passwd", "/models/..%2f..%2fetc/predict", "/static/x", "/predict/../../x")
    answers = Counter(ask(server.port, path, server.contents[0]) for path in paths)
    outside = socket.gethostbyname(socket.gethostname())
    refused = "is the loopback itself"
    lost = _but(answers, "404", "405")
    if not outside.startswith("127."):
        try:
            socket.create_connection((outside, server.port), timeout=5).close()
            lost.append(f"it listens on {outside}")
        except OSError:
            refused = "is refused"
    return Outcome(
        f"paths got {_told(answers)}; the address of the machine in its network {refused}", lost
    )


def terminated(server: RunningServer, kills: int) -> Outcome:
    """SIGTERM while images wait."""
    got: list[str] = []
    clients = [
        threading.Thread(
            target=lambda k=k: got.append(ask(server.port, "/predict", server.contents[k % 16]))
        )
        for k in range(_QUEUE)
    ]
    workers = workers_of(server.process.pid)
    for client in clients:
        client.start()
    _wait_for(lambda: got)
    answered = len(got)
    server.process.terminate()
    for client in clients:
        client.join()
    code = server.process.wait(60)
    left = [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    counts = Counter(got)
    lost = _but(counts, "200") + (["exit code"] if code else []) + [f"process {x}" for x in left]
    return Outcome(
        f"{answered} of {_QUEUE} were answered by then; all got {_told(counts)}, and then it ended "
        f"with exit code {code}"
        + (", home and temporary files on a disk without room all the time" * server.is_full),
        lost,
    )


# the last one ends the server
SERVER_TRIALS: dict[str, Callable[[RunningServer, int], Outcome]] = {
    "kill -9 of processes that predict": kill_workers,
    "an image that takes all memory": out_of_memory,
    "a flood of bad inputs": bad_inputs,
    "a flood of good ones": flood,
    "slow clients": slow_clients,
    "clients that vanish": disconnects,
    "ways in": let_in,
    "SIGTERM with images that wait; full disk": terminated,
}


def _bomb() -> bytes:
    """A PNG of a few hundred bytes that says to have 3.6 billion pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(100_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data)


def _told(got: Counter) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(got.items()))


def _but(got: Counter, *allowed: str) -> list[str]:
    return [f"{n} x {status}" for status, n in sorted(got.items()) if status not in allowed]


def _wait_for(condition: Callable[[], object], seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(0.05)
