"""A tiny MiniCity and a Mask R-CNN that trains on it in seconds."""

import pytest

from deepfuse_d2.data.minicity import generate_minicity

# A network as small as detectron2's parts allow; images are padded to 64 x 128.
TINY = [
    "MODEL.DEVICE", "cpu",
    "MODEL.WEIGHTS", "",
    "MODEL.RESNETS.NORM", "FrozenBN",
    "MODEL.NECK.OUT_CHANNELS", "32",
    "MODEL.NECK.NORM", "",
    "MODEL.ROI_BOX_HEAD.FC_DIM", "32",
    "MODEL.ROI_MASK_HEAD.CONV_DIM", "32",
    "MODEL.ROI_MASK_HEAD.NUM_CONV", "1",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "16",
    "MODEL.CHANNELS_LAST", "False",
    "INPUT.MIN_SIZE_TRAIN", "(64,)",
    "INPUT.MIN_SIZE_TEST", "64",
    "DATALOADER.NUM_WORKERS", "0",
    "SOLVER.IMS_PER_BATCH", "2",
    "SOLVER.AMP.ENABLED", "False",
    "SOLVER.WARMUP_ITERS", "0",
    "SEED", "7",
]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_minicity(tmp_path_factory):
    """Folder for DETECTRON2_DATASETS with a MiniCity of 4 + 2 frames of 256 x 128."""
    root = tmp_path_factory.mktemp("datasets")
    generate_minicity(root / "minicity", num_train=4, num_val=2, width=256, height=128, workers=1)
    return root


@pytest.fixture
def tiny_opts():
    """Config overrides that make the quickstart's network tiny."""
    return list(TINY)
