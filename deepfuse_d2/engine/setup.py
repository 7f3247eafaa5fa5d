"""From command-line arguments to a checked config, and what is written down before training."""

import argparse
import subprocess
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.engine import default_setup
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.logger import setup_logger

from ..config.checking import check_config
from ..config.loading import load_config
from ..errors import ConfigError, WeightsError
from ..noise import quiet_libraries
from ..version import __version__
from .screen import limit_screen

__all__ = ["setup"]


def setup(args: argparse.Namespace) -> CfgNode:
    """Config of detectron2's command line, checked and frozen; starts logging to OUTPUT_DIR.

    Writes config.yaml (the merged config) and environment.txt (versions, git state) there. The
    screen shows what screen.py says, or all of the log with ``args.verbose``.
    """
    cfg = load_config(args.config_file, args.opts)
    check_config(cfg)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        raise WeightsError(
            "--eval-only has nothing to evaluate: give a file with MODEL.WEIGHTS, or --resume to "
            f"take the last checkpoint of OUTPUT_DIR ({cfg.OUTPUT_DIR})."
        )
    cfg.freeze()
    try:
        # before default_setup, which takes the first two as they are here, and prints at once
        rank = comm.get_rank()
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
        setup_logger(cfg.OUTPUT_DIR, rank, name="deepfuse_d2", abbrev_name="df2")
        quiet_libraries()
        limit_screen(verbose=getattr(args, "verbose", False))
        default_setup(cfg, args)
        if comm.is_main_process():
            Path(cfg.OUTPUT_DIR, "environment.txt").write_text(
                f"deepfuse_d2 {__version__}\ngit {git_state()}\n{collect_env_info()}\n"
            )
    except OSError as error:
        if error.filename is None:
            raise
        raise ConfigError(
            f"OUTPUT_DIR = {cfg.OUTPUT_DIR} cannot be written to: {error.filename}: "
            f"{error.strerror}. It is read-only, or of another user; choose a folder of your own "
            "with OUTPUT_DIR FOLDER at the end of the command."
        ) from error
    return cfg


def git_state() -> str:
    """Commit of the source tree this package runs from, with "-dirty" for uncommitted changes."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a git checkout)"
    return described.stdout.strip()
