"""The device of these tests: a GPU where there is one, else the CPU, where they hold as well.

DEEPFUSE_TEST_DEVICE=cpu takes the CPU on a machine with a GPU.
"""

import os

import pytest
import torch


@pytest.fixture(scope="session")
def device():
    default = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(os.environ.get("DEEPFUSE_TEST_DEVICE", default))


@pytest.fixture(autouse=True)
def _full_precision(monkeypatch):
    """Convolutions in float32 as on a CPU: not in TF32, cuDNN's default, which has 10 bits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
