"""MiniCity on disk: the layout of Cityscapes, whole or not at all, the same bytes every time."""

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from deepfuse_d2.data.minicity import ensure_minicity, generate, generate_minicity, is_complete
from deepfuse_d2.data.minicity.labels import COLORS, TRAIN_IDS
from deepfuse_d2.data.minicity.manifest import VERSION, Manifest

SMALL = {"num_train": 3, "num_val": 2, "width": 128, "height": 64}


def digest(root):
    files = sorted(p for p in root.rglob("*") if p.is_file())
    content = b"".join(str(p.relative_to(root)).encode() + p.read_bytes() for p in files)
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def city(tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "minicity"
    generate_minicity(root, **SMALL, workers=1)
    return root


@pytest.fixture
def small_default(monkeypatch):
    """The default set, for these tests, is a small one."""
    monkeypatch.setattr(generate, "Manifest", SmallManifest)


class SmallManifest(Manifest):
    def __new__(cls, *args):
        return Manifest(*args) if args else Manifest(VERSION, 0, 128, 64, 3, 2)

    read = Manifest.read


def test_each_frame_has_the_six_files_of_cityscapes(city):
    images = sorted((city / "leftImg8bit").rglob("*.png"))
    assert images[0].parts[-3:] == (
        "train",
        "aldermoor",
        "aldermoor_000000_000019_leftImg8bit.png",
    )
    assert len(images) == 5
    for image in images:
        stem = image.name.removesuffix("leftImg8bit.png")
        folder = city / "gtFine" / image.parts[-3] / image.parts[-2]
        for suffix in ("instanceIds.png", "labelIds.png", "labelTrainIds.png", "color.png"):
            assert (folder / f"{stem}gtFine_{suffix}").is_file()
        assert (folder / f"{stem}gtFine_polygons.json").is_file()


def test_label_images_agree_with_one_another(city):
    stem = str(city / "gtFine/val/elmsford/elmsford_000000_000019_gtFine_")
    instances = cv2.imread(stem + "instanceIds.png", cv2.IMREAD_UNCHANGED)
    labels = cv2.imread(stem + "labelIds.png", cv2.IMREAD_UNCHANGED)
    train = cv2.imread(stem + "labelTrainIds.png", cv2.IMREAD_UNCHANGED)
    color = cv2.imread(stem + "color.png", cv2.IMREAD_UNCHANGED)
    assert instances.dtype == np.uint16
    assert labels.dtype == train.dtype == np.uint8
    np.testing.assert_array_equal(np.where(instances < 1000, instances, instances // 1000), labels)
    np.testing.assert_array_equal(train, TRAIN_IDS[labels])
    np.testing.assert_array_equal(color[..., 2::-1], COLORS[labels])
    assert (color[..., 3] == 255).all()
    document = json.loads((city / (stem + "polygons.json")).read_text())
    assert (document["imgHeight"], document["imgWidth"]) == (64, 128)
    assert {"label", "polygon"} == set(document["objects"][0])


def test_the_bytes_do_not_depend_on_the_number_of_workers(city, tmp_path):
    generate_minicity(tmp_path / "minicity", **SMALL, workers=3)
    assert digest(tmp_path / "minicity") == digest(city)


def test_another_seed_gives_other_bytes(city, tmp_path):
    generate_minicity(tmp_path / "minicity", **SMALL, seed=1, workers=1)
    assert digest(tmp_path / "minicity") != digest(city)


def test_progress_is_told_for_every_frame(tmp_path):
    ticks = []
    generate_minicity(tmp_path / "a", **SMALL, workers=2, progress=lambda: ticks.append(1))
    assert len(ticks) == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 4096}, "width = 4096; give a whole number from 128 to 2048"),
        ({"height": 2000}, "height = 2000; give a whole number from 64 to 1024"),
        ({"width": 512.0}, "width = 512.0"),
        ({"num_train": -1}, "num_train = -1"),
        ({"num_train": 0, "num_val": 0}, "at least one frame"),
        ({"workers": 0}, "workers = 0; give 1 or more"),
    ],
)
def test_a_parameter_out_of_range_is_named_with_what_is_allowed(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        generate_minicity(tmp_path / "minicity", **given)
    assert not (tmp_path / "minicity").exists()


def test_a_complete_set_is_left_alone(city, monkeypatch):
    monkeypatch.setattr("deepfuse_d2.data.minicity.workers.draw_all", None)  # would fail if called
    generate_minicity(city, **SMALL)
    ensure_minicity(city)


def test_other_parameters_are_refused_unless_told_to_overwrite(tmp_path):
    root = tmp_path / "minicity"
    generate_minicity(root, **SMALL, workers=1)
    before = digest(root)
    with pytest.raises(FileExistsError, match="--overwrite"):
        generate_minicity(root, **{**SMALL, "num_val": 1}, workers=1)
    assert digest(root) == before
    generate_minicity(root, **{**SMALL, "num_val": 1}, workers=1, overwrite=True)
    assert len(list((root / "leftImg8bit/val").rglob("*.png"))) == 1
    assert is_complete(root)


def test_files_of_others_survive_an_overwrite(tmp_path):
    root = tmp_path / "minicity"
    generate_minicity(root, **SMALL, workers=1)
    notes = [root / "notes.txt", root / "leftImg8bit/train/aldermoor/mine.png"]
    for note in notes:
        note.write_text("keep")
    generate_minicity(root, **{**SMALL, "seed": 4}, workers=1, overwrite=True)
    assert all(note.read_text() == "keep" for note in notes)
    assert is_complete(root)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "minicity").mkdir()
    (tmp_path / "minicity/holiday.jpg").touch()
    with pytest.raises(FileExistsError, match=r"no minicity\.json"):
        generate_minicity(tmp_path / "minicity", **SMALL, overwrite=True)
    with pytest.raises(FileExistsError, match=r"no minicity\.json"):
        ensure_minicity(tmp_path / "minicity")


