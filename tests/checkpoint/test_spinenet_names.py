"""SpineNet's public weights: names of the PyTorch ports, and of the authors' TensorFlow code."""

import itertools

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from tensorflow_files import write_bundle
from torch import nn

from deepfuse_d2 import get_config
from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.reading import read_weights
from deepfuse_d2.checkpoint.sources.spinenet_names import is_spinenet, rename_spinenet
from deepfuse_d2.checkpoint.sources.spinenet_tensorflow_names import rename_spinenet_tensorflow
from deepfuse_d2.checkpoint.sources.table import IMAGENET_RGB, recognise
from deepfuse_d2.errors import WeightsError
from deepfuse_d2.modeling.backbone import SpineNet
from deepfuse_d2.modeling.backbone.spinenet_tables import VARIANTS


def random_network(name):
    network = SpineNet(VARIANTS[name], endpoint_channels=16)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            nn.init.normal_(tensor)
    return network


def without_counters(state):
    return {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}


def port_name(name):
    """Of the PyTorch ports, for one of ours."""
    stage, *rest = name.split(".")
    tensor = rest[-1]
    layer = rest[-2] if rest[-2] != "norm" else rest[-3]
    is_norm = rest[-2] == "norm"
    if stage == "stem":
        return f"conv1.{'bn' if is_norm else 'conv'}.{tensor}"
    if stage == "endpoints":
        return f"endpoint_convs.{rest[0][1]}.{'bn' if is_norm else 'conv'}.{tensor}"
    index = int(stage.removeprefix("block"))
    if rest[0] == "resamples":
        inside = f"{layer}_conv.{'bn' if is_norm else 'conv'}"
        return f"merge_ops.{index - 2}.resample_ops.{rest[1]}.{inside}.{tensor}"
    inside = layer.replace("conv", "bn") if is_norm else layer
    if layer == "shortcut":
        inside = f"downsample.{int(is_norm)}"
    if rest[0] == "group":
        return f"scale_permuted_blocks.{index - 2}.{rest[1]}.{inside}.{tensor}"
    return f"init_block{index + 1}.{rest[0]}.{inside}.{tensor}"


class Variables:
    """Names of TensorFlow's variables in the order in which the authors' code makes layers.

    Args:
        root: scope of the network.
    """

    def __init__(self, root):
        self.root = root
        self.arrays = {}
        self.counts = {}

    def add(self, scope, conv=None, norm=None):
        if conv is not None:
            weight = conv.weight.detach()
            if conv.groups > 1:
                name = self.numbered(scope, "depthwise_conv2d")
                self.put(f"{name}/depthwise_kernel", weight.permute(2, 3, 0, 1))
            else:
                name = self.numbered(scope, "conv2d")
                self.put(f"{name}/kernel", weight.permute(2, 3, 1, 0))
                if conv.bias is not None:
                    self.put(f"{name}/bias", conv.bias.detach())
            norm = conv.norm
        if norm is not None:
            name = self.numbered(scope, "batch_normalization")
            for ours, theirs in (
                ("weight", "gamma"), ("bias", "beta"), ("running_mean", "moving_mean"),
                ("running_var", "moving_variance"),
            ):  # fmt: skip
                self.put(f"{name}/{theirs}", getattr(norm, ours).detach())

    def numbered(self, scope, kind):
        number = self.counts.setdefault((scope, kind), itertools.count())
        index = next(number)
        return f"{self.root}/{scope}{kind}" + (f"_{index}" if index else "")

    def put(self, name, tensor):
        self.arrays[name] = tensor.numpy().copy()

    def group(self, scope, group):
        for block in group:
            if getattr(block, "shortcut", None) is not None:
                self.add(scope, block.shortcut)
            self.add(scope, block.conv1)
            self.add(scope, block.conv2)
            if hasattr(block, "squeeze_excitation"):
                self.add(scope, block.squeeze_excitation.reduce)
                self.add(scope, block.squeeze_excitation.expand)
            if hasattr(block, "conv3"):
                self.add(scope, block.conv3)

    def resample(self, scope, module):
        if hasattr(module, "squeeze"):
            self.add(scope, module.squeeze)
        if hasattr(module, "norm"):
            self.add(scope, norm=module.norm)
        for conv in getattr(module, "downsamples", ()):
            self.add(scope, conv)
        if hasattr(module, "downsample"):
            self.add(scope, module.downsample)
        self.add(scope, module.expand)


def variables_of(network, root):
    made = Variables(root)
    made.add("", network.stem.conv1)
    for group in (*network.stem.groups, network.block0, network.block1):
        made.group("", group)
    blocks = [int(n.removeprefix("block")) for n in network.stage_names if n.startswith("block")]
    word = "alpha" if root == "spinenet" else "sepconv"
    for i, index in enumerate(blocks[2:]):
        block = getattr(network, f"block{index}")
        for j, module in enumerate(block.resamples):
            made.resample(f"sub_policy{i}/resample_with_{word}_resample_{i}_{j}/", module)
        made.group(f"sub_policy{i}/scale_permuted_block_{index}/", block.group)
    for endpoint in network.endpoints.values():
        made.add("", endpoint)
    return made.arrays


