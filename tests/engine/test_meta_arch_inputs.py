"""Training, evaluation, prediction, analysis and optimisation ask the meta-architecture itself."""

import logging

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.layers import Conv2d
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import ImageList
from PIL import Image
from torch import nn

from deepfuse_d2.analysis import analyze
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.data.mappers.build import MAPPERS
from deepfuse_d2.engine import Trainer
from deepfuse_d2.errors import ConfigError, ImageError
from deepfuse_d2.inference import Predictor, optimize_for_inference
from deepfuse_d2.inference.export.graphs import build_graph
from deepfuse_d2.modeling import FusionSemanticSegmentor
from deepfuse_d2.modeling.meta_arch.protocol import (
    channels_of,
    example_of,
    inputs_of,
    mapper_name_of,
    meta_arch_of,
    predictions_of,
)

DATA = "meta_arch_inputs"
CLASSES = 3


class OwnSegmentor(FusionSemanticSegmentor):
    """Of another project: derived, and registered by another name."""


class ImageAndHeights(nn.Module):
    """Labels pixels of an image by its colours and by a coarse map of heights: two inputs."""

    mapper_name = "image_and_heights"
    predicts = ("sem_seg",)

    def __init__(self, cfg):
        super().__init__()
        mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (cfg.MODEL.PIXEL_MEAN, [50.0] * 3))
        self.register_buffer("pixel_mean", mean, False)
        self.register_buffer("pixel_std", std, False)
        self.colours = Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.heights = nn.ModuleList([nn.Conv2d(1, 8, 1)])
        self.classes = nn.Conv2d(8, CLASSES, 1)

    def inputs(self, batched_inputs):
        device = self.pixel_mean.device
        images = [
            (x["image"].to(device) - self.pixel_mean) / self.pixel_std for x in batched_inputs
        ]
        heights = [x["heights"].to(device) for x in batched_inputs]
        return {
            "image": ImageList.from_tensors(images, 4).tensor,
            "heights": ImageList.from_tensors(heights).tensor,
        }

    def example_input(self, height, width):
        return {
            "image": torch.zeros(3, height, width),
            "heights": torch.zeros(1, -(-height // 4), -(-width // 4)),
        }

    def outputs(self, inputs):
        coarse = self.heights[0](inputs["heights"])
        x = self.norm(self.colours(inputs["image"]))
        return {"sem_seg": self.classes((x + F.interpolate(coarse, x.shape[-2:])).relu())}

    def forward(self, batched_inputs):
        logits = self.outputs(self.inputs(batched_inputs))["sem_seg"]
        if self.training:
            labels = ImageList.from_tensors([x["sem_seg"] for x in batched_inputs], 4, 255).tensor
            return {"loss_sem_seg": F.cross_entropy(logits, labels, ignore_index=255)}
        sizes = [x["image"].shape[-2:] for x in batched_inputs]
        return [{"sem_seg": x[:, :h, :w]} for x, (h, w) in zip(logits, sizes, strict=True)]


class HeightsMapper:
    """Reads both; labels where they are asked for."""

    def __init__(self, cfg, purpose):
        self.purpose = purpose

    def __call__(self, record):
        image = np.array(Image.open(record["file_name"]))
        sample = {**record, "image": torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)}
        sample["heights"] = torch.full((1, 4, 6), float(record["image_id"]))
        if self.purpose != "predict":
            labels = np.array(Image.open(record["sem_seg_file_name"]), dtype=np.int64)
            sample["sem_seg"] = torch.from_numpy(labels)
        return sample


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory):
    """The two meta-architectures, the mapper, and a data set of three images; removed again."""
    folder = tmp_path_factory.mktemp(DATA)
    generator = np.random.default_rng(0)
    records = []
    for number in range(3):
        image, labels = folder / f"{number}.png", folder / f"{number}_labels.png"
        pixels = generator.integers(0, 256, (16, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(image)
        Image.fromarray((pixels[:, :, 0] // 86).astype(np.uint8)).save(labels)
        records.append(
            {
                "file_name": str(image),
                "sem_seg_file_name": str(labels),
                "image_id": number,
                "height": 16,
                "width": 24,
            }
        )
    DatasetCatalog.register(DATA, lambda: records)
    MetadataCatalog.get(DATA).set(
        evaluator_type="sem_seg", stuff_classes=list("abc"), ignore_label=255
    )
    kinds = (OwnSegmentor, ImageAndHeights)
    for kind in kinds:
        META_ARCH_REGISTRY.register(kind)
    MAPPERS["image_and_heights"] = HeightsMapper
    yield
    for kind in kinds:
        META_ARCH_REGISTRY._obj_map.pop(kind.__name__)
    MAPPERS.pop("image_and_heights")
    DatasetCatalog.remove(DATA)
    MetadataCatalog.remove(DATA)


def config(name, output="", *overrides):
    return load_config(
        "",
        [
            "MODEL.META_ARCHITECTURE", name,
            "MODEL.DEVICE", "cpu",
            "MODEL.BACKBONE.NAME", "build_resnet_backbone",
            "MODEL.BACKBONE.FREEZE_AT", "0",
            "MODEL.RESNETS.DEPTH", "18",
            "MODEL.RESNETS.RES2_OUT_CHANNELS", "64",
            "MODEL.RESNETS.NORM", "BN",
            "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3']",
            "MODEL.SEM_SEG_HEAD.NAME", "DeepFuseSemSegHead",
            "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['res2', 'res3']",
            "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
            "MODEL.SEM_SEG_HEAD.NUM_CLASSES", str(CLASSES),
            "INPUT.MIN_SIZE_TRAIN", "(0,)",
            "INPUT.MIN_SIZE_TEST", "0",
            "DEEPFUSE_D2.INPUT.SCALE_JITTER", "[0.9, 1.1]",
            "DATASETS.TRAIN", f"('{DATA}',)",
            "DATASETS.TEST", f"('{DATA}',)",
            "DATALOADER.NUM_WORKERS", "0",
            "SOLVER.IMS_PER_BATCH", "2",
            "SOLVER.MAX_ITER", "2",
            "SOLVER.WARMUP_ITERS", "0",
            "MONITOR.VALIDATION_LOSS_PERIOD", "1",
            "MONITOR.PICTURES_PERIOD", "2",
            "OUTPUT_DIR", str(output),
            *overrides,
        ],
    )  # fmt: skip


def test_a_derived_meta_architecture_trains_with_the_mapper_of_its_base():
    cfg = config("OwnSegmentor")
    assert mapper_name_of(meta_arch_of(cfg)) == "sem_seg"
    names = [type(x).__name__ for x in Trainer.build_train_loader(cfg).mapper.augmentations.augs]
    assert names == ["ScaleJitter", "RandomFlip"]


@pytest.mark.parametrize(
    ("name", "mapper", "predicted"),
    [
        ("GeneralizedRCNN", "instances", ("instances",)),
        ("ProposalNetwork", "instances", ("proposals",)),
        ("PanopticFPN", "instances", ("instances", "sem_seg", "panoptic_seg")),
        ("RetinaNet", "instances", ("instances",)),
        ("FCOS", "instances", ("instances",)),
        ("SemanticSegmentor", "sem_seg", ("sem_seg",)),
        ("FusionSemanticSegmentor", "sem_seg", ("sem_seg",)),
    ],
)
def test_what_detectron2s_meta_architectures_would_say_is_known(name, mapper, predicted):
    kind = META_ARCH_REGISTRY.get(name)
    assert mapper_name_of(kind) == mapper
    assert predictions_of(kind) == predicted
    own = type("Own", (kind,), {})
    assert (mapper_name_of(own), predictions_of(own)) == (mapper, predicted)


@pytest.mark.parametrize(
    "name", ["FusionSemanticSegmentor", "SemanticSegmentor", "GeneralizedRCNN"]
)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_inputs_are_normalised_padded_and_of_any_number_of_channels(name, channels):
    means = [float(10 * i) for i in range(channels)]
    cfg = config(
        name, "",
        "MODEL.PIXEL_MEAN", str(means), "MODEL.PIXEL_STD", str([2.0] * channels),
        "MODEL.SEM_SEG_HEAD.NAME",
        "SemSegFPNHead" if name == "SemanticSegmentor" else "DeepFuseSemSegHead",
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE", "4",
        "MODEL.BACKBONE.NAME", "build_neck_backbone",
        "MODEL.NECK.IN_FEATURES", "['res2', 'res3']",
        "MODEL.NECK.OUT_CHANNELS", "32",
        "MODEL.NECK.TOP_BLOCK", "none",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES", "['p2', 'p3']",
        "MODEL.RPN.IN_FEATURES", "['p2', 'p3']",
        "MODEL.ANCHOR_GENERATOR.SIZES", "[[16], [32]]",
        "MODEL.ROI_HEADS.NAME", "StandardROIHeads",
        "MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p3']",
        "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead",
        "MODEL.ROI_BOX_HEAD.NUM_FC", "1",
        "MODEL.ROI_BOX_HEAD.FC_DIM", "16",
    )  # fmt: skip
    model = build_model(cfg).eval()
    assert channels_of(model) == channels
    images = [torch.full((channels, 9, 17), 8.0), torch.full((channels, 5, 3), 8.0)]
    found = inputs_of(model, [{"image": image} for image in images])
    assert list(found) == ["image"]
    padded = found["image"]
    assert padded.shape == (2, channels, 16, 24)
    expected = (8 - torch.tensor(means)) / 2
    assert torch.equal(padded[0, :, 8, 16], expected)
    assert torch.equal(padded[1, :, 4, 2], expected)
    assert padded[0, :, 9:].abs().sum() == padded[1, :, :, 3:].abs().sum() == 0
    # the same that the model computes itself
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model([{"image": image} for image in images])
    assert torch.equal(seen[0], padded)


@pytest.mark.parametrize("channels", [1, 4])
def test_other_than_three_channels_are_analysed_folded_and_predicted(channels, caplog):
    image_format = {1: "L", 4: "RGBA"}[channels]
    cfg = config(
        "FusionSemanticSegmentor", "",
        "MODEL.PIXEL_MEAN", str([100.0] * channels), "MODEL.PIXEL_STD", str([50.0] * channels),
    )  # fmt: skip
    cfg.INPUT.FORMAT = image_format
    model = build_model(cfg).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    costs = analyze(model, (64, 96)).parts["bottom-up"]
    three = build_model(config("FusionSemanticSegmentor")).eval()
    stem = 32 * 48 * 64 * 49
    assert costs.multiply_adds == (
        analyze(three, (64, 96)).parts["bottom-up"].multiply_adds + (channels - 3) * stem
    )
    with caplog.at_level(logging.INFO, logger="deepfuse_d2"):
        fast = optimize_for_inference(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in fast.backbone.modules())
    pixels = np.random.default_rng(0).integers(0, 256, (32, 48, channels)).astype(np.uint8)
    entry = {"image": torch.from_numpy(pixels.transpose(2, 0, 1).copy())}
    with torch.no_grad():
        expected = model([entry])[0]["sem_seg"]
        torch.testing.assert_close(fast([entry])[0]["sem_seg"], expected, rtol=1e-3, atol=1e-3)
    predictor = Predictor.from_model(model, cfg, optimize=False)
    assert torch.equal(predictor(pixels).long(), expected.argmax(dim=0))
    picture = Image.fromarray(pixels.squeeze(2) if channels == 1 else pixels)
    assert torch.equal(predictor(picture).long(), expected.argmax(dim=0))
    with pytest.raises(ImageError, match=rf"no image of {channels} channels"):
        predictor(np.zeros((8, 8, 3), np.uint8))


def test_a_model_of_two_inputs_is_trained_watched_evaluated_and_predicts(tmp_path):
    cfg = config("ImageAndHeights", tmp_path)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    results = trainer.train()
    assert 0 < results["sem_seg"]["mIoU"] <= 100
    assert np.isfinite(trainer.storage.latest()["validation/total_loss"][0])
    assert len(list(tmp_path.glob("pictures/*/*.png"))) == 3

    cfg.MODEL.WEIGHTS = str(tmp_path / "model_final.pth")
    predictor = Predictor(cfg)
    record = DatasetCatalog.get(DATA)[1]
    heights = [torch.full((1, 4, 6), value) for value in (1.0, 40.0)]
    found = [predictor({"image": record["file_name"], "heights": x}) for x in heights]
    assert found[0].shape == (16, 24)
    assert not torch.equal(*found)  # the second input counts
    listed = predictor([{"image": record["file_name"], "heights": x} for x in heights])
    assert all(torch.equal(a, b) for a, b in zip(listed, found, strict=True))
    expected = trainer.model.eval()([HeightsMapper(cfg, "predict")(record)])[0]["sem_seg"]
    assert torch.equal(found[0].long(), expected.argmax(dim=0))


def test_a_model_of_two_inputs_is_analysed_and_its_norms_are_folded():
    model = build_model(config("ImageAndHeights")).eval()
    model.norm.running_mean.normal_()
    analysis = analyze(model, (15, 22))
    assert analysis.size == (16, 24)
    works = {name: part.multiply_adds for name, part in analysis.parts.items()}
    pixels = 16 * 24
    assert works == {
        "colours": pixels * 8 * 3 * 9,
        "norm": 0,
        "heights": 4 * 6 * 8,
        "classes": pixels * 8 * CLASSES,
    }
    assert analysis.total.parameters == sum(p.numel() for p in model.parameters())
    fast = optimize_for_inference(model)
    assert isinstance(fast.norm, nn.Identity)
    entry = example_of(model, 16, 24)
    with torch.no_grad():
        torch.testing.assert_close(
            fast([entry])[0]["sem_seg"], model([entry])[0]["sem_seg"], rtol=1e-4, atol=1e-4
        )


def test_a_graph_for_other_runtimes_takes_one_image():
    model = build_model(config("ImageAndHeights")).eval()
    with pytest.raises(ConfigError, match=r"this ImageAndHeights takes \['image', 'heights'\]"):
        build_graph(model)


def test_an_evaluator_of_what_the_model_does_not_give_is_told_before_the_training():
    with pytest.raises(
        ConfigError, match=rf'"{DATA}" .* evaluated by sem_seg; GeneralizedRCNN predicts instances'
    ):
        Trainer(config("GeneralizedRCNN"))


def test_a_mapper_that_nobody_knows_is_named(monkeypatch):
    monkeypatch.setattr(ImageAndHeights, "mapper_name", "radar")
    with pytest.raises(ConfigError, match=r'asks for the mapper "radar"; there are .*instances'):
        Trainer.build_train_loader(config("ImageAndHeights"))
