"""Install detectron2 from a package index, without a compiler.

Detectron2 has had no release on the package index since 2021. The package ``sal-detectron2`` holds
its python sources of 2024-04 (commit a59f056) in a wheel tagged for CPython 3.10 on Linux. Without
the one compiled file in it, those sources run on any platform and python, so this script

1. keeps a detectron2 that can be imported already, unless it is an earlier repacking of this file;
2. otherwise downloads that wheel, checks its SHA-256, drops the compiled file and a stray top-level
   ``tools`` package, mends the import of :data:`MENDED`, repacks the rest as
   ``detectron2-...-py3-none-any.whl`` and installs it.

What is missing without the compiled file: deformable convolution, rotated boxes, the C++ COCOeval.
``--from-git`` builds the official repository instead (needs a C++ compiler and git).

Nothing is installed before the repacked wheel is complete; pip then installs it as a whole.
Only the standard library is used, so any python >= 3.10 can run this file by itself.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import importlib.metadata
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

__all__ = ["NEEDS_PACKAGE", "add_arguments", "run"]

# The package needs what is installed here.
NEEDS_PACKAGE = False

REQUIREMENT = "sal-detectron2==0.7.2"
SHA256 = "491af0c7f79bdb2d178e46f6cb16a97c4ac968d45c41ea3f6b6435d59bbee561"
VERSION = "0.7.2+a59f056.1"
# Of wheels that this script wrote, the last number aside.
OURS = "0.7.2+a59f056"
OFFICIAL = "git+https://github.com/facebookresearch/detectron2.git"
MIN_PYTHON = (3, 10)
# A fixed time stamp (the earliest a zip can hold): the repacked wheel is the same bytes each time.
ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)

METADATA = f"""\
Metadata-Version: 2.1
Name: detectron2
Version: {VERSION}
Summary: Detectron2 (commit a59f056), python sources only, repacked from {REQUIREMENT}
Home-page: https://github.com/facebookresearch/detectron2
License: Apache-2.0
Requires-Python: >=3.8
"""

WHEEL = """\
Wheel-Version: 1.0
Generator: deepfuse_d2 tools/install_detectron2.py
Root-Is-Purelib: true
Tag: py3-none-any
"""

# ``detectron2.model_zoo`` imports what setuptools no longer has: file -> (as it is, as it works).
MENDED = {
    "detectron2/model_zoo/model_zoo.py": [
        ("import pkg_resources\n", "import importlib.resources\n"),
        (
            """pkg_resources.resource_filename(
        "detectron2.model_zoo", os.path.join("configs", config_path)
    )""",
            """str(
        importlib.resources.files("detectron2.model_zoo").joinpath("configs", config_path)
    )""",
        ),
    ]
}


class InstallError(Exception):
    """A failure whose message tells the user what to do next."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from-git", action="store_true", help="build the official repository (needs git and g++)"
    )
    parser.add_argument(
        "--force", action="store_true", help="install even if detectron2 can be imported already"
    )
    parser.add_argument(
        "--wheel", type=Path, metavar="FILE", help=f"a {REQUIREMENT} wheel that lies here already"
    )
    parser.add_argument(
        "--repack-to",
        type=Path,
        metavar="DIR",
        help="only write the repacked wheel to DIR (to carry it to a machine without a network)",
    )


def run(args: argparse.Namespace) -> int:
    try:
        install(args)
    except InstallError as error:
        print(f"install_detectron2: {error}", file=sys.stderr)
        return 1
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run(parser.parse_args(argv))


def install(args):
    check_python(sys.version_info)
    if not (args.force or args.repack_to):
        version = importable_version()
        if version and not is_outdated():
            print(f"detectron2 {version} can be imported already; kept.")
            return
    if args.from_git:
        pip("install", "--no-build-isolation", OFFICIAL, remedy=(
            "building the official repository needs git, a C++ compiler, torch in this environment "
            "and access to github.com. Without them, leave out --from-git."
        ))  # fmt: skip
        return
    with tempfile.TemporaryDirectory(prefix="install_detectron2_") as folder:
        source = args.wheel or download(Path(folder))
        check_hash(source)
        wheel = repack(source, args.repack_to or Path(folder))
        if args.repack_to:
            print(f"Wrote {wheel}")
            return
        pip("install", "--no-deps", "--no-index", "--force-reinstall", str(wheel), remedy=(
            "the wheel was downloaded and checked, but pip could not install it; see its message "
            "above (is the environment writable?)."
        ))  # fmt: skip
    version = importable_version()
    if not version:
        raise InstallError(
            "installed, but `import detectron2` still fails. Install torch, torchvision and the "
            "packages of pyproject.toml first: pip install -c constraints.txt -e ."
        )
    print(f"detectron2 {version} installed.")


