"""Losses on the assistants of a composite: in every meta-architecture, and nothing at inference."""

import copy

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from neck_suite import small_config
from test_meta_architectures import (
    CASCADE,
    MASK_RCNN,
    NECKS,
    PANOPTIC,
    RETINANET,
    batch,
    config,
)

from deepfuse_d2.engine import Trainer
from deepfuse_d2.engine.hooks.validation_loss import mean_losses
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.backbone import build_composite_backbone
from deepfuse_d2.modeling.backbone.branches import fuse_branches, join_branches, split_branches
from deepfuse_d2.modeling.meta_arch import supervise_assistants

COMPOSITE = (
    "MODEL.NECK.BOTTOM_UP", "build_composite_backbone",
    "MODEL.COMPOSITE.BOTTOM_UP", "build_resnet_backbone", "MODEL.COMPOSITE.ZERO_INIT", False,
)  # fmt: skip
SEMANTIC = (
    "MODEL.META_ARCHITECTURE", "FusionSemanticSegmentor", "MODEL.SEM_SEG_HEAD.NUM_CLASSES", 4,
)  # fmt: skip
GCN = (
    *SEMANTIC, "MODEL.SEM_SEG_HEAD.NAME", "ExFuseHead", "MODEL.BACKBONE.NAME",
    "build_composite_backbone", "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res3", "res4", "res5"],
)  # fmt: skip
SEM_SEG_FPN = (
    *SEMANTIC, "MODEL.SEM_SEG_HEAD.NAME", "SemSegFPNHead", "MODEL.SEM_SEG_HEAD.CONVS_DIM", 32,
    "MODEL.SEM_SEG_HEAD.IN_FEATURES", ["p2", "p3", "p4", "p5"],
)  # fmt: skip
FCOS = (*RETINANET, "MODEL.META_ARCHITECTURE", "FCOS")
MODELS = {
    "Mask R-CNN": MASK_RCNN,
    "Cascade": CASCADE,
    "Panoptic FPN": PANOPTIC,
    "RetinaNet": RETINANET,
    "FCOS": FCOS,
    "semantic FPN": SEM_SEG_FPN,
    "ExFuse": GCN,
}


def make(kind, *more, neck="FPN"):
    torch.manual_seed(0)
    cfg = config(neck, (*COMPOSITE, *MODELS[kind], *more))
    return build_model(cfg), cfg


def losses_of(model, inputs, seed=1):
    torch.manual_seed(seed)
    with EventStorage() as storage:
        losses = model.train()(copy.deepcopy(inputs))
    return losses, storage


@pytest.mark.parametrize("kind", MODELS)
def test_assistants_get_the_losses_of_the_lead_times_their_weight(kind):
    model, _ = make(kind, "MODEL.COMPOSITE.NUM_BACKBONES", 3)
    parameters = [name for name, _ in model.named_parameters()]
    inputs = batch()
    plain, _ = losses_of(model, inputs)
    found = {}
    for weights in ((1.0, 1.0), (0.5, 2.0)):
        losses, storage = losses_of(supervise_assistants(copy.deepcopy(model), weights), inputs)
        assert set(losses) == set(plain) | {f"{n}_assistant{k}" for n in plain for k in (1, 2)}
        for name, loss in losses.items():
            assert torch.isfinite(loss), name
        found[weights] = losses
        logged = {n for n in storage.latest() if n.startswith("assistant")}
        assert bool(logged) == any("roi_head/" in n or "anchors" in n for n in storage.latest())
    for name, loss in found[1.0, 1.0].items():
        factor = {"1": 0.5, "2": 2.0}[name[-1]] if "assistant" in name else 1.0
        torch.testing.assert_close(found[0.5, 2.0][name], factor * loss, msg=name)
    supervised = supervise_assistants(model, (0.5, 1.0))
    assert [name for name, _ in supervised.named_parameters()] == parameters


@pytest.mark.parametrize("kind", MODELS)
def test_a_weight_of_zero_is_the_training_without_bit_for_bit(kind):
    model, _ = make(kind)
    supervised = supervise_assistants(copy.deepcopy(model), [0.0])
    inputs = batch()
    plain, _ = losses_of(model, inputs)
    losses, _ = losses_of(supervised, inputs)
    assert losses.keys() == plain.keys()
    for name, loss in plain.items():
        assert torch.equal(losses[name], loss), name


@pytest.mark.parametrize("kind", MODELS)
def test_the_losses_of_the_lead_are_those_of_a_training_without_assistants(kind):
    """Up to the sampling of boxes, which draws from the same stream."""
    all_boxes = ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 64, "MODEL.RPN.BATCH_SIZE_PER_IMAGE", 9999)
    model, _ = make(kind, *all_boxes)
    supervised = supervise_assistants(copy.deepcopy(model), [0.5])
    inputs = batch()
    plain, _ = losses_of(model, inputs)
    losses, _ = losses_of(supervised, inputs)
    for name, loss in plain.items():
        torch.testing.assert_close(losses[name], loss, msg=name)


