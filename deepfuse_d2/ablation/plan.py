"""What an ablation trains: a yaml of settings and seeds, checked before the first is trained.

BASE: configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml
OUTPUT: output/ablations/deepfuse_minicity
SEEDS: [1, 2, 3]                          # each setting is trained with each; seeds are paired
METRIC: segm/AP                           # or a list; a table and a line of the plot for each
OVERRIDES: [SOLVER.MAX_ITER, 300]         # of every setting
SETTINGS:                                 # name: [KEY, VALUE, ...]; the first is the reference
  FPN: [MODEL.NECK.NAME, FPN]
  DeepFuse: [MODEL.NECK.NAME, DeepFuseFPN]
TRAIN_IMAGES: 40                          # of the train split, to evaluate on; 0: no such gap
HELD_OUT: camvid_sem_seg_test             # evaluated too, in a column of its own; optional
CURVES: [total_loss]                      # of metrics.json, drawn over the iterations; optional

Without TRAIN_IMAGES, as many images of the first data set of DATASETS.TRAIN are evaluated as the
first of DATASETS.TEST has. Paths start from the working directory.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog

from ..config.checking import check_config
from ..config.flatten import flatten
from ..config.keys import add_deepfuse_config, with_current_names
from ..config.loading import load_config
from ..errors import ConfigError, UserError

__all__ = ["Cell", "Plan", "load_plan"]

_REQUIRED = ("BASE", "OUTPUT", "SETTINGS", "SEEDS", "METRIC")
_OPTIONAL = ("OVERRIDES", "TRAIN_IMAGES", "HELD_OUT", "CURVES")
# Chosen by the ablation itself.
_RESERVED = ("SEED", "OUTPUT_DIR", "DATASETS.TEST")
# What may differ between two runs of one cell: where it lies and what it runs on.
_NOT_COMPARED = ("OUTPUT_DIR", "MODEL.DEVICE")


@dataclass(frozen=True)
class Cell:
    """One training: a setting with a seed.

    Attributes:
        folder: its OUTPUT_DIR.
        overrides: KEY VALUE ... after the base config, for the command line.
        config: every key of the merged config, flat, as JSON has it; what makes two cells equal.
        val, train, held_out: data sets it is evaluated on; `train` is "" where no gap is asked for,
            `held_out` where the plan has none.
    """

    setting: str
    seed: int
    folder: Path
    overrides: tuple[str, ...]
    config: dict[str, Any]
    val: str
    train: str
    held_out: str

    @property
    def name(self) -> str:
        return f"{self.setting}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """Settings x seeds over a base config; see the docstring of the module for the fields.

    Attributes:
        settings: name -> overrides; the first is the reference.
        train_images: None for as many as the val split has.
        held_out: a data set that no choice was made on, to report figures of; "" for none.
        curves: names of metrics.json to draw.
    """

    base: str
    output: Path
    settings: dict[str, tuple[str, ...]]
    seeds: tuple[int, ...]
    metrics: tuple[str, ...]
    overrides: tuple[str, ...] = ()
    train_images: int | None = None
    held_out: str = ""
    curves: tuple[str, ...] = ()

    @property
    def reference(self) -> str:
        return next(iter(self.settings))

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """All cells, seed by seed, so that what is finished early can be compared in pairs.

        Reads no image and no weights. Raises ConfigError, with the setting's name, for an override
        that no config takes.
        """
        return [
            self._cell(setting, seed, self._configs[setting])
            for seed in self.seeds
            for setting in self.settings
        ]

    def check(self) -> None:
        """Raise the error that names setting and key for every name or file that is not there."""
        for setting, cfg in self._configs.items():
            with _told_for(setting):
                check_config(cfg)
        if self.held_out and self.held_out not in DatasetCatalog:
            raise ConfigError(
                f'HELD_OUT names the data set "{self.held_out}", which is not registered. '
                "datasets/README.md lists them and says how to register your own."
            )

    def evaluation_overrides(self, cell: Cell) -> list[str]:
        """KEY VALUE ... that make `cell` evaluate on its held-out data and a part of the train
        split as well.

        Reads the val split, where its size says how large that part is.
        """
        if not (cell.train or cell.held_out):
            return []
        names, more = list(cell.config["DATASETS.TEST"]), []
        if cell.held_out:
            names.append(cell.held_out)
        if cell.train:
            images, source = self.train_images, cell.config["DATASETS.TRAIN"][0]
            if images is None:
                images = min(self._size(cell.val), self._size(source))
            subset = {"NAME": cell.train, "FORMAT": "subset", "OF": source, "COUNT": images}
            more = ["DATASETS.EXTRA", str([*cell.config["DATASETS.EXTRA"], subset])]
            names.append(cell.train)
        return [*more, "DATASETS.TEST", str(tuple(names))]

    def _size(self, dataset: str) -> int:
        if dataset not in self._sizes:
            self._sizes[dataset] = len(DatasetCatalog.get(dataset))
        return self._sizes[dataset]

    @functools.cached_property
    def _sizes(self) -> dict[str, int]:
        return {}

    @functools.cached_property
    def _configs(self) -> dict[str, CfgNode]:
        return {setting: self._load(setting) for setting in self.settings}

    def _load(self, setting: str) -> CfgNode:
        overrides = [*self.overrides, *self.settings[setting]]
        taken = [key for key in overrides[::2] if key in _RESERVED]
        with _told_for(setting):
            if taken:
                raise ConfigError(
                    f"{', '.join(taken)} cannot be overridden: the base config, SEEDS and OUTPUT "
                    f"say {', '.join(_RESERVED)}."
                )
            # the device is that of the machine that trains
            cfg = load_config(self.base, [*overrides, "MODEL.DEVICE", "cpu"])
            if not (cfg.DATASETS.TRAIN and cfg.DATASETS.TEST):
                raise ConfigError(f"{self.base} names no DATASETS.TRAIN or no DATASETS.TEST.")
        return cfg

    def _cell(self, setting: str, seed: int, cfg: CfgNode) -> Cell:
        config = {key: value for key, value in flatten(cfg).items() if key not in _NOT_COMPARED}
        config |= {"SEED": seed, "TRAIN_IMAGES": self.train_images}
        if self.held_out:
            config["HELD_OUT"] = self.held_out
        val, source = cfg.DATASETS.TEST[0], cfg.DATASETS.TRAIN[0]
        return Cell(
            setting=setting,
            seed=seed,
            folder=self.output / _file_name(setting) / f"seed_{seed}",
            overrides=(*self.overrides, *self.settings[setting], "SEED", str(seed)),
            config=config,
            val=val,
            train=f"{source}_part" if self.train_images != 0 else "",
            held_out=self.held_out,
        )


def load_plan(file: str | os.PathLike | None = None, **fields: Any) -> Plan:
    """The plan of a yaml, of keyword arguments by the same names, or of both.

    Args:
        file: see the docstring of the module; None for keyword arguments alone.
        fields: take the place of those in the file, but for OVERRIDES, which follow the file's.

    Raises:
        ConfigError: something is missing, unknown or of the wrong type.
    """
    content: dict[str, Any] = {}
    if file is not None:
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(
                f"The plan {file} does not exist (folder: {os.getcwd()}). See configs/ablations/."
            ) from None
        except yaml.YAMLError as error:
            raise ConfigError(f"The plan {file} is no yaml: {error}") from error
        if not isinstance(content, dict):
            raise ConfigError(f"The plan {file} is no mapping of {', '.join(_REQUIRED)}.")
    where = f"The plan {file}" if file is not None else "The plan"
    more = _key_values(fields.pop("OVERRIDES", []), f"{where}: OVERRIDES")
    content = {**content, **fields}
    content["OVERRIDES"] = [
        *_key_values(content.get("OVERRIDES", []), f"{where}: OVERRIDES"),
        *more,
    ]
    return _checked(content, where)


@contextlib.contextmanager
def _told_for(setting: str) -> Iterator[None]:
    """Errors of the user's config, with the setting in front."""
    try:
        yield
    except UserError as error:
        raise type(error)(f'Setting "{setting}": {error}') from error


