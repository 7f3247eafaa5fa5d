"""Weight files as training scripts leave them, read into our backbones: the table of the docs.

    python -m benchmarks.weight_files            # ways to wrap a network
    python -m benchmarks.weight_files --timm     # plain state dicts of timm's models

Weights are random; what is compared is every tensor, after MODEL.WEIGHTS has read the file.
"""

import argparse
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from torch import Tensor, nn

from deepfuse_d2.checkpoint import DeepFuseCheckpointer
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.errors import UserError

State = Mapping[str, Tensor]


def prefixed(prefix: str) -> Callable[[State], dict[str, Tensor]]:
    return lambda state: {f"{prefix}{name}": value for name, value in state.items()}


def other(state: State) -> dict[str, Tensor]:
    """Another copy of the network, to be told from the first."""
    return {name: value + 1 for name, value in state.items()}


def in_sequence(state: State) -> dict[str, Tensor]:
    places = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7, "fc": 9}
    split = {name: name.partition(".") for name in state}
    return {f"features.{places[split[n][0]]}.{split[n][2]}": value for n, value in state.items()}


# What a file is -> its content, of the state dict of the network.
WRAPPERS: dict[str, Callable[[State], dict[str, Any]]] = {
    "plain state dict": dict,
    "`state_dict`, with epoch and optimizer": lambda s: {
        "epoch": 3,
        "state_dict": s,
        "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]},
    },
    "`model_state_dict`": lambda s: {"model_state_dict": s},
    "DistributedDataParallel: `module.`": prefixed("module."),
    "torch.compile: `_orig_mod.`": prefixed("_orig_mod."),
    "both, nested: `module._orig_mod.`": prefixed("module._orig_mod."),
    "timm's training: `state_dict` and `state_dict_ema`": lambda s: {
        "arch": "resnet",
        "state_dict": s,
        "state_dict_ema": other(s),
    },
    "AveragedModel: `n_averaged`, `module.`": lambda s: {
        "n_averaged": torch.tensor(5),
        **prefixed("module.")(s),
    },
    "Lightning: `state_dict` with `net.` and a loss": lambda s: {
        "pytorch-lightning_version": "2.5.0",
        "state_dict": {**prefixed("net.")(s), "loss.weight": torch.ones(10)},
        "hyper_parameters": {"lr": 0.1},
    },
    "Lightning with an average: `net.`, `ema_net.`": lambda s: {
        "state_dict": {**prefixed("net.")(s), **prefixed("ema_net.")(other(s))},
    },
    "MoCo: `module.encoder_q.`, `module.encoder_k.`, queue": lambda s: {
        "state_dict": {
            **prefixed("module.encoder_q.")(s),
            **prefixed("module.encoder_k.")(other(s)),
            "module.queue": torch.ones(128, 16),
        }
    },
    "DINO: `student`, `teacher`, each with `backbone.` and a head": lambda s: {
        "student": {**prefixed("module.backbone.")(s), "module.head.mlp.0.weight": torch.ones(2)},
        "teacher": {**prefixed("backbone.")(other(s)), "head.mlp.0.weight": torch.ones(2)},
        "epoch": 100,
    },
    "DETR: `model` with `backbone.0.body.` and a transformer": lambda s: {
        "model": {
            **prefixed("backbone.0.body.")(s),
            "transformer.encoder.layers.0.norm1.weight": torch.ones(4),
        }
    },
    "deeply nested: `ckpt.net.module.image_encoder.trunk.`": lambda s: {
        "ckpt": {"net": prefixed("module.image_encoder.trunk.")(s)}
    },
}
# of torchvision's ResNet alone
SEQUENCE = "`nn.Sequential(*resnet.children())`: `features.0.`, `features.4.0.conv1.`"

