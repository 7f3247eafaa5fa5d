"""What makes training fast, each switch alone and all together: the same losses."""

import pytest
import torch
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage
from torch import nn

from deepfuse_d2.engine import Trainer, load_config
from deepfuse_d2.engine.speed import mixed_precision
from deepfuse_d2.engine.speed.stage_checkpointing import checkpointed

# Where two proposals of a random network score alike to the rounding of floats, another one is
# kept, and of the 192 sampled regions one may be another.
ROUNDING = 1e-3
# key -> value, and how far the losses may be from those with everything off
SWITCHES = {
    "DEEPFUSE_D2.MODEL.FAST_KERNELS": ("True", ROUNDING),
    "DEEPFUSE_D2.MODEL.CHANNELS_LAST": ("True", ROUNDING),
    "DEEPFUSE_D2.INPUT.FAST_MAPPER": ("True", 1e-4),
    "DEEPFUSE_D2.SOLVER.FUSED": ("True", 1e-4),
    "DEEPFUSE_D2.SOLVER.CPU_KEEP_MEMORY": ("True", 1e-4),
    "MODEL_EMA.ENABLED": ("True", 1e-4),
    "DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES": ("['res2', 'res4']", 1e-4),
    "MODEL.COMPILE.ENABLED": ("True", 1e-4),
    "SOLVER.AMP.ENABLED": ("True", 0.05),
    # other regions are drawn where a part has fewer images
    "DEEPFUSE_D2.SOLVER.ACCUMULATE": ("2", 0.25),
}
OFF = {
    **{key: "False" for key, (value, _) in SWITCHES.items() if value == "True"},
    "DEEPFUSE_D2.MODEL.BACKBONE.CHECKPOINT_STAGES": "[]",
    "DEEPFUSE_D2.SOLVER.ACCUMULATE": "1",
    # all that torch.compile does before it generates code
    "MODEL.COMPILE.BACKEND": "eager",
    "DEEPFUSE_D2.SOLVER.AMP.DTYPE": "bfloat16",
    # A step of 1e-3 overshoots from a loss of 4 to 11, and what is rounded in its gradients then
    # decides about the second loss, on each kind of CPU otherwise. A short one moves it by
    # |gradient|^2 * rate, of which bfloat16 (8 bits) changes a hundredth part.
    "SOLVER.BASE_LR": "1e-4",
    "INPUT.CROP.ENABLED": "False",
    "INPUT.MIN_SIZE_TRAIN": "(128,)",
    "DATASETS.TEST": "()",
}


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    monkeypatch.setattr(mixed_precision, "has_bfloat16", lambda: True)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def train(repository, tiny_opts, tiny_minicity):
    """Function from keys that are switched on to the losses of two steps."""

    def losses(*keys):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))
            on = {key: SWITCHES[key][0] for key in keys}
            words = [word for pair in {**OFF, **on}.items() for word in pair]
            config = str(repository / "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml")
            seed_all_rng(1)
            trainer = Trainer(load_config(config, [*tiny_opts, *words]))
            found = []
            with EventStorage() as storage:
                for trainer.iter in range(2):
                    torch.manual_seed(trainer.iter)
                    trainer.run_step()
                    found.append(storage.history("total_loss").latest())
        return found

    return losses


@pytest.fixture(scope="module")
def plain(train):
    return train()


@pytest.mark.parametrize("key", SWITCHES)
def test_each_switch_alone_leaves_the_losses(train, plain, key):
    first, second = train(key)
    tolerance = SWITCHES[key][1]
    assert first == pytest.approx(plain[0], rel=tolerance)
    assert second == pytest.approx(plain[1], rel=max(tolerance, 0.05))
    assert first != second


def test_all_switches_work_together(train, plain):
    assert train(*SWITCHES) == pytest.approx(plain, rel=0.25)


def test_a_compiled_stage_that_is_computed_twice_counts_a_batch_once():
    def stage():
        torch.manual_seed(0)
        return checkpointed(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))

    compiled, plain = stage(), stage()
    compiled.compile(backend="aot_eager")
    x = torch.randn(2, 3, 8, 8)
    for module in (compiled, plain):
        module(x).square().sum().backward()
    for (name, ours), theirs in zip(compiled.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    for ours, theirs in zip(compiled.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