def _checked(content: Mapping[str, Any], where: str) -> Plan:
    known = (*_REQUIRED, *_OPTIONAL)
    for key in content:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"{where}: {key} is unknown; there are {', '.join(known)}.{hint}")
    missing = [key for key in _REQUIRED if not content.get(key)]
    if missing:
        raise ConfigError(f"{where}: {', '.join(missing)} is missing or empty.")

    settings, seeds, metrics = content["SETTINGS"], content["SEEDS"], content["METRIC"]
    if not isinstance(settings, dict):
        raise ConfigError(f"{where}: SETTINGS is no mapping of name: [KEY, VALUE, ...].")
    settings = {
        str(name): tuple(_key_values(pairs, f"{where}: SETTINGS, {name}"))
        for name, pairs in settings.items()
    }
    folders = [_file_name(name).lower() for name in settings]
    if len(set(folders)) < len(folders) or "" in folders:
        raise ConfigError(
            f"{where}: SETTINGS {list(settings)} have names that give no folder of their own; let "
            "them differ in letters, digits, '.' or '-'."
        )
    if (
        not isinstance(seeds, (list, tuple))
        # detectron2 takes a negative seed as "any"; two such cells would be no pair
        or not all(isinstance(seed, int) and seed >= 0 for seed in seeds)
        or len(set(seeds)) < len(seeds)
    ):
        raise ConfigError(f"{where}: SEEDS = {seeds!r}; expected different numbers from 0 on.")
    metrics = [metrics] if isinstance(metrics, str) else metrics
    if not isinstance(metrics, (list, tuple)) or not all(
        isinstance(metric, str) and "/" in metric for metric in metrics
    ):
        raise ConfigError(
            f"{where}: METRIC = {metrics!r}; expected a name such as segm/AP or sem_seg/mIoU, or a "
            "list of them."
        )
    images = content.get("TRAIN_IMAGES")
    if images is not None and (not isinstance(images, int) or images < 0):
        raise ConfigError(f"{where}: TRAIN_IMAGES = {images!r}; expected a number from 0 on.")
    held_out = content.get("HELD_OUT") or ""
    if not isinstance(held_out, str):
        raise ConfigError(f"{where}: HELD_OUT = {held_out!r}; expected the name of a data set.")
    curves = content.get("CURVES") or []
    if not isinstance(curves, (list, tuple)) or not all(isinstance(x, str) for x in curves):
        raise ConfigError(
            f"{where}: CURVES = {curves!r}; expected a list of names of metrics.json, such as "
            "total_loss."
        )
    return Plan(
        base=str(content["BASE"]),
        output=Path(content["OUTPUT"]),
        settings=settings,
        seeds=tuple(seeds),
        metrics=tuple(metrics),
        overrides=tuple(content["OVERRIDES"]),
        train_images=images,
        held_out=held_out,
        curves=tuple(curves),
    )


def _key_values(pairs: Sequence[Any] | None, where: str) -> list[str]:
    """KEY VALUE ... as a command line has them."""
    pairs = [] if pairs is None else pairs
    if not isinstance(pairs, (list, tuple)) or len(pairs) % 2:
        raise ConfigError(f"{where} = {pairs!r}; expected a list [KEY, VALUE, KEY, VALUE, ...].")
    return [str(word) for word in pairs]


def _file_name(setting: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", setting).strip("_.")


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Differences between two flat configs, as "KEY: old -> new".

    A key that only the new one has is one that the code has learnt since: it counts if its value
    is not the default. One that only the old one has is gone, and does nothing any more.
    """
    defaults = get_cfg()
    add_deepfuse_config(defaults)
    before = {**flatten(defaults), **with_current_names(old)}
    return [
        f"{key}: {before.get(key)} -> {value}"
        for key, value in new.items()
        if before.get(key) != value
    ]
