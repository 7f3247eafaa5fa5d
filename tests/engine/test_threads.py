"""Threads of a training on a CPU."""

import pytest
import torch
from detectron2.config import get_cfg

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.engine.speed import threads
from deepfuse_d2.engine.speed.threads import choose_threads, physical_cores, set_threads
from deepfuse_d2.errors import ConfigError


@pytest.mark.parametrize(
    ("cores", "processes", "workers", "expected"),
    [(8, 1, 0, 8), (8, 1, 4, 7), (64, 4, 5, 14), (2, 1, 2, 2), (2, 2, 2, 1), (4, 8, 0, 1)],
)
def test_processes_share_the_cores_and_leave_some_to_many_workers(
    cores, processes, workers, expected
):
    assert choose_threads(cores, processes, workers) == expected


def config(threads, device="cpu"):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.DEVICE = device
    cfg.DEEPFUSE_D2.SOLVER.CPU_THREADS = threads
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


def test_the_key_is_obeyed_and_the_environment_otherwise(monkeypatch):
    monkeypatch.setattr(threads, "physical_cores", lambda: 3)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_threads(config(0))
    assert torch.get_num_threads() == 1
    set_threads(config(2))
    assert torch.get_num_threads() == 2
    monkeypatch.delenv("OMP_NUM_THREADS")
    set_threads(config(0, device="cuda"))
    assert torch.get_num_threads() == 2
    set_threads(config(0))
    assert torch.get_num_threads() == 3


def test_cores_are_no_more_than_the_machine_gives_out(monkeypatch):
    assert 1 <= physical_cores() <= len(threads.os.sched_getaffinity(0))
    monkeypatch.setattr(threads.Path, "read_text", lambda self: "150000 100000\n")
    assert threads._quota(8) == 2
    monkeypatch.setattr(threads.Path, "read_text", lambda self: "max 100000\n")
    assert threads._quota(8) == 8


def test_a_negative_number_is_told():
    with pytest.raises(ConfigError, match="CPU_THREADS is -1; it must be 0"):
        set_threads(config(-1))