@pytest.mark.parametrize("name", ["SpineNet-49S", "SpineNet-96"])
def test_names_of_the_pytorch_ports_become_ours_one_by_one(name):
    with torch.device("meta"):
        state = without_counters(SpineNet(VARIANTS[name]).state_dict())
    theirs = {port_name(key): value for key, value in state.items()}
    assert len(theirs) == len(state)
    assert is_spinenet(theirs)
    assert not is_spinenet(state)
    counters = {"conv1.bn.num_batches_tracked": torch.tensor(3)}
    renamed = rename_spinenet({**theirs, **counters})
    assert {key: id(value) for key, value in renamed.items()} == {
        key: id(value) for key, value in state.items()
    }
    source = recognise(theirs)
    assert (source.format, source.pixel_mean) == ("RGB", IMAGENET_RGB["pixel_mean"])


def test_names_that_the_ports_do_not_have_are_kept_for_the_report():
    odd = {"merge_ops.3.other.weight": torch.ones(1), "fc.weight": torch.ones(1)}
    assert rename_spinenet(odd) == odd


ROOTS = {
    "SpineNet-49S": "spinenet",
    "SpineNet-96": "spinenet",
    "MBConv-49XS": "spinenet_mbconv",
    "m0": "spinenetv2",
    "d3": "spinenetv2",
}


def to_tensorflows_order(network):
    """`network` whose channels behind space to depth are ordered as TensorFlow's: k * C + c."""
    for module in network.modules():
        if getattr(module, "steps", 0) > 0 and hasattr(module, "norm"):
            order = torch.arange(module.norm.num_features).view(-1, 4).T.flatten()
            tensors = [*module.norm.state_dict().values()]
            if hasattr(module, "downsample"):
                tensors += module.downsample.state_dict().values()
            for tensor in tensors:
                if tensor.ndim:
                    tensor.copy_(tensor[order].clone())
            weight = module.expand.weight.data
            weight.copy_(weight[:, order].clone())
    return network


@pytest.mark.parametrize("name", ROOTS)
def test_variables_of_the_authors_code_become_the_tensors_they_were(name, tmp_path):
    network = random_network(name)
    expected = {k: v.clone() for k, v in without_counters(network.state_dict()).items()}
    arrays = variables_of(to_tensorflows_order(network), ROOTS[name])
    arrays["global_step"] = np.int64(7)
    arrays[f"{ROOTS[name]}/conv2d/kernel/Momentum"] = arrays[f"{ROOTS[name]}/conv2d/kernel"] * 0
    arrays["retinanet/conv2d/kernel"] = np.zeros((3, 3, 2, 2), dtype=np.float32)
    weights = read_weights(write_bundle(tmp_path / "model.ckpt", arrays))
    assert weights.origin == "SpineNet of the authors' TensorFlow code"
    assert weights.state.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(weights.state[key], value), key


def test_moving_averages_of_variables_are_taken_where_there_are_some():
    network = random_network("m0")
    arrays = variables_of(network, "spinenetv2")
    arrays = {key: torch.from_numpy(value) for key, value in arrays.items()}
    averages = {f"{key}/ExponentialMovingAverage": value + 1 for key, value in arrays.items()}
    plain = rename_spinenet_tensorflow(arrays)
    averaged = rename_spinenet_tensorflow({**arrays, **averages})
    for key, value in plain.items():
        assert torch.equal(averaged[key], value + 1), key


def test_a_checkpoint_without_some_of_its_layers_is_named():
    arrays = variables_of(random_network("m0"), "spinenetv2")
    state = {
        key: torch.from_numpy(value)
        for key, value in arrays.items()
        if "sub_policy3/scale_permuted_block_5/batch_normalization_2" not in key
    }
    with pytest.raises(WeightsError, match="not all its layers: a batch_normalization is missing"):
        rename_spinenet_tensorflow(state)


def detector(*overrides):
    cfg = get_config("COCO/mask_rcnn_SpineNet_49S")
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "MODEL.SPINENET.NORM", "BN", "MODEL.ROI_BOX_HEAD.NORM", "",
         "MODEL.ROI_MASK_HEAD.NORM", "", *overrides]
    )  # fmt: skip
    return build_model(cfg)


def test_weights_load_into_a_detector_whose_settings_are_theirs_and_into_no_other(tmp_path):
    network = SpineNet(VARIANTS["SpineNet-49S"])
    state = without_counters(network.state_dict())
    file = tmp_path / "spinenet_49S.pth"
    theirs = {f"backbone.{port_name(key)}": value for key, value in state.items()}
    torch.save({"state_dict": theirs, "meta": {"epoch": 350}}, file)
    model = detector("MODEL.SPINENET.ENDPOINT_ACTIVATION", False)
    DeepFuseCheckpointer(model).load(str(file))
    for key, value in without_counters(model.backbone.state_dict()).items():
        assert torch.equal(value, state[key]), key
    with pytest.raises(WeightsError, match=r"ENDPOINT_ACTIVATION is True, must be False"):
        DeepFuseCheckpointer(detector()).load(str(file))

    index = write_bundle(tmp_path / "model.ckpt", variables_of(network, "spinenet"))
    with pytest.raises(WeightsError, match=r"SAME_POOLING is False, must be True"):
        DeepFuseCheckpointer(detector()).load(str(index))
    model = detector("MODEL.SPINENET.SAME_POOLING", True)
    DeepFuseCheckpointer(model).load(str(index))
    for key, value in without_counters(model.backbone.state_dict()).items():
        assert torch.equal(value, state[key]), key
