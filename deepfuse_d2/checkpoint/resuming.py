"""Which checkpoint of a folder to continue from, also when the last one is not whole."""

import os
import re
from pathlib import Path

from ..errors import WeightsError
from .safe_load import load_file

__all__ = ["how_to_resume", "last_checkpoint"]

_TAG = "last_checkpoint"


def last_checkpoint(folder: str) -> str:
    """Return the path of the checkpoint that the file ``last_checkpoint`` of `folder` names.

    Raises: WeightsError: it names no file of this folder.
    """
    tag = os.path.join(folder, _TAG)
    try:
        with open(tag, encoding="utf-8") as file:
            name = file.read(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"{tag} cannot be read: {error}") from error
    # Of all paths it names a file beside it: whoever sends a folder sends no paths to elsewhere.
    path = os.path.join(folder, name)
    if not re.fullmatch(r"[\w.\-+=]+\.pth", name) or os.path.islink(path):
        raise WeightsError(
            f"{tag} holds {name[:100]!r}, which is not the name of a checkpoint in this folder. "
            f"{how_to_resume(folder, None)}"
        )
    if not os.path.isfile(path):
        raise WeightsError(f"{tag} names {path}, which is gone. {how_to_resume(folder, path)}")
    return path


def how_to_resume(folder: str, damaged: str | None) -> str:
    """Say which checkpoint of `folder` is the newest whole one and how to continue from it.

    Args:
        damaged: a path to leave out.
    """
    found = _newest_whole(Path(folder), damaged)
    if found is None:
        return (
            f"{folder} has no other whole checkpoint; start again without --resume, or from a "
            "file of weights with MODEL.WEIGHTS."
        )
    path, iteration = found
    return (
        f"The newest whole checkpoint in {folder} is {path.name} (iteration {iteration}). To "
        "continue from it, name it as the last one, then give the same command with --resume "
        f"again:\n  printf {path.name} > {path.parent / _TAG}"
    )


def _newest_whole(folder: Path, damaged: str | None) -> tuple[Path, int] | None:
    """Path and iteration of the newest checkpoint that can be read and resumed from."""
    files = [
        path
        for path in folder.glob("*.pth")
        if path.is_file() and not path.is_symlink() and str(path) != str(damaged)
    ]
    for path in sorted(files, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            loaded = load_file(path)
        except WeightsError:
            continue
        if "model" in loaded and isinstance(loaded.get("iteration"), int):
            return path, loaded["iteration"]
    return None
