"""What a training on own data starts from: pretrained weights that can be had here."""

import logging
import os
import re
from typing import Any, NamedTuple

from ..checkpoint.named_weights import fetch_named, is_named
from ..checkpoint.reading import read_weights
from ..errors import ConfigError, WeightsError

__all__ = ["StartWeights", "choose_weights", "network_of"]

logger = logging.getLogger(__name__)

# Blocks of the third stage, and whether they are bottlenecks -> depth of a ResNet.
_DEPTHS = {(2, False): 18, (6, False): 34, (6, True): 50, (23, True): 101, (36, True): 152}
_RESNET = re.compile(r"resnet\d+([._]|$)")


class StartWeights(NamedTuple):
    """MODEL.WEIGHTS, and the network that they are of."""

    #: "" for random ones, and where timm brings the network with its weights.
    weights: str
    #: of the ResNet; 0 for any other network of timm.
    depth: int
    #: name of the network in timm, "" for a ResNet of detectron2's.
    timm: str = ""

    @property
    def are_random(self) -> bool:
        return not (self.weights or self.timm)

    def describe(self) -> str:
        return f"timm://{self.timm}" if self.timm else self.weights


def choose_weights(asked: str, device: str) -> StartWeights:
    """The first of what is asked for that can be had here.

    Args:
        asked: "" tries torchvision's ResNet, timm's, then random numbers; "random" takes these;
            else a file, ``torchvision://resnet18``, ``timm://NAME``, or a name that torchvision or
            timm knows.
        device: "cpu" gets a ResNet-18, "cuda" a ResNet-50.

    Raises:
        ConfigError: a file does not exist, or is of no network that is known.
        WeightsError: weights that were asked for by name cannot be had.
    """
    depth = 18 if device == "cpu" else 50
    if asked == "random":
        return StartWeights("", depth)
    if os.path.isfile(asked):
        return StartWeights(asked, _depth_of(asked))
    if asked and not is_named(asked) and re.search(r"[/\\]|\.(pth|pt|pkl|safetensors|bin)$", asked):
        raise ConfigError(f"--weights {asked} does not exist (folder: {os.getcwd()}).")
    if is_named(asked):
        return _named(asked)
    model = asked or f"resnet{depth}"
    failures = []
    for name in (f"torchvision://{model}", f"timm://{model}"):
        try:
            return _named(name)
        except WeightsError as error:
            failures.append(str(error))
    if asked:
        raise WeightsError(f"--weights {asked}: {' '.join(failures)}")
    logger.warning(
        "No pretrained weights can be had here, so the training starts from random numbers and "
        "needs more time; give a file with --weights. %s", " ".join(failures),
    )  # fmt: skip
    return StartWeights("", depth)


def _named(name: str) -> StartWeights:
    library, _, model = name.partition("://")
    file = str(fetch_named(name))
    if library == "timm" and not _RESNET.match(model):
        return StartWeights("", 0, model)
    return StartWeights(name, _depth_of(file))


def _depth_of(file: str) -> int:
    """Depth of the ResNet in a file.

    Raises: ConfigError: it holds no ResNet.
    """
    weights = read_weights(file)
    names = "\n".join(weights.state)
    blocks = [int(number) for number in re.findall(r"res4\.(\d+)\.conv1\.weight", names)]
    depth = _DEPTHS.get((max(blocks, default=-1) + 1, "res4.0.conv3.weight" in names))
    if depth is None:
        raise ConfigError(
            f"{file} holds no ResNet of depth {sorted(_DEPTHS.values())}, which is what `deepfuse "
            "init` makes a config for. Write MODEL.WEIGHTS and the network into the yaml by hand."
        )
    return depth


def network_of(start: StartWeights) -> dict[str, Any]:
    """The keys below MODEL that make the network of those weights."""
    if start.timm:
        return {"TIMM": {"NAME": start.timm, "PRETRAINED": True, "NORM": "FrozenBN"}}
    return {
        "RESNETS": {
            "DEPTH": start.depth,
            "NORM": "GN" if start.are_random else "FrozenBN",
            "STRIDE_IN_1X1": False,
            **({"RES2_OUT_CHANNELS": 64} if start.depth in (18, 34) else {}),
        }
    }
