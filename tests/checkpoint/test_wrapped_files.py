"""Networks are found in a file by their tensors, however a training script has wrapped them."""

import logging
import os
import stat

import pytest
import timm
import torch

from benchmarks.weight_files import (
    RESNET,
    SEQUENCE,
    WRAPPERS,
    Bottom,
    in_sequence,
    is_in,
    load,
    other,
    timm_network,
)  # fmt: skip
from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.checkpoint.reading import read_weights
from deepfuse_d2.config.checking import check_config
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.engine import Trainer
from deepfuse_d2.errors import WeightsError
from deepfuse_d2.files import written_whole
from deepfuse_d2.modeling.backbone import TimmBackbone


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return timm.create_model("resnet18").state_dict()


@pytest.mark.parametrize("what", [*WRAPPERS, SEQUENCE])
def test_a_resnet_is_found_in_every_wrapper(tmp_path, state, what):
    wrap = {**WRAPPERS, SEQUENCE: in_sequence}[what]
    network = Bottom(*RESNET)
    assert load(wrap(state), network, tmp_path) == "loaded"
    assert is_in(state, network, is_timm=False)


@pytest.mark.parametrize("what", list(WRAPPERS))
def test_a_timm_network_is_found_in_every_wrapper(tmp_path, what):
    # names of its own as a network of features: stages_0 for stages.0
    plain = timm.create_model("convnext_atto").state_dict()
    network = timm_network("convnext_atto")
    assert load(WRAPPERS[what](plain), network, tmp_path) == "loaded"
    own = network.backbone.state_dict()
    names = network.backbone.names_of(plain)
    assert set(names.values()) == own.keys()
    assert all(torch.equal(own[names[name]], plain[name]) for name in names)


@pytest.mark.parametrize(
    ("what", "taken", "entry"),
    [
        ("timm's training: `state_dict` and `state_dict_ema`", "state_dict", "state_dict_ema"),
        ("Lightning with an average: `net.`, `ema_net.`", "state_dict.net", "state_dict.ema_net"),
        (
            "MoCo: `module.encoder_q.`, `module.encoder_k.`, queue",
            "state_dict.module.encoder_q", "state_dict.module.encoder_k",
        ),
        (
            "DINO: `student`, `teacher`, each with `backbone.` and a head",
            "student.module.backbone", "teacher.backbone",
        ),
    ],
)  # fmt: skip
def test_of_several_copies_one_is_taken_and_the_way_to_the_other_is_said(
    tmp_path, state, caplog, what, taken, entry
):
    caplog.set_level(logging.INFO)
    network = Bottom(*RESNET)
    assert load(WRAPPERS[what](state), network, tmp_path) == "loaded"
    assert f'more than once: "{taken}" was taken; ' in caplog.text
    file = tmp_path / "weights.pth"
    assert f'"{file}?entry={entry}"' in caplog.text
    assert load(WRAPPERS[what](state), network, tmp_path, entry) == "loaded"
    assert is_in(other(state), network, is_timm=False)
    assert read_weights(f"{file}?entry={entry}").entry == entry
    check_config(load_config("", ["MODEL.WEIGHTS", f"{file}?entry={entry}",
                                  "DATASETS.TRAIN", "()", "DATASETS.TEST", "()"]))  # fmt: skip


def test_an_entry_that_is_not_there_is_answered_with_those_that_are(tmp_path, state):
    torch.save({"student": state, "epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="no tensors below teacher; its keys are student, epoch"):
        read_weights(f"{tmp_path / 'x.pth'}?entry=teacher")


def test_a_checkpoint_of_a_detector_on_timm_is_not_taken_for_its_backbone_alone(tmp_path):
    opts = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.NAME", "build_neck_backbone",
            "MODEL.NECK.BOTTOM_UP", "build_timm_backbone", "MODEL.TIMM.NAME", "resnet18",
            "MODEL.BACKBONE.FREEZE_AT", "0", "MODEL.ROI_HEADS.IN_FEATURES", "['p2']",
            "MODEL.RPN.IN_FEATURES", "['p2']"]  # fmt: skip
    cfg = load_config("", opts)
    first, second = Trainer.build_model(cfg), Trainer.build_model(cfg)
    optimizer = {"state": {i: {"exp_avg": torch.ones(1)} for i in range(300)}}
    content = {"model": first.state_dict(), "optimizer": optimizer, "iteration": 5}
    torch.save(content, tmp_path / "model.pth")
    rest = DeepFuseCheckpointer(second).load(str(tmp_path / "model.pth"))
    assert rest["iteration"] == 5
    theirs = first.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in second.state_dict().items())


