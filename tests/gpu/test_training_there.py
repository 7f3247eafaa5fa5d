"""A training on the device: in each precision, compiled, in a group of one, and its evaluation."""

import copy
import json
import math

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from benchmarks.inference_candidates import build, make_images
from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.kernels.capabilities import has_bfloat16, why_not_compile

CONFIG = "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"


@pytest.fixture
def train(repository, device, tiny_minicity, tiny_opts, tmp_path, monkeypatch):
    """Train some iterations on the device; returns the metrics of each, and the results."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))

    def run(*opts, folder="run", iterations=3):
        words = [
            *tiny_opts, "MODEL.DEVICE", str(device), "SOLVER.MAX_ITER", str(iterations),
            # random norms that are frozen let maps grow, and rounding with them
            "MODEL.RESNETS.NORM", "BN",
            "MONITOR.PERIOD", "1", "OUTPUT_DIR", str(tmp_path / folder), *opts,
        ]  # fmt: skip
        cfg = load_config(str(repository / CONFIG), words)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        results = trainer.train()
        lines = (tmp_path / folder / "metrics.json").read_text().splitlines()
        return [json.loads(line) for line in lines], results

    return run


def test_a_training_learns_and_is_evaluated_on_the_device(train, device):
    lines, results = train("TEST.EVAL_PERIOD", "2", "MODEL_EMA.ENABLED", "True")
    losses = [line["total_loss"] for line in lines if "total_loss" in line]
    assert len(losses) >= 3
    assert all(map(math.isfinite, losses))
    assert "AP50" in results["segm"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mixed_precision_starts_at_the_loss_of_float32(train, device, dtype):
    if device.type == "cpu" and (dtype == "float16" or not has_bfloat16()):
        pytest.skip(f"{dtype} is not computed by this CPU's hardware")
    amp = ["SOLVER.AMP.ENABLED", "True", "DEEPFUSE_D2.SOLVER.AMP.DTYPE", dtype]
    test = ["DATASETS.TEST", "()"]
    full, mixed = train(*test)[0], train(*amp, *test, folder=dtype)[0]
    # rounding of scores makes other proposals
    assert mixed[0]["total_loss"] == pytest.approx(full[0]["total_loss"], rel=0.2)
    assert all(math.isfinite(line["total_loss"]) for line in mixed)


def test_a_compiled_training_loses_the_same(train, device):
    if device.type == "cpu":
        pytest.skip("on a CPU held by tests/engine/test_compile.py")
    if reason := why_not_compile(device.type):
        pytest.skip(f"torch.compile does not work here: {reason}")
    test = ["DATASETS.TEST", "()"]
    plain = train(*test)[0]
    compiled = train("MODEL.COMPILE.ENABLED", "True", *test, folder="compiled")[0]
    assert compiled[0]["total_loss"] == pytest.approx(plain[0]["total_loss"], rel=0.01)


def test_a_group_of_one_process_computes_the_gradients_of_none(
    repository, device, tiny_opts, tmp_path
):
    cfg = load_config(str(repository / CONFIG), tiny_opts)
    model = build(cfg, make_images(1, (64, 128)))  # norms with the statistics of an image
    backbone = copy.deepcopy(model.backbone).to(device).eval()
    image = torch.rand(2, 3, 64, 128, device=device)

    def gradients(network):
        network.zero_grad()
        sum(feature.square().mean() for feature in network(image).values()).backward()
        return [p.grad.clone() for p in network.parameters() if p.grad is not None]

    expected = gradients(backbone)
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", init_method=f"file://{tmp_path}/meeting",
        rank=0, world_size=1,
    )  # fmt: skip
    try:
        ids = [0] if device.type == "cuda" else None
        with EventStorage():
            found = gradients(DistributedDataParallel(backbone, device_ids=ids))
    finally:
        torch.distributed.destroy_process_group()
    assert len(found) == len(expected) > 10
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
