"""A model as a folder: all that predicting with it takes, and nothing that could be executed.

    deepfuse_d2.json     version of this layout, the network in words, SHA-256 of the files
    config.yaml          what differs from the defaults
    model.safetensors    weights
    labels.json          names and colours of the classes
    README.md            a model card
    sample.png, ...      an image and what the model gives for it

``inference/packing.py`` writes it, and ``MODEL.WEIGHTS``, ``Predictor`` and the commands take it
where they take a file. ``hf://owner/name`` is such a folder on a model hub, see hub.py.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DamagedWeightsError, WeightsError
from ..files import file_digest, written_whole

__all__ = [
    "CONFIG",
    "LABELS",
    "WEIGHTS",
    "ModelFolder",
    "is_model_folder",
    "open_folder",
    "write_mark",
]

CONFIG, WEIGHTS, LABELS = "config.yaml", "model.safetensors", "labels.json"
_MARK = "deepfuse_d2.json"
_VERSION = 1


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was looked at.

    Args:
        path: where it lies; of one on a hub, its copy.
        network: meta-architecture, backbone and neck by the names of their config keys.
        labels: metadata of the data set that the model was trained for: ``thing_classes``, ...
    """

    path: Path
    network: Mapping[str, str]
    labels: Mapping[str, Any]

    @property
    def config_file(self) -> str:
        return str(self.path / CONFIG)

    @property
    def weights_file(self) -> str:
        return str(self.path / WEIGHTS)

    def describe(self) -> str:
        """Say what it holds: "GeneralizedRCNN with build_neck_backbone, DeepFuseFPN"."""
        first, *others = self.network.values()
        return f"{first} with {', '.join(others)}"


def is_model_folder(name: str | os.PathLike) -> bool:
    """Whether `name` is meant as a folder: one that is here, or one on a hub."""
    return os.path.isdir(name) or str(name).startswith("hf://")


def open_folder(name: str | os.PathLike, *, verify: bool = True) -> ModelFolder:
    """Return a model folder, from a hub if its name begins with ``hf://``.

    Args:
        verify: compare every byte with what was written; else only look that the files are there.

    Raises:
        WeightsError: it is no such folder, or one of a newer version, or cannot be fetched.
        DamagedWeightsError: a file is missing, or is not as it was written.
    """
    if str(name).startswith("hf://"):
        from .hub import fetch

        path = fetch(str(name))
    else:
        path = Path(name)
    mark = _read_json(path / _MARK, name)
    if mark is None:
        raise WeightsError(
            f"{name} is a folder without {_MARK}, so no model that deepfuse pack wrote. Give a "
            "file of weights, or a folder of deepfuse pack."
        )
    version = mark.get("version")
    if not isinstance(version, int) or version > _VERSION:
        raise WeightsError(
            f"{name} is a model folder of version {version}; this deepfuse_d2 reads versions up to "
            f"{_VERSION}. Install a newer deepfuse_d2 (it was written by {mark.get('written_by')})."
        )
    files = mark.get("files")
    if not isinstance(files, Mapping) or not {CONFIG, WEIGHTS, LABELS} <= set(files):
        raise DamagedWeightsError(f"{name}/{_MARK} does not name the files of a model; pack again.")
    for file, digest in files.items():
        _check_file(path, file, digest, verify)
    network = {str(key): str(value) for key, value in mark.get("network", {}).items()}
    return ModelFolder(path, network, _labels(path, name))


def write_mark(path: Path, files: Sequence[str], network: Mapping[str, str], by: str) -> None:
    """Write down what the folder holds, last of all: a folder without it is no model.

    Args:
        files: names in the folder.
        by: name and version of the program.
    """
    content = {
        "version": _VERSION,
        "written_by": by,
        "network": dict(network),
        "files": {name: file_digest(path / name) for name in files},
    }
    with written_whole(path / _MARK) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _check_file(path: Path, name: str, digest: str, verify: bool) -> None:
    # a name of somebody else's making stays inside of the folder
    if os.path.basename(name) != name or not (path / name).is_file():
        raise DamagedWeightsError(
            f"The model folder {path} has no file {name}: it is incomplete. Copy it again, whole."
        )
    if verify and file_digest(path / name) != digest:
        raise DamagedWeightsError(
            f"{path / name} is not as it was written: it is damaged, or was changed. Copy the "
            "folder again, or pack the model anew."
        )


def _read_json(path: Path, name: str | os.PathLike) -> dict[str, Any] | None:
    """The object in a file; None where there is no file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise DamagedWeightsError(f"{path} of the model {name} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise DamagedWeightsError(f"{path} of the model {name} holds no JSON object.")
    return content


def _labels(path: Path, name: str | os.PathLike) -> dict[str, Any]:
    labels = _read_json(path / LABELS, name) or {}
    ids = "thing_dataset_id_to_contiguous_id", "stuff_dataset_id_to_contiguous_id"
    for key in ids:  # JSON's keys are text
        if key in labels:
            labels[key] = {int(given): number for given, number in labels[key].items()}
    return labels
