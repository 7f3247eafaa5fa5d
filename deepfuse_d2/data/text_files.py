"""Text files of data sets: lists of names, in whatever was copied, cut short or written wrong."""

import os

from ..errors import DatasetError

__all__ = ["read_lines"]


def read_lines(path: str | os.PathLike) -> list[str]:
    """Lines of a file in UTF-8, with or without a byte-order mark, that are not blank.

    Raises: DatasetError: the file does not exist, cannot be read, or holds no text.
    """
    try:
        with open(path, encoding="utf-8-sig") as file:
            return [line for line in file.read().splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise DatasetError(f"File {path} does not exist.") from error
    except OSError as error:
        raise DatasetError(f"File {path} cannot be read ({error.strerror}).") from error
    except UnicodeError as error:
        raise DatasetError(f"File {path} holds no text in UTF-8 ({error}).") from error
