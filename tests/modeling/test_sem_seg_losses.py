"""Each loss against its formula, written as loops in float64."""

import math

import pytest
import torch
from detectron2.config import get_cfg

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.sem_seg.losses import (
    PIXEL_LOSSES,
    CrossEntropy,
    DiceLoss,
    FocalLoss,
    LovaszSoftmax,
    OhemCrossEntropy,
    SemSegLosses,
    image_level_loss,
)

CLASSES, IGNORE = 4, 7


def batch(seed=0, size=(2, 5, 6), scale=3.0):
    """Logits (N, K, H, W) in float64 and labels of classes 0 .. 2, a third of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    n, h, w = size
    logits = scale * torch.randn(n, CLASSES, h, w, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, CLASSES - 1, size, generator=generator)
    labels[torch.rand(size, generator=generator) < 0.33] = IGNORE
    return logits, labels


def pixels(logits, labels):
    """The pixels that count: their K probabilities and their class."""
    for image, truth in zip(logits, labels, strict=True):
        for y in range(truth.shape[0]):
            for x in range(truth.shape[1]):
                if truth[y, x] != IGNORE:
                    powers = [math.exp(value) for value in image[:, y, x].tolist()]
                    yield [power / sum(powers) for power in powers], int(truth[y, x])


def reference_cross_entropy(logits, labels, weights=(1,) * CLASSES):
    total = weight = 0.0
    for probabilities, truth in pixels(logits, labels):
        total -= weights[truth] * math.log(probabilities[truth])
        weight += weights[truth]
    return total / weight


def reference_ohem(logits, labels, probability, min_kept, weights=(1,) * CLASSES):
    ranked = sorted((p[truth], truth) for p, truth in pixels(logits, labels))
    kept = math.ceil(min_kept * len(ranked))
    hard = [x for rank, x in enumerate(ranked) if rank < kept or x[0] <= probability]
    total = sum(-weights[truth] * math.log(p) for p, truth in hard)
    return total / sum(weights[truth] for _, truth in hard) if hard else 0.0


def reference_focal(logits, labels, gamma, weights=(1,) * CLASSES):
    total = weight = 0.0
    for probabilities, truth in pixels(logits, labels):
        p = probabilities[truth]
        total -= weights[truth] * (1 - p) ** gamma * math.log(p)
        weight += weights[truth]
    return total / weight


def reference_dice(logits, labels):
    losses = []
    for number in range(CLASSES):
        common = squares = size = 0.0
        for probabilities, truth in pixels(logits, labels):
            common += probabilities[number] * (truth == number)
            squares += probabilities[number] ** 2
            size += truth == number
        if size:
            losses.append(1 - 2 * common / (squares + size))
    return sum(losses) / len(losses)


def jaccard_loss(truth, wrong):
    """1 - |M \\ wrong| / |M u wrong| of a class with the pixels M (Berman et al., equation 5)."""
    return len(wrong) / len(truth | wrong) if truth | wrong else 0.0


def reference_lovasz(logits, labels):
    """Definition 1 of the paper: sets of wrong pixels, grown one by one."""
    everything = list(pixels(logits, labels))
    losses = []
    for number in range(CLASSES):
        truth = {i for i, (_, label) in enumerate(everything) if label == number}
        if not truth:
            continue
        errors = {
            i: 1 - p[number] if i in truth else p[number] for i, (p, _) in enumerate(everything)
        }
        total, wrong = 0.0, set()
        for i in sorted(errors, key=errors.get, reverse=True):
            before = jaccard_loss(truth, wrong)
            wrong = wrong | {i}
            total += errors[i] * (jaccard_loss(truth, wrong) - before)
        losses.append(total)
    return sum(losses) / len(losses)


WEIGHTS = torch.tensor([1.0, 0.25, 3.0, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("loss", "reference"),
    [
        (CrossEntropy(IGNORE), reference_cross_entropy),
        (CrossEntropy(IGNORE, WEIGHTS), lambda *x: reference_cross_entropy(*x, WEIGHTS.tolist())),
        (
            OhemCrossEntropy(IGNORE, probability=0.3, min_kept=0.0),
            lambda *x: reference_ohem(*x, 0.3, 0.0),
        ),
        (
            OhemCrossEntropy(IGNORE, probability=1e-4, min_kept=0.3),
            lambda *x: reference_ohem(*x, 1e-4, 0.3),
        ),
        (
            OhemCrossEntropy(IGNORE, WEIGHTS, probability=0.1, min_kept=0.5),
            lambda *x: reference_ohem(*x, 0.1, 0.5, WEIGHTS.tolist()),
        ),
        (FocalLoss(IGNORE, gamma=2.0), lambda *x: reference_focal(*x, 2.0)),
        (
            FocalLoss(IGNORE, WEIGHTS, gamma=0.5),
            lambda *x: reference_focal(*x, 0.5, WEIGHTS.tolist()),
        ),
        (DiceLoss(IGNORE), reference_dice),
        (LovaszSoftmax(IGNORE), reference_lovasz),
    ],
    ids=[
        "cross_entropy",
        "cross_entropy weighted",
        "ohem by probability",
        "ohem by rank",
        "ohem weighted",
        "focal",
        "focal weighted",
        "dice",
        "lovasz",
    ],
)
def test_a_loss_is_its_formula(loss, reference, seed):
    logits, labels = batch(seed)
    assert loss(logits, labels).item() == pytest.approx(reference(logits, labels), rel=1e-9)


def every_loss(ignore_value=IGNORE):
    keys = config().DEEPFUSE_D2.MODEL.SEM_SEG_HEAD
    return {name: build(ignore_value, None, keys) for name, build in PIXEL_LOSSES.items()}


def config(**keys):
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = CLASSES
    for key, value in keys.items():
        head = cfg.MODEL.SEM_SEG_HEAD
        (head if key in head else cfg.DEEPFUSE_D2.MODEL.SEM_SEG_HEAD)[key] = value
    return cfg


@pytest.mark.parametrize("name", list(PIXEL_LOSSES))
def test_a_batch_that_is_ignored_altogether_has_the_loss_0_with_a_gradient_of_0(name):
    logits = batch()[0].float().requires_grad_()
    loss = every_loss()[name](logits, torch.full((2, 5, 6), IGNORE))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("name", list(PIXEL_LOSSES))
def test_ignored_pixels_change_neither_the_loss_nor_get_a_gradient(name):
    loss = every_loss()[name]
    logits, labels = batch()
    logits = logits.requires_grad_()
    more = torch.cat([logits, 9 * torch.randn(2, CLASSES, 5, 6, dtype=torch.float64)], dim=-1)
    value = loss(more, torch.cat([labels, torch.full((2, 5, 6), IGNORE)], dim=-1))
    assert value.item() == pytest.approx(loss(logits, labels).item(), rel=1e-9)
    value.backward()
    ignored = (labels == IGNORE)[:, None].expand_as(logits)
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().max() > 0


@pytest.mark.parametrize("name", list(PIXEL_LOSSES))
@pytest.mark.parametrize("scale", [0.0, 1e4], ids=["undecided", "certain"])
def test_gradients_are_finite_for_extreme_logits(name, scale):
    logits, labels = batch(scale=scale)
    logits = logits.float().requires_grad_()
    every_loss()[name](logits, labels).backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("name", list(PIXEL_LOSSES))
def test_the_gradient_is_the_slope_of_the_loss(name):
    logits, labels = batch(size=(1, 2, 3))
    assert torch.autograd.gradcheck(
        lambda x: every_loss()[name](x, labels), logits.requires_grad_(), atol=1e-6
    )


@pytest.mark.parametrize("name", list(PIXEL_LOSSES))
def test_a_perfect_prediction_has_almost_no_loss(name):
    labels = batch()[1]
    logits = torch.zeros(2, CLASSES, 5, 6)
    logits.scatter_(1, labels.clamp(max=CLASSES - 1)[:, None], 50.0)
    assert every_loss()[name](logits, labels).item() < 1e-6


def test_lovasz_of_a_hard_prediction_is_the_mean_jaccard_loss_of_the_classes_present():
    labels = torch.tensor([[[0, 0, 0, 1, 1, 2]]])
    predicted = torch.tensor([[[0, 0, 1, 1, 1, 0]]])
    logits = 100.0 * torch.nn.functional.one_hot(predicted, CLASSES).permute(0, 3, 1, 2).float()
    # IoU of class 0: 2 of 4, of 1: 2 of 3, of 2: none
    expected = (2 / 4 + 1 / 3 + 1) / 3
    assert LovaszSoftmax(IGNORE)(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_focal_with_gamma_0_is_cross_entropy():
    logits, labels = batch()
    focal = FocalLoss(IGNORE, WEIGHTS, gamma=0.0)(logits, labels)
    torch.testing.assert_close(focal, CrossEntropy(IGNORE, WEIGHTS)(logits, labels))


def test_several_losses_come_by_name_with_their_weights():
    cfg = config(LOSSES=[["cross_entropy", 1.0], ["lovasz", 0.5]], IGNORE_VALUE=IGNORE)
    logits, labels = batch()
    losses = SemSegLosses(cfg)(logits, labels)
    assert list(losses) == ["cross_entropy", "lovasz"]
    assert losses["cross_entropy"] == CrossEntropy(IGNORE)(logits, labels)
    assert losses["lovasz"] == 0.5 * LovaszSoftmax(IGNORE)(logits, labels)


def test_class_weights_of_the_config_reach_the_losses_and_not_the_checkpoint():
    cfg = config(CLASS_WEIGHTS=WEIGHTS.tolist(), IGNORE_VALUE=IGNORE)
    losses = SemSegLosses(cfg)
    logits, labels = batch()
    expected = CrossEntropy(IGNORE, WEIGHTS.float())(logits.float(), labels)
    assert losses(logits.float(), labels)["cross_entropy"] == expected
    assert losses.state_dict() == {}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"LOSSES": [["hinge", 1.0]]}, r"LOSSES holds \['hinge', 1.0\].*'cross_entropy', 'dice'"),
        ({"LOSSES": [["dice", 0.0]]}, "a weight above 0"),
        ({"LOSSES": []}, "LOSSES is empty"),
        ({"CLASS_WEIGHTS": [1.0, 2.0]}, "has 2 values from 1.0 to 2.0; give one for each of the 4"),
        ({"CLASS_WEIGHTS": [1.0, -2.0, 1.0, 1.0]}, "0 or more"),
        ({"LOSSES": [["ohem", 1.0]], "OHEM_PROBABILITY": 0.0}, "OHEM_PROBABILITY"),
        ({"LOSSES": [["ohem", 1.0]], "OHEM_MIN_KEPT": 2.0}, "OHEM_MIN_KEPT"),
        ({"LOSSES": [["focal", 1.0]], "FOCAL_GAMMA": -1.0}, "FOCAL_GAMMA"),
    ],
)
def test_a_wrong_loss_is_named(keys, message):
    with pytest.raises(ConfigError, match=message):
        SemSegLosses(config(**keys))


def test_the_image_level_loss_asks_which_classes_an_image_holds():
    logits = torch.randn(3, CLASSES, dtype=torch.float64)
    labels = torch.full((3, 2, 2), IGNORE)
    labels[0, 0, 1], labels[0, 1, 1], labels[2, 0, 0] = 2, 0, 3
    total = 0.0
    for image, present in ((0, {0, 2}), (2, {3})):
        for number in range(CLASSES):
            p = 1 / (1 + math.exp(-logits[image, number].item()))
            total -= math.log(p if number in present else 1 - p)
    expected = total / (2 * CLASSES)
    assert image_level_loss(logits, labels, IGNORE).item() == pytest.approx(expected, rel=1e-9)
