"""Weights files read without executing what they hold.

A pickle can run any code when it is loaded, and ``.pth`` files hold pickles. They are read by
``torch.load`` with ``weights_only=True``, which knows tensors and plain containers; detectron2's
``.pkl`` files by array_pickle.py. ``.safetensors`` files hold no code by their format.
"""

import codecs
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import DamagedWeightsError, WeightsError
from .array_pickle import load_pickle_of_arrays
from .tensorflow_bundle import load_tensorflow_bundle

__all__ = ["METADATA_KEY", "load_file", "load_torch"]

# Where files that we write keep what their weights expect, see writing.py.
METADATA_KEY = "deepfuse_d2"

# How packed files begin.
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_TORCH_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")


def load_file(path: str | Path, suffix: str | None = None) -> dict[str, Any]:
    """Return the contents of a ``.pth``, ``.pkl`` or ``.safetensors`` file, on the CPU.

    Or of a TensorFlow checkpoint, by its ``.index``. The format goes by the suffix of the name, or
    by `suffix`; what is none of the last three is read as a file of torch (``.pth``, ``.pt``,
    ``.tar``, ``.pyth``, ``.bin``).

    Raises:
        WeightsError: the file is missing or holds more than weights.
        DamagedWeightsError: it is damaged or was cut short.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist (folder: {Path.cwd()}).")
    _check_kind(path)
    loaders = {
        ".pkl": load_pickle_of_arrays,
        ".safetensors": _load_safetensors,
        ".index": load_tensorflow_bundle,
    }
    loaded = loaders.get(suffix or path.suffix, load_torch)(path)
    if not isinstance(loaded, Mapping):
        raise WeightsError(
            f"{path} holds a {type(loaded).__name__}, not a mapping of names to tensors. Save the "
            "state dict of the model: torch.save(model.state_dict(), FILE)."
        )
    return dict(loaded)


def _check_kind(path: Path) -> None:
    """Raise for what is stored under the name of weights but is something else."""
    with open(path, "rb") as file:
        start = file.read(512)
    text = start.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise DamagedWeightsError(
            f"{path} is a pointer of Git LFS ({path.stat().st_size} bytes), not the weights it "
            "points to. Fetch them with `git lfs pull` in the repository, or download the file."
        )
    if text.startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise DamagedWeightsError(
            f"{path} is a web page, not weights: a download that was answered with a page, e.g. to "
            "log in or to confirm. Open the link in a browser and save the file itself."
        )
    if not start:
        raise _damaged(path, EOFError("it is empty"))
    packed = next((kind for magic, kind in _PACKED.items() if start.startswith(magic)), None)
    if packed:
        raise WeightsError(f"{path} is packed with {packed}; unpack it, and give what was in it.")
    if path.suffix != ".pkl" and _is_text(start):  # a pickle may be text
        line = start.decode("utf-8", "ignore").strip().splitlines()[0][:80]
        raise DamagedWeightsError(
            f'{path} is text, not weights; it begins with "{line}". If that is the answer to a '
            "download, it says what went wrong there."
        )


def _is_text(start: bytes) -> bool:
    try:
        # the last character may be cut
        text = codecs.getincrementaldecoder("utf-8")().decode(start).strip()
    except UnicodeDecodeError:
        return False
    return len(text) > 1 and all(x.isprintable() or x.isspace() for x in text)


def load_torch(path: str | Path) -> Any:
    """Return the contents of a ``.pth`` file on the CPU: tensors and plain containers only."""
    path = Path(path)
    if _is_torchscript(path):
        raise WeightsError(
            f"{path} is a TorchScript program, not a file of weights, and was not loaded, "
            "because it holds code. If you trust the file, save its weights: "
            f'torch.save(torch.jit.load("{path}").state_dict(), "NEW.pth").'
        )
    if _is_other_archive(path):
        raise WeightsError(
            f"{path} is a zip archive, but not one that torch wrote; unpack it, and give the file "
            "of weights in it."
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = _TORCH_GLOBAL.search(str(error))
        if named is None and not zipfile.is_zipfile(path):
            raise _damaged(path, error) from error
        reason = f"It asks for {named[1]}" if named else str(error).splitlines()[0]
        raise WeightsError(
            f"{path} holds more than tensors and plain containers and was not loaded, because a "
            f"pickle can run code. {reason}. If you trust the file, convert it once, with its own "
            "libraries installed:\n"
            "  python -c 'import sys, torch; "
            'd = torch.load(sys.argv[1], map_location="cpu", weights_only=False); '
            'd = d.get("state_dict", d.get("model", d)); '
            "torch.save({k: v.data for k, v in d.items()}, sys.argv[2])' "
            f"{path} NEW.pth"
        ) from error
    except (EOFError, RuntimeError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, error) from error


def _is_other_archive(path: Path) -> bool:
    """Whether it is a zip archive that torch did not write."""
    try:
        with zipfile.ZipFile(path) as archive:
            return not any(Path(name).name == "data.pkl" for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _is_torchscript(path: Path) -> bool:
    """Whether it is a program: torch 2.5 would run it, `weights_only` or not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).name == "constants.pkl" for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _load_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            loaded: dict[str, Any] = {"model": {name: file.get_tensor(name) for name in names}}
            metadata = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error
    if metadata is not None:
        try:
            loaded[METADATA_KEY] = json.loads(metadata)
        except ValueError as error:
            raise _damaged(path, error) from error
    return loaded


def _damaged(path: Path, error: Exception) -> DamagedWeightsError:
    reason = (str(error) or type(error).__name__).splitlines()[0].split(". ")[0]
    return DamagedWeightsError(
        f"{path} cannot be read as a checkpoint; it is damaged or was cut short ({reason}). "
        "Copy or download it again, or use an earlier checkpoint of the same folder."
    )