@pytest.mark.parametrize(
    ("wrapper", "depth", "around"),
    [
        ("_orig_mod", 1, ""),  # model.layer1.compile() of torch.compile(model.layer1)
        ("_checkpoint_wrapped_module", 2, ""),
        ("_fsdp_wrapped_module", 2, "_fsdp_wrapped_module."),
        ("_orig_mod", 2, "student.net."),
    ],
)
def test_wrappers_of_parts_stand_amid_the_names(tmp_path, state, wrapper, depth, around):
    def wrapped(name):
        parts = name.split(".")
        if name.startswith("layer"):
            parts.insert(depth, wrapper)
        return around + ".".join(parts)

    network = Bottom(*RESNET)
    content = {wrapped(name): value for name, value in state.items()}
    assert load(content, network, tmp_path) == "loaded"
    assert is_in(state, network, is_timm=False)


@pytest.mark.parametrize("layout", ["sparse", "quantized"])
def test_tensors_of_other_layouts_become_dense(tmp_path, state, layout):
    weight = state["layer1.0.conv1.weight"]
    changed = {
        "sparse": weight.to_sparse,
        "quantized": lambda: torch.quantize_per_tensor(weight, 1e-3, 0, torch.qint8),
    }[layout]()
    network = Bottom(*RESNET)
    assert load({**state, "layer1.0.conv1.weight": changed}, network, tmp_path) == "loaded"
    expected = weight if layout == "sparse" else changed.dequantize()
    torch.testing.assert_close(network.backbone.state_dict()["res2.0.conv1.weight"], expected)


def test_tensors_without_values_are_refused(tmp_path, state):
    message = load({k: v.to("meta") for k, v in state.items()}, Bottom(*RESNET), tmp_path)
    assert "has a shape but no values (device meta)" in message


def test_weights_that_are_not_finite_are_refused(tmp_path, state):
    broken = {**state, "layer3.0.conv1.weight": state["layer3.0.conv1.weight"] / 0}
    said = load(broken, Bottom(*RESNET), tmp_path)
    assert "1 of 100 tensors hold values that are not finite" in said
    assert "res4.0.conv1.weight" in said
    # what is not used may be anything
    unused = {**state, "fc.weight": state["fc.weight"] / 0}
    assert load(unused, Bottom(*RESNET), tmp_path) == "loaded"


def test_a_timm_checkpoint_that_fits_nothing_is_refused_like_other_weights(tmp_path):
    torch.save({"first": torch.ones(3), "second": torch.ones(3)}, tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match=r'CHECKPOINT, for the timm model "convnext_atto": .* fills 0% of the'
    ):
        TimmBackbone("convnext_atto", checkpoint=str(tmp_path / "x.pth"))


def test_a_timm_checkpoint_under_the_names_of_the_authors_is_converted_by_timm(tmp_path):
    plain = timm.create_model("convnext_tiny").state_dict()
    theirs = {}
    for name, value in plain.items():
        name = name.replace("stem.0.", "downsample_layers.0.0.").replace(
            "stem.1.", "downsample_layers.0.1."
        )
        for i in range(4):
            name = name.replace(f"stages.{i}.downsample.", f"downsample_layers.{i}.")
            name = name.replace(f"stages.{i}.blocks.", f"stages.{i}.")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc1", "pwconv1")
        name = name.replace("mlp.fc2", "pwconv2").replace("head.fc.", "head.")
        theirs[name.replace("head.norm.", "norm.")] = value
    torch.save({"model": theirs}, tmp_path / "convnext.pth")
    network = TimmBackbone("convnext_tiny", checkpoint=str(tmp_path / "convnext.pth"))
    own, names = network.state_dict(), network.names_of(plain)
    assert set(names.values()) == own.keys()
    assert all(torch.equal(own[names[name]], plain[name]) for name in names)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_of_the_umask_whatever_library_writes_them(tmp_path, umask):
    from safetensors.torch import save_file

    before = os.umask(umask)
    try:
        for suffix, write in (
            ("pth", lambda path: torch.save({"x": torch.ones(1)}, path)),
            ("safetensors", lambda path: save_file({"x": torch.ones(1)}, path)),
        ):
            with written_whole(tmp_path / f"weights.{suffix}") as temporary:
                write(temporary)
            mode = stat.S_IMODE((tmp_path / f"weights.{suffix}").stat().st_mode)
            assert mode == 0o666 & ~umask
    finally:
        os.umask(before)
