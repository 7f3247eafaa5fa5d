"""Evaluation without pasting masks gives what it gives with pasting, on a tiny Mask R-CNN."""

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from detectron2.modeling import build_model
from PIL import Image

from deepfuse_d2.engine import Trainer
from deepfuse_d2.evaluation import CityscapesInstanceEvaluator
from deepfuse_d2.modeling.postprocessing.unpasted import UnpastedMasks, for_evaluator

NAME = "inference_test_instances"
CLASSES = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")


@pytest.fixture(scope="module")
def cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.RPN.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 30
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = len(CLASSES)
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = 0.0
    cfg.MODEL.ROI_BOX_HEAD.NAME = "FastRCNNConvFCHead"
    cfg.MODEL.ROI_BOX_HEAD.NUM_FC = 1
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 16
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 1
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.DATASETS.TEST = (NAME,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.DATALOADER.NUM_WORKERS = 0
    return cfg


@pytest.fixture
def model(cfg):
    torch.manual_seed(3)
    model = build_model(cfg).eval()
    # of random weights, masks of all shapes: probabilities around one half
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=3.0)
    return model


class _Recorder(DatasetEvaluator):
    """Evaluates pasted masks too: keeps what it is given, and says whether it takes unpasted."""

    def __init__(self, accepts):
        self.accepts_unpasted_masks = accepts
        self.outputs = []

    def process(self, inputs, outputs):
        self.outputs += outputs

    def evaluate(self):
        return {}


@pytest.fixture
def dataset(tmp_path, model):
    """Three frames twice the size of what the model sees; ground truth is what it predicts."""
    generator = torch.Generator().manual_seed(0)
    dicts, inputs = [], []
    for number in range(3):
        image = (torch.rand(3, 64, 96, generator=generator) * 255).byte()
        stem = tmp_path / f"ulm_{number:06d}_000019"
        entry = {
            "file_name": f"{stem}_leftImg8bit.png",
            "instance_file_name": f"{stem}_gtFine_instanceIds.png",
            "image_id": str(number),
            "height": 128,
            "width": 192,
        }
        pixels = image.permute(1, 2, 0).numpy().repeat(2, 0).repeat(2, 1)
        Image.fromarray(pixels).save(entry["file_name"])
        dicts.append(entry)
        inputs.append([{**entry, "image": image}])
        with torch.no_grad():
            instances = model(inputs[-1])[0]["instances"]
        gt_map = np.full((128, 192), 7, dtype=np.uint16)
        from cityscapesscripts.helpers.labels import name2label

        for index in np.random.default_rng(number).permutation(len(instances))[:12]:
            label = name2label[CLASSES[instances.pred_classes[index]]].id
            gt_map[instances.pred_masks[index].numpy()] = 1000 * label + index
        Image.fromarray(gt_map).save(entry["instance_file_name"])
    DatasetCatalog.register(NAME, lambda: dicts)
    MetadataCatalog.get(NAME).set(thing_classes=list(CLASSES), evaluator_type="cityscapes_instance")
    yield inputs
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def _same(first, second):
    return list(first) == list(second) and np.array_equal(
        list(first.values()), list(second.values()), equal_nan=True
    )


def test_figures_without_pasting_are_those_with_pasting(model, dataset):
    pasted = inference_on_dataset(model, dataset, CityscapesInstanceEvaluator(NAME))
    evaluator = CityscapesInstanceEvaluator(NAME)
    wrapped = for_evaluator(model, evaluator)
    assert isinstance(wrapped, UnpastedMasks)
    unpasted = inference_on_dataset(wrapped, dataset, evaluator)
    assert 0 < pasted["segm"]["AP"] < 100
    assert _same(unpasted["segm"], pasted["segm"])


def test_boxes_scores_and_classes_are_those_of_the_model(model, dataset):
    with torch.no_grad():
        expected = model(dataset[0])[0]["instances"]
        instances = UnpastedMasks(model)(dataset[0])[0]["instances"]
    assert instances.image_size == expected.image_size == (128, 192)
    assert list(instances.get_fields()) == list(expected.get_fields())
    assert torch.equal(instances.pred_boxes.tensor, expected.pred_boxes.tensor)
    assert torch.equal(instances.scores, expected.scores)
    assert torch.equal(instances.pred_classes, expected.pred_classes)
    assert instances.pred_masks.shape == (len(expected), 1, 28, 28)


def test_the_trainer_evaluates_without_pasting(cfg, model, dataset, tmp_path, monkeypatch):
    expected = inference_on_dataset(model, dataset, CityscapesInstanceEvaluator(NAME))
    recorder = _Recorder(True)
    own_cfg = cfg.clone()
    own_cfg.OUTPUT_DIR = str(tmp_path)
    Trainer.test(own_cfg, model, recorder)
    assert all(output["instances"].pred_masks.ndim == 4 for output in recorder.outputs)
    pasting = _Recorder(False)
    Trainer.test(own_cfg, model, [pasting])
    assert [output["instances"].pred_masks.ndim for output in pasting.outputs] == [3, 3, 3]
    assert Trainer.test(own_cfg, model)["segm"].keys() == expected["segm"].keys()


def test_an_evaluator_of_full_images_gets_the_model_itself(model):
    assert for_evaluator(model, _Recorder(False)) is model
    assert for_evaluator(model, None) is model
    both = [_Recorder(True), _Recorder(False)]
    assert for_evaluator(model, both) is model
    assert for_evaluator(model, DatasetEvaluators(both)) is model
    assert isinstance(for_evaluator(model, DatasetEvaluators(both[:1])), UnpastedMasks)


def test_a_model_that_is_not_a_plain_rcnn_is_left_alone(model):
    class Own(type(model)):
        def inference(self, *args, **kwargs):
            return super().inference(*args, **kwargs)

    model.__class__ = Own
    assert for_evaluator(model, _Recorder(True)) is model
    assert for_evaluator(torch.nn.Identity(), _Recorder(True)).__class__ is torch.nn.Identity


def test_the_mode_of_the_model_is_restored(model, dataset):
    for training in (True, False):
        model.train(training)
        evaluator = _Recorder(True)
        inference_on_dataset(for_evaluator(model, evaluator), dataset[:1], evaluator)
        assert model.training is training
        assert model.roi_heads.training is training


def test_a_distributed_model_is_looked_through(model, dataset, tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        wrapped = for_evaluator(parallel, _Recorder(True))
        with torch.no_grad():
            output = wrapped.eval()(dataset[0])[0]["instances"]
    finally:
        torch.distributed.destroy_process_group()
    assert output.pred_masks.ndim == 4
