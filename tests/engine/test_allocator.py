"""Freed memory stays with a process that trains on a CPU."""

import ctypes
import subprocess
import sys

import pytest
from detectron2.config import get_cfg

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.engine.speed.allocator import retain_freed_memory

# Pages that the system hands out while a map of 64 MiB is made and freed again and again.
# Before counting, the map has found its place: glibc keeps the small rests beside an aligned block
# in its caches (tcache, fastbins) and joins them with nothing, so that the next such block can miss
# the hole of the one before by a few bytes and take new pages, once. With
# GLIBC_TUNABLES=glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0 it never does.
_PROGRAM = """
import resource, sys, torch
from detectron2.config import get_cfg
from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.engine.speed.allocator import retain_freed_memory
cfg = get_cfg()
add_deepfuse_config(cfg)
cfg.MODEL.DEVICE = "cpu"
cfg.DEEPFUSE_D2.SOLVER.CPU_KEEP_MEMORY = sys.argv[1] == "True"
kept = retain_freed_memory(cfg)
for _ in range(10):
    torch.zeros(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.zeros(2**24)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs glibc")
def test_the_next_step_gets_the_pages_of_the_one_before():
    found = {}
    for wanted in ("True", "False"):
        output = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM, wanted],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
        found[wanted] = output[0], int(output[1])
    assert found["True"][0] == "True"
    assert found["False"][0] == "False"
    assert found["True"][1] < 0.1 * found["False"][1]


def test_a_training_on_a_gpu_and_other_libraries_are_left_alone(monkeypatch):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEVICE = "cuda"
    assert not retain_freed_memory(cfg)
    cfg.MODEL.DEVICE = "cpu"
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not retain_freed_memory(cfg)
