"""From the file names of an annotation file to files that are there."""

import os
import unicodedata
from collections.abc import Callable

__all__ = ["FileFinder"]

# Folders that are listed; a data set with more of them is asked file by file.
_MAX_FOLDERS = 2000


class FileFinder:
    """Finds images below a folder by names as other systems write them.

    Args:
        root: the folder that names start from.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = os.path.abspath(root)
        self._folders: dict[str, frozenset[str]] = {}

    def find(self, name: str) -> tuple[str | None, str]:
        """Path of a file, and what was changed in its name ("" if nothing was); None without one.

        Backslashes, another normal form of unicode, a leading folder that `root` ends with, and
        folders in front that do not exist here are tried.
        """
        path = os.path.join(self.root, name)
        if self.exists(path):
            return path, ""
        for change, variants in _VARIANTS.items():
            for variant in variants(name, self.root):
                path = os.path.join(self.root, variant)
                if variant != name and self.exists(path):
                    return path, change
        return None, ""

    def explain(self, name: str) -> str:
        """Why there is no such file, as far as it can be seen."""
        folder, base = os.path.split(os.path.join(self.root, name.replace("\\", "/")))
        names = self._names(folder)
        if not os.path.isdir(folder):
            return f"folder {folder} does not exist"
        stem = os.path.splitext(base)[0].lower()
        for other in names:
            if other.lower() == base.lower():
                return f"there is {other}, in other letters"
        for other in names:
            if os.path.splitext(other)[0].lower() == stem:
                return f"there is {other}, of another suffix"
        if not names:
            return f"folder {folder} is empty"
        return f"folder {folder} holds {len(names)} other files"

    def exists(self, path: str) -> bool:
        folder, base = os.path.split(path)
        if folder not in self._folders and len(self._folders) >= _MAX_FOLDERS:
            return os.path.isfile(path)
        return base in self._names(folder)

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._folders:
            try:
                with os.scandir(folder) as entries:
                    names = frozenset(entry.name for entry in entries if not entry.is_dir())
            except (OSError, ValueError):  # ValueError: a NUL in the name
                names = frozenset()
            self._folders[folder] = names
        return self._folders[folder]


def _slashes(name: str, root: str) -> list[str]:
    return [name.replace("\\", "/")]


def _normal_forms(name: str, root: str) -> list[str]:
    name = name.replace("\\", "/")
    return [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]


def _without_folders(name: str, root: str) -> list[str]:
    """`name` without its first folders, the longest first: they are in `root`, or elsewhere."""
    parts = name.replace("\\", "/").split("/")
    return ["/".join(parts[first:]) for first in range(1, len(parts))]


_VARIANTS: dict[str, Callable[[str, str], list[str]]] = {
    "its file name has backslashes": _slashes,
    "its file name is in another normal form of unicode": _normal_forms,
    "its file name begins with folders that are not in IMAGES": _without_folders,
}
