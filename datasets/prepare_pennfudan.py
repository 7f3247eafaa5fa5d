#!/usr/bin/env python3
"""Puts the Penn-Fudan pedestrians where `pennfudan_train` and `pennfudan_val` find them.

    python datasets/prepare_pennfudan.py --source PennFudanPed.zip

The source is the original archive (https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip), or
a folder with its content: PNGImages (PNG or JPEG files) and PedMasks. It is checked for all 170
pairs of image and mask, and appears as <root>/PennFudanPed only when complete.
"""

import argparse
import os
import shutil
import stat
import sys
import tempfile
import zipfile
from pathlib import Path, PurePosixPath, PureWindowsPath

NAME = "PennFudanPed"
FOLDERS = ("PNGImages", "PedMasks", "Annotation")  # the last is the original's text, optional
STEMS = [f"FudanPed{i:05d}" for i in range(1, 75)] + [f"PennPed{i:05d}" for i in range(1, 97)]
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_BYTES = 1 << 30  # the original has 53 MB: an archive far beyond that is another one


class PrepareError(Exception):
    """What went wrong and what to do, in one message."""


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        target = prepare(args.source, args.root, link=args.link)
    except (PrepareError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Penn-Fudan lies in {target}: {len(STEMS)} images with masks (128 train, 42 val).")
    if args.root.resolve() != default_root().resolve():
        print(f"Set DETECTRON2_DATASETS={args.root.resolve()} to use it.")
    return 0


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--source", type=Path, required=True, help="the zip file, or a folder with its content"
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


def prepare(source: Path, root: Path, *, link: bool = False) -> Path:
    """Makes <root>/PennFudanPed from the source and returns it; a complete one is kept."""
    target = root / NAME
    if os.path.lexists(target):
        missing = missing_files(target)
        if not missing:
            return target
        raise PrepareError(
            f"{target} exists and is not complete ({describe(missing)}). Move it away, then run "
            "this again."
        )
    if not source.exists():
        raise PrepareError(f"Source {source} does not exist; give the zip file or a folder.")
    if link and not source.is_dir():
        raise PrepareError(f"--link needs a folder as source; {source} is none.")

    root.mkdir(parents=True, exist_ok=True)
    # beside the target, so that the last step is one rename
    with tempfile.TemporaryDirectory(prefix=f".{NAME}.", dir=root) as temporary:
        made = Path(temporary) / NAME
        if source.is_dir():
            folder = content_folder(source)
            if link:
                made.symlink_to(folder.resolve(), target_is_directory=True)
            else:
                copy(folder, made)
        else:
            extract(source, made)
        missing = missing_files(made)
        if missing:
            raise PrepareError(f"{source} is not complete: {describe(missing)}.")
        made.rename(target)
    return target


def content_folder(source: Path) -> Path:
    """Returns the folder that holds PNGImages: the source, or PennFudanPed in it."""
    for folder in (source, source / NAME):
        if (folder / FOLDERS[0]).is_dir():
            return folder
    raise PrepareError(f"{source} holds neither {FOLDERS[0]} nor {NAME}/{FOLDERS[0]}.")


def copy(folder: Path, target: Path) -> None:
    """Copies the known folders' files, without the source's permissions (it may be read-only)."""
    for name in FOLDERS:
        if (folder / name).is_dir():
            (target / name).mkdir(parents=True)
            for file in sorted((folder / name).iterdir()):
                if file.is_file():
                    shutil.copyfile(file, target / name / file.name)


def extract(archive: Path, target: Path) -> None:
    """Extracts the known folders' files of a zip; no path in it is trusted."""
    try:
        with zipfile.ZipFile(archive) as content:
            members = [member for member in content.infolist() if not member.is_dir()]
            for member in members:
                check_member(archive, member)
            if sum(member.file_size for member in members) > MAX_BYTES:
                raise PrepareError(f"{archive} unpacks to more than {MAX_BYTES >> 20} MiB.")
            for member in members:
                parts = PurePosixPath(member.filename).parts
                if len(parts) < 2 or parts[-2] not in FOLDERS or parts[:-2] not in ((), (NAME,)):
                    continue
                path = target / parts[-2] / parts[-1]
                path.parent.mkdir(parents=True, exist_ok=True)
                with content.open(member) as packed, open(path, "wb") as file:
                    shutil.copyfileobj(packed, file)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise PrepareError(
            f"{archive} is no zip file that can be read ({error}). Download it again."
        ) from error


def check_member(archive: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    windows = PureWindowsPath(name)  # understands / and \ alike
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    if is_link or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise PrepareError(
            f"{archive} holds {name!r}, which would leave the folder it is unpacked into. It is "
            "not the original archive; nothing was unpacked."
        )


def missing_files(folder: Path) -> list[str]:
    """Returns which of the 170 images and masks are absent or empty."""
    missing = []
    for stem in STEMS:
        images = [folder / "PNGImages" / f"{stem}{suffix}" for suffix in IMAGE_SUFFIXES]
        if not any(has_content(image) for image in images):
            missing.append(f"PNGImages/{stem}.png")
        if not has_content(folder / "PedMasks" / f"{stem}_mask.png"):
            missing.append(f"PedMasks/{stem}_mask.png")
    return missing


def has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def describe(missing: list[str]) -> str:
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{len(missing)} files are missing: {', '.join(missing[:3])}{more}"


if __name__ == "__main__":
    sys.exit(main())