def test_boxes_of_all_branches_come_from_the_proposals_of_the_lead():
    model, _ = make("Mask R-CNN")
    supervise_assistants(model, [1.0])
    seen = []
    label = model.roi_heads.label_and_sample_proposals

    def note(proposals, targets):
        seen.append([p.proposal_boxes.tensor for p in proposals])
        return label(proposals, targets)

    model.roi_heads.label_and_sample_proposals = note
    losses_of(model, batch())
    assert len(seen) == 2
    for lead, assistant in zip(*seen, strict=True):
        assert torch.equal(lead, assistant)


@pytest.mark.parametrize("kind", MODELS)
def test_predictions_have_nothing_of_it(kind):
    model, _ = make(kind)
    supervised = supervise_assistants(copy.deepcopy(model), [0.5]).eval()
    inputs = batch()
    with torch.no_grad():
        features = supervised.backbone(torch.randn(1, 3, 64, 64))
        assert not [name for name in features if "assistant" in name]
        expected, found = model.eval()(inputs), supervised(inputs)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys()
        if "instances" in ours:
            assert torch.equal(ours["instances"].scores, theirs["instances"].scores)
        if "sem_seg" in ours:
            assert torch.equal(ours["sem_seg"], theirs["sem_seg"])


@pytest.mark.parametrize("kind", MODELS)
def test_losses_that_only_watch_are_those_of_the_lead(kind):
    model, _ = make(kind)
    supervised = supervise_assistants(copy.deepcopy(model), [0.5])
    inputs = batch()
    plain, found = mean_losses(model, [inputs]), mean_losses(supervised, [inputs])
    assert found == plain
    # and the training goes on with the losses of all
    assert any("assistant1" in name for name in losses_of(supervised, inputs)[0])


@pytest.mark.parametrize("kind", ["RetinaNet", "FCOS"])
def test_the_normaliser_of_a_dense_detector_moves_once_a_step(kind):
    model, _ = make(kind)
    supervised = supervise_assistants(copy.deepcopy(model), [0.5])
    inputs = batch()
    for _ in range(2):
        losses_of(model, inputs)
        losses_of(supervised, inputs)
        assert supervised.loss_normalizer == model.loss_normalizer


@pytest.mark.parametrize("neck", NECKS)
def test_the_assistants_learn_from_their_own_losses(neck):
    keys = ("MODEL.COMPOSITE.STYLE", "slc", "MODEL.COMPOSITE.ASSISTANT_WEIGHTS", [1.0])
    model, _ = make("RetinaNet", *keys, neck=neck)
    supervise_assistants(model, [1.0])
    losses, _ = losses_of(model, batch())
    sum(loss for name, loss in losses.items() if "assistant" in name).backward()
    networks = model.backbone.bottom_up.backbones
    assert networks[0].res3[0].conv1.weight.grad.abs().sum() > 0
    assert networks[1].res3[0].conv1.weight.grad is None


def test_the_trainer_supervises_by_the_key(repository, tiny_opts):
    from deepfuse_d2.engine import load_config

    opts = [*COMPOSITE, "MODEL.COMPOSITE.ASSISTANT_WEIGHTS", "[0.5]", *tiny_opts]
    name = str(repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml")
    model = Trainer.build_model(load_config(name, opts))
    assert model.backbone.bottom_up.gives_assistants
    assert not Trainer.build_model(load_config(name, opts[:6])).backbone.bottom_up.gives_assistants


def test_weights_without_a_composite_are_refused():
    model = build_model(config("FPN", MASK_RCNN))
    with pytest.raises(ConfigError, match=r"ASSISTANT_WEIGHTS is \[0.5\].*no composite backbone"):
        supervise_assistants(model, [0.5])
    model, _ = make("Mask R-CNN", "MODEL.COMPOSITE.STYLE", "slc")
    with pytest.raises(ConfigError, match=r"without what the lead does not take.*ASSISTANT_WEIG"):
        supervise_assistants(model, [0.5])
    with pytest.raises(ConfigError, match=r"2 weights for 1 assistants"):
        supervise_assistants(model, [0.5, 1.0])


def test_branches_are_joined_and_split_again():
    branches = [{"res2": torch.tensor(k)} for k in range(3)]
    joined = join_branches(branches)
    assert joined == {
        "res2": torch.tensor(2), "assistant1.res2": torch.tensor(0),
        "assistant2.res2": torch.tensor(1),
    }  # fmt: skip
    assert split_branches(joined) == branches
    fused = fuse_branches(lambda maps: {"p2": maps["res2"] + 10}, joined)
    assert fused["p2"] == 12
    assert fused["assistant2.p2"] == 11


def test_without_supervision_training_gives_the_lead_alone():
    cfg = small_config(*COMPOSITE)
    network = build_composite_backbone(cfg, ShapeSpec(channels=3)).train()
    assert list(network(torch.randn(1, 3, 64, 64))) == ["res2", "res3", "res4", "res5"]