def check_python(version):
    if tuple(version[:2]) < MIN_PYTHON:
        raise InstallError(
            f"python {version[0]}.{version[1]} is too old; deepfuse_d2 needs python "
            f">= {MIN_PYTHON[0]}.{MIN_PYTHON[1]}. Make the environment with a newer one, e.g. "
            "`make PYTHON=python3.11 install`."
        )


def importable_version():
    """Version of the detectron2 this interpreter can import, or None.

    Asked in a process of its own, in an empty folder, so that neither a half-imported module nor a
    folder named detectron2 beside us can mislead.
    """
    script = "import detectron2, detectron2.layers; print(detectron2.__version__)"
    with tempfile.TemporaryDirectory() as empty:
        probe = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=empty
        )
    return probe.stdout.strip() if probe.returncode == 0 else None


def is_outdated():
    """Whether the detectron2 of this environment is an earlier repacking of ours."""
    try:
        installed = importlib.metadata.version("detectron2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return installed != VERSION and installed.startswith(OURS)


def mended(name, data):
    """Bytes of the file `name`, changed as :data:`MENDED` says."""
    text = data.decode()
    for given, wanted in MENDED[name]:
        if given not in text:
            raise InstallError(f"{name} of {REQUIREMENT} is not the file that was reviewed.")
        text = text.replace(given, wanted)
    return text.encode()


def download(folder):
    # The wheel is tagged for CPython 3.10; these flags fetch it on any python and platform.
    pip("download", "--no-deps", "--only-binary=:all:", "--python-version", "3.10",
        "--implementation", "cp", "--abi", "none", "--platform", "any",
        "--dest", str(folder), REQUIREMENT, remedy=(
            f"could not download {REQUIREMENT} from the package index. Check the network and "
            "pip's index (`pip config list`), or fetch the wheel elsewhere and give it with "
            "--wheel FILE, or build the official repository with --from-git."
        ))  # fmt: skip
    wheels = list(folder.glob("sal_detectron2-*.whl"))
    if len(wheels) != 1:
        raise InstallError(f"pip download left {len(wheels)} wheels in {folder}, expected one.")
    return wheels[0]


def check_hash(wheel):
    if not wheel.is_file():
        raise InstallError(f"no such file: {wheel}. Give the path of a {REQUIREMENT} wheel.")
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise InstallError(
            f"{wheel.name} is not the file that was reviewed: its SHA-256 is {found}, expected "
            f"{SHA256}. Nothing was installed. The download may be damaged (try again) or the "
            "package on the index may have been replaced (do not install it; use --from-git)."
        )


def repack(source, folder):
    """Write the python sources of wheel `source` as a py3-none-any wheel into `folder`.

    The file gets its final name only when it is complete.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"detectron2-{VERSION}-py3-none-any.whl"
    partial = target.with_suffix(".partial")
    info = f"detectron2-{VERSION}.dist-info"
    record = io.StringIO()
    rows = csv.writer(record, lineterminator="\n")

    with zipfile.ZipFile(source) as old, zipfile.ZipFile(partial, "w") as new:

        def add(name, data):
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.writerow([name, f"sha256={digest}", len(data)])
            new.writestr(zipfile.ZipInfo(name, ZIP_EPOCH), data, zipfile.ZIP_DEFLATED)

        for name in sorted(old.namelist()):
            if name.startswith("detectron2/") and not name.endswith((".so", ".pyd", "/")):
                data = old.read(name)
                add(name, mended(name, data) if name in MENDED else data)
            elif name.endswith(".dist-info/LICENSE"):
                add(f"{info}/LICENSE", old.read(name))
        add(f"{info}/METADATA", METADATA.encode())
        add(f"{info}/WHEEL", WHEEL.encode())
        rows.writerow([f"{info}/RECORD", "", ""])
        new.writestr(zipfile.ZipInfo(f"{info}/RECORD", ZIP_EPOCH), record.getvalue())
    partial.replace(target)
    return target


def pip(*arguments, remedy):
    command = [sys.executable, "-m", "pip", arguments[0], "--quiet", *arguments[1:]]
    try:
        subprocess.run(command, check=True)
    except subprocess.CalledProcessError as error:
        raise InstallError(f"`pip {arguments[0]}` failed: {remedy}") from error


if __name__ == "__main__":
    sys.exit(main())
