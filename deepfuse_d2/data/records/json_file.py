"""Reading a JSON file of annotations, whatever wrote it; what is none is explained in one line."""

import gc
import json
import os
from typing import Any

from ...errors import DatasetError

__all__ = ["read_json"]


def read_json(path: str | os.PathLike) -> Any:
    """Content of a JSON file in UTF-8 or UTF-16, with or without a byte-order mark.

    Raises:
        DatasetError: the file does not exist, cannot be read, or holds no JSON.
    """
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError as error:
        raise DatasetError(f"Annotation file {path} does not exist.") from error
    except OSError as error:
        raise DatasetError(f"Annotation file {path} cannot be read ({error.strerror}).") from error
    if not content.strip():
        raise DatasetError(f"Annotation file {path} is empty.")
    # Millions of small lists are made and none is garbage: looking for it is half of the time.
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        encoding = json.detect_encoding(content)  # knows byte-order marks
        content = content.decode(encoding)
        return json.loads(content)
    except RecursionError as error:
        raise DatasetError(f"Annotation file {path} is nested too deeply to be read.") from error
    except (ValueError, UnicodeError) as error:
        reason = str(error)
        raise DatasetError(
            f"Annotation file {path} holds no JSON ({reason}). Was it copied or written as a whole?"
        ) from error
    finally:
        if was_enabled:
            gc.enable()
