"""The race of the trainers: the same images and weights for both, and when curves are alike."""

import numpy as np
import pytest
from detectron2.utils.events import EventStorage

from benchmarks.training import flops_of_step
from benchmarks.training_race import candidates, curves


@pytest.fixture
def race():
    """The modules beside the command."""
    return candidates, curves


def test_a_machine_runs_what_it_can_and_stock_comes_first(race):
    candidates, _ = race
    names = {
        flags: [kind.name for kind in candidates.by_device(cuda=flags[0], bfloat16=flags[1])]
        for flags in ((False, False), (False, True), (True, True))
    }
    assert names[False, False] == [
        "detectron2, float32", "ours, float32", "ours with DeepFuseFPN, float32",
    ]  # fmt: skip
    assert "ours, bfloat16" in names[False, True]
    assert "detectron2, AMP (float16)" not in names[False, True]
    assert set(names[True, True]) == {kind.name for kind in candidates.KINDS}
    assert {chosen[0] for chosen in names.values()} == {"detectron2, float32"}


def test_both_trainers_read_the_same_images_and_lose_the_same(
    race, repository, tiny_opts, tiny_minicity, monkeypatch
):
    candidates, _ = race
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))
    keys = dict(zip(tiny_opts[::2], tiny_opts[1::2], strict=True))
    del keys["DEEPFUSE_D2.MODEL.CHANNELS_LAST"]
    extra = {"NAME": "race_test", "FORMAT": "cityscapes_instances", "SPLIT": "train"}
    keys |= {
        "MODEL.NECK.OUT_CHANNELS": "16", "MODEL.FPN.OUT_CHANNELS": "16",
        "DATASETS.EXTRA": repr([{**extra, "ROOT": str(tiny_minicity / "minicity")}]),
        "DATASETS.TRAIN": "('race_test',)", "DATASETS.TEST": "()",
        "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",
        "INPUT.CROP.ENABLED": "False", "INPUT.RANDOM_FLIP": "none",
        "DEEPFUSE_D2.INPUT.MIN_INSTANCE_AREA": "0",
        "DEEPFUSE_D2.SOLVER.OPTIMIZER": "SGD", "SOLVER.BASE_LR": "0.001",
        # boxes of whole numbers that are resized lose their fractions in detectron2's mapper
        "INPUT.MIN_SIZE_TRAIN": "(128,)", "MODEL.RESNETS.NORM": "BN",
    }  # fmt: skip
    config = repository / "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml"
    stock, ours = (
        candidates.Candidate(kind, config, keys, seed=3)
        for kind in candidates.by_device(cuda=False, bfloat16=False)[:2]
    )
    assert type(stock.trainer).__module__.startswith("detectron2.")
    assert type(ours.trainer).__module__.startswith("deepfuse_d2.")
    ours.model.load_state_dict(stock.model.state_dict())
    # one network, whatever computes it; regions of the batch differ
    assert flops_of_step(ours) == pytest.approx(flops_of_step(stock), rel=0.1)
    found = {}
    for candidate in (stock, ours):
        with EventStorage():
            for _ in range(3):
                assert candidate.step() > 0
                found.setdefault(candidate, []).append((candidate.images.last, candidate.loss))
    # rounding lets boxes change places in a ranking, so that later regions are others
    tolerances = 1e-4, 0.02, 0.02
    for one, other, tolerance in zip(found[stock], found[ours], tolerances, strict=True):
        assert len(one[0]) == 2
        assert other[0] == one[0]
        assert other[1] == pytest.approx(one[1], rel=tolerance)
    assert len({loss for _, loss in found[stock]}) == 3


def test_a_curve_is_smoothed_by_means_of_neighbours(race):
    assert race[1].smooth([1.0, 2.0, 6.0, 0.0], 2) == pytest.approx([1.5, 4.0, 3.0])


def test_programs_are_alike_if_they_lie_closer_than_their_seeds(race):
    _, curves = race
    stock = np.array([[1.0, 1.0], [2.0, 3.0]])
    between, seeds = curves.distances(stock, stock + 0.25)
    assert between == pytest.approx([0.25, 0.25])
    assert seeds == pytest.approx([1.5, 2.0])
    # seeds that differ in opposite ways cancel out in the mean curve, and not among themselves
    between, seeds = curves.distances(stock, stock[::-1])
    assert between == pytest.approx([0.0, 0.0])
    assert seeds == pytest.approx([1.5, 2.0])


def test_a_plot_has_a_line_for_each_program(race, tmp_path):
    curves = {"stock": np.random.rand(2, 30), "ours": np.random.rand(2, 30)}  # noqa: NPY002
    path = tmp_path / "new" / "curves.svg"
    race[1]._plot(curves, 5, path)
    assert path.read_text().count("<svg") == 1
