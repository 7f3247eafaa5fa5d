"""Arguments that several commands have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

__all__ = [
    "add_config_and_weights",
    "add_config_file",
    "add_engine",
    "add_model",
    "add_overrides",
    "add_recipe",
    "check_model",
    "config_and_overrides",
    "files_and_recipes",
    "offer",
]


def offer(action: argparse.Action, completer: Callable[..., list[str]]) -> None:
    """Let the shell complete an argument by what `completer` gives for a beginning."""
    action.completer = completer  # type: ignore[attr-defined]  # argcomplete reads it


def add_config_file(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Add ``--config-file``: a yaml, or the name of a recipe."""
    given: dict[str, Any] = {"required": True, "metavar": "FILE"}
    given["help"] = "a yaml, or the name of a recipe"
    offer(parser.add_argument("--config-file", **given | options), files_and_recipes)


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add ``--model``, and what may be given in its place; :func:`check_model` looks at them."""
    parser.add_argument(
        "--model", metavar="FOLDER", help="that deepfuse pack wrote, or hf://owner/name[@revision]"
    )
    add_config_and_weights(parser)


def add_config_and_weights(parser: argparse.ArgumentParser) -> None:
    """Add ``--config-file`` and ``--weights`` in place of a ``--model``."""
    add_config_file(parser, required=False, help="in place of --model, a yaml or a recipe")
    parser.add_argument("--weights", metavar="FILE", help="for --config-file")


def add_engine(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine``, what computes the dense parts of a model."""
    parser.add_argument(
        "--engine", default="native",
        help="native, auto, openvino, onnxruntime, inductor, ...; aot executes what deepfuse pack "
        "--aot compiled into the model folder: take it for folders of your own making alone "
        "(default: native)",
    )  # fmt: skip


def check_model(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """End with a usage error unless there is a model, or a config with weights, and not both."""
    if [bool(x) for x in (args.model, args.config_file, args.weights)] not in (
        [True, False, False],
        [False, True, True],
    ):
        parser.error("give --model, or --config-file and --weights")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add what changes keys of a config: ``KEY VALUE ...`` anywhere on the line."""
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add ``[RECIPE] [KEY VALUE ...]``, and ``--config-file`` in place of the recipe."""
    words = parser.add_argument(
        "opts", nargs="*", metavar="RECIPE KEY VALUE",
        help="the name of a recipe (deepfuse recipes lists them) or a yaml; config overrides",
    )  # fmt: skip
    offer(words, files_and_recipes)
    add_config_file(parser, required=False, default="", help="in place of RECIPE")


def config_and_overrides(args: argparse.Namespace) -> tuple[str, list[str]]:
    """Return the config, a file or a recipe, and the pairs, of :func:`add_recipe`.

    Overrides come in pairs, so that a first word too many is the recipe.
    """
    if args.config_file or len(args.opts) % 2 == 0:
        return args.config_file, args.opts
    return args.opts[0], args.opts[1:]


def files_and_recipes(prefix: str, **_) -> list[str]:
    """What the shell offers for a config."""
    from argcomplete.completers import FilesCompleter

    from ..config.recipes import list_configs

    return [*list_configs(f"{prefix}*"), *FilesCompleter(["yaml", "yml"])(prefix)]
