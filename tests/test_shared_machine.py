"""Beside other users and other runs: folders of others, caches of others, ports."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

QUICK = "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"
OTHER = 65534  # nobody
FOR_ALL = 0o755


@pytest.fixture
def as_user(repository):
    """Run python with arguments as a user whom folders of others refuse; the finished process.

    Root is refused by nothing, so as root the child gives up root's privileges. It still owns what
    root owns, and the interpreter is found wherever it lies.
    """
    before = []
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("as root, which no folder refuses, and without setpriv to give that up")
        before = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]

    def run(*words, **environment):
        return subprocess.run(
            [*before, sys.executable, "-W", "ignore", *map(str, words)],
            cwd=repository, env={**os.environ, **environment},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    return run


@pytest.fixture
def of_another_user(tmp_path):
    """Function that gives a folder, with all in it, to another user."""
    if os.geteuid() != 0:
        pytest.skip("only root may give files to another user")

    def give(folder):
        for path in (folder, *folder.rglob("*")):
            path.chmod(FOR_ALL if path.is_dir() else 0o644)
            os.chown(path, OTHER, OTHER)
        return folder

    return give


@pytest.fixture
def read_only(tmp_path):
    """Function that takes the right to write to a folder from everybody."""
    changed = []

    def close(folder):
        changed.append((folder, stat.S_IMODE(folder.stat().st_mode)))
        folder.chmod(0o555)
        return folder

    yield close
    for folder, mode in changed:
        folder.chmod(mode)


def train(as_user, data, opts, output, **environment):
    words = ["train_net.py", "--config-file", QUICK, *opts, "SOLVER.MAX_ITER", "1"]
    return as_user(*words, "OUTPUT_DIR", output, DETECTRON2_DATASETS=str(data), **environment)


def one_message(done) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


def test_an_output_folder_of_another_user_is_named(
    as_user, of_another_user, tiny_minicity, tiny_opts, tmp_path
):
    output = tmp_path / "output"
    output.mkdir()
    of_another_user(output)
    last = one_message(train(as_user, tiny_minicity, tiny_opts, output))
    assert last.startswith(f"train_net.py: OUTPUT_DIR = {output} cannot be written to: {output}")
    assert "Permission denied" in last
    assert "choose a folder of your own" in last
    assert list(output.iterdir()) == []


def test_a_read_only_output_folder_is_named_by_every_command(
    as_user, read_only, tiny_minicity, tmp_path
):
    folder = tmp_path / "closed"
    folder.mkdir()
    read_only(folder)
    done = as_user(
        "-m", "deepfuse_d2", "visualize-data", "--dataset",
        "minicity_fine_instance_seg_val", "--output", folder / "new" / "sheet.png",
        DETECTRON2_DATASETS=str(tiny_minicity),
    )  # fmt: skip
    last = one_message(done)
    assert str(folder) in last
    assert "Permission denied" in last


def test_a_training_needs_no_right_to_write_to_its_data_nor_to_a_cache(
    as_user, of_another_user, tiny_minicity, tiny_opts, tmp_path, unchanged
):
    """All of another user: the data, the shared cache; what is written is the output alone."""
    data = of_another_user(Path(shutil.copytree(tiny_minicity, tmp_path / "data")))
    cache = tmp_path / "cache"
    cache.mkdir()
    of_another_user(cache)
    unchanged(data)
    unchanged(cache)
    output = tmp_path / "output"
    done = train(as_user, data, tiny_opts, output, DEEPFUSE_CACHE=str(cache), DEEPFUSE_KERNELS="")
    assert done.returncode == 0, done.stderr
    assert (output / "model_final.pth").is_file()
    assert "Set DEEPFUSE_CACHE to a folder that can" in done.stdout


def test_what_another_user_has_measured_in_a_shared_cache_is_used(
    as_user, of_another_user, tmp_path
):
    """Files of the cache may be read by all, as the umask says, and are not replaced."""
    program = (
        "from deepfuse_d2.kernels import choice\n"
        "trial = lambda: (lambda: print('measured'), lambda: None)\n"
        "choice._SECONDS = 0\n"
        "print('chosen', choice.is_chosen('winograd', trial))\n"
    )
    cache = tmp_path / "cache"
    environment = {"DEEPFUSE_CACHE": str(cache), "DEEPFUSE_KERNELS": ""}
    first = as_user("-c", program, **environment)
    assert "measured" in first.stdout, first.stderr
    (file,) = cache.rglob("*.json")
    kept = json.loads(file.read_text())
    of_another_user(cache)
    second = as_user("-c", program, **environment)
    assert "measured" not in second.stdout
    assert second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert json.loads(file.read_text()) == kept


def test_temporary_files_go_where_the_user_says(repository):
    """TMPDIR moves whatever python's tempfile makes; a folder by name is shared with others."""
    files = [
        path
        for room in ("deepfuse_d2", "tools", "datasets", "benchmarks")
        for path in (repository / room).rglob("*.py")
    ]
    assert len(files) > 200
    named = [str(path) for path in files if re.search(r"""["']/(var/)?tmp\b""", path.read_text())]
    assert named == []


def test_two_trainings_of_one_user_do_not_meet_at_a_port(
    repository, tiny_minicity, tiny_opts, tmp_path
):
    """Both at once, each of two processes, without a word about ports."""
    both = [
        subprocess.Popen(
            [
                sys.executable, "-W", "ignore", "train_net.py", "--config-file", QUICK,
                "--num-gpus", "2", *tiny_opts, "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()",
                "OUTPUT_DIR", str(tmp_path / name),
            ],
            cwd=repository, env={**os.environ, "DETECTRON2_DATASETS": str(tiny_minicity)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name in ("one", "two")
    ]  # fmt: skip
    printed = [each.communicate(timeout=600)[0] for each in both]
    assert [each.returncode for each in both] == [0, 0], printed
    for name in ("one", "two"):
        assert "World size: 2" in (tmp_path / name / "log.txt").read_text()
        assert (tmp_path / name / "model_final.pth").is_file()
