"""Which images a process died of: written down before it happens, by the process itself.

Nobody can catch the signal by which a system takes its memory back. So a part that is begun has a
journal, which is gone when the part is there. Whoever begins a part and finds a journal knows that
an attempt died, and now notes each image ahead of predicting it, one at a time. The image at which
three attempts ended is to blame, and is a row with an error; the others of the part are predicted.
"""

from collections import Counter
from pathlib import Path

from .folder import not_written

__all__ = ["Journal", "forget_orderly_ends"]

_BEGIN = "begin"
_ATTEMPTS = 3


class Journal:
    """Of a part, in a file beside it."""

    def __init__(self, part: Path):
        self._path = part.with_suffix(".journal")

    def begin(self) -> bool:
        """Note that an attempt begins; return whether an earlier one died."""
        died = self._path.exists() and self._path.stat().st_size > 0
        self._write(_BEGIN)
        return died

    def at(self, image: int) -> None:
        """Note that `image` comes next."""
        self._write(str(image))

    def blamed(self) -> set[int]:
        """Images at which three attempts ended."""
        if not self._path.exists():
            return set()
        attempts = self._path.read_text(encoding="utf-8").split(f"{_BEGIN}\n")
        ends = Counter(lines[-1] for attempt in attempts if (lines := attempt.split()))
        return {int(image) for image, count in ends.items() if count >= _ATTEMPTS}

    def end(self) -> None:
        """Forget all, since the part is there."""
        self._path.unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        try:
            with open(self._path, "a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise not_written(self._path, error) from error


def forget_orderly_ends(folder: Path) -> None:
    """Of a run that is stopped: an attempt that it ended is not one that died."""
    for path in folder.glob("part-*.journal"):
        if path.read_text(encoding="utf-8") == f"{_BEGIN}\n":
            path.unlink()
