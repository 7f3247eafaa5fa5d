"""Makes a MiniCity on disk, once, whole or not at all.

A set is drawn into a temporary folder beside its place and moved there when every frame is done. A
manifest marks a folder as ours; a set is complete if all the files that its manifest names exist.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from .manifest import FOLDERS, MANIFEST, VERSION, Manifest, is_complete

__all__ = ["ensure_minicity", "generate_minicity"]

logger = logging.getLogger(__name__)


def generate_minicity(
    root: str | os.PathLike,
    *,
    num_train: int = 240,
    num_val: int = 60,
    width: int = 512,
    height: int = 256,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Callable[[], None] | None = None,
) -> None:
    """Make a MiniCity in ``root``, a folder that need not exist; a complete one is left alone.

    Args:
        root: the folder that gets ``leftImg8bit`` and ``gtFine``.
        num_train, num_val: frames of either split.
        width, height: size in pixels, at most 2048 x 1024.
        seed: the same seed gives the same bytes, on any number of workers.
        workers: processes; None takes one a core.
        overwrite: replace a MiniCity of other parameters. Files that MiniCity did not write are
            never touched.
        progress: called after each frame.

    Raises:
        ValueError: a parameter is out of range.
        FileExistsError: ``root`` holds something else, or a MiniCity of other parameters and
            ``overwrite`` is not set.
    """
    manifest = Manifest(VERSION, seed, width, height, num_train, num_val)
    if workers is not None and workers < 1:
        raise ValueError(f"MiniCity: workers = {workers}; give 1 or more, or None for one a core")
    root = Path(root).absolute()
    with _lock(root):
        _generate(root, manifest, workers, overwrite, progress)


def ensure_minicity(root: str | os.PathLike) -> None:
    """Make the default MiniCity in ``root`` unless a complete one is there, of whatever size.

    Any number of processes may call it at once: one draws, the others wait. A set with files
    missing is made again with its own parameters; a complete one of another version of the
    generator is kept, with a warning.

    Raises:
        FileExistsError: ``root`` holds files but no MiniCity.
    """
    root = Path(root).absolute()
    if _usable(root):  # before the lock, so that a read-only folder serves
        return
    with _lock(root):
        if _usable(root):  # another process has made it while this one waited
            return
        manifest = Manifest.read(root)
        if manifest is None:
            manifest = Manifest()
            logger.info(
                "No MiniCity in %s yet: drawing %s; this takes some seconds", root, manifest
            )
        else:
            manifest = replace(manifest, version=VERSION)
            logger.warning("The MiniCity in %s lacks files: drawing %s again", root, manifest)
        _generate(root, manifest, None, True, None)


def _usable(root: Path) -> bool:
    if not is_complete(root):
        return False
    version = Manifest.read(root).version
    if version != VERSION:
        logger.warning(
            "The MiniCity in %s is of version %d, this generator of version %d. It is used as it "
            "is; deepfuse prepare minicity --overwrite makes it anew",
            root,
            version,
            VERSION,
        )
    return True


def _generate(root: Path, manifest: Manifest, workers, overwrite: bool, progress) -> None:
    if manifest.is_made(root, overwrite=overwrite):
        return
    for stale in root.parent.glob(f".{root.name}.partial-*"):  # of runs that were killed
        _remove_own(stale)
    # A name of its own: a worker that outlives its killed parent for a frame cannot meddle.
    partial = Path(tempfile.mkdtemp(prefix=f".{root.name}.partial-", dir=root.parent))
    partial.chmod(0o777 & ~_umask())  # mkdtemp's folders are private, a data set is not
    manifest.write(partial)  # says whose folder this is, should we be interrupted
    from .workers import draw_all

    draw_all(partial, manifest, workers, progress)
    _remove_own(root)
    _move_into(partial, root)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _move_into(partial: Path, root: Path) -> None:
    try:
        os.replace(partial, root)  # in one step where nothing is in the way
        return
    except OSError:
        pass
    # The user keeps files of their own in root. The manifest goes first: it marks the folder as
    # ours, and the set is not complete before the last file has followed.
    manifest = Manifest.read(partial)
    manifest.write(root)
    for source, target in zip(manifest.files(partial), manifest.files(root), strict=True):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    _remove_own(partial)


def _remove_own(root: Path) -> None:
    """Remove the files that a MiniCity's manifest names and the folders that this leaves empty.

    The manifest goes last, and only if nothing else is left: it tells whose folder it is.
    """
    manifest = Manifest.read(root)
    if manifest is None:
        return
    for path in manifest.files(root):
        path.unlink(missing_ok=True)
    for name in FOLDERS:
        for folder, _, _ in os.walk(root / name, topdown=False):
            if not os.listdir(folder):
                os.rmdir(folder)
    if os.listdir(root) == [MANIFEST]:
        (root / MANIFEST).unlink()
        root.rmdir()


@contextmanager
def _lock(root: Path) -> Iterator[None]:
    """One process at a time for this root; the lock dies with the process that holds it."""
    import portalocker  # comes with iopath, which detectron2 needs

    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_name(f".{root.name}.lock"), "w") as file:
        portalocker.lock(file, portalocker.LOCK_EX)
        try:
            yield
        finally:
            portalocker.unlock(file)
