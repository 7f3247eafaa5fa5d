"""The table of commands, and the way from a command line to an exit code."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import sys
import textwrap
from collections.abc import Sequence
from types import ModuleType

import deepfuse_d2

from ..errors import UserError
from ..noise import quiet_libraries
from ..version import __version__

__all__ = ["COMMANDS", "build_parser", "main", "module_of", "parse", "run", "run_tool"]

# By what one wants to do; each is a file of this folder.
COMMANDS = {
    "Train": ("init", "train", "eval", "find-lr", "ablate", "pretrain", "replay", "submit"),
    "Use a model": (
        "predict",
        "predict-many",
        "serve",
        "map",
        "demo",
        "compare",
        "export",
        "submission",
    ),
    "Hand it on": ("pack", "push"),
    "Data": ("prepare", "check-data", "visualize-data", "convert-data", "crop-objects"),
    "Networks and weights": ("recipes", "analyze", "count-parameters", "convert"),
    "Set up": ("install-detectron2", "completion"),
}
# What the system answers to one who may not read or write a file.
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv`, by default this process's; return the exit code."""
    return run(parse(sys.argv[1:] if argv is None else argv))


def run_tool(command: str, argv: Sequence[str] | None = None) -> int:
    """Run `command` under the name of the script that was started, such as tools/ablate.py."""
    prog = os.path.basename(sys.argv[0])
    return run(_parse(build_parser(command, prog), sys.argv[1:] if argv is None else argv))


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command, with ``run`` and ``prog`` among them.

    Ends the process after --help and --version, and with exit code 2 for wrong arguments.
    """
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    command, *words = argv or ["--help"]
    known = [name for names in COMMANDS.values() for name in names]
    if command in ("-h", "--help"):
        print(_help())
        sys.exit(0)
    if command == "--version":
        print(f"deepfuse_d2 {__version__}")
        sys.exit(0)
    if command not in known:
        near = difflib.get_close_matches(command, known, n=3)
        hint = f"Did you mean: {', '.join(near)}? " if near else ""
        print(
            f'deepfuse: there is no command "{command}". {hint}deepfuse --help lists them.',
            file=sys.stderr,
        )
        sys.exit(2)
    return _parse(build_parser(command, f"deepfuse {command}"), words)


def run(args: argparse.Namespace) -> int:
    """Run parsed arguments; a user's mistake ends in its message alone, and exit code 2."""
    quiet_libraries()
    if args.needs_package and not hasattr(deepfuse_d2, "load_config"):
        importlib.reload(deepfuse_d2)  # with its registrations; see deepfuse_command.py
    try:
        return args.run(args) or 0
    except UserError as error:
        print(f"{args.prog}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None or error.errno not in _NOT_ALLOWED:
            raise
        print(
            f"{args.prog}: {error.filename}: {error.strerror}. It is read-only, or of another "
            "user; name a folder of your own, or ask its owner.",
            file=sys.stderr,
        )
        return 2


def build_parser(command: str, prog: str) -> argparse.ArgumentParser:
    """Return the parser of one command; the others are not looked at."""
    module = module_of(command)
    parser = argparse.ArgumentParser(
        prog, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    parser.set_defaults(
        run=module.run,
        prog=prog,
        check=getattr(module, "check", None),
        needs_package=getattr(module, "NEEDS_PACKAGE", True),
        has_subcommands=getattr(module, "SUBCOMMANDS", False),
    )
    return parser


def module_of(command: str) -> ModuleType:
    return importlib.import_module(f".{command.replace('-', '_')}", __package__)


def _parse(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    # What stands behind "--" is another command's, and not looked at.
    split = argv.index("--") if "--" in argv else len(argv)
    # argparse does not take options between the words of a command that has commands of its own
    has_subcommands = parser.get_default("has_subcommands")
    parse_words = parser.parse_args if has_subcommands else parser.parse_intermixed_args
    args = parse_words(argv[:split])
    args.behind = list(argv[split + 1 :])
    if args.check is not None:
        args.check(args, parser)
    return args


def _help() -> str:
    lines = ["usage: deepfuse COMMAND ...", "", deepfuse_d2.__doc__.splitlines()[0]]
    for title, names in COMMANDS.items():
        lines += ["", f"{title}:"]
        for name in names:
            summary = (module_of(name).__doc__ or "").split("\n\n")[0]
            indent = " " * 22
            lines += textwrap.wrap(summary, 100, initial_indent=f"  {name:<20}",
                                   subsequent_indent=indent)  # fmt: skip
    lines += ["", "deepfuse COMMAND --help explains one; deepfuse --version prints the version."]
    return "\n".join(lines)


def _complete() -> None:
    """Answer the shell that completes a line, and end."""
    import argcomplete

    parser = argparse.ArgumentParser("deepfuse")
    parser.add_argument("--version", action="store_true")
    subparsers = parser.add_subparsers()
    for names in COMMANDS.values():
        for name in names:
            module_of(name).add_arguments(subparsers.add_parser(name))
    argcomplete.autocomplete(parser)
