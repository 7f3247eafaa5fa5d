"""AOTInductor: torch's compiler run ahead of time, so that a process starts at once.

A package is a library for one version of torch, one set of instructions and one device. It is
*code*: opening one executes what is in it, so nothing opens one unless this engine is asked for by
its name. ``deepfuse pack --aot`` writes them into the folder ``aot`` of a model folder, which model
hubs neither get nor give.
"""

import logging
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import DamagedWeightsError
from ...kernels.capabilities import allow_recompilations, isa, why_not_compile
from .interface import Run
from .stored import StoredPart, read_record

__all__ = ["FOLDER", "RECORD", "AOTEngine", "load_packages", "made_for", "write_package"]

_log = logging.getLogger(__name__)

#: Where the packages of a model folder lie, and what is written down of them there.
FOLDER, RECORD = "aot", "aot.json"
# Of a processor's flags, those of instructions that a compiler makes use of by itself.
_INSTRUCTIONS = ("abm", "adx", "avx", "bmi", "f16c", "fma", "movbe", "popcnt", "sse", "ssse")


class AOTEngine:
    """Runs packages of a model folder; compiles nothing itself."""

    name = "aot"

    def why_not(self, device: torch.device) -> str:
        return ""

    def compile(
        self, part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int], dtype: torch.dtype
    ) -> Run:
        raise LookupError("there is no package of it; deepfuse pack --aot writes them")


def why_not_write(device: torch.device) -> str:
    """What is missing to write packages for `device`; "" for nothing."""
    reason = why_not_compile(device.type)
    return f"torch's compiler does not work here: {reason}" if reason else ""


def write_package(
    part: nn.Module, example: Sequence[Tensor], dynamic: Sequence[int], file: Path
) -> None:
    """Compile a part; takes a minute for a backbone.

    Args:
        part: in evaluation; takes tensors and gives a tuple of them.
        example: inputs, none of whose dimensions that are `dynamic` is 1, or they would stay so.
        file: ends in ".pt2".

    Raises:
        Exception: of any kind, where torch cannot take the part.
    """
    from torch._inductor import aoti_compile_and_package

    allow_recompilations(1)  # sizes that are equal in the example are symbols of their own
    dynamic_shapes = tuple(
        {d: torch.export.Dim.DYNAMIC for d in dynamic if d < x.ndim} for x in example
    )
    # variadic: one argument of the signature holds all inputs
    program = torch.export.export(part, tuple(example), dynamic_shapes=(dynamic_shapes,))
    options = {"freezing": True}
    if example[0].device.type == "cpu":
        # as many threads as there are when it runs, not as now
        options["cpp.dynamic_threads"] = True
    aoti_compile_and_package(program, package_path=str(file), inductor_configs=options)


def open_package(file: Path) -> Run:
    """A package at work. Executes what is in it."""
    from torch._inductor import aoti_load_package

    run = aoti_load_package(str(file))

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        # its code knows where the numbers of a tensor lie from the sizes alone
        return tuple(run(*(x.contiguous() for x in inputs)))

    return call


def load_packages(folder: Path, device: torch.device, dtype: torch.dtype) -> dict[str, StoredPart]:
    """The packages of a model folder by paths of their parts; none if they do not fit, and why.

    Executes them.
    """
    place = folder / FOLDER
    try:
        record = read_record(place / RECORD)
        if record is None:
            reason = "there are none; deepfuse pack --aot writes them"
        else:
            reason = _why_unfit(record.facts.get("made_for", {}), made_for(device, dtype))
        if record is not None and not reason:
            return {
                path: StoredPart(open_package(files[0]), least, dtype)
                for path, (files, least) in record.parts.items()
            }
    except (DamagedWeightsError, RuntimeError, OSError) as error:
        reason = str(error)
    _log.warning(
        "Packages of %s are not used: %s. The model computes by itself.", place, reason.strip(". ")
    )
    return {}


def _why_unfit(there: Mapping[str, str | list[str]], here: Mapping[str, str | list[str]]) -> str:
    for name, value in here.items():
        given = there.get(name)
        if name == "instructions":
            missing = sorted(set(given or ["unknown"]) - set(value))
            if missing:
                return f"they were made for a processor with {', '.join(missing)}"
        elif given != value:
            return f"they were made for {name} {given}, here it is {value}"
    return ""


def made_for(device: torch.device, dtype: torch.dtype) -> dict[str, str | list[str]]:
    """What code that is compiled here depends on.

    ``instructions`` may be more elsewhere; all else has to be the same.
    """
    facts: dict[str, str | list[str]] = {
        "torch": torch.__version__,
        "machine": f"{platform.system()} {platform.machine()}",
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
    }
    if device.type == "cuda":
        facts["device"] = torch.cuda.get_device_name(device)
    else:
        facts["kernels"] = isa()  # filters are laid out for them
    return facts | {"instructions": _instructions()}


def _instructions() -> list[str]:
    """Of this processor; elsewhere than on Linux its name has to be the same."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    for line in lines:
        name, _, flags = line.partition(":")
        if name.strip() == "flags":
            return sorted(x for x in flags.split() if x.startswith(_INSTRUCTIONS))
        if name.strip() == "Features":  # of ARM
            return sorted(flags.split())
    return [platform.processor()]
