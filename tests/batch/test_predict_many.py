"""Many predictions: each image exactly once, whatever dies on the way, and told what is wrong."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pyarrow.dataset
import pytest
from pycocotools.coco import COCO

from benchmarks.application_faults.forked import ForkedCommand
from benchmarks.prediction_memory import images
from deepfuse_d2.batch import Settings, local, predict_many
from deepfuse_d2.batch.folder import Folder
from deepfuse_d2.batch.journal import Journal, forget_orderly_ends
from deepfuse_d2.batch.worker import Job, PartPredictor
from deepfuse_d2.errors import ConfigError, PredictionError
from deepfuse_d2.inference import Predictor
from deepfuse_d2.inference.processes import choose_workers

COUNT = 60


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Images of a few sizes, of which one is damaged."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(images(COUNT)):
        path = folder / f"{number:03d}.png"
        if isinstance(image, bytes):
            path.write_bytes(image)
        else:
            cv2.imwrite(str(path), image)
    return folder


def command(model, photos, output, *options):
    return [
        sys.executable, "-W", "ignore", "-m", "deepfuse_d2", "predict-many", "--model", str(model),
        "--input", str(photos), "--output", str(output), "--workers", "2", "--threads", "1",
        "--batch", "1", "--part-size", "8", *map(str, options),
    ]  # fmt: skip


def run(*words, **options):
    return subprocess.run(
        command(*words), capture_output=True, text=True, timeout=600, **options
    )  # fmt: skip


def rows_of(output):
    parts = sorted(map(str, Path(output).glob("part-*.parquet")))
    return pyarrow.dataset.dataset(parts).to_table().to_pylist() if parts else []


def assert_complete(output, photos, model):
    """Every image once, in order, with what a Predictor gives for it, and no rests."""
    rows = rows_of(output)
    assert [row["id"] for row in rows] == list(range(COUNT))
    assert [row["name"] for row in rows] == sorted(path.name for path in photos.iterdir())
    predictor = Predictor(model, output="rle", errors="return")
    for row, found in zip(rows, predictor.stream(photos), strict=True):
        if isinstance(found, Exception):
            assert row["error"] == str(found)
            assert row["boxes"] is row["masks"] is None
        else:
            assert row["error"] is None
            assert row["masks"] == [one["segmentation"] for one in found]
            assert row["boxes"] == [one["bbox"] for one in found]
            assert row["scores"] == [one["score"] for one in found]
            assert row["category_ids"] == [one["category_id"] for one in found]
    assert sum(row["error"] is not None for row in rows) == 1
    assert {path.name for path in output.iterdir() if not path.name.startswith("part-")} == {
        ".lock", "inputs.parquet", "run.json",
    }  # fmt: skip
    assert not list(output.glob("*.journal"))


def test_whatever_ends_a_run_the_next_one_loses_nothing_and_does_nothing_twice(
    busy_folder, photos, tmp_path
):
    output, log = tmp_path / "out", tmp_path / "log.txt"

    def started(*options, **more):
        words = command(busy_folder, photos, output, *options)[5:]
        return ForkedCommand(words, log, **more)

    # a disk that is full
    code, text = started(largest_file=12_000).end()
    assert code == 2, text
    assert re.search(
        r"part-\d+\.parquet could not be written: .*too large.*Make room and run the same command",
        text,
    )
    assert not list(output.glob("*.tmp"))
    # SIGKILL for a process that predicts, which is replaced, and then for the one that was started
    running = started()
    assert running.wait_for_part(output)
    workers = running.workers()
    os.kill(workers[0], signal.SIGKILL)
    wait_for(lambda: set(running.workers()) - set(workers))
    running.send(signal.SIGKILL)
    code, text = running.end()
    assert code == -signal.SIGKILL
    assert "A process was killed by SIGKILL, as the system does when memory is short" in text
    written = {path: path.stat().st_mtime_ns for path in output.glob("part-*.parquet")}
    assert len(written) < 8
    # SIGTERM
    running = started()
    assert running.wait_for_part(output)
    workers = running.workers()
    running.send(signal.SIGTERM)
    code, text = running.end()
    assert code == 130
    assert f"Stopped; the same command goes on in {output}." in text
    assert not any(map(is_running, workers))
    # nothing, at last
    code, text = started("--coco", tmp_path / "coco.json").end()
    assert code == 0, text
    assert re.search(r"60 images in .*: \d+ of this run.*, \d+ there before", text)
    assert re.search(r"60/60 \[.*image/s\]", text)
    assert all(path.stat().st_mtime_ns == then for path, then in written.items())
    assert_complete(output, photos, busy_folder)
    assert_coco(tmp_path / "coco.json", rows_of(output))


def test_the_command_starts_processes_of_its_own(busy_folder, photos, tmp_path):
    some = tmp_path / "some"
    some.mkdir()
    for path in sorted(photos.iterdir())[:10]:
        (some / path.name).write_bytes(path.read_bytes())
    done = run(busy_folder, some, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [row["id"] for row in rows_of(tmp_path / "out")] == list(range(10))


def assert_coco(path, rows):
    truth = COCO(path)
    assert len(truth.imgs) == COUNT - 1
    assert len(truth.anns) == sum(len(row["boxes"] or []) for row in rows) > 100
    first = truth.anns[1]
    assert first["segmentation"] == rows[first["image_id"]]["masks"][0]
    assert first["area"] == truth.annToMask(first).sum()
    assert truth.cats[0]["name"] == "person"
    truth.loadRes(json.loads(path.read_text())["annotations"])


def test_ray_predicts_the_same(busy_folder, photos, tmp_path):
    pytest.importorskip("ray.data", reason="needs the extra ray: 70 MB, and not part of dev")
    done = run(busy_folder, photos, tmp_path / "out", "--engine", "ray")
    assert done.returncode == 0, done.stderr
    assert_complete(tmp_path / "out", photos, busy_folder)


def started(model, photos, output, **changes):
    """A folder of results that was begun, and nothing predicted."""

    class Ended(Exception):
        pass

    def engine(job, missing, workers, report):
        raise Ended

    options = {"config": str(model), "weights": None, "sources": [photos], "output": output}
    options |= {"part_size": 8, **changes}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("deepfuse_d2.batch.run.ENGINES", {"local": engine})
        try:
            predict_many(**options)
        except Ended:
            return Folder(output)
    raise AssertionError("there was something to predict")


def test_other_settings_images_or_weights_are_refused_with_the_reason(
    busy_folder, labels_folder, photos, tmp_path
):
    output = tmp_path / "out"
    started(busy_folder, photos, output)
    started(busy_folder, photos, output)
    started(busy_folder, output / "inputs.parquet", output, part_size=None)
    cases = {
        r"score_threshold was None and is 0\.5": {"settings": Settings(score_threshold=0.5)},
        "part_size was 8 and is 9": {"part_size": 9},
        r"INPUT\.MIN_SIZE_TEST was 48 and is 64": {"opts": ["INPUT.MIN_SIZE_TEST", "64"]},
        r"images are others \(60 then, 1 now; .*inputs\.parquet is the list of then": {
            "sources": [photos / "000.png"]
        },
        "the weights are others": {"config": str(labels_folder)},
    }
    for message, changes in cases.items():
        with pytest.raises(ConfigError, match=f"was begun differently.*{message}"):
            started(busy_folder, photos, output, **changes)
    assert not list(output.glob("*.tmp"))


def test_a_folder_of_something_else_is_left_alone(busy_folder, photos, tmp_path):
    (tmp_path / "part-00000000.parquet").touch()
    with pytest.raises(ConfigError, match=r"holds parts of results without run\.json"):
        started(busy_folder, photos, tmp_path)
    (tmp_path / "run.json").write_text('{"version": 2, "written_by": "deepfuse_d2 9"}')
    with pytest.raises(ConfigError, match="begun by deepfuse_d2 9, whose results are of version 2"):
        started(busy_folder, photos, tmp_path)


def test_two_at_a_time_are_one_too_many(busy_folder, photos, tmp_path):
    with (
        Folder(tmp_path).owned(),
        pytest.raises(ConfigError, match="is being written by another process"),
    ):
        started(busy_folder, photos, tmp_path)


def test_a_journal_whose_part_is_there_is_a_rest(tmp_path):
    folder = Folder(tmp_path)
    with folder.writer(0) as writer:
        writer.add({"id": 0, "name": "a", "error": "x"})
    for number in (0, 1):
        Journal(folder.part(number)).begin()
    with folder.owned():
        assert [path.name for path in tmp_path.glob("*.journal")] == ["part-00000001.journal"]


def test_a_part_that_is_not_whole_is_missing(busy_folder, photos, tmp_path):
    folder = started(busy_folder, photos, tmp_path)
    with folder.writer(1) as writer:
        writer.add({"id": 8, "name": "a", "error": "x"})
    folder.part(2).write_bytes(folder.part(1).read_bytes()[:-1])
    assert folder.missing([1, 1, 1]) == [0, 2]
    assert folder.missing([1, 2, 1]) == [0, 1, 2]


class Deadly:
    """A predictor whose process dies, as by a signal, of one image."""

    def __init__(self, image: str):
        self._image, self.seen = image, []

    def __call__(self, source):
        self.seen.append(source)
        if source.endswith(self._image):
            raise SystemExit
        return {"height": 1, "width": 1}

    def stream(self, sources):
        return map(self, sources)


@pytest.fixture
def deadly(busy_folder, photos, tmp_path, monkeypatch):
    """A PartPredictor of eight images, of which 003.png is deadly; and its folder."""
    folder = started(busy_folder, photos, tmp_path)
    predictor = Deadly("003.png")
    monkeypatch.setattr("deepfuse_d2.batch.worker.Predictor", lambda *_, **__: predictor)
    return PartPredictor(Job("", None, (), {}, str(tmp_path), COUNT, 8)), folder


def test_an_image_that_processes_die_of_is_a_row_and_the_others_are_predicted(deadly):
    predictor, folder = deadly
    for _ in range(4):
        with pytest.raises(SystemExit):
            list(predictor.run([0]))
        assert not list(folder.path.glob("*.tmp"))
    (done,) = predictor.run([0])
    assert (done.images, done.errors) == (8, 1)
    rows = rows_of(folder.path)
    assert [row["id"] for row in rows if row["error"]] == [3]
    assert "three processes died while they predicted this image" in rows[3]["error"]
    assert not list(folder.path.glob("*.journal"))


def test_an_orderly_end_is_not_held_against_an_image(tmp_path):
    Journal(tmp_path / "part-0.parquet").begin()
    died = Journal(tmp_path / "part-1.parquet")
    died.begin()
    died.begin()
    died.at(5)
    forget_orderly_ends(tmp_path)
    assert not Journal(tmp_path / "part-0.parquet").begin()
    assert Journal(tmp_path / "part-1.parquet").begin()
    assert died.blamed() == set()


def test_processes_that_die_before_their_first_image_are_not_replaced_for_ever(
    busy_folder, photos, tmp_path
):
    class Dead(local._Process):
        def __post_init__(self):
            super().__post_init__()
            os.kill(self._process.pid, signal.SIGKILL)

    folder = started(busy_folder, photos, tmp_path / "out")
    job = Job(str(busy_folder), None, (), {}, str(folder.path), COUNT, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_Process", Dead)
        with pytest.raises(PredictionError, match="Process after process was killed by SIGKILL"):
            list(local.run_local(job, [0, 1], 1, lambda count: None))


def test_workers_and_threads_fill_the_cores():
    cores = len(os.sched_getaffinity(0))
    workers, threads = choose_workers(None, None)
    assert 1 <= workers * threads <= cores
    assert choose_workers(1, None) == (1, cores)
    assert choose_workers(3, 2) == (3, 2)
    assert choose_workers(None, None, ["cuda:0", "cuda:1"])[0] <= 2


def test_labels_of_pixels_are_pngs_and_masks_of_coco(labels_folder, photos, tmp_path, monkeypatch):
    some = tmp_path / "some"
    some.mkdir()
    for name in ("000.png", "001.png"):
        (some / name).write_bytes((photos / name).read_bytes())

    def here(job, missing, workers, report):
        return PartPredictor(job).run(missing, report)

    monkeypatch.setattr("deepfuse_d2.batch.run.ENGINES", {"local": here})
    coco = tmp_path / "coco.json"
    summary = predict_many(str(labels_folder), None, [some], tmp_path / "out", coco=coco)
    assert (summary.images, summary.predicted, summary.errors) == (2, 2, 0)
    rows = rows_of(tmp_path / "out")
    predictor = Predictor(labels_folder)
    truth = COCO(coco)
    for row in rows:
        labels = cv2.imdecode(np.frombuffer(row["labels"], np.uint8), cv2.IMREAD_UNCHANGED)
        np.testing.assert_array_equal(labels, predictor(some / row["name"]))
        found = np.full(labels.shape, 255)
        for annotation in truth.imgToAnns[row["id"]]:
            found[truth.annToMask(annotation) == 1] = annotation["category_id"]
        np.testing.assert_array_equal(found, labels)
    assert truth.cats[0]["name"] == "road"


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
