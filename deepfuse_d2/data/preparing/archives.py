"""Data sets from archives or folders: checked, and there under their name only when complete.

What is there already is kept if complete, and never touched otherwise. No path in an archive is
trusted.
"""

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

from ...errors import DatasetError

__all__ = ["Layout", "has_content", "missing_pairs", "place_of", "prepare"]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass(frozen=True)
class Layout:
    """How a data set lies in its archives, and what of it is wanted."""

    #: Folder to make below that of all data sets.
    name: str
    #: Folders in it whose files are taken ("" for its own files); the first one marks the content.
    folders: tuple[str, ...]
    #: Where that content may lie in a source ("" for directly).
    inner: tuple[str, ...]
    #: Returns what is absent or empty in a folder.
    missing_files: Callable[[Path], list[str]]
    #: An archive far beyond the original is another one.
    max_bytes: int


def missing_pairs(
    folder: Path, images: str, labels: str, count: int, image: str = "another image"
) -> list[str]:
    """Return the labels without image, the images without labels, and how many are too few.

    Args:
        images, labels: folders in `folder`; files of a pair have one stem.
        count: pairs of the whole data set.
        image: what to call a pair that lacks both, whose name is not known.
    """
    known, labelled = _stems(folder / images, IMAGE_SUFFIXES), _stems(folder / labels, (".png",))
    missing = [f"{images}/{stem}.png" for stem in sorted(labelled - known)]
    missing += [f"{labels}/{stem}.png" for stem in sorted(known - labelled)]
    return missing + [image] * (count - len(known | labelled))


def _stems(folder: Path, suffixes: tuple[str, ...]) -> set[str]:
    if not folder.is_dir():
        return set()
    files = (path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    return {path.stem for path in files if has_content(path) and path.name[0] != "."}


def prepare(layout: Layout, sources: list[Path], root: Path, *, link: bool = False) -> Path:
    """Make <root>/<name> from all sources together and return it; a complete one is kept.

    Args:
        sources: archives, or folders with their content.
        root: folder of all data sets.
        link: link to the one source, a folder, instead of copying it.

    Raises:
        DatasetError: a source is absent, damaged, incomplete or another one.
    """
    target = root / layout.name
    if os.path.lexists(target):
        missing = layout.missing_files(target)
        if not missing:
            return target
        raise DatasetError(
            f"{target} exists and is not complete ({_describe(missing)}). Move it away, then run "
            "this again."
        )
    for source in sources:
        if not source.exists():
            raise DatasetError(f"Source {source} does not exist; give the archive or a folder.")
        if link and not source.is_dir():
            raise DatasetError(f"--link needs a folder as source; {source} is none.")
    if link and len(sources) > 1:
        raise DatasetError(f"--link takes one folder with the whole of {layout.name}.")

    root.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the last step is one rename
    with tempfile.TemporaryDirectory(prefix=f".{layout.name}.", dir=root) as temporary:
        made = Path(temporary) / layout.name
        for source in sources:
            if link:
                folder = _content_folder(layout, source)
                made.symlink_to(folder.resolve(), target_is_directory=True)
            elif source.is_dir():
                _copy(layout, _content_folder(layout, source), made)
            else:
                _extract(layout, source, made)
        missing = layout.missing_files(made)
        if missing:
            given = " and ".join(map(str, sources))
            raise DatasetError(f"{given} is not complete: {_describe(missing)}.")
        made.rename(target)
    return target


def _content_folder(layout: Layout, source: Path) -> Path:
    """Return the folder that holds the first of the layout's folders: the source, or one in it."""
    for inner in layout.inner:
        if (source / inner / layout.folders[0]).is_dir():
            return source / inner
    places = [str(PurePosixPath(inner, layout.folders[0])) for inner in layout.inner]
    raise DatasetError(f"{source} holds {'neither' if len(places) > 1 else 'no'} "
                       f"{' nor '.join(places)}.")  # fmt: skip


def _copy(layout: Layout, folder: Path, target: Path) -> None:
    """Copy the known folders' files, without the source's permissions (it may be read-only)."""
    for name in layout.folders:
        if (folder / name).is_dir():
            (target / name).mkdir(parents=True, exist_ok=True)
            for file in sorted((folder / name).iterdir()):
                if file.is_file():
                    shutil.copyfile(file, target / name / file.name)


def _extract(layout: Layout, archive: Path, target: Path) -> None:
    """Extract the known folders' files of a zip or tar; no path in it is trusted."""
    size = 0
    opener = _tar_files if tarfile.is_tarfile(archive) else _zip_files
    try:
        for name, is_link, num_bytes, opened in opener(archive):
            _check_member(archive, name, is_link)
            size += num_bytes
            if size > layout.max_bytes:
                raise DatasetError(f"{archive} unpacks to more than {layout.max_bytes >> 20} MiB.")
            place = place_of(layout, name)
            if place is not None:
                path = target / place
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened() as packed, open(path, "wb") as file:
                    shutil.copyfileobj(packed, file)
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise DatasetError(
            f"{archive} is no zip file or tar file that can be read ({error}). Download it again."
        ) from error


def place_of(layout: Layout, name: str) -> PurePosixPath | None:
    """Return where a member of an archive goes in the folder made; None if it is not wanted."""
    path = PurePosixPath(name)
    for inner in layout.inner:
        for folder in layout.folders:
            if path.parent == PurePosixPath(inner, folder):
                return PurePosixPath(folder, path.name)
    return None


# name, whether it is a link or worse, size in bytes, and a function that opens it
Member = tuple[str, bool, int, Callable[[], BinaryIO]]


def _zip_files(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as content:
        members = [member for member in content.infolist() if not member.is_dir()]
        for member in members:  # all, before the first is unpacked
            _check_member(archive, member.filename, stat.S_ISLNK(member.external_attr >> 16))
        for member in members:
            yield member.filename, False, member.file_size, lambda m=member: content.open(m)


def _tar_files(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as content:  # in one pass: reading twice unpacks gigabytes twice
        for member in content:
            if not member.isdir():
                yield (
                    member.name,
                    not member.isfile(),
                    member.size,
                    lambda m=member: content.extractfile(m),
                )


def _check_member(archive: Path, name: str, is_link: bool) -> None:
    windows = PureWindowsPath(name)  # understands / and \ alike
    if is_link or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise DatasetError(
            f"{archive} holds {name!r}, which would leave the folder it is unpacked into. It is "
            "not the original archive; nothing was unpacked."
        )


def has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _describe(missing: list[str]) -> str:
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{len(missing)} files are missing: {', '.join(missing[:3])}{more}"
