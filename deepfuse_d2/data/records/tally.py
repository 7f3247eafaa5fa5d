"""What a loader does not take, or takes otherwise than it stands there: counted by reason."""

import logging
from dataclasses import dataclass, field

__all__ = ["Tally", "keep_tally", "tally_of"]

logger = logging.getLogger(__name__)

# Of the data sets that were loaded, by name.
_KEPT: dict[str, "Tally"] = {}


@dataclass
class Tally:
    """Counts by reason, each with the place of its first case.

    Example:
        >>> tally = Tally()
        >>> tally.leave_out("annotation", "its box is empty", "annotation 7")
        >>> tally.lines()
        ['1 annotation is left out: its box is empty (annotation 7)']
    """

    #: (what, reason) -> [count, first place]
    left_out: dict[tuple[str, str], list] = field(default_factory=dict)
    #: reason -> [count, first place]
    mended: dict[str, list] = field(default_factory=dict)

    def leave_out(self, what: str, reason: str, where: object, count: int = 1) -> None:
        """Count `count` things, such as "annotation" or "image", that are not taken."""
        self.left_out.setdefault((what, reason), [0, where])[0] += count

    def mend(self, reason: str, where: object, count: int = 1) -> None:
        """Count what is taken in another form than it stands there."""
        self.mended.setdefault(reason, [0, where])[0] += count

    def lines(self) -> list[str]:
        """One sentence a reason, what is left out first."""
        lines = []
        for (what, reason), (count, where) in self.left_out.items():
            be = "is" if count == 1 else "are"
            lines.append(f"{_counted(count, what)} {be} left out: {reason} ({where})")
        lines += [f"{count} times: {reason} ({where})" for reason, (count, where)
                  in self.mended.items()]  # fmt: skip
        return lines

    def __bool__(self) -> bool:
        return bool(self.left_out or self.mended)


def keep_tally(name: str, tally: Tally) -> None:
    """Keep the tally of a data set for :func:`tally_of`, and say it in one line of the log."""
    _KEPT[name] = tally
    if tally:
        logger.warning("%s: %s", name, "; ".join(tally.lines()))


def tally_of(name: str) -> Tally:
    """What the last loading of a data set left out; empty for one that counts nothing."""
    return _KEPT.get(name, Tally())


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
