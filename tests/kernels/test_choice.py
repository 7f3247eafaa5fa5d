"""A machine uses the faster way: asked of its user, of what was measured before, or measured."""

import json
import os
import subprocess
import sys

import pytest

from deepfuse_d2.config.loading import load_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.kernels import choice
from deepfuse_d2.kernels.capabilities import KINDS
from deepfuse_d2.kernels.choice import CHOICES, is_chosen
from tests.conftest import KERNELS


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    """A machine of which nothing is known."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("DEEPFUSE_KERNELS")
    monkeypatch.setattr(choice, "_known", {})
    monkeypatch.setattr(choice.time, "perf_counter", lambda: clock[0])
    return tmp_path


clock = [0.0]


def trial(ours, theirs):
    """Two functions that take so many seconds, by a clock that nothing else moves."""

    def work(seconds):
        clock[0] += seconds

    return lambda: (lambda: work(ours), lambda: work(theirs))


def never():
    raise AssertionError("measured again")


@pytest.mark.parametrize(("ours", "theirs", "used"), [(1, 4, True), (4, 1, False), (3, 3, False)])
def test_what_is_clearly_faster_is_used_and_kept_and_told(ours, theirs, used, fresh, caplog):
    caplog.set_level("INFO")
    assert is_chosen("winograd", trial(ours, theirs)) is used
    assert is_chosen("winograd", never) is used
    (line,) = [r.getMessage() for r in caplog.records]
    assert "times as fast on this machine" in line
    assert ("not used" in line) is not used
    # another process
    choice._known.clear()
    assert is_chosen("winograd", never) is used
    (file,) = (fresh / "deepfuse_d2" / "machines").iterdir()
    kept = json.loads(file.read_text())
    assert list(kept["times as fast"]) == ["winograd"]
    assert choice.isa() in kept["machine"]
    assert str(file) in caplog.text


def test_one_disturbed_turn_decides_nothing():
    """Another process may take a core for half a second."""
    turns = iter([1, 1, 1, 50, 1, 1, 1, 1])

    def ours():
        clock[0] += next(turns, 1)

    def theirs():
        clock[0] += 2

    assert is_chosen("winograd", lambda: (ours, theirs))


def test_an_instruction_set_decides_what_layers_alone_do_not_tell(monkeypatch, fresh, caplog):
    caplog.set_level("INFO")
    choice._tell_once.cache_clear()
    for kind, used in (("avx2", False), ("avx512", True), ("avx512_bf16", True)):
        monkeypatch.setattr(choice, "isa", lambda kind=kind: kind)
        for _ in range(2):
            assert is_chosen("tiled training", never) is used
            assert is_chosen("channels last", never) is used
    assert not (fresh / "deepfuse_d2").exists()
    assert [r.getMessage().count("not used on a CPU with avx2") for r in caplog.records] == [
        1, 1, 0, 0, 0, 0
    ]  # fmt: skip
    monkeypatch.setattr(choice, "isa", lambda: "default")
    assert is_chosen("tiled training", trial(1, 2))


def test_another_kind_or_number_of_threads_is_another_machine(monkeypatch):
    assert is_chosen("winograd", trial(1, 2))
    other = next(kind for kind in KINDS if kind != choice.isa())
    monkeypatch.setattr(choice, "isa", lambda: other)
    assert not is_chosen("winograd", trial(2, 1))
    monkeypatch.setattr(choice.torch, "get_num_threads", lambda: 77)
    assert is_chosen("winograd", trial(1, 2))


def test_another_version_of_the_kernels_is_measured_anew(monkeypatch):
    assert is_chosen("winograd", trial(1, 2))
    monkeypatch.setattr(choice, "__version__", "99.0")
    assert not is_chosen("winograd", trial(2, 1))


def test_the_user_decides_without_a_measurement(monkeypatch):
    monkeypatch.setenv("DEEPFUSE_KERNELS", "winograd=off, channels last=on")
    assert not is_chosen("winograd", never)
    assert is_chosen("channels last", never)
    load_config("", ["DEEPFUSE_D2.MODEL.KERNELS", "winograd=on"])
    assert is_chosen("winograd", never)
    with pytest.raises(ConfigError, match=r"winograd=maybe.*NAME=on or NAME=off"):
        load_config("", ["DEEPFUSE_D2.MODEL.KERNELS", "winograd=maybe"])
    with pytest.raises(ConfigError, match=r"\"fast\" is no choice.*'tiled training'"):
        choice.check_choices("fast")


def test_a_cache_that_is_damaged_or_cannot_be_written_is_done_without(fresh):
    assert is_chosen("winograd", trial(1, 2))
    (file,) = (fresh / "deepfuse_d2" / "machines").iterdir()
    file.write_text("{")
    choice._known.clear()
    assert not is_chosen("winograd", trial(2, 1))
    file.unlink()
    file.parent.rmdir()
    file.parent.write_text("a file where the folder should be")
    choice._known.clear()
    assert is_chosen("winograd", trial(1, 2))


# Asks for all that is chosen, as a model would, and prints what was decided.
SCRIPT = """
import json, logging, torch
torch.set_num_threads(1)
from deepfuse_d2.kernels import choice
choice._SECONDS = 0.05
from deepfuse_d2.engine.speed import fast_kernels
from deepfuse_d2.inference.optimize import heads
from deepfuse_d2.kernels import tiled_convolution, winograd
from deepfuse_d2.kernels.capabilities import isa
wide = torch.nn.Conv2d(256, 256, 3, padding=1)
print(json.dumps({
    "kind": isa(),
    "winograd": winograd.WinogradConv2d.fits(wide, torch.float32),
    "winograd bfloat16": winograd.WinogradConv2d.fits(wide, torch.bfloat16),
    "tiled training": tiled_convolution.can_tile(wide),
    "channels last": fast_kernels.gains_by_channels_last("cpu"),
    "linear as convolution": choice.is_chosen("linear as convolution", heads._trial_of_linear),
}))
"""


@pytest.mark.parametrize("kind", ["avx2", "avx512"])
def test_each_kind_of_machine_is_asked_for_itself(kind, fresh):
    """What each decides is its own; that what it measured says so is what holds everywhere."""
    limits = {"avx2": ("avx2", "AVX2"), "avx512": ("avx512", "AVX512_CORE")}[kind]
    if KINDS.index(choice.isa()) < KINDS.index(kind):
        pytest.skip(f"this machine is {choice.isa()}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["ATEN_CPU_CAPABILITY"], environment["ONEDNN_MAX_CPU_ISA"] = limits
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("kind") == kind
    assert set(found) == set(CHOICES)
    assert not found["winograd bfloat16"]  # neither has it
    # whole trainings say so, whatever a measurement under other work would
    by_isa = {name: found.pop(name) for name in ("tiled training", "channels last")}
    assert set(by_isa.values()) == {kind == "avx512"}
    (file,) = (fresh / "deepfuse_d2" / "machines").iterdir()
    kept = json.loads(file.read_text())["times as fast"]
    assert {"winograd", "linear as convolution"} == set(kept)
    assert {name: ratio >= choice._MARGIN for name, ratio in kept.items()} == {
        name: used for name, used in found.items() if name != "winograd bfloat16"
    }


def test_the_tests_use_every_kernel_that_can_be_chosen():
    assert choice.check_choices(KERNELS) == dict.fromkeys(CHOICES, True)
