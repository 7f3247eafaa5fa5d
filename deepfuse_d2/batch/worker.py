"""One process of many: a Predictor that goes from part to part without a pause between them."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ImageError
from ..inference import Predictor
from .folder import Folder, row_of
from .inputs import read_group
from .journal import Journal

__all__ = ["Done", "Job", "PartPredictor"]

_DIED = ImageError(
    "three processes died while they predicted this image, for lack of memory as a rule; predict "
    "it on a larger machine, or with tile=(1024, 2048)"
)


@dataclass(frozen=True)
class Job:
    """What a process has to know; plain values, which any engine can send.

    Args:
        config, weights, opts, options: arguments of :class:`.Predictor`.
        output: folder of the results.
        count: images of the list.
        group: of them a part.
        column: of Parquet files that hold images.
        threads: of a process.
        devices: of which each process of this machine takes one in turn.
    """

    config: str
    weights: str | None
    opts: tuple[str, ...]
    options: dict[str, Any]
    output: str
    count: int
    group: int
    column: str = ""
    threads: int = 1
    devices: tuple[str, ...] = ("cpu",)

    @property
    def parts(self) -> int:
        return -(-self.count // self.group)

    def size_of(self, part: int) -> int:
        return min(self.group, self.count - part * self.group)


class Done(NamedTuple):
    """A part that is there: its number, its images, and how many of them are errors."""

    part: int
    images: int
    errors: int


@dataclass
class _Part:
    """A part whose images are on their way; of each (id, name, what is wrong with its source)."""

    number: int
    size: int
    journal: Journal
    given: deque[tuple[int, str, Exception | None]] = field(default_factory=deque)

    def row(self, found: Any) -> dict[str, Any]:
        number, name, error = self.given.popleft()
        return row_of(number, name, error or found)


class PartPredictor:
    """Predicts parts of a list, and puts each into the folder of results when it is whole."""

    def __init__(self, job: Job):
        self._job = job
        self._folder = Folder(Path(job.output))
        self._predictor = Predictor(
            job.config, job.weights, opts=list(job.opts), output="record", errors="return",
            **job.options,
        )  # fmt: skip

    def run(
        self, numbers: Iterable[int], report: Callable[[int], None] = lambda count: None
    ) -> Iterator[Done]:
        """Yield what was done of each part, after it was written.

        Args:
            numbers: of parts; the next is asked for while the last images of one are predicted, so
                that the network never waits.
            report: called with a count of images that were done.
        """
        on_the_way: deque[_Part] = deque()
        alone: deque[Done] = deque()
        found = self._predictor.stream(self._images(numbers, on_the_way, alone, report))
        for first in found:
            part = on_the_way[0]
            with self._folder.writer(part.number) as writer:
                for one in chain([first], islice(found, part.size - 1)):
                    writer.add(part.row(one))
                    report(1)
            on_the_way.popleft().journal.end()
            yield Done(part.number, writer.count, writer.errors)
            while alone:
                yield alone.popleft()
        yield from alone

    def _images(
        self,
        numbers: Iterable[int],
        on_the_way: deque[_Part],
        alone: deque[Done],
        report: Callable[[int], None],
    ) -> Iterator[Any]:
        for number in numbers:
            part = _Part(number, self._job.size_of(number), Journal(self._folder.part(number)))
            if part.journal.begin():
                alone.append(self._one_by_one(part, report))
                continue
            on_the_way.append(part)
            for entry, source in self._group(number):
                part.given.append(entry)
                # what has no source goes along, for the order
                yield b"" if entry[2] else source

    def _group(self, number: int) -> Iterator[tuple[tuple[int, str, Exception | None], Any]]:
        first = number * self._job.group
        images = read_group(self._folder.list_file, number, self._job.column)
        for place, (name, source) in enumerate(images):
            error = source if isinstance(source, Exception) else None
            yield (first + place, name, error), source

    def _one_by_one(self, part: _Part, report: Callable[[int], None]) -> Done:
        """A part at which a process died: the image that it died of is found, and left out."""
        blamed = part.journal.blamed()
        with self._folder.writer(part.number) as writer:
            for entry, source in self._group(part.number):
                part.given.append(entry)
                if entry[0] in blamed:
                    found: Any = _DIED
                elif entry[2]:
                    found = None
                else:
                    part.journal.at(entry[0])
                    found = self._predictor(source)
                writer.add(part.row(found))
                report(1)
        part.journal.end()
        return Done(part.number, writer.count, writer.errors)
