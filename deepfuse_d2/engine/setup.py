"""From command-line arguments to a checked config, and what is written down before training."""

import argparse
import contextlib
import difflib
import logging
import os
import subprocess
from pathlib import Path

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import default_setup
from detectron2.modeling import (
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.logger import setup_logger

from ..config import add_deepfuse_config
from ..data import register_extra
from ..errors import ConfigError, DatasetError, WeightsError
from ..modeling.neck import NECK_REGISTRY
from ..modeling.neck.build import look_up
from ..version import __version__

__all__ = ["check_config", "load_config", "setup"]

_REGISTRIES = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.NECK.BOTTOM_UP": BACKBONE_REGISTRY,
    "MODEL.NECK.NAME": NECK_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.ROI_BOX_HEAD.NAME": ROI_BOX_HEAD_REGISTRY,
    "MODEL.ROI_MASK_HEAD.NAME": ROI_MASK_HEAD_REGISTRY,
    "MODEL.SEM_SEG_HEAD.NAME": SEM_SEG_HEADS_REGISTRY,
}


def setup(args: argparse.Namespace) -> CfgNode:
    """Config of detectron2's command line, checked and frozen; starts logging to OUTPUT_DIR.

    Writes config.yaml (the merged config) and environment.txt (versions, git state) there.
    """
    cfg = load_config(args.config_file, args.opts)
    check_config(cfg)
    if args.eval_only and not cfg.MODEL.WEIGHTS and not args.resume:
        raise WeightsError(
            "--eval-only has nothing to evaluate: give a file with MODEL.WEIGHTS, or --resume to "
            f"take the last checkpoint of OUTPUT_DIR ({cfg.OUTPUT_DIR})."
        )
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, comm.get_rank(), name="deepfuse_d2", abbrev_name="df2")
    if comm.is_main_process():
        Path(cfg.OUTPUT_DIR, "environment.txt").write_text(
            f"deepfuse_d2 {__version__}\ngit {git_state()}\n{collect_env_info()}\n"
        )
    return cfg


def load_config(config_file: str = "", opts: list[str] | None = None) -> CfgNode:
    """detectron2's defaults with our keys, then `config_file`, then the ``KEY VALUE`` pairs `opts`.

    Registers the data sets of DATASETS.EXTRA.

    A config that asks for CUDA where there is none gets MODEL.DEVICE "cpu" and one warning.
    """
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    if config_file:
        if not os.path.isfile(config_file):
            raise ConfigError(
                f"Config file {config_file} does not exist (folder: {os.getcwd()}). See configs/."
            )
        with _config_errors(cfg, f"In {config_file}"):
            # The unsafe loader, detectron2's default, lets a yaml run code.
            cfg.merge_from_file(config_file, allow_unsafe=False)
    opts = list(opts or [])
    if len(opts) % 2:
        raise ConfigError(
            f"Overrides come as KEY VALUE pairs; {len(opts)} words were given: {' '.join(opts)}"
        )
    with _config_errors(cfg, "On the command line"):
        cfg.merge_from_list(opts)
    register_extra(cfg.DATASETS.EXTRA)
    if torch.device(cfg.MODEL.DEVICE).type == "cuda" and not torch.cuda.is_available():
        logging.getLogger(__name__).warning(
            "MODEL.DEVICE is %s, but this machine offers no CUDA device; using the CPU.",
            cfg.MODEL.DEVICE,
        )
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Raise the error that names the key for every name that cannot be found."""
    for key, registry in _REGISTRIES.items():
        name = _get(cfg, key)
        if name:
            look_up(registry, name, key)
    for key in ("DATASETS.TRAIN", "DATASETS.TEST"):
        for name in _get(cfg, key):
            if name not in DatasetCatalog:
                near = difflib.get_close_matches(name, DatasetCatalog.list(), n=5, cutoff=0.4)
                raise DatasetError(
                    f'{key} names the data set "{name}", which is not registered. '
                    + (f"Did you mean: {', '.join(near)}? " if near else "")
                    + "datasets/README.md lists them and says how to register your own."
                )
    weights = cfg.MODEL.WEIGHTS
    if weights and "://" not in weights and not os.path.isfile(weights):
        raise WeightsError(
            f'MODEL.WEIGHTS = "{weights}" does not exist (folder: {os.getcwd()}). Give an existing '
            'file, or MODEL.WEIGHTS "" to start from random weights.'
        )


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


@contextlib.contextmanager
def _config_errors(cfg: CfgNode, where: str):
    """yacs' errors with the place, and for an unknown key the keys that look like it."""
    try:
        yield
    except (KeyError, AssertionError) as error:
        # yacs says "Non-existent [config] key: X"
        message = str(error.args[0])
        key = message.rsplit("key: ", 1)[-1]
        if key == message:
            raise ConfigError(f"{where}: {message}") from error
        near = difflib.get_close_matches(key, _all_keys(cfg), n=4, cutoff=0.5)
        hint = f" Did you mean: {', '.join(near)}?" if near else ""
        raise ConfigError(f"{where}: unknown config key {key}.{hint}") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{where}: {error.filename} does not exist (_BASE_?).") from error
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{where}: {error}. A config holds plain values only, because a yaml that builds "
            "python objects can run code; write the value itself."
        ) from error
    except (ValueError, SyntaxError, yaml.YAMLError) as error:
        raise ConfigError(f"{where}: {error}") from error


def _all_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _all_keys(value, f"{prefix}{name}.")
    return keys


def _get(cfg: CfgNode, key: str):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
