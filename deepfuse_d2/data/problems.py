"""Damaged and missing files of a data set: one error that counts them, or a list of all.

Loaders look at every file before they fail, so that one start names the whole damage. Inside
:func:`collect_problems` they go on with the sound files instead, which is what a check wants.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from ..errors import DatasetError

__all__ = ["collect_problems", "explained", "report"]

_collector: ContextVar[list[str] | None] = ContextVar("deepfuse_d2_data_problems", default=None)


@contextlib.contextmanager
def collect_problems() -> Iterator[list[str]]:
    """Collect what :func:`report` gets, in a list; loaders leave these entries out and go on.

    Example:
        >>> with collect_problems() as problems:
        ...     records = DatasetCatalog.get("minicity_fine_instance_seg_train")
    """
    problems: list[str] = []
    token = _collector.set(problems)
    try:
        yield problems
    finally:
        _collector.reset(token)


def report(problems: Sequence[str]) -> None:
    """Raise a DatasetError with the first of `problems` and the number of the others, if any.

    Inside :func:`collect_problems` it adds them to the list instead, and returns.
    """
    collector = _collector.get()
    if collector is not None:
        collector += problems
    elif problems:
        others = len(problems) - 1
        more = f" So it is with {others} other file{'s' if others > 1 else ''}: " if others else ""
        raise DatasetError(problems[0] + more + ("deepfuse check-data lists them." * bool(more)))


@contextlib.contextmanager
def explained(remedy: str) -> Iterator[None]:
    """End the message of a DatasetError with what to do."""
    try:
        yield
    except DatasetError as error:
        raise DatasetError(f"{error} {remedy}") from error
