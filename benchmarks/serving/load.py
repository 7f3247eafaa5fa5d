"""Clients that ask again as soon as they have an answer, and what they waited for it."""

import http.client
import statistics
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Load", "ask", "run_load"]


@dataclass
class Load:
    """What clients got.

    Attributes:
        seconds: from the first request to the last answer.
        waited: seconds of each request that was answered with 200.
        statuses: how often which status came; of a request without one, the name of its error.
    """

    seconds: float = 0.0
    waited: list[float] = field(default_factory=list)
    statuses: Counter = field(default_factory=Counter)

    @property
    def rate(self) -> float:
        """Images a second."""
        return len(self.waited) / self.seconds

    def percentile(self, percent: int) -> float:
        """Milliseconds that so many in a hundred of the answered did not exceed."""
        if len(self.waited) < 2:
            return 1000 * sum(self.waited)
        return 1000 * statistics.quantiles(self.waited, n=100, method="inclusive")[percent - 1]

    def others(self) -> str:
        """Statuses but 200, in words."""
        rest = {status: count for status, count in self.statuses.items() if status != "200"}
        return ", ".join(f"{count} x {status}" for status, count in sorted(rest.items())) or "none"


def ask(port: int, path: str, content: bytes, seconds: float = 120) -> str:
    """Post an image; return the status, or the name of the error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("POST", path, content, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        response.read()
        return str(response.status)
    except (OSError, http.client.HTTPException) as error:
        return type(error).__name__
    finally:
        connection.close()


def run_load(port: int, path: str, contents: Sequence[bytes], clients: int, seconds: float) -> Load:
    """Let `clients` post images for some seconds, each one after the other."""
    load, lock = Load(), threading.Lock()
    start = time.perf_counter()

    def client(number: int) -> None:
        count = number
        while time.perf_counter() - start < seconds:
            began = time.perf_counter()
            status = ask(port, path, contents[count % len(contents)])
            waited, count = time.perf_counter() - began, count + clients
            with lock:
                load.statuses[status] += 1
                if status == "200":
                    load.waited.append(waited)

    threads = [threading.Thread(target=client, args=(k,)) for k in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds = time.perf_counter() - start
    return load
