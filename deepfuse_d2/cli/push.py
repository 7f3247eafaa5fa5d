"""Upload a packed model to a model hub, as huggingface_hub knows it (the extra "hub").

    deepfuse push my_model hf://owner/name
    deepfuse predict --model hf://owner/name --input street.png --output results/

HF_TOKEN, or `hf auth login`, says who you are; HF_ENDPOINT names another hub.
"""

from __future__ import annotations

import argparse

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="that deepfuse pack wrote")
    parser.add_argument("name", metavar="hf://OWNER/NAME[@BRANCH]")
    parser.add_argument("--private", action="store_true", help="where it is made anew")
    parser.add_argument("--message", default="", help="of the change")


def run(args: argparse.Namespace) -> None:
    from ..checkpoint.hub import push
    from ..checkpoint.model_folder import open_folder

    folder = open_folder(args.folder)
    print(push(folder.path, args.name, private=args.private, message=args.message))
