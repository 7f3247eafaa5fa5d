"""One function a fault: lets it happen, resumes, and says what happened and what is lost."""

import contextlib
import itertools
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from .training import FaultyTraining, at_iteration, wait_for

__all__ = ["TRIALS", "Outcome"]


@dataclass
class Outcome:
    """Of one fault.

    Attributes:
        happened: in a few words.
        lost: what is not as in the undisturbed training; empty if nothing is.
    """

    happened: str
    lost: list[str]


def kill_at_random(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """SIGKILL at moments drawn uniformly over the time that the undisturbed training takes."""
    generator = random.Random(0)
    done, trainings, lost = 0, 0, []
    while done < kills or (output / "log.txt").exists():
        # each time from where it is; one that has come to its end is looked at, and begun again
        with training.started(output) as process:
            if done < kills:
                process.join(generator.uniform(0.0, 0.7 * training.seconds))
            else:
                process.join()
            code = process.exitcode
        if code is None:
            done += 1
            continue
        trainings += 1
        lost += training.differences(output) + (["exit code"] if code else [])
        lost += ["a rest" for _ in output.glob("*.tmp")]
        if lost:
            return Outcome(f"after {done} kills", lost)
        output = output.with_name(f"{output.name}_again")
    return Outcome(
        f"{kills} times killed and started again with `--resume`, over {trainings} trainings", lost
    )


def kill_in_write(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """SIGKILL when a part of a checkpoint is on the disk."""
    save = torch.save

    def half(hook):
        def slow(content, file):
            save(content, file)
            file.truncate(file.tell() // 2)
            file.flush()
            (output / "half").touch()
            time.sleep(600)

        torch.save = slow

    with training.started(output, hooks=[at_iteration(8, half)]) as process:
        wait_for((output / "half").exists)
        rest = [path.name for path in output.glob("*.tmp")]
        process.kill()
    last = (output / "last_checkpoint").read_text()
    code = training.run(output)
    lost = training.differences(output) + (["exit code"] if code else [])
    lost += [path.name for path in output.glob("*.tmp")]
    return Outcome(
        f"{len(rest)} half-written file beside whole ones, `last_checkpoint` still named {last}; "
        "`--resume` went on from it and swept the rest away",
        lost,
    )


def truncated_checkpoint(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """The last checkpoint loses its second half, as on a disk that lies about what it wrote."""
    training.run(output, hooks=[at_iteration(17, _crash)])
    last = output / (output / "last_checkpoint").read_text()
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    refused = training.run(output)
    text = (output / "log.txt").read_text()
    advice = re.findall(r"^  (printf \S+ > \S+)$", text, flags=re.MULTILINE)
    subprocess.run(advice[-1], shell=True, check=True)
    code = training.run(output)
    lost = training.differences(output) + (["exit code"] if code or refused != 2 else [])
    newest = (advice[-1]).split()[1]
    return Outcome(
        f"`--resume` named {last.name} as damaged and {newest} as the newest whole one, with the "
        "command to continue from it, which then did",
        lost,
    )


def not_finite_stop(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """A loss becomes NaN in one iteration."""
    code = training.run(output, hooks=[at_iteration(11, _poison)])
    message = _with_images(output, "Iteration 11: ")
    kept = sorted(path.name for path in (output / "faults").iterdir())
    again = training.run(output)
    lost = training.differences(output) + (["exit code"] if code != 2 or again else [])
    return Outcome(f'stopped: "{message}"; {", ".join(kept)} kept; `--resume` went on', lost)


def not_finite_skip(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """The same with DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE "skip"."""
    hooks = [at_iteration(11, _poison)]
    code = training.run(output, "DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE", "skip", hooks=hooks)
    state = torch.load(output / "model_final.pth", weights_only=True)["model"]
    broken = [name for name, value in state.items() if not value.isfinite().all()]
    message = _with_images(output, "Iteration 11: ")
    return Outcome(
        f'"{message}" went on to the end without that one update',
        broken + (["exit code"] if code else []),
    )


def damaged_image(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """One image of the data set is cut short while a training runs."""
    path = sorted((training.data / "leftImg8bit" / "train").rglob("*.png"))[2]
    content = path.read_bytes()
    cut = at_iteration(2, lambda _: path.write_bytes(content[: len(content) // 2]))
    try:
        code = training.run(output, hooks=[cut])
    finally:
        path.write_bytes(content)
    message = _message(output, "cannot be read").replace(str(path.parent), "...")
    told = set(_iterations(output))
    lost = [] if code == 0 and told >= set(range(training.last_iteration + 1)) else ["iterations"]
    return Outcome(f'"{message}"', lost)


def full_disk(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """The disk has no room for a checkpoint over some iterations."""
    with _small_disk(output) as (kind, fill, free):
        hooks = [at_iteration(9, lambda _: fill()), at_iteration(17, lambda _: free())]
        code = training.run(output, hooks=hooks)
        message = _message(output, "could not be written")
        failures = (output / "log.txt").read_text().count("could not be written")
        lost = training.differences(output) + (["exit code"] if code else [])
        lost += [path.name for path in output.glob("*.tmp")]
    message = re.sub(r"to /\S+ ", "to OUTPUT_DIR ", message)
    return Outcome(
        f'{kind}: "{message}" {failures} checkpoints were left out; with room again the next ones '
        "were written",
        lost,
    )


def dead_worker(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """A data-loader worker gets SIGKILL, as from the kernel when memory is short."""

    def kill_one(hook):
        import multiprocessing

        os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)

    hooks = [at_iteration(9, kill_one)]
    code = training.run(output, "DATALOADER.NUM_WORKERS", 2, hooks=hooks)
    message = re.sub(r"/\S+/", "", _message(output, "workers died"))
    return Outcome(f'"{message}"', training.differences(output) + (["exit code"] if code else []))


def terminated(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """SIGTERM, as a cluster sends it before it takes the machine away."""
    with training.started(output) as process:
        wait_for(lambda: len(_iterations(output)) > 10)
        process.terminate()
        start = time.monotonic()
        process.join(120)
        seconds, code = time.monotonic() - start, process.exitcode
    again = training.run(output)
    lost = training.differences(output) + (["exit code"] if code != 75 or again else [])
    return Outcome(f"a checkpoint, and exit code {code} after {seconds:.1f} s", lost)


def out_of_memory(training: FaultyTraining, output: Path, kills: int) -> Outcome:
    """The model finds no memory in one iteration."""

    def no_memory(hook):
        def fail(module, args):
            raise torch.OutOfMemoryError("out of memory (simulated)")

        hook.trainer.model.backbone.register_forward_pre_hook(fail)

    code = training.run(output, hooks=[at_iteration(11, no_memory)])
    message = _message(output, "is full")
    largest = re.sub(r"/\S+/", "", _message(output, "The largest image"))
    again = training.run(output)
    lost = training.differences(output) + (["exit code"] if code != 2 or again else [])
    return Outcome(f'stopped: "{message} ... {largest}", what to lower; `--resume` went on', lost)


TRIALS: dict[str, Callable[[FaultyTraining, Path, int], Outcome]] = {
    "kill -9 at random moments": kill_at_random,
    "kill -9 while a checkpoint is written": kill_in_write,
    "SIGTERM": terminated,
    "truncated checkpoint": truncated_checkpoint,
    "loss that is not finite, stop": not_finite_stop,
    "loss that is not finite, skip": not_finite_skip,
    "damaged image": damaged_image,
    "out of memory": out_of_memory,
    "full disk": full_disk,
    "dead data-loader worker": dead_worker,
}


def _crash(hook) -> None:
    os._exit(1)


def _poison(hook) -> None:
    """One batch whose masks are NaN."""

    def spoil(module, args, output):
        handle.remove()
        return output * float("nan")

    predictor = hook.trainer.model.roi_heads.mask_head.predictor
    handle = predictor.register_forward_hook(spoil)


def _message(output: Path, words: str) -> str:
    """The first line of the log with these words, without time and place."""
    lines = (output / "log.txt").read_text().splitlines()
    line = next((x for x in lines if words in x), "nothing was said")
    return re.sub(r"^.*?(ERROR|WARNING)\S* \S+?: |^train_net.py: |^\S*Error: ", "", line).strip()


def _with_images(output: Path, words: str) -> str:
    """The same, with the names of the files in the lines behind it."""
    lines = (output / "log.txt").read_text().splitlines()
    begin = next((i for i, line in enumerate(lines) if words in line), len(lines)) + 1
    listed = itertools.takewhile(lambda line: line.startswith("  /"), lines[begin:])
    names = [Path(line.split(",")[0].strip()).name for line in listed]
    return f"{_message(output, words)} {', '.join(names)}"


def _iterations(output: Path) -> list[int]:
    """Iterations that metrics.json tells of."""
    path = output / "metrics.json"
    found = re.findall(r'"iteration": (\d+)', path.read_text()) if path.exists() else []
    return [int(number) for number in found]


@contextlib.contextmanager
def _small_disk(output: Path) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """Yield what it is, a function that fills the disk of `output` and one that frees it."""
    output.mkdir(parents=True)
    mounted = ["mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", str(output)]
    if os.geteuid() == 0 and subprocess.run(mounted, capture_output=True).returncode == 0:
        filler = output / "filler"

        def fill():
            with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * 2**16)
            # the log and the metrics still have room
            os.truncate(filler, filler.stat().st_size - 2**18)

        try:
            yield "a disk of 256 MiB", fill, filler.unlink
        finally:
            shutil.copy(output / "log.txt", output.with_suffix(".log"))
            subprocess.run(["umount", str(output)], check=True)
        return
    # no right to mount: no file may be larger than this, which the system tells in the same way
    free = resource.getrlimit(resource.RLIMIT_FSIZE)
    small = (2**20, free[1])
    yield (
        "files of at most 1 MiB",
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, small),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, free),
    )
