"""Print what lets a shell complete the commands, options and recipes of deepfuse with Tab.

eval "$(deepfuse completion bash)"      # in ~/.bashrc
eval "$(deepfuse completion zsh)"       # in ~/.zshrc, behind compinit
deepfuse completion fish > ~/.config/fish/completions/deepfuse.fish
"""

from __future__ import annotations

import argparse

__all__ = ["NEEDS_PACKAGE", "add_arguments", "run"]

NEEDS_PACKAGE = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish", "tcsh", "powershell"))


def run(args: argparse.Namespace) -> None:
    import argcomplete

    print(argcomplete.shellcode(["deepfuse"], shell=args.shell))
