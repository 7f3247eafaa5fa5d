"""Parts of a model that were made ready before, and what is written down of them.

{"parts": {"backbone": {"files": {"backbone.pt2": SHA-256}, "least": [[1, 3, 128, 128]]}}, ...}
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ...errors import DamagedWeightsError
from ...files import file_digest, written_whole
from .interface import Run

__all__ = ["StoredPart", "StoredRecord", "read_record", "write_record"]

#: Shapes of the smallest inputs that a part was compared on.
Least = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class StoredPart:
    """A part at work.

    Args:
        run: computes it.
        least: shapes of the smallest inputs that it takes.
        dtype: that it computes in.
    """

    run: Run
    least: Least
    dtype: torch.dtype


@dataclass(frozen=True)
class StoredRecord:
    """What a record says.

    Args:
        parts: path in the model -> (its files, the first of which is the one to open; shapes of
            the smallest inputs).
        facts: all else.
    """

    parts: Mapping[str, tuple[tuple[Path, ...], Least]]
    facts: Mapping[str, Any]


def write_record(
    file: Path, parts: Mapping[str, tuple[tuple[str, ...], Least]], facts: Mapping[str, Any]
) -> None:
    """Write down parts whose files lie beside `file`, last of all."""
    listed = {
        path: {"files": {name: file_digest(file.parent / name) for name in names}, "least": least}
        for path, (names, least) in parts.items()
    }
    with written_whole(file) as temporary:
        temporary.write_text(json.dumps({**facts, "parts": listed}, indent=1) + "\n")


def read_record(file: Path) -> StoredRecord | None:
    """What is written down in `file`; None where it is not there.

    Raises:
        DamagedWeightsError: the record, or a file that it names, is not as it was written.
    """
    if not file.is_file():
        return None
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        parts = {
            path: (
                tuple(_whole(file.parent, *named) for named in entry["files"].items()),
                tuple(map(tuple, entry["least"])),
            )
            for path, entry in facts.pop("parts").items()
        }
    except DamagedWeightsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedWeightsError(f"{file} cannot be read: {error!r}. Pack the model anew.") from (
            error
        )
    return StoredRecord(parts, facts)


def _whole(folder: Path, name: str, digest: str) -> Path:
    path = folder / name
    # a name of somebody else's making stays inside of the folder
    if path.name != name or not path.is_file() or file_digest(path) != digest:
        raise DamagedWeightsError(
            f"{path} is missing, or not as it was written. Pack the model anew."
        )
    return path