_TIMM_MODELS = """
resnet18 resnet26d resnext50_32x4d seresnet50 resnest14d res2net50_26w_4s dla34 regnety_002
mobilenetv2_100 mobilenetv3_small_100 mobilenetv4_conv_small efficientnet_b0 tf_efficientnetv2_b0
mixnet_s ghostnet_100 convnext_atto convnextv2_atto maxvit_nano_rw_256 pvt_v2_b0 poolformer_s12
davit_tiny hrnet_w18_small edgenext_xx_small inception_next_atto focalnet_tiny_srf vgg11 densenet121
cspresnet50 vovnet39a mvitv2_tiny fastvit_t8 repvgg_a0 rexnet_100 tiny_vit_5m_224 lcnet_050
efficientvit_b0 caformer_s18
"""


class Bottom(nn.Module):
    """A bottom-up network under the name it has in a detector."""

    def __init__(self, builder: str, *opts: Any):
        super().__init__()
        fixed = ["MODEL.DEVICE", "cpu", "MODEL.BACKBONE.FREEZE_AT", 0]
        cfg = load_config("", [*fixed, "MODEL.BACKBONE.NAME", builder, *opts])
        self.backbone = build_backbone(cfg, ShapeSpec(channels=3))


RESNET = (
    "build_resnet_backbone", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64,
    "MODEL.RESNETS.NORM", "BN", "MODEL.RESNETS.STRIDE_IN_1X1", False,
    "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"],
)  # fmt: skip


def timm_network(name: str) -> Bottom:
    return Bottom("build_timm_backbone", "MODEL.TIMM.NAME", name)


def load(content: Any, network: nn.Module, folder: Path, entry: str = "") -> str:
    """Load a file of `content`; "loaded", or what the refusal says."""
    file = folder / "weights.pth"
    torch.save(content, file)
    try:
        DeepFuseCheckpointer(network).load(f"{file}?entry={entry}" if entry else str(file))
    except UserError as error:
        return "refused: " + str(error).splitlines()[0].removeprefix(f"{file}: ")
    return "loaded"


def is_in(state: State, network: Bottom, is_timm: bool) -> bool:
    """Whether the network has the tensors of a plain state dict of it."""
    own = network.backbone.state_dict()
    if is_timm:
        names = network.backbone.names_of(state)
        return names.keys() >= {n for n in state if "layer4" in n} and all(
            torch.equal(own[names[name]], state[name]) for name in names
        )
    return torch.equal(own["stem.conv1.weight"], state["conv1.weight"]) and torch.equal(
        own["res5.1.conv2.weight"], state["layer4.1.conv2.weight"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--timm", action="store_true", help="timm's models instead of wrappers")
    args = parser.parse_args()
    import timm

    logging.disable(logging.CRITICAL)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        if args.timm:
            _print_timm(timm, Path(folder))
        else:
            _print_wrappers(timm.create_model("resnet18").state_dict(), Path(folder))


def _print_wrappers(state: State, folder: Path) -> None:
    print("| file | `build_resnet_backbone` | `build_timm_backbone` |\n|---|---|---|")
    for what, wrap in {**WRAPPERS, SEQUENCE: in_sequence}.items():
        cells = []
        for is_timm, network in ((False, Bottom(*RESNET)), (True, timm_network("resnet18"))):
            said = load(wrap(state), network, folder)
            right = said != "loaded" or is_in(state, network, is_timm)
            cells.append(said[:60] if right else "OTHER TENSORS")
        print(f"| {what} | {' | '.join(cells)} |")


def _print_timm(timm, folder: Path) -> None:
    loaded = 0
    for name in _TIMM_MODELS.split():
        state = timm.create_model(name).state_dict()
        network = timm_network(name)
        said = load(state, network, folder)
        own = network.backbone.state_dict()
        names = network.backbone.names_of(state)
        is_whole = set(names.values()) == own.keys()
        if said == "loaded" and not (
            is_whole and all(torch.equal(own[names[n]], state[n]) for n in names)
        ):
            said = "OTHER TENSORS"
        loaded += said == "loaded"
        print(f"| {name} | {len(state)} | {len(own)} | {said} |")
    print(f"{loaded} of {len(_TIMM_MODELS.split())} loaded")


if __name__ == "__main__":
    main()
