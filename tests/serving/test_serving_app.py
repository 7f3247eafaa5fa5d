"""What clients may send, and what they get: limits, floods, the slow and the vanished."""

import http.client
import io
import json
import socket
import struct
import threading
import time
import zlib
from contextlib import contextmanager, suppress

import pytest
from PIL import Image

from deepfuse_d2.errors import ImageError, PredictionError
from deepfuse_d2.serving.app import build_app
from deepfuse_d2.serving.limits import Limits
from deepfuse_d2.serving.metrics import Metrics
from deepfuse_d2.serving.server import http_server

LABELS = {"street": {"thing_classes": ["car"]}, "fields": {"stuff_classes": ["corn", "hops"]}}


class FakePool:
    """Answers at once, or when it is told to, or not at all."""

    def __init__(self):
        self.ready, self.restarts = 2, 0
        self.tasks, self.answers_at_once, self.error = [], True, None

    @property
    def waiting(self):
        return sum(not task.future.done() for task in self.tasks)

    def submit(self, task):
        self.tasks.append(task)
        if self.answers_at_once:
            self.answer()

    def answer(self):
        for task in self.tasks:
            if not task.future.done() and task.future.set_running_or_notify_cancel():
                if self.error:
                    task.future.set_exception(self.error)
                else:
                    text = f"{task.model} {len(task.content)} {task.form} {task.threshold}"
                    task.future.set_result(("application/json", json.dumps(text).encode()))


@contextmanager
def running(pool, **limits):
    limits = Limits(**limits)
    metrics = Metrics()
    metrics.watch(pool)
    server = http_server(build_app(pool, list(LABELS), LABELS, limits, metrics), limits)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        pool.answer()
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def pool():
    return FakePool()


@pytest.fixture(scope="module")
def port(pool):
    with running(pool, bytes=20_000, pixels=10_000, queue=2, read=1.0, answer=1.0) as port:
        yield port


@pytest.fixture
def slow(pool):
    """A pool that answers when it is told to."""
    pool.answers_at_once = False
    yield pool
    pool.answer()
    pool.answers_at_once = True


def png(width=20, height=10):
    file = io.BytesIO()
    Image.new("RGB", (width, height)).save(file, "PNG")
    return file.getvalue()


