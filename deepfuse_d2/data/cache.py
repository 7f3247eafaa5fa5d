"""A cache of parsed annotation files, by frame.

Parsing label images takes minutes for a large data set; its result loads in a second. Each frame
is stored with path, size and modification time of the files it was made from, so that a changed
file is noticed and only its frame is parsed again. The cache is JSON: whoever can write it can
change labels but cannot run code. It appears under its name only when complete (written aside,
then renamed), and one process fills it while others wait for it.
"""

import contextlib
import functools
import hashlib
import json
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import DatasetError
from ..files import BESIDE_THE_DATA, CACHE_VARIABLE, cache_home, written_whole
from .problems import report

__all__ = ["Frame", "cache_folder", "parse_cached"]

logger = logging.getLogger(__name__)

_FORMAT = 1
_FOLDER = ".deepfuse_cache"

# Starting processes costs some seconds each, since they import torch: worth it from here on.
_SECONDS_WORTH_PROCESSES = 20.0
_FRAMES_TO_DECIDE = 8
_FRAMES_PER_CHUNK = 8


class Frame(NamedTuple):
    """What one entry of a data set is parsed from."""

    #: Unique and stable within the cache file.
    key: str
    #: Absolute paths of the files the parser reads.
    sources: tuple[str, ...]
    #: Absolute paths of the files the parser writes (into the cache folder).
    products: tuple[str, ...] = ()


def cache_folder(root: str | os.PathLike) -> Path | None:
    """Return a writable folder for what is derived from the data set at `root`.

    It is a folder for this root in the user's cache, see :func:`~deepfuse_d2.files.cache_home`: a
    data set may belong to others. Who wants it in `<root>/.deepfuse_cache` sets `DEEPFUSE_CACHE` to
    "dataset"; it is the user's all the same where the data set is read-only (also when it is only
    marked so and root may write). `None` if nothing can be written.
    """
    root = Path(os.path.abspath(root))
    digest = hashlib.sha256(str(root).encode()).hexdigest()[:12]
    folders = []
    if os.environ.get(CACHE_VARIABLE) == BESIDE_THE_DATA:
        folders.append(root / _FOLDER)
    home = cache_home()
    if home is not None:
        folders.append(home / f"{root.name}-{digest}")
    for folder in folders:
        with contextlib.suppress(OSError):
            if folder.parent == root and not root.stat().st_mode & 0o222:
                continue
            folder.mkdir(parents=folder.parent != root, exist_ok=True)
            # permissions alone do not tell for a read-only mount or a full quota
            with tempfile.TemporaryFile(dir=folder):
                return folder
    return None


def parse_cached(
    frames: Sequence[Frame],
    parse: Callable[[Frame], Any],
    *,
    root: str | os.PathLike,
    name: str,
    version: int,
    workers: int | None = None,
) -> list[tuple[Frame, Any]]:
    """Return frame and `parse(frame)` of every frame, from the cache as far as it is unchanged.

    All frames are parsed before the DatasetErrors of some are raised as one, and what was parsed
    is kept, so that a second call parses the repaired ones only. Inside
    :func:`~deepfuse_d2.data.problems.collect_problems` the frames that fail are left out.

    Args:
        frames: with distinct keys.
        parse: a module-level function (or a `functools.partial` of one), so that other processes
            can run it; what it returns goes through JSON (tuples come back as lists).
        root: folder of the data set; decides where the cache lies, see :func:`cache_folder`.
        name: the cache file's name without suffix, one for each kind of content.
        version: of the parser; raise it when the meaning of its result changes.
        workers: processes for parsing; 0 = in this process. None decides by the time that the
            first frames take, and stays in this process inside a data loader's worker.
    """
    folder = cache_folder(root)
    if folder is None:
        logger.warning(
            "The labels of %s are parsed on every start: the user's cache folder, %s, cannot be "
            "written. Set DEEPFUSE_CACHE to a folder that can.",
            root,
            cache_home(),
        )
        frames, values = _sound(frames, _parse_all(parse, frames, workers))
        return list(zip(frames, values, strict=True))

    path = folder / f"{name}.json"
    frames, stamps = _sound(frames, (_stamp(frame, root) for frame in frames))
    stamps = {frame.key: stamp for frame, stamp in zip(frames, stamps, strict=True)}
    entries = _read(path, version)
    if not _stale(frames, stamps, entries):
        return [(frame, entries[frame.key][1]) for frame in frames]

    # A script without `if __name__ == "__main__":` runs again, up to here, in each parsing process.
    # It must end there: it would wait for the lock of the process that waits for it.
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError('Guard the start of your script by `if __name__ == "__main__":`.')
    with _locked(path):
        entries = _read(path, version)  # another process may have filled it meanwhile
        stale = _stale(frames, stamps, entries)
        if stale:
            logger.info("Parsing %d of %d frames for %s", len(stale), len(frames), path)
            known = {frame.key: entries[frame.key] for frame in frames if frame.key in entries}
            failures: list[str] = []
            try:
                for frame, value in zip(stale, _parse_all(parse, stale, workers), strict=True):
                    if isinstance(value, _Failure):
                        known.pop(frame.key, None)
                        failures.append(value.message)
                        continue
                    # The sources count as they were before parsing, so that a change during it
                    # is noticed; the products as they are now.
                    known[frame.key] = [stamps[frame.key][0], _stamp_products(frame, root)], value
            finally:
                _write(path, version, known)
            report(failures)
            entries = known
    return [(frame, entries[frame.key][1]) for frame in frames if frame.key in entries]


