"""Weights files that are never half there, and say what their weights expect.

``.pth`` holds ``{"model": ..., "deepfuse_d2": {"source": ..., "expects": {...}}}``; its entry
``matching_heuristics`` lets plain detectron2 find places for names without a prefix as well.
``.safetensors`` holds the tensors, and the same as JSON among its metadata.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import WeightsError
from ..files import written_whole
from .safe_load import METADATA_KEY, load_file

__all__ = ["check_suffix", "write_torch", "write_weights"]


def check_suffix(path: Path) -> None:
    """Raise an error for a name that is not one of a format we write."""
    if path.suffix not in (".pth", ".safetensors"):
        raise WeightsError(f"{path}: weights are written as .pth or .safetensors.")


def write_weights(
    path: str | Path, state: Mapping[str, Tensor], origin: str, expects: Mapping[str, Any]
) -> None:
    """Write `state` to a ``.pth`` or ``.safetensors`` file, read it again and compare.

    Args:
        path: is replaced if it exists.
        state: tensors by name; of any layout in memory, parts of one storage too.
        origin: name of the source, "" for none.
        expects: config keys and values that the weights fix.

    Raises: WeightsError: another suffix, or the disk gives back something else than was written.
    """
    path = Path(path)
    check_suffix(path)
    # Copies: safetensors refuses tensors that share memory, torch would write all of the storage.
    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in state.items()}
    metadata = {"source": origin, "expects": dict(expects)}
    with written_whole(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file(tensors, temporary, {"format": "pt", METADATA_KEY: json.dumps(metadata)})
        else:
            content = {"model": tensors, METADATA_KEY: metadata, "matching_heuristics": True}
            torch.save(content, temporary)
        written = load_file(temporary, path.suffix)
        if written[METADATA_KEY] != metadata or not _equal(written["model"], tensors):
            raise WeightsError(
                f"{path} was not written: what the disk gave back differs. Is it damaged, or full?"
            )


def write_torch(path: str | Path, content: Any) -> None:
    """``torch.save`` that leaves the old file, or the whole new one, on the disk."""
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype
        and a[k].shape == b[k].shape
        and torch.equal(_bytes(a[k]), _bytes(b[k]))
        for k in b
    )


def _bytes(tensor: Tensor) -> Tensor:
    """Its bytes, so that not-a-numbers are equal too."""
    return tensor.contiguous().flatten().view(torch.uint8)
