"""benchmarks/gpu.sh: what it says where it cannot run. --smoke takes minutes, and runs by hand."""

import os
import subprocess
import sys

import pytest
import torch


@pytest.fixture
def script(repository, tmp_path):
    """Run the script; returns the finished process."""

    def run(*words, **environment):
        environment = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path), **environment}
        return subprocess.run(
            [str(repository / "benchmarks/gpu.sh"), *words], env=environment, text=True,
            capture_output=True, timeout=120,
        )  # fmt: skip

    return run


def test_an_unknown_option_is_named(script):
    done = script("--fast")
    assert done.returncode == 2
    assert done.stderr == "benchmarks/gpu.sh: --fast is unknown; give --smoke or nothing.\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_what_can_be_tried(script):
    done = script()
    assert done.returncode == 2
    assert "torch sees no GPU; --smoke tries the steps on the CPU." in done.stderr


def test_wheels_that_cannot_be_installed_are_told_before_anything_runs(script, tmp_path):
    (tmp_path / "broken-1-py3-none-any.whl").write_bytes(b"no wheel")
    done = script("--smoke", WHEELS=str(tmp_path))
    assert done.returncode == 2
    assert f"the wheels of {tmp_path} do not install" in done.stderr


def test_a_python_without_the_packages_is_named(script, tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    done = script("--smoke", PYTHON=str(python))
    assert done.returncode == 2
    assert f"{python} cannot import deepfuse_d2: it needs torch" in done.stderr
