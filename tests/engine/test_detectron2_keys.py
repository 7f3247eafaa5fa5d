"""docs/detectron2_keys.md has every key of detectron2's, and what it says of each holds."""

import argparse
import contextlib
import fnmatch
import importlib.util
import pickle
import re

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import MetadataCatalog
from detectron2.engine import default_setup
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.structures import BoxMode
from test_watching import INSTANCES, META_ARCHITECTURES, config, data, fields  # noqa: F401
from torch import nn
from yacs.config import CfgNode as YacsNode

from deepfuse_d2.config.checking import check_config
from deepfuse_d2.config.flatten import flatten
from deepfuse_d2.engine import Trainer
from deepfuse_d2.engine.solver.schedule import build_lr_scheduler
from deepfuse_d2.errors import ConfigError, DatasetError

KINDS = ("honoured", "refused", "not ours")
SHORT = [
    "SOLVER.MAX_ITER", 1, "MODEL_EMA.ENABLED", False, "MONITOR.VALIDATION_LOSS_PERIOD", 0,
    "MONITOR.PICTURES_PERIOD", 0, "MONITOR.WRITERS", ["json"], "TEST.EVAL_PERIOD", 0,
]  # fmt: skip
# Keys of newer versions of detectron2 than the one that we install.
NEWER = {"FLOAT32_PRECISION"}
KEYPOINTS = ["MODEL.KEYPOINT_ON", True, "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", [16]]


@pytest.fixture(scope="module")
def table(request):
    """pattern of keys -> kind, by the rows of the page."""
    page = (request.config.rootpath / "docs" / "detectron2_keys.md").read_text()
    rows = re.findall(r"^\| (`[^|]*`) \| ([a-z ]+) \|", page, flags=re.MULTILINE)
    assert rows
    found = {}
    for names, kind in rows:
        for name in re.findall(r"`([^`]+)`", names):
            assert name not in found, name
            found[name] = kind
    return found


def kind_of(key, table):
    """Of the row with the key itself, or else of the one row whose pattern takes it."""
    if key in table:
        return table[key]
    (kind,) = [kind for pattern, kind in table.items() if fnmatch.fnmatchcase(key, pattern)]
    return kind


def test_every_key_stands_in_one_row_and_every_row_has_keys(table):
    keys = list(flatten(get_cfg()))
    assert len(keys) > 150
    assert set(table.values()) <= set(KINDS)
    for key in keys:
        assert kind_of(key, table) in KINDS, key
    for pattern in set(table) - NEWER:
        assert any(fnmatch.fnmatchcase(key, pattern) for key in keys), pattern


@contextlib.contextmanager
def reads_of(cfg, monkeypatch):
    """The keys that somebody asks `cfg`, or a copy of it, for by name."""
    seen = set()

    def mark(node, path):
        for name, value in node.items():
            if isinstance(value, CfgNode):
                vars(value)["_path"] = f"{path}{name}."
                mark(value, f"{path}{name}.")

    def recorded(ask):
        def read(node, name):
            if isinstance(name, str) and not name.startswith("_"):
                seen.add(f"{vars(node).get('_path', '')}{name}")
            return ask(node, name)

        return read

    mark(cfg, "")
    with monkeypatch.context() as patch:
        patch.setattr(YacsNode, "__getattr__", recorded(YacsNode.__getattr__))
        patch.setattr(YacsNode, "__getitem__", recorded(dict.__getitem__), raising=False)
        yield seen


def short(name, folder, *overrides):
    cfg = config(name, folder)
    cfg.merge_from_list([*SHORT, *overrides])
    return cfg


def write_proposals(path):
    """Of the two images, a box each, in detectron2's form."""
    content = {
        "ids": [0, 1],
        "boxes": [np.array([[1.0, 1.0, 9.0, 9.0]])] * 2,
        "objectness_logits": [np.array([1.0])] * 2,
        "bbox_mode": BoxMode.XYXY_ABS,
    }
    path.write_bytes(pickle.dumps(content))
    return str(path)


