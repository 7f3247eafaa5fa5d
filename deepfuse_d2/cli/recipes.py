"""List the recipes, by name: configs that come with the package.

    deepfuse recipes
    deepfuse recipes 'Cityscapes/*DeepFuse*'
    deepfuse recipes MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick --show > my.yaml

docs/models.md has what each costs and what was measured of it.
"""

from __future__ import annotations

import argparse

from ..config.recipes import config_path, list_configs
from ..errors import ConfigError
from .arguments import offer

__all__ = ["NEEDS_PACKAGE", "add_arguments", "run"]

NEEDS_PACKAGE = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pattern = parser.add_argument(
        "pattern", nargs="?", default="*", metavar="PATTERN", help="as in a shell (default: all)"
    )
    offer(pattern, lambda prefix, **_: list_configs(f"{prefix}*"))
    parser.add_argument(
        "--path", action="store_true", help="print the files, for _BASE_ of a config of your own"
    )
    parser.add_argument("--show", action="store_true", help="print what the files say")


def run(args: argparse.Namespace) -> None:
    names = list_configs(args.pattern)
    if not names:
        raise ConfigError(
            f'No recipe matches "{args.pattern}"; deepfuse recipes without a pattern lists all.'
        )
    for name in names:
        if args.show:
            print(config_path(name).read_text(encoding="utf-8"), end="")
        else:
            print(config_path(name) if args.path else name)
