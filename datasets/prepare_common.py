"""What the prepare commands of this folder share; no command by itself.

A data set comes from archives or folders, is checked, and appears under its name only when it is
complete. What is there already is kept if complete, and never touched otherwise.
"""

import argparse
import gzip
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO


class PrepareError(Exception):
    """What went wrong and what to do, in one message."""


@dataclass(frozen=True)
class Recipe:
    """How a data set is made below the folder of all data sets."""

    #: Folder to make.
    name: str
    #: Folders in it whose files are taken ("" for its own files); the first one marks the content.
    folders: tuple[str, ...]
    #: Where that content may lie in a source ("" for directly).
    inner: tuple[str, ...]
    #: Returns what is absent or empty in a folder.
    missing_files: Callable[[Path], list[str]]
    #: An archive far beyond the original is another one.
    max_bytes: int


def run(recipe: Recipe, description: str, done: str, argv: list[str] | None = None) -> int:
    """The command: parses the arguments, prepares, says where the data set lies.

    Args:
        description: help text.
        done: the last sentence; `{target}` stands for the folder made.
    """
    args = parse_args(description, argv)
    try:
        target = prepare(recipe, args.source, args.root, link=args.link)
    except (PrepareError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(done.format(target=target))
    tell_root(args.root)
    return 0


def parse_args(
    description: str, argv: list[str] | None, *, several: bool = False
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        nargs="+" if several else None,
        help="the archive, or a folder with its content" + "; or several" * several,
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=default_root(),
        help="folder of all data sets (default: $DETECTRON2_DATASETS, else datasets)",
    )
    parser.add_argument(
        "--link", action="store_true", help="link to the source folder instead of copying it"
    )
    return parser.parse_args(argv)


def default_root() -> Path:
    return Path(os.environ.get("DETECTRON2_DATASETS") or "datasets").expanduser()


def tell_root(root: Path) -> None:
    if root.resolve() != default_root().resolve():
        print(f"Set DETECTRON2_DATASETS={root.resolve()} to use it.")


def prepare(recipe: Recipe, source: Path, root: Path, *, link: bool = False) -> Path:
    """Makes <root>/<name> from the source and returns it; a complete one is kept."""
    return prepare_from(recipe, [source], root, link=link)


def prepare_from(recipe: Recipe, sources: list[Path], root: Path, *, link: bool = False) -> Path:
    """Makes <root>/<name> from all sources together."""
    target = root / recipe.name
    if os.path.lexists(target):
        missing = recipe.missing_files(target)
        if not missing:
            return target
        raise PrepareError(
            f"{target} exists and is not complete ({describe(missing)}). Move it away, then run "
            "this again."
        )
    for source in sources:
        if not source.exists():
            raise PrepareError(f"Source {source} does not exist; give the archive or a folder.")
        if link and not source.is_dir():
            raise PrepareError(f"--link needs a folder as source; {source} is none.")
    if link and len(sources) > 1:
        raise PrepareError(f"--link takes one folder with the whole of {recipe.name}.")

    root.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the last step is one rename
    with tempfile.TemporaryDirectory(prefix=f".{recipe.name}.", dir=root) as temporary:
        made = Path(temporary) / recipe.name
        for source in sources:
            if link:
                folder = content_folder(recipe, source)
                made.symlink_to(folder.resolve(), target_is_directory=True)
            elif source.is_dir():
                copy(recipe, content_folder(recipe, source), made)
            else:
                extract(recipe, source, made)
        missing = recipe.missing_files(made)
        if missing:
            given = " and ".join(map(str, sources))
            raise PrepareError(f"{given} is not complete: {describe(missing)}.")
        made.rename(target)
    return target


def content_folder(recipe: Recipe, source: Path) -> Path:
    """Returns the folder that holds the first of the recipe's folders: the source, or one in it."""
    for inner in recipe.inner:
        if (source / inner / recipe.folders[0]).is_dir():
            return source / inner
    places = [str(PurePosixPath(inner, recipe.folders[0])) for inner in recipe.inner]
    raise PrepareError(f"{source} holds {'neither' if len(places) > 1 else 'no'} "
                       f"{' nor '.join(places)}.")  # fmt: skip


def copy(recipe: Recipe, folder: Path, target: Path) -> None:
    """Copies the known folders' files, without the source's permissions (it may be read-only)."""
    for name in recipe.folders:
        if (folder / name).is_dir():
            (target / name).mkdir(parents=True, exist_ok=True)
            for file in sorted((folder / name).iterdir()):
                if file.is_file():
                    shutil.copyfile(file, target / name / file.name)


def extract(recipe: Recipe, archive: Path, target: Path) -> None:
    """Extracts the known folders' files of a zip or tar; no path in it is trusted."""
    size = 0
    opener = _tar_files if tarfile.is_tarfile(archive) else _zip_files
    try:
        for name, is_link, num_bytes, opened in opener(archive):
            check_member(archive, name, is_link)
            size += num_bytes
            if size > recipe.max_bytes:
                raise PrepareError(f"{archive} unpacks to more than {recipe.max_bytes >> 20} MiB.")
            place = place_of(recipe, name)
            if place is not None:
                path = target / place
                path.parent.mkdir(parents=True, exist_ok=True)
                with opened() as packed, open(path, "wb") as file:
                    shutil.copyfileobj(packed, file)
    except (
        zipfile.BadZipFile, tarfile.TarError, zlib.error, gzip.BadGzipFile, EOFError,
        NotImplementedError, RuntimeError,
    ) as error:  # fmt: skip
        raise PrepareError(
            f"{archive} is no zip file or tar file that can be read ({error}). Download it again."
        ) from error


def place_of(recipe: Recipe, name: str) -> PurePosixPath | None:
    """Returns where a member of an archive goes in the folder made; None if it is not wanted."""
    path = PurePosixPath(name)
    for inner in recipe.inner:
        for folder in recipe.folders:
            if path.parent == PurePosixPath(inner, folder):
                return PurePosixPath(folder, path.name)
    return None


# name, whether it is a link or worse, size in bytes, and a function that opens it
Member = tuple[str, bool, int, Callable[[], BinaryIO]]


def _zip_files(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as content:
        members = [member for member in content.infolist() if not member.is_dir()]
        for member in members:  # all, before the first is unpacked
            check_member(archive, member.filename, stat.S_ISLNK(member.external_attr >> 16))
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


def check_member(archive: Path, name: str, is_link: bool) -> None:
    windows = PureWindowsPath(name)  # understands / and \ alike
    if is_link or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise PrepareError(
            f"{archive} holds {name!r}, which would leave the folder it is unpacked into. It is "
            "not the original archive; nothing was unpacked."
        )


def has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def describe(missing: list[str]) -> str:
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{len(missing)} files are missing: {', '.join(missing[:3])}{more}"