def test_an_interruption_leaves_no_set_and_the_next_run_completes_it(tmp_path, city):
    root = tmp_path / "minicity"

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate_minicity(root, **SMALL, workers=1, progress=interrupt)
    assert not root.exists()
    generate_minicity(root, **SMALL, workers=1)
    assert digest(root) == digest(city)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_a_killed_run_leaves_no_set_and_its_remains_are_cleared_away(tmp_path, city):
    root = tmp_path / "minicity"
    code = (
        "generate_minicity(sys.argv[1], num_train=400, num_val=2, width=128, height=64, workers=2)"
    )
    process = start(code, root)
    wait_for(lambda: any(tmp_path.rglob("*.png")) or process.poll() is not None)
    process.kill()
    process.wait()
    assert not root.exists()
    time.sleep(1)  # its workers notice with the next frame
    generate_minicity(root, **SMALL, workers=1)
    assert digest(root) == digest(city)
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def start(code, root):
    """A process that runs code with the generator alone, as that starts faster than all of us."""
    alone = (
        "import sys, types; data = sys.modules['data'] = types.ModuleType('data'); "
        "data.__path__ = [sys.argv[2]]; from data.minicity import *; "
    )
    code = alone + code
    package = Path(generate.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", code, str(root), str(package)], stderr=subprocess.PIPE
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_frame_that_cannot_be_written_is_reported_and_nothing_is_kept(tmp_path, workers):
    root = tmp_path / "minicity"

    def sabotage():  # after the first frame, the folder of the last ones is gone
        for folder in tmp_path.glob(".minicity.partial-*/gtFine/val"):
            folder.rename(tmp_path / "moved")

    with pytest.raises((RuntimeError, OSError), match="minicity"):
        generate_minicity(root, **{**SMALL, "num_train": 30}, workers=workers, progress=sabotage)
    assert not root.exists()


def test_ensure_makes_the_default_set_once(tmp_path, small_default):
    root = tmp_path / "minicity"
    ensure_minicity(root)
    assert is_complete(root)
    stamp = (root / "minicity.json").stat().st_mtime_ns
    ensure_minicity(root)
    assert (root / "minicity.json").stat().st_mtime_ns == stamp


def test_ensure_makes_a_damaged_set_again_with_its_own_parameters(tmp_path, caplog):
    root = tmp_path / "minicity"
    generate_minicity(root, **SMALL, seed=7, workers=1)
    before = digest(root)
    next(root.rglob("*labelIds.png")).unlink()
    assert not is_complete(root)
    ensure_minicity(root)
    assert "lacks files" in caplog.text
    assert digest(root) == before


def test_ensure_keeps_a_set_of_another_version_and_says_so(tmp_path, caplog):
    root = tmp_path / "minicity"
    generate_minicity(root, **SMALL, workers=1)
    manifest = json.loads((root / "minicity.json").read_text())
    (root / "minicity.json").write_text(json.dumps({**manifest, "version": VERSION + 1}))
    before = digest(root)
    ensure_minicity(root)
    assert f"of version {VERSION + 1}" in caplog.text
    assert digest(root) == before


def test_ensure_works_on_a_read_only_complete_set(city):
    folder = city.parent
    folder.chmod(0o555)
    try:
        ensure_minicity(city)
    finally:
        folder.chmod(0o755)


def test_processes_that_ensure_at_once_make_one_set(tmp_path):
    root = tmp_path / "minicity"
    generate_minicity(root, **SMALL, workers=1)
    expected = digest(root)
    next(root.rglob("*labelIds.png")).unlink()
    processes = [start("ensure_minicity(sys.argv[1])", root) for _ in range(3)]
    said = [p.communicate()[1].decode() for p in processes]
    assert all(p.returncode == 0 for p in processes), said
    assert sum("lacks files" in text for text in said) == 1
    assert digest(root) == expected


def test_the_command_makes_a_set_and_says_where(tmp_path, repository):
    command = [sys.executable, str(repository / "datasets/prepare_minicity.py")]
    options = ["--root", str(tmp_path / "minicity"), "--num-train", "2", "--num-val", "1"]
    size = ["--width", "128", "--height", "64"]
    done = subprocess.run([*command, *options, *size], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 frames in" in done.stdout
    assert f"MiniCity lies at {tmp_path / 'minicity'}" in done.stdout
    wrong = subprocess.run([*command, *options, "--width", "9"], capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "width = 9" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_command_prepares_what_is_asked_for_in_an_empty_folder(deepfuse, tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    few = ("--num-train", 2, "--num-val", 1)
    assert deepfuse("prepare", "minifields", "--mode", "xor", "--size", 16, *few) == 0
    assert deepfuse("prepare", "minicity", "--width", 128, "--height", 64, *few) == 0
    assert {"minicity", "minifields_xor"} <= set(os.listdir("datasets"))
    assert Manifest.read(tmp_path / "datasets" / "minicity") == Manifest(
        width=128, height=64, num_train=2, num_val=1
    )
