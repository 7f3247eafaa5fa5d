"""Which of two ways to compute the same is the faster one on this machine.

What a processor is called does not say which kernels its libraries are good at. Where its
instruction set does not decide, both ways are run, about a second once for each machine, version of
torch and of this package, and number of threads; the result is kept in the user's cache and told in
the log.
"""

import functools
import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from ..errors import ConfigError
from ..files import cache_home, written_whole
from ..version import __version__
from .capabilities import isa

__all__ = ["CHOICES", "VARIABLE", "check_choices", "is_chosen"]

#: The environment variable that decides without a measurement; the key
#: DEEPFUSE_D2.MODEL.KERNELS sets it. For example "winograd=off,channels last=on".
VARIABLE = "DEEPFUSE_KERNELS"
#: name -> what it is
CHOICES = {
    "winograd": "3x3 convolutions by Winograd's method in prediction, float32",
    "winograd bfloat16": "the same in bfloat16",
    "tiled training": "3x3 convolutions by Winograd's method in training, float32",
    "channels last": "maps with channels innermost in training on a CPU",
    "linear as convolution": "the wide layer of box heads as a 1x1 convolution of oneDNN",
}
# Decided by whole trainings (docs/training.md, "What a machine chooses"): what such a choice costs
# and gives lies all over a network, where a layout is kept or changed, and a layer alone says
# little. No CPU with amx was at hand: its float32 is that of avx512.
_BY_ISA = {
    "tiled training": {"avx2": False, "avx512": True, "avx512_bf16": True, "amx": True},
    "channels last": {"avx2": False, "avx512": True, "avx512_bf16": True, "amx": True},
}
# What is not clearly faster is not used: a measurement is a tenth off at times.
_MARGIN = 1.1
_SECONDS = 0.8

Trial = tuple[Callable[[], object], Callable[[], object]]

_known: dict[tuple[str, str], float] = {}


def check_choices(text: str) -> dict[str, bool]:
    """Name -> on or off, of a text like "winograd=off,channels last=on".

    Raises:
        ConfigError: a name or a value is unknown.
    """
    asked = {}
    for pair in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = (word.strip() for word in pair.partition("="))
        if name not in CHOICES or value not in ("on", "off"):
            raise ConfigError(
                f'"{pair}" is no choice of a kernel (DEEPFUSE_D2.MODEL.KERNELS or {VARIABLE}); '
                f"give NAME=on or NAME=off, with names {list(CHOICES)}, and a comma between them."
            )
        asked[name] = value == "on"
    return asked


def is_chosen(name: str, trial: Callable[[], Trial]) -> bool:
    """Whether to compute by `name`, one of :data:`CHOICES`, on this machine.

    Args:
        trial: returns two functions that do the same work, by that way and by the usual one. It is
            called where nobody has decided and nothing is known of this machine.
    """
    asked = check_choices(os.environ.get(VARIABLE, "")).get(name)
    if asked is not None:
        return asked
    by_isa = _BY_ISA.get(name, {}).get(isa())
    if by_isa is not None:
        _tell_once(f"{CHOICES[name]}: {'' if by_isa else 'not '}used on a CPU with {isa()}")
        return by_isa
    machine = (
        f"{_processor()}, {isa()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"deepfuse_d2 {__version__}"
    )
    key = machine, name
    if key not in _known:
        file = _file(machine)
        kept = _read(file)
        ratio, source = kept.get(name), f"measured before, see {file}"
        if not isinstance(ratio, float):
            ratio, source = _measure(*trial()), "measured now"
            _write(file, machine, {**kept, name: ratio})
        _known[key] = ratio
        logging.getLogger(__name__).info(
            "%s: %.2f times as fast on this machine (%s), %s; %s",
            CHOICES[name], ratio, machine, "used" if ratio >= _MARGIN else "not used", source,
        )  # fmt: skip
    return _known[key] >= _MARGIN


@torch.no_grad()
def _measure(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """How many times as long the second takes: the best turns, which other work disturbs least."""
    ours(), theirs()
    turns: list[tuple[float, float]] = []
    end = time.perf_counter() + _SECONDS
    while len(turns) < 3 or (time.perf_counter() < end and len(turns) < 15):
        first = time.perf_counter()
        ours()
        second = time.perf_counter()
        theirs()
        turns.append((second - first, time.perf_counter() - second))
    best, best_of_theirs = map(min, zip(*turns, strict=True))
    return best_of_theirs / best


@functools.cache
def _tell_once(message: str) -> None:
    logging.getLogger(__name__).info(message)


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # another system
    return platform.processor() or platform.machine()


def _file(machine: str) -> Path | None:
    home = cache_home()
    digest = hashlib.sha256(machine.encode()).hexdigest()[:12]
    return None if home is None else home / "machines" / f"{digest}.json"


def _read(file: Path | None) -> dict[str, float]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["times as fast"])
    except (AttributeError, OSError, ValueError, KeyError, TypeError):
        return {}  # not there, or damaged: measured again


def _write(file: Path | None, machine: str, ratios: dict[str, float]) -> None:
    if file is None:
        return
    try:
        with written_whole(file) as temporary:
            content = {"machine": machine, "times as fast": ratios}
            temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")
    except OSError as error:
        logging.getLogger(__name__).debug("%s cannot be written: %s", file, error)
