"""Reading weights without executing them.

A pickle can run any code when it is loaded. Checkpoints here are read by ``torch.load`` with
``weights_only=True``; detectron2's model-zoo ``.pkl`` files by an unpickler that knows NumPy arrays
and plain containers and refuses every other global by name.
"""

import pickle
from pathlib import Path
from typing import Any

import torch

from ..errors import WeightsError

__all__ = ["load_pickle_of_arrays", "load_torch"]

# Everything a pickle of dicts, lists, numbers, strings and NumPy arrays asks for.
_ALLOWED_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("collections", "OrderedDict"),
    # how python 2 and 3 spell bytes in old protocols
    ("_codecs", "encode"),
}


def load_torch(path: str | Path) -> dict[str, Any]:
    """Contents of a ``.pth`` file on the CPU; tensors and plain containers only."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).split("Please file an issue")[0].strip()
        raise WeightsError(
            f"{path} holds more than tensors and plain containers, or is damaged, and was not "
            f"loaded, because a pickle can run code. torch says: {reason}\n"
            "If you trust the file, load it yourself with torch.load(..., weights_only=False) and "
            "save its state dict: torch.save(model_state_dict, NEW_FILE)."
        ) from error
    except (EOFError, RuntimeError, OSError) as error:
        raise WeightsError(
            f"{path} cannot be read as a checkpoint; it is damaged or was cut short ({error}). "
            "Copy or download it again, or use an earlier checkpoint of the same folder."
        ) from error


def load_pickle_of_arrays(path: str | Path) -> dict[str, Any]:
    """Contents of a ``.pkl`` file of NumPy arrays in plain containers (detectron2's model zoo)."""
    try:
        with open(path, "rb") as file:
            return _ArrayUnpickler(file, str(path)).load()
    except (EOFError, pickle.UnpicklingError, UnicodeDecodeError) as error:
        raise WeightsError(
            f"{path} cannot be read as a pickle of arrays; it is damaged or was cut short "
            f"({error}). Copy or download it again."
        ) from error


class _ArrayUnpickler(pickle.Unpickler):
    def __init__(self, file, path: str):
        super().__init__(file, encoding="latin1")  # the model zoo's files come from python 2
        self._path = path

    def find_class(self, module: str, name: str):
        if (module, name) not in _ALLOWED_GLOBALS:
            raise WeightsError(
                f"{self._path} asks for {module}.{name}, which is no array and no plain container; "
                "it was not loaded, because a pickle can run code. If you trust the file, load it "
                "yourself and save its arrays: torch.save({name: torch.as_tensor(array)}, FILE)."
            )
        return super().find_class(module, name)