class _Failure(NamedTuple):
    """Stands for the value of a frame that has none."""

    message: str


def _attempt(parse: Callable[[Frame], Any], frame: Frame) -> Any:
    try:
        return parse(frame)
    except DatasetError as error:
        return _Failure(str(error))


def _sound(frames: Sequence[Frame], values: Iterable[Any]) -> tuple[list[Frame], list[Any]]:
    """Report the failures among the values; return the other frames and values."""
    pairs = list(zip(frames, values, strict=True))
    report([value.message for _, value in pairs if isinstance(value, _Failure)])
    pairs = [pair for pair in pairs if not isinstance(pair[1], _Failure)]
    return [frame for frame, _ in pairs], [value for _, value in pairs]


def _stale(frames: Sequence[Frame], stamps: dict, entries: dict) -> list[Frame]:
    return [
        frame
        for frame in frames
        if frame.key not in entries
        or entries[frame.key][0] != stamps[frame.key]
        # a product that does not exist
        or None in stamps[frame.key][1]
    ]


def _stamp(frame: Frame, root: str | os.PathLike) -> list | _Failure:
    sources = [_file_stamp(path, root) for path in frame.sources]
    if None in sources:
        missing = frame.sources[sources.index(None)]
        return _Failure(f"{missing} is missing or cannot be read.")
    return [sources, _stamp_products(frame, root)]


def _stamp_products(frame: Frame, root: str | os.PathLike) -> list:
    return [_file_stamp(path, root) for path in frame.products]


def _file_stamp(path: str, root: str | os.PathLike) -> list | None:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    # relative, so that the cache stays valid when the data set moves as a whole
    prefix = os.path.join(os.path.abspath(root), "")
    return [path.removeprefix(prefix), stat.st_size, stat.st_mtime_ns]


def _read(path: Path, version: int) -> dict:
    """Return key -> [stamps, value]; empty if there is no cache, or none that can be used."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if [content["format"], content["version"]] != [_FORMAT, version]:
            logger.info("Cache %s is of another version; it is made again", path)
            return {}
        entries = content["frames"]
        if any(len(entry) != 2 for entry in entries.values()):
            raise ValueError("an entry is not a pair")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        logger.warning("Cache %s is damaged (%s); it is made again", path, error)
        return {}
    return entries


def _write(path: Path, version: int, entries: dict) -> None:
    content = {"format": _FORMAT, "version": version, "frames": entries}
    text = json.dumps(content, separators=(",", ":"))
    try:
        with written_whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        logger.warning("Cache %s cannot be written (%s); the next start parses again", path, error)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a cache file, or go on without where the file system has no locks."""
    from iopath.common.file_io import file_lock
    from portalocker.exceptions import BaseLockException

    lock = file_lock(str(path))
    try:
        lock.acquire()
    except (OSError, BaseLockException) as error:
        # Harmless: a cache file is replaced as a whole. Only the work may be done twice.
        logger.warning("No lock on %s (%s); going on without", path, error)
        lock = None
    try:
        yield
    finally:
        if lock is not None:
            lock.release()


def _parse_all(
    parse: Callable[[Frame], Any], frames: Sequence[Frame], workers: int | None
) -> Iterator[Any]:
    """Yield `parse(frame)`, or a failure, in order."""
    from tqdm import tqdm

    # a short run shows no bar
    parse = functools.partial(_attempt, parse)
    with tqdm(
        total=len(frames), desc="Parsing labels", unit="frame", delay=3.0, mininterval=1.0
    ) as bar:
        for value in _parse_in_best_way(parse, frames, workers):
            bar.update()
            yield value


def _parse_in_best_way(parse, frames, workers) -> Iterator[Any]:
    decide = workers is None and not multiprocessing.current_process().daemon
    if decide:
        workers = min(_available_cpus(), 16)
    elif workers is None:  # a daemonic process, as data loaders start them, may have no children
        workers = 0
    done, start = 0, time.monotonic()
    while done < len(frames):
        left = len(frames) - done
        seconds_left = (time.monotonic() - start) / max(done, 1) * left
        slow = done >= _FRAMES_TO_DECIDE and seconds_left > _SECONDS_WORTH_PROCESSES
        if workers > 1 and (slow or not decide):
            workers_now, workers = workers, 0  # tried once
            for value in _parse_in_processes(parse, frames[done:], workers_now):
                done += 1
                yield value
        else:
            yield parse(frames[done])
            done += 1


def _parse_in_processes(parse, frames, workers) -> Iterator[Any]:
    """Yield results in order; end early if the processes die."""
    # spawn: a fork would copy the locks of torch's threads, and a CUDA context
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(parse, frames, chunksize=_FRAMES_PER_CHUNK)
    except BrokenProcessPool as error:
        logger.warning("The parsing processes died (%s); going on in this one", error)
    finally:
        pool.shutdown(cancel_futures=True)


def _available_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
