"""The configs that come with the package, by name: in a source tree, and in an installed wheel.

A name is the path of a yaml file below configs/ without its ending:
"Cityscapes/mask_rcnn_R_50_DeepFuseFPN". Bases, which others inherit from, and the plans of
ablations are no recipes.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
from pathlib import Path

from ..errors import ConfigError

__all__ = ["base_config", "config_path", "find_config", "list_configs"]

# A wheel has the configs inside the package (setup.py); a source tree has them beside it.
_FOLDERS = (Path(__file__).parents[1] / "configs", Path(__file__).parents[2] / "configs")
_NO_RECIPES = ("ablations",)


def list_configs(pattern: str = "*") -> list[str]:
    """Names of all recipes, sorted; of those that match `pattern`, as in a shell.

    Example:
        >>> list_configs("PennFudan/*")
        ['PennFudan/mask_rcnn_R_18_DeepFuseFPN', 'PennFudan/mask_rcnn_R_18_FPN']
    """
    root = _root()
    names = [
        path.relative_to(root).with_suffix("").as_posix()
        for path in root.glob("*/**/*.yaml")
        if not path.name.startswith("Base") and path.relative_to(root).parts[0] not in _NO_RECIPES
    ]
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def config_path(name: str) -> Path:
    """The yaml file of a recipe, for commands and for ``_BASE_`` of own configs.

    Raises:
        ConfigError: there is no such recipe.
    """
    wanted = str(name).removesuffix(".yaml")
    known = list_configs()
    if wanted not in known:
        raise ConfigError(
            f'There is no recipe "{name}". {_hint(wanted, known)}deepfuse_d2.list_configs() gives '
            f"all {len(known)}; the config of a file of your own comes from "
            "deepfuse_d2.config.loading.load_config(file)."
        )
    return _root() / f"{wanted}.yaml"


def base_config(name: str) -> Path:
    """The yaml file of a base that recipes inherit from, such as "Base-MaskRCNN"."""
    return (_root() / f"{name}.yaml").resolve()


def find_config(name: str) -> str:
    """Return the path of a config that a user names: a yaml file, or a recipe.

    Raises:
        ConfigError: it is neither.
    """
    if os.path.isfile(name):
        return name
    if name.removesuffix(".yaml") in list_configs():
        return str(config_path(name))
    hint = _hint(name.removesuffix(".yaml"), list_configs())
    raise ConfigError(
        f"Config file {name} does not exist (folder: {os.getcwd()}), and no recipe has that name. "
        f"{hint}deepfuse recipes lists them."
    )


def _root() -> Path:
    for folder in _FOLDERS:
        if (folder / "Base-MaskRCNN.yaml").is_file():
            return folder
    raise ConfigError(
        "The configs of deepfuse_d2 are neither inside the package nor beside it: "
        f"{' and '.join(map(str, _FOLDERS))} have none. The installation is incomplete; install "
        "the package again."
    )


def _hint(wanted: str, known: list[str]) -> str:
    """Recipes of the same last part, which lack the folder alone, then names like `wanted`.

    Case does not count in the comparison.
    """
    by_lower = {name.lower(): name for name in known}
    wanted = wanted.lower()
    near = [key for key in by_lower if key.rpartition("/")[2] == wanted.rpartition("/")[2]]
    near += difflib.get_close_matches(wanted, by_lower, n=4, cutoff=0.6)
    found = ", ".join(by_lower[key] for key in list(dict.fromkeys(near))[:5])
    return f"Did you mean: {found}? " if found else ""
