"""The command serve, whole: answers are the model's, whatever dies, until it is told to stop."""

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from benchmarks.application_faults.many_trials import workers_of
from benchmarks.prediction_memory import images
from deepfuse_d2.inference import Predictor


@pytest.fixture(scope="module")
def contents():
    return [cv2.imencode(".png", image)[1].tobytes() for image in images(6)]


@pytest.fixture(scope="module")
def server(busy_folder, labels_folder):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "deepfuse_d2", "serve", "--model",
         f"objects={busy_folder}", "--model", f"labels={labels_folder}", "--port", "0",
         "--workers", "2", "--threads", "1", "--batch", "4"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = process.stdout.readline()
    process.port = int(re.match(r"objects, labels at http://127\.0\.0\.1:(\d+)/predict", line)[1])
    yield process
    process.kill()
    process.wait()


def ask(port, path, body=None, method="POST"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_answers_are_what_the_models_find(server, busy_folder, labels_folder, contents):
    predictor, content = Predictor(busy_folder, output="rle"), contents[0]
    expected = predictor(content)
    status, body = ask(server.port, "/predict", content)
    found = json.loads(body)["instances"]
    assert status == 200
    assert [one["segmentation"] for one in found] == [one["segmentation"] for one in expected]
    assert {one["category"] for one in found} <= set(predictor.metadata.thing_classes)

    middle = sorted(one["score"] for one in found)[len(found) // 2]
    _, body = ask(server.port, f"/predict?output=boxes&threshold={middle}", content)
    some = [one for one in expected if one["score"] >= middle]
    assert [one["bbox"] for one in json.loads(body)["instances"]] == [one["bbox"] for one in some]
    assert "segmentation" not in body.decode()

    _, body = ask(server.port, "/predict?output=polygons", content)
    mask = coco_mask.decode(expected[0]["segmentation"])
    drawn = np.zeros_like(mask)
    for outline in json.loads(body)["instances"][0]["polygons"]:
        cv2.fillPoly(drawn, [np.array(outline).reshape(-1, 2)], 1)
    assert (drawn >= mask).mean() > 0.99

    _, body = ask(server.port, "/models/objects/predict?output=png", content)
    places = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    best = max(range(len(expected)), key=lambda k: expected[k]["score"])
    best_mask = coco_mask.decode(expected[best]["segmentation"]) == 1
    assert (places[best_mask] == best + 1).all()

    labels = Predictor(labels_folder)(content).numpy()
    _, body = ask(server.port, "/models/labels/predict?output=png", content)
    picture = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(picture, labels)
    _, body = ask(server.port, "/models/labels/predict", content)
    first = json.loads(body)["labels"][0]
    mask = coco_mask.decode(first["segmentation"]) == 1
    np.testing.assert_array_equal(mask, labels == first["category_id"])


def test_a_damaged_image_is_the_clients_mistake(server, contents):
    status, body = ask(server.port, "/predict", contents[0][:-60])
    assert status == 422
    assert "is damaged" in json.loads(body)["detail"]


def test_processes_that_are_killed_cost_no_answer(server, contents):
    found, stop = [], threading.Event()

    def client(number):
        while not stop.is_set():
            content = contents[number % len(contents)]
            found.append(ask(server.port, "/predict?output=boxes", content)[0])

    threads = [threading.Thread(target=client, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(found) > 10)
    os.kill(workers_of(server.pid)[0], signal.SIGKILL)
    count = len(found)
    wait_for(lambda: len(found) > count + 10)
    stop.set()
    for thread in threads:
        thread.join()
    assert set(found) == {200}
    wait_for(lambda: b"deepfuse_workers_ready 2.0" in ask(server.port, "/metrics", method="GET")[1])
    assert b"deepfuse_worker_restarts 1.0" in ask(server.port, "/metrics", method="GET")[1]


def test_sigterm_finishes_what_was_taken(server, contents):
    found = []
    clients = [
        threading.Thread(
            target=lambda k=k: found.append(ask(server.port, "/predict", contents[k % 6])[0])
        )
        for k in range(12)
    ]
    workers = workers_of(server.pid)
    for client in clients:
        client.start()
    wait_for(lambda: found)
    server.terminate()
    for client in clients:
        client.join()
    output, errors = server.communicate(timeout=120)
    assert found == [200] * 12
    assert server.returncode == 0, errors
    assert "Stopped; all that was taken is answered." in output
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_an_address_that_is_taken_and_a_wrong_model_are_said(deepfuse, busy_folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert deepfuse("serve", "--model", busy_folder, "--port", port) == 2
    assert re.search(
        rf"--host 127.0.0.1 --port {port}: .*in use.*; --port 0 takes", capsys.readouterr().err
    )
    assert deepfuse("serve", "--model", f"a={busy_folder}", "--model", f"a={busy_folder}") == 2
    assert "a is taken; give another name" in capsys.readouterr().err
    assert deepfuse("serve", "--model", f"a/b={busy_folder}") == 2
    assert "give a name of letters, digits" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        deepfuse("serve", "--model", busy_folder, "--queue", "0")
    assert "--queue 0: give more than 0" in capsys.readouterr().err


def wait_for(condition, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
