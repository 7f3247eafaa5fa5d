"""What the device computes is what a CPU computes: features, losses, gradients, predictions."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from benchmarks.inference_candidates import build, make_images
from deepfuse_d2 import get_config
from deepfuse_d2.inference import Predictor, optimize_for_inference
from deepfuse_d2.inference.compile_ahead import compile_ahead
from deepfuse_d2.inference.engines import ENGINES
from deepfuse_d2.modeling.meta_arch.protocol import example_of, inputs_of, takes_image_alone

# Of every meta-architecture, neck, backbone and head of pixels at least one, as narrow as it goes.
DETECTORS = [
    "MiniCity/mask_rcnn_R_18_FPN_quick",
    "MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick",
    "MiniCity/mask_rcnn_R_18_DeepFuseResNet_quick",
    "MiniCity/mask_rcnn_Res2Net_26_DeepFuseFPN_quick",
    "MiniCity/mask_rcnn_FishNet_tiny_DeepFuseFPN_quick",
    "MiniCity/mask_rcnn_DB_R_18_FPN_quick",
    "COCO/retinanet_R_50_DeepFuseFPN",
    "COCO/fcos_R_50_DeepFuseFPN",
]
SEGMENTORS = [
    "MiniCity/sem_seg_R_18_DeepFuse",
    "MiniCity/sem_seg_R_18_ExFuse",
    "MiniCity/sem_seg_R_18_GCN",
    "MiniCity/sem_seg_R_18_RefineNet",
    "MiniCity/sem_seg_R_18_SemSegFPN",
]
OTHERS = ["MiniCity/mask_rcnn_SpineNet_49S_quick", "MiniFields/m3fusion_deepfuse_quick"]
SIZE = (64, 128)


def model_of(recipe, *opts):
    torch.manual_seed(0)
    return build_model(get_config(recipe, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts]))


def on(model, device):
    """A copy on the device; what detectron2 keeps besides the buffers follows them."""
    return copy.deepcopy(model).to(device)


def close(found, expected, tolerance):
    """Compare by the largest value, as rounding goes."""
    found, expected = found.detach().cpu().double(), expected.detach().double()
    scale = expected.abs().max().clamp(min=1e-6)
    assert found.shape == expected.shape
    assert ((found - expected).abs().max() / scale).item() < tolerance


def example(model):
    """Noise in the place of the black image."""
    generator = torch.Generator().manual_seed(0)
    entry = example_of(model, *SIZE)
    for name, value in entry.items():
        if isinstance(value, torch.Tensor) and value.ndim >= 3 and value.dtype != torch.bool:
            noise = torch.rand(value.shape, generator=generator)
            entry[name] = (255 * noise if name == "image" else noise).to(value.dtype)
    return entry


def maps_of(model):
    """Everything that the network gives for the example, by name."""
    inputs = inputs_of(model, [example(model)])
    if takes_image_alone(model):
        return model.backbone(inputs["image"])
    found = model.outputs(inputs)
    return found if isinstance(found, dict) else {"output": found}


@pytest.mark.parametrize("recipe", DETECTORS + SEGMENTORS + OTHERS)
@torch.no_grad()
def test_networks_give_the_same_maps(recipe, device):
    model = model_of(recipe).eval()
    expected, found = maps_of(model), maps_of(on(model, device))
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        if isinstance(tensor, torch.Tensor):
            assert found[name].device.type == device.type
            close(found[name], tensor, 1e-3)


def batch(num_classes):
    """Two images with three objects each, and a class for each pixel."""
    generator = torch.Generator().manual_seed(1)
    entries = []
    for _ in range(2):
        masks = torch.zeros(3, *SIZE, dtype=torch.bool)
        for mask, (x, y, w, h) in zip(
            masks, [(4, 8, 40, 30), (50, 20, 30, 40), (90, 5, 24, 20)], strict=True
        ):
            mask[y : y + h, x : x + w] = True
        instances = Instances(SIZE, gt_masks=BitMasks(masks), gt_classes=torch.arange(3) % 2)
        instances.gt_boxes = Boxes(BitMasks(masks).get_bounding_boxes().tensor)
        image = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
        labels = torch.randint(0, num_classes, SIZE, generator=generator)
        entries.append({"image": image, "instances": instances, "sem_seg": labels})
    return entries


def take_all_regions(model):
    """No region is drawn at random: each device has random numbers of its own."""
    for part in (getattr(model, "proposal_generator", None), getattr(model, "roi_heads", None)):
        if part is not None:
            part.batch_size_per_image, part.positive_fraction = 10**6, 1.0


def losses_and_gradients(model, entries):
    with EventStorage():
        losses = model(entries)
    sum(losses.values()).backward()
    norms = {name: p.grad.norm() for name, p in model.named_parameters() if p.grad is not None}
    return losses, norms


@pytest.mark.parametrize("recipe", DETECTORS[:2] + DETECTORS[-2:] + SEGMENTORS)
def test_losses_and_gradients_are_the_same(recipe, device):
    # statistics of a batch would make small differences large
    norm = [] if recipe in DETECTORS else ["MODEL.RESNETS.NORM", "FrozenBN"]
    model = model_of(recipe, *norm).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    take_all_regions(model)
    other = on(model, device)
    entries = batch(2)
    expected, expected_norms = losses_and_gradients(model, entries)
    found, norms = losses_and_gradients(other, entries)
    assert list(found) == list(expected)
    for name, loss in expected.items():
        close(found[name], loss, 0.01)
    assert list(norms) == list(expected_norms)
    for name in norms:
        largest = max(expected_norms.values())
        assert abs(norms[name].item() - expected_norms[name].item()) < 0.02 * largest, name


@pytest.mark.parametrize("engine", ["native", *ENGINES])
@torch.no_grad()
def test_a_predictor_finds_the_same_in_every_engine(engine, device, tiny_opts, tmp_path):
    if engine in ENGINES and (reason := ENGINES[engine].why_not(device)):
        pytest.skip(f"{engine}: {reason}")
    if engine in ("inductor", "aot", "openvino") and device.type == "cpu":
        pytest.skip(f"{engine} on a CPU is held by tests/inference")
    cfg = get_config(DETECTORS[1], tiny_opts)
    images = make_images(2, SIZE)
    model = build(cfg, images)
    reference = Predictor.from_model(model, cfg, dtype="float32")
    cfg.MODEL.DEVICE = str(device)
    moved = on(model, device)
    if engine == "aot":  # runs what was compiled into a folder
        compile_ahead(moved, tmp_path)
        moved = optimize_for_inference(moved, engine=engine, folder=tmp_path)
        predictor = Predictor.from_model(moved, cfg, optimize=False)
    else:
        predictor = Predictor.from_model(moved, cfg, dtype="float32", engine=engine)
    for image in images:
        expected, found = (run(image).to("cpu") for run in (reference, predictor))
        assert len(found) == len(expected) > 5
        torch.testing.assert_close(found.scores, expected.scores, rtol=0, atol=1e-3)
        boxes = [x.pred_boxes.tensor for x in (found, expected)]
        torch.testing.assert_close(*boxes, rtol=0, atol=0.05)
        differing = (found.pred_masks != expected.pred_masks).sum(dim=(1, 2))
        assert differing.max() <= 0.01 * expected.pred_masks.sum(dim=(1, 2)).max() + 4