def ask(port, path="/predict", body=None, headers=(), method="POST"):
    """Status, and what the JSON or the text says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        # the server may answer, and close its side, before it has read a body that is too long
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, png() if body is None else body, dict(headers))
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    if "json" in response.getheader("content-type", ""):
        found = json.loads(content)
        return response.status, found.get("detail", found) if isinstance(found, dict) else found
    return response.status, content.decode()


def form(content, name="image", filename="x.png"):
    mark = "mark-of-a-part"
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"; filename="{filename}"\r\n\r\n'
    )
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={mark}"}


def test_an_image_comes_as_the_body_or_in_a_form(port):
    size = len(png())
    assert ask(port) == (200, f"street {size} rle 0.0")
    assert ask(port, "/predict", *form(png())) == (200, f"street {size} rle 0.0")
    assert ask(port, "/models/fields/predict?output=png&threshold=0.5") == (
        200, f"fields {size} png 0.5",
    )  # fmt: skip


def test_the_name_of_a_clients_file_is_no_path(port, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(50, 50))
    body, headers = form(png(), filename=str(tmp_path / "secret.png"))
    assert ask(port, "/predict", body, headers) == (200, f"street {len(png())} rle 0.0")
    status, text = ask(port, "/predict", str(tmp_path / "secret.png").encode())
    assert (status, text) == (
        415, "This is no image that is known; PNG, JPEG, WebP, TIFF, BMP and GIF are.",
    )  # fmt: skip


def chunk(kind, content):
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


BOMB = (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(bytes(1000)))
)
BAD = {
    "no model": ("/models/x/predict", png(), 404, "there are: street, fields"),
    "a form of no kind": ("/predict?output=svg", png(), 400, "output: Input should be 'rle', 'p"),
    "no number": ("/predict?threshold=nan", png(), 400, "threshold: Input should be a finite numb"),
    "out of range": ("/predict?threshold=2", png(), 400, "threshold: Input should be less than or"),
    "nothing": ("/predict", b"", 400, "holds no image; send one as the body, or as a file"),
    "text": ("/predict", b"hello", 415, "no image that is known"),
    "a program for printers": ("/predict", b"%!PS-Adobe-3.0 EPSF-3.0\n", 415, "no image that is"),
    "a pickle": ("/predict", b"\x80\x04cos\nsystem\n(S'true'\ntR.", 415, "no image that is known"),
    "half a header": ("/predict", png()[:20], 422, "The header of the image is damaged"),
    "too many pixels": ("/predict", png(200, 51), 413, "has more than 10000 pixels"),
    "a bomb": ("/predict", BOMB, 413, "has more than 10000 pixels"),
    "too many bytes": ("/predict", png() + bytes(20_000), 413, "has more than 20000 bytes"),
    "far too many": ("/predict", bytes(2_000_000), 413, "has more than 20000 bytes"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_said_in_a_sentence(port, name):
    path, body, status, words = BAD[name]
    found, text = ask(port, path, body)
    assert found == status
    assert words in text
    assert text.endswith(".")
    assert ask(port)[0] == 200


def test_a_body_without_a_length_is_counted_as_it_comes(port):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        try:
            for _ in range(400):
                client.sendall(b"1000\r\n" + bytes(4096) + b"\r\n")
        except OSError:  # it has heard enough
            pass
        assert b" 413 " in client.recv(200)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"Content-Type": "multipart/form-data"}, b"x"),
        ({"Content-Type": "multipart/form-data; boundary=b"}, b"x"),
        (form(b"")[1], form(png())[0][:-200]),
        (form(b"")[1], b"--mark-of-a-part\r\n\r\n"),
    ],
)
def test_a_form_that_is_none_is_a_bad_request(port, headers, body):
    status, text = ask(port, "/predict", body, headers)
    assert status == 400
    assert text.endswith(".")


def test_what_the_model_cannot_read_and_what_kills_it_differ(port, pool):
    try:
        pool.error = ImageError("the image is damaged: truncated.")
        assert ask(port) == (422, "the image is damaged: truncated.")
        pool.error = PredictionError("Two processes died.")
        assert ask(port) == (500, "Two processes died.")
        pool.error = RuntimeError("a secret of the server")
        assert ask(port) == (500, "The prediction failed.")
    finally:
        pool.error = None


def in_threads(count, function):
    found = []
    threads = [threading.Thread(target=lambda: found.append(function())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, found


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_more_than_may_wait_are_refused_at_once_and_the_others_answered(port, slow):
    threads, found = in_threads(2, lambda: ask(port))
    wait_for(lambda: slow.waiting == 2)
    status, text = ask(port)
    assert status == 429
    assert text == "2 images wait already; try again in a moment."
    slow.answer()
    for thread in threads:
        thread.join()
    assert [status for status, _ in found] == [200, 200]


def test_an_answer_that_takes_too_long_is_given_up(port, slow):
    assert ask(port) == (504, "There was no answer within 1 seconds.")
    # given up behind the answer, by the server's own loop
    wait_for(lambda: slow.waiting == 0)


def test_a_client_that_is_gone_is_not_predicted_for(port, slow):
    content = png()
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(head.encode() + content)
        wait_for(lambda: slow.waiting == 1)
    wait_for(lambda: slow.tasks[-1].future.cancelled(), seconds=0.9)


def test_a_client_that_sends_slowly_is_told_so_and_one_that_sends_nothing_is_left(port):
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as half,
        socket.create_connection(("127.0.0.1", port), timeout=20) as silent,
    ):
        half.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n")
        half.sendall(b"a")
        silent.sendall(b"POST /predict HT")
        assert ask(port)[0] == 200
        assert b" 408 " in half.recv(200)
        with suppress(ConnectionResetError):
            assert silent.recv(200) == b""


def test_images_that_are_on_their_way_do_not_fill_the_memory():
    pool = FakePool()
    with running(pool, held=1000) as port:
        content = png() + bytes(2000)
        assert ask(port, "/predict", content)[0] == 429
        assert ask(port)[0] == 200
        assert ask(port, "/predict", content)[0] == 429  # what was read is forgotten


def test_models_health_metrics_and_the_description(port, pool):
    assert ask(port, "/models", method="GET") == (200, LABELS)
    assert ask(port, "/health", method="GET") == (200, {"status": "ready", "workers": 2})
    pool.ready = 0
    assert ask(port, "/health", method="GET")[0] == 503
    pool.ready = 2
    before = ask(port, "/metrics", method="GET")[1]
    ask(port)
    ask(port, "/models/of-a-clients-making/predict")
    after = ask(port, "/metrics", method="GET")[1]
    line = 'deepfuse_requests_total{model="street",status="200"}'
    counts = [float(text.split(line)[1].split()[0]) for text in (before, after)]
    assert counts[1] == counts[0] + 1
    assert "of-a-clients-making" not in after
    assert 'deepfuse_requests_total{model="",status="404"}' in after
    assert "deepfuse_waiting 0.0" in after
    assert "deepfuse_workers_ready 2.0" in after
    _, described = ask(port, "/openapi.json", method="GET")
    assert set(described["paths"]) >= {"/predict", "/models/{name}/predict", "/health", "/metrics"}
    assert "429" in described["paths"]["/predict"]["post"]["responses"]
    assert ask(port, "/docs", method="GET")[0] == 200


def test_the_end_waits_for_what_was_taken():
    pool = FakePool()
    pool.answers_at_once = False
    with running(pool) as port:
        threads, found = in_threads(3, lambda: ask(port))
        wait_for(lambda: pool.waiting == 3)
    for thread in threads:
        thread.join()
    assert [status for status, _ in found] == [200] * 3
    with pytest.raises(ConnectionRefusedError):
        ask(port)
