"""A config from detectron2's defaults, our keys, a yaml file and overrides."""

import contextlib
import difflib
import logging
import os
from collections.abc import Sequence

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from ..checkpoint.model_folder import is_model_folder, open_folder
from ..data import register_extra
from ..errors import ConfigError
from ..files import CACHE_VARIABLE
from ..kernels import choice
from .flatten import flatten
from .keys import add_deepfuse_config
from .recipes import config_path, find_config
from .values import check_device

__all__ = ["get_config", "load_config"]


def load_config(config_file: str = "", opts: list[str] | None = None) -> CfgNode:
    """detectron2's defaults with our keys, then `config_file`, then the ``KEY VALUE`` pairs `opts`.

    `config_file` is a yaml, the name of a recipe, or a model folder (``hf://owner/name`` too),
    whose weights come along. Registers the data sets of DATASETS.EXTRA, and from then on
    CACHE.FOLDER holds.

    A config that asks for CUDA where there is none gets MODEL.DEVICE "cpu" and one warning.
    """
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    if config_file:
        weights = ""
        if is_model_folder(config_file):
            folder = open_folder(config_file, verify=False)
            config_file, weights = folder.config_file, str(folder.path)
        config_file = find_config(config_file)
        with _config_errors(cfg, f"In {config_file}"):
            # The unsafe loader, detectron2's default, lets a yaml run code.
            cfg.merge_from_file(config_file, allow_unsafe=False)
        if weights:
            cfg.MODEL.WEIGHTS = weights
    opts = list(opts or [])
    if len(opts) % 2:
        raise ConfigError(
            f"Overrides come as KEY VALUE pairs; {len(opts)} words were given: {' '.join(opts)}"
        )
    with _config_errors(cfg, "On the command line"):
        cfg.merge_from_list(opts)
    register_extra(cfg.DATASETS.EXTRA)
    if cfg.CACHE.FOLDER:
        # in the environment, so that processes that this one starts know it too
        os.environ[CACHE_VARIABLE] = cfg.CACHE.FOLDER
    if cfg.DEEPFUSE_D2.MODEL.KERNELS:
        choice.check_choices(cfg.DEEPFUSE_D2.MODEL.KERNELS)
        os.environ[choice.VARIABLE] = cfg.DEEPFUSE_D2.MODEL.KERNELS
    check_device(cfg)
    if torch.device(cfg.MODEL.DEVICE).type == "cuda" and not torch.cuda.is_available():
        logging.getLogger(__name__).warning(
            "MODEL.DEVICE is %s, but this machine offers no CUDA device; using the CPU.",
            cfg.MODEL.DEVICE,
        )
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def get_config(name: str, opts: Sequence[str] | None = None) -> CfgNode:
    """The config of a recipe: detectron2's defaults, our keys, the recipe, then `opts`.

    The result may be changed; it is not frozen. Paths in it (MODEL.WEIGHTS, OUTPUT_DIR) are
    relative to the working directory, wherever the package lies, and data sets are looked for in
    DETECTRON2_DATASETS (default: datasets/ in the working directory).

    Args:
        name: one of :func:`.recipes.list_configs`, with or without ".yaml".
        opts: ``KEY VALUE`` pairs as on the command line, e.g. ["MODEL.DEVICE", "cpu"].

    Raises:
        ConfigError: there is no such recipe; the message names those that are close. Or `opts` has
            an unknown key or a wrong value.

    Example:
        >>> cfg = get_config("Cityscapes/mask_rcnn_R_50_DeepFuseFPN")
        >>> cfg.MODEL.NECK.NAME
        'DeepFuseFPN'
    """
    return load_config(str(config_path(name)), list(opts or []))


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
        near = difflib.get_close_matches(key, flatten(cfg), n=4, cutoff=0.5)
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
