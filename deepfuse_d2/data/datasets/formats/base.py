"""What a format of DATASETS.EXTRA says of itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

from ....errors import ConfigError

__all__ = ["ENTRY_MARK", "Format", "check_class_names", "nothing_more_to_check"]

#: Metadata of a data set that came from DATASETS.EXTRA: its entry, to recognise it again.
ENTRY_MARK = "deepfuse_extra_entry"


def nothing_more_to_check(where: str, entry: dict[str, Any]) -> None:
    """The types of the values say it all."""


class Format(NamedTuple):
    """Keys of one FORMAT beside NAME and FORMAT, each with the type of its value."""

    required: dict[str, type]
    optional: dict[str, type]
    #: Those of the keys that are paths, relative to the working directory.
    paths: tuple[str, ...]
    #: Registers an entry that was checked, with absolute paths. Reads no file.
    register: Callable[[dict[str, Any]], None]
    #: Gets the place of an entry, for messages, and the entry; raises a ConfigError.
    check: Callable[[str, dict[str, Any]], None] = nothing_more_to_check


def check_class_names(where: str, entry: dict[str, Any]) -> None:
    """Raise a ConfigError unless CLASSES, where given, holds distinct names."""
    classes = entry.get("CLASSES", ["object"])
    if not classes or not all(isinstance(name, str) and name for name in classes):
        raise ConfigError(f"{where}: CLASSES = {classes!r}; expected the names of ids 0, 1, ...")
    if len(set(classes)) < len(classes):
        raise ConfigError(f"{where}: CLASSES holds a name twice: {classes!r}.")
