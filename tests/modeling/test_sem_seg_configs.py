"""The configs of the semantic heads: each builds its head, and the small ones learn."""

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from deepfuse_d2.engine import load_config

HEADS = ("RefineNet", "GCN", "ExFuse", "DeepFuse")
FOLDERS = ("CamVid", "MiniCity", "Cityscapes", "VOC")
NO_WEIGHTS = ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", ""]


def configs_of(repository, folder):
    files = sorted((repository / "configs" / folder).glob("sem_seg_*.yaml"))
    return [file for file in files if any(f"_{head}" in file.stem for head in HEADS)]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_config_builds_its_head_and_says_where_it_writes(repository, folder):
    files = configs_of(repository, folder)
    assert {head for head in HEADS for file in files if f"_{head}" in file.stem} == set(HEADS)
    for file in files:
        cfg = load_config(str(file), NO_WEIGHTS)
        assert f"output/{folder}/{file.stem}" == cfg.OUTPUT_DIR
        with torch.device("meta"):
            model = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)(cfg)
        head = type(model.sem_seg_head).__name__
        assert head.removesuffix("SemSegHead").removesuffix("Head") in file.stem, file.name
        parameters = sum(p.numel() for p in model.parameters())
        if folder in ("CamVid", "MiniCity"):
            assert parameters < 25e6, f"{file.name} is no small form"


@pytest.mark.parametrize("head", HEADS)
def test_the_small_form_trains_on_real_shaped_batches(repository, head):
    file = repository / "configs" / "CamVid" / f"sem_seg_R_18_{head}.yaml"
    torch.manual_seed(0)
    model = build_model(load_config(str(file), NO_WEIGHTS)).train()
    labels = torch.randint(0, 12, (90, 120))
    batch = [
        {"image": torch.randint(0, 256, (3, 90, 120)).float(), "sem_seg": labels} for _ in range(2)
    ]
    losses = model(batch)
    assert "loss_sem_seg" in losses
    assert ("loss_sem_seg_ecre" in losses) == (head == "ExFuse")
    total = sum(losses.values())
    total.backward()
    # untrained scores know nothing: the loss starts near that of guessing among 11 classes
    assert 1.5 < losses["loss_sem_seg"].item() < 5
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
