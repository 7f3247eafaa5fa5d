"""What benchmarks say of the machine, and the share of its peak."""

import math

import pytest
import torch
from torch import nn

from benchmarks import machine as machines
from benchmarks.machine import Machine, cpu_name, measure_machine, peak_of
from benchmarks.training import frozen_paths


def test_a_share_is_that_of_the_peak_in_the_same_type():
    peaks = {torch.float32: 2e9, torch.bfloat16: 8e9}
    machine = Machine("a CPU", "avx2", 2, peaks)
    assert machine.percent(1e9, 2.0) == 25
    assert machine.percent(1e9, 0.5, torch.bfloat16) == 25
    assert math.isnan(machine.percent(1e9, 1.0, torch.float16))
    text = str(machine)
    assert text.startswith("a CPU, avx2, 2 threads, torch ")
    assert text.endswith("a matrix product reaches 2 GFLOP/s in float32, 8 GFLOP/s in bfloat16")


@pytest.mark.parametrize("bfloat16", [False, True])
def test_types_without_hardware_have_no_peak(monkeypatch, bfloat16):
    sides = dict.fromkeys(("cpu", "cuda"), 32)
    monkeypatch.setattr(machines, "_SIDES", sides)
    monkeypatch.setattr(machines, "_SECONDS", 0.01)
    monkeypatch.setattr(machines, "has_bfloat16", lambda: bfloat16)
    found = measure_machine("cpu")
    assert (torch.bfloat16 in found.peaks) == bfloat16
    assert found.peaks[torch.float32] > 0
    assert found.threads == torch.get_num_threads()


def test_a_larger_product_takes_no_less_of_the_machine():
    device = torch.device("cpu")
    assert peak_of(torch.float32, device, 256) > peak_of(torch.float32, device, 4)


def test_processors_of_one_name_are_told_apart(monkeypatch):
    lines = ["processor\t: 0", "cpu family\t: 25", "model\t\t: 17", "model name\t: AMD EPYC"]
    monkeypatch.setattr(machines.Path, "read_text", lambda *_, **__: "\n".join(2 * lines))
    assert cpu_name() == "AMD EPYC (family 25, model 17)"


def test_a_system_that_says_nothing_has_a_cpu(monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(machines.Path, "read_text", fail)
    assert cpu_name() == "CPU"


def test_what_is_frozen_is_found_once_and_as_a_whole():
    net = nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1)), nn.ReLU(), nn.Linear(1, 1))
    net = nn.ModuleDict({"stem": net[0], "act": net[1], "head": nn.Sequential(net[2])})
    net.stem.requires_grad_(False)
    assert list(frozen_paths(net)) == ["stem"]
    net.head[0].requires_grad_(False)
    assert list(frozen_paths(net)) == ["stem", "head"]
    net.stem[0].requires_grad_(True)
    assert list(frozen_paths(net)) == ["stem.1", "head"]
