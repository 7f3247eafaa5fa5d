"""Files that are never half there, and the folder for those that can be made again."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["BESIDE_THE_DATA", "CACHE_VARIABLE", "cache_home", "file_digest", "written_whole"]

#: The environment variable that moves the cache; the key CACHE.FOLDER sets it.
CACHE_VARIABLE = "DEEPFUSE_CACHE"
#: Its value for what belongs to a data set to lie in the folder of that data set.
BESIDE_THE_DATA = "dataset"


def cache_home() -> Path | None:
    """The user's folder for what can be made again at any time; it need not exist.

    It is ``$DEEPFUSE_CACHE``; else ``deepfuse_d2`` in ``$XDG_CACHE_HOME``, by default ``~/.cache``.
    None for a user without a home.
    """
    asked = os.environ.get(CACHE_VARIABLE, "")
    if asked not in ("", BESIDE_THE_DATA):
        return Path(os.path.abspath(os.path.expanduser(asked)))
    home = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(home):  # a relative one is to be ignored, says the specification
        home = os.path.expanduser(os.path.join("~", ".cache"))
    return Path(home, "deepfuse_d2") if os.path.isabs(home) else None


@contextmanager
def written_whole(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a path beside `path` to write to; what was written gets its name at the end.

    Folders are made as needed, and the umask says who may read the file. After an error nothing is
    left behind, and a file that was at `path` before is still as it was.

    Example:
        >>> with written_whole("output/results.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # some libraries write files that nobody else may read; here the umask decides
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, in hexadecimal; it is read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