def test_what_is_honoured_is_read_where_it_counts(table, tmp_path, monkeypatch, repository):
    monkeypatch.chdir(repository)
    seen = set()

    def watch(cfg, work):
        with reads_of(cfg, monkeypatch) as found:
            try:
                work(cfg)
            finally:
                seen.update(found)

    def train(cfg):
        default_setup(cfg, argparse.Namespace(config_file="", eval_only=False))
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()

    # one short training with all that hangs on to it, then every other model is built alone
    everything = [
        "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (64,), "TEST.AUG.MAX_SIZE", 128,
        "TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 1, "VIS_PERIOD", 1,
        "TEST.EXPECTED_RESULTS", [["bbox", "AP", 0.0, 100.0]],
        "DATALOADER.SAMPLER_TRAIN", "RepeatFactorTrainingSampler", "INPUT.CROP.ENABLED", True,
        "SOLVER.CLIP_GRADIENTS.ENABLED", True,
    ]  # fmt: skip
    watch(short("GeneralizedRCNN", tmp_path / "rcnn", *everything), train)
    for name in META_ARCHITECTURES:
        watch(short(name, tmp_path / name), build_model)
    cascade = ["MODEL.ROI_HEADS.NAME", "CascadeROIHeads",
               "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG", True]  # fmt: skip
    watch(short("GeneralizedRCNN", tmp_path / "cascade", *cascade), build_model)
    watch(short("GeneralizedRCNN", tmp_path / "keypoints", *KEYPOINTS), build_model)
    MetadataCatalog.get(INSTANCES).set(keypoint_names=["nose"], keypoint_flip_map=[])
    with contextlib.suppress(DatasetError):  # no image of these has keypoints, which is checked
        watch(short("GeneralizedRCNN", tmp_path, *KEYPOINTS), Trainer.build_train_loader)
    files = (write_proposals(tmp_path / "proposals.pkl"),)
    loaded = [
        "MODEL.LOAD_PROPOSALS", True, "MODEL.PROPOSAL_GENERATOR.NAME", "PrecomputedProposals",
        "DATASETS.PROPOSAL_FILES_TRAIN", files, "DATASETS.PROPOSAL_FILES_TEST", files,
    ]  # fmt: skip
    cfg = short("GeneralizedRCNN", tmp_path, *loaded)
    watch(cfg, Trainer.build_train_loader)
    watch(cfg, lambda cfg: Trainer.build_test_loader(cfg, INSTANCES))
    cfg = short("GeneralizedRCNN", tmp_path, "MODEL.FPN.IN_FEATURES", ["res2", "res3"])
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    watch(cfg, build_backbone)
    cfg.MODEL.ANCHOR_GENERATOR.NAME = "RotatedAnchorGenerator"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[8, 16]]
    watch(cfg, lambda cfg: build_anchor_generator(cfg, [ShapeSpec(stride=s) for s in (4, 8)]))
    layer = nn.Linear(2, 2)
    for schedule in ("WarmupMultiStepLR", "WarmupCosineLR", "WarmupStepWithFixedGammaLR"):
        cfg = short("RetinaNet", tmp_path, "SOLVER.LR_SCHEDULER_NAME", schedule)
        watch(cfg, lambda cfg: build_lr_scheduler(cfg, Trainer.build_optimizer(cfg, layer)))

    # of losses over some classes, chosen by how often each is seen
    MetadataCatalog.get(INSTANCES).set(
        class_image_count=[{"id": i + 1, "image_count": 2} for i in range(3)]
    )
    federated = ["MODEL.ROI_BOX_HEAD.USE_FED_LOSS", True, "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE", True]
    watch(short("GeneralizedRCNN", tmp_path, *federated), build_model)
    clipped = short("RetinaNet", tmp_path, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    clipped.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "norm"
    layer(torch.ones(1, 2)).sum().backward()
    watch(clipped, lambda cfg: Trainer.build_optimizer(cfg, layer).step())

    honoured = {key for key in flatten(get_cfg()) if kind_of(key, table) == "honoured"}
    # detectron2 reads these from a copy of its own; see below
    assert honoured - seen - NEWER == {"CUDNN_BENCHMARK"}


def test_the_search_for_the_fastest_convolutions_is_switched(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    cfg = short("RetinaNet", tmp_path, "CUDNN_BENCHMARK", True)
    default_setup(cfg, argparse.Namespace(config_file="", eval_only=False))
    assert torch.backends.cudnn.benchmark


@pytest.mark.skipif("FLOAT32_PRECISION" not in get_cfg(), reason="detectron2 of before this key")
def test_the_precision_of_float32_is_set_or_refused(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # it is for GPUs alone
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    cfg = short("RetinaNet", tmp_path, "FLOAT32_PRECISION", "high")
    check_config(cfg)
    default_setup(cfg, argparse.Namespace(config_file="", eval_only=False))
    assert asked == ["high"]
    with pytest.raises(ConfigError, match="FLOAT32_PRECISION"):
        check_config(short("RetinaNet", tmp_path, "FLOAT32_PRECISION", "low"))


@pytest.mark.skipif(
    importlib.util.find_spec("detectron2._C") is not None, reason="detectron2 is compiled here"
)
def test_what_is_refused_is_refused(table, tmp_path):
    changed = {"MODEL.RESNETS.DEFORM_ON_PER_STAGE": [True] * 4}
    refused = {key for key in flatten(get_cfg()) if kind_of(key, table) == "refused"}
    assert refused == set(changed)
    for key, value in changed.items():
        with pytest.raises(ConfigError, match=key):
            check_config(short("RetinaNet", tmp_path, key, value))


def test_keys_of_detectron2s_fpn_beside_our_necks_are_told(tmp_path, caplog):
    check_config(short("RetinaNet", tmp_path))
    assert "MODEL.FPN" not in caplog.text
    check_config(short("RetinaNet", tmp_path, "MODEL.FPN.NORM", "GN"))
    assert "MODEL.FPN.NORM has no effect under build_neck_backbone" in caplog.text
