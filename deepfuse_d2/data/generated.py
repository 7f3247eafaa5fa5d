"""Data sets that are drawn: their parameters in a file beside their content, whole or not there.

The processes that draw import this file and the generator alone, and nothing else of the package.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, TypeVar

__all__ = ["GeneratedSet"]

Set = TypeVar("Set", bound="GeneratedSet")


@dataclasses.dataclass(frozen=True)
class GeneratedSet:
    """The parameters of such a data set. A subclass gives their defaults, and the files."""

    #: Name, what it consists of, and the file that holds the parameters and marks a folder as ours.
    title: ClassVar[str]
    unit: ClassVar[str]
    file: ClassVar[str]
    #: From and to of the parameters that are whole numbers.
    ranges: ClassVar[Mapping[str, tuple[int, int]]]

    def __post_init__(self) -> None:
        for name, (low, high) in self.ranges.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"{self.title}: {name} = {value!r}; give a whole number from {low} to {high}"
                )
        if self.num_train + self.num_val == 0:
            raise ValueError(
                f"{self.title}: num_train = num_val = 0; ask for at least one {self.unit}"
            )

    def files(self, root: Path) -> Iterator[Path]:
        """Every file of the content."""
        raise NotImplementedError

    @classmethod
    def read(cls: type[Set], root: Path) -> Set | None:
        """The parameters in `root`; None where there are none or they cannot be read."""
        try:
            return cls(**json.loads((root / cls.file).read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, root: Path) -> None:
        (root / self.file).write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def is_complete(cls, root: Path) -> bool:
        """Whether `root` holds every file that its parameters promise."""
        present = cls.read(root)
        return present is not None and all(path.is_file() for path in present.files(root))

    def is_made(self, root: Path, *, overwrite: bool) -> bool:
        """Whether it lies in `root` already, whole.

        Raises:
            FileExistsError: something else lies there, or one of other parameters and `overwrite`
                is not set.
        """
        present = self.read(root)
        if present is None and root.is_dir() and any(root.iterdir()):
            raise FileExistsError(
                f"{root} holds files but no {self.file} of a {self.title}; choose another folder "
                "or empty it"
            )
        if present is None or not self.is_complete(root):
            return False
        if present == self:
            logger = logging.getLogger(__name__)
            logger.info("The %s in %s is complete: %s", self.title, root, present)
            return True
        if not overwrite:
            raise FileExistsError(
                f"{root} holds a {self.title} of {present}; asked for were {self}. Choose another "
                "folder, or pass overwrite=True (--overwrite) to replace it"
            )
        return False
