"""detectron2's checkpointer, made safe: nothing is executed on load, nothing is lost on save."""

import os
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from ..errors import WeightsError
from .safe_load import load_pickle_of_arrays, load_torch
from .torchvision_names import (
    PREPROCESSING,
    is_torchvision_resnet,
    rename_torchvision_resnet,
)

__all__ = ["DeepFuseCheckpointer"]


class DeepFuseCheckpointer(DetectionCheckpointer):
    """A :class:`DetectionCheckpointer` that

    - reads ``.pth`` and detectron2's ``.pkl`` without executing what they hold;
    - recognises torchvision's ResNet weights, renames them, and refuses a model that would feed
      them images they do not expect or that has no place for part of them;
    - writes to a temporary name and renames, so that a killed process leaves the last checkpoint.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``<save_dir>/<name>.pth`` with the model, all checkpointables and `kwargs`."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        data |= {key: item.state_dict() for key, item in self.checkpointables.items()}
        data |= kwargs
        target = os.path.join(self.save_dir, f"{name}.pth")
        partial = f"{target}.partial"
        self.logger.info(f"Saving checkpoint to {target}")
        try:
            with open(partial, "wb") as file:
                torch.save(data, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, target)
        finally:
            if os.path.exists(partial):
                os.remove(partial)
        self.tag_last_checkpoint(f"{name}.pth")

    def load(self, path: str, *args, **kwargs) -> dict[str, Any]:
        """Load `path` (a file or URL) into the model; "" loads nothing."""
        if path and "://" not in path and not os.path.isfile(path.split("?")[0]):
            raise WeightsError(
                f"The weights file {path} does not exist (folder: {os.getcwd()}). Give an existing "
                "file with MODEL.WEIGHTS, or an empty string to start from random weights."
            )
        return super().load(path, *args, **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name the checkpoint that ``--resume`` takes, never leaving a half-written tag."""
        tag = os.path.join(self.save_dir, "last_checkpoint")
        with open(f"{tag}.partial", "w") as file:
            file.write(last_filename_basename)
        os.replace(f"{tag}.partial", tag)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            return _name_zoo_pickle(load_pickle_of_arrays(filename))
        loaded = load_torch(filename)
        if "model" not in loaded:
            loaded = {"model": loaded.get("state_dict", loaded)}
        if is_torchvision_resnet(loaded["model"]):
            self.logger.info(f"{filename} holds torchvision's ResNet names; renaming them.")
            return {
                "model": rename_torchvision_resnet(loaded["model"]),
                "matching_heuristics": True,
                "__author__": "torchvision",
            }
        if self._parsed_url_during_load.query == "matching_heuristics=True":
            loaded["matching_heuristics"] = True
        return loaded

    def _load_model(self, checkpoint: dict[str, Any]):
        if checkpoint.get("__author__") == "torchvision":
            _check_torchvision_model(self.model)
            _check_all_have_a_place(checkpoint["model"], self.model)
        return super()._load_model(checkpoint)


def _name_zoo_pickle(data: dict[str, Any]) -> dict[str, Any]:
    """What detectron2's own loader makes of a ``.pkl``."""
    if "model" in data and "__author__" in data:
        return data
    data = data.get("blobs", data)
    weights = {k: v for k, v in data.items() if isinstance(v, np.ndarray) and "_momentum" not in k}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def _check_torchvision_model(model: nn.Module) -> None:
    expected = PREPROCESSING
    found = {
        "INPUT.FORMAT": getattr(model, "input_format", expected["INPUT.FORMAT"]),
        "MODEL.PIXEL_MEAN": _values(model, "pixel_mean", expected["MODEL.PIXEL_MEAN"]),
        "MODEL.PIXEL_STD": _values(model, "pixel_std", expected["MODEL.PIXEL_STD"]),
    }
    wrong = []
    for key, value in expected.items():
        same = found[key] == value if isinstance(value, str) else np.allclose(found[key], value)
        if not same:
            wrong.append(f"{key} is {found[key]}, must be {value}")
    if any(
        isinstance(module, BottleneckBlock) and module.conv1.stride != (1, 1)
        for module in model.modules()
    ):
        wrong.append("MODEL.RESNETS.STRIDE_IN_1X1 is True, must be False")
    if wrong:
        raise WeightsError(
            "torchvision's ResNet weights do not fit this config: " + "; ".join(wrong) + "."
        )


def _check_all_have_a_place(weights: dict[str, torch.Tensor], model: nn.Module) -> None:
    """detectron2's name matching drops what fits nowhere and only logs it; half a backbone of
    random weights then trains silently."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    # "a.b.stem.conv1.weight" has the place of "stem.conv1.weight"
    odd = [
        name
        for name, value in weights.items()
        if not any(
            shape == value.shape and f".{model_name}".endswith(f".{name}")
            for model_name, shape in shapes.items()
        )
    ]
    if odd:
        raise WeightsError(
            f"{len(odd)} of the {len(weights)} tensors of a torchvision ResNet have no place in "
            f"the model, e.g. {odd[0]} {tuple(weights[odd[0]].shape)}: its bottom-up network "
            "differs. Check MODEL.RESNETS.DEPTH, RES2_OUT_CHANNELS (64 for 18 and 34, else 256), "
            "NUM_GROUPS, WIDTH_PER_GROUP, and that MODEL.NECK.BOTTOM_UP is a ResNet."
        )


def _values(model: nn.Module, name: str, default: list[float]) -> list[float]:
    tensor = getattr(model, name, None)
    return default if tensor is None else tensor.flatten().tolist()
