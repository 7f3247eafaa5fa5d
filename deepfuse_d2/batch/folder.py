"""The folder of results: what it is of, which parts are there, and the way each part gets there.

    run.json              model, settings and list of images: an attempt with others is refused
    inputs.parquet        the list, see inputs.py
    part-00000000.parquet predictions of the first group of the list, and so on

A part is there or not, never half: it is written beside its place, brought to the disk and renamed.
So whatever ends a run, and however often, every image is in exactly one part at the end.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import portalocker
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import ConfigError, PredictionError
from ..files import written_whole
from ..inference.records import Record
from ..version import __version__

__all__ = ["SCHEMA", "Folder", "not_written", "row_of", "written"]

_RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])
_SEGMENT = pa.struct([
    ("id", pa.int32()), ("category_id", pa.int32()), ("isthing", pa.bool_()),
    ("score", pa.float64()), ("area", pa.int64()),
])  # fmt: skip
#: Of a part. What a model does not give is null; so is all of an image with an error.
SCHEMA = pa.schema([
    ("id", pa.int64()),
    ("name", pa.string()),
    ("error", pa.string()),
    ("height", pa.int32()),
    ("width", pa.int32()),
    ("boxes", pa.list_(pa.list_(pa.float64()))),
    ("scores", pa.list_(pa.float64())),
    ("category_ids", pa.list_(pa.int32())),
    ("masks", pa.list_(_RLE)),
    ("keypoints", pa.list_(pa.list_(pa.float64()))),
    ("labels", pa.binary()),
    ("panoptic", pa.binary()),
    ("segments", pa.list_(_SEGMENT)),
])  # fmt: skip

_VERSION = 1
_LONGEST_ERROR = 500
# rows that are in memory before they go to the disk
_ROWS = 64


def row_of(number: int, name: str, found: Record | Exception) -> dict[str, Any]:
    """A row of a part: the prediction of image `number` of the list, or why there is none."""
    row: dict[str, Any] = {"id": number, "name": name}
    if isinstance(found, Exception):
        return row | {"error": (str(found) or type(found).__name__)[:_LONGEST_ERROR]}
    row |= {name: value for name, value in found.items() if name != "instances"}
    if "instances" in found:
        instances = found["instances"]
        row |= {
            "boxes": [one["bbox"] for one in instances],
            "scores": [one["score"] for one in instances],
            "category_ids": [one["category_id"] for one in instances],
        }
        for field, own in (("segmentation", "masks"), ("keypoints", "keypoints")):
            if not instances or field in instances[0]:
                row[own] = [one[field] for one in instances]
    return row


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """As :func:`.written_whole`; a disk that takes no more is a message that says how to go on."""
    try:
        with written_whole(path) as temporary:
            yield temporary
    except OSError as error:
        raise not_written(path, error) from error


def not_written(path: Path, error: OSError) -> PredictionError:
    return PredictionError(
        f"{path} could not be written: {error.strerror or error}. Make room and run the same "
        "command again: what is written stays, and it goes on from there."
    )


class Folder:
    """A folder of results, of which one process at a time is the owner."""

    def __init__(self, path: Path):
        self.path = path
        self.list_file = path / "inputs.parquet"
        self._run_file = path / "run.json"

    @contextmanager
    def owned(self) -> Iterator[None]:
        """While no other process writes to it; rests of one that was killed are swept away."""
        self.path.mkdir(parents=True, exist_ok=True)
        # the system lets go of it, however the process ends
        lock = portalocker.Lock(self.path / ".lock", fail_when_locked=True)
        try:
            lock.acquire()
        except portalocker.LockException as error:
            raise ConfigError(
                f"{self.path} is being written by another process; wait for it, or give another "
                "--output."
            ) from error
        try:
            self._sweep()
            yield
        finally:
            self._sweep()  # of processes that were ended
            lock.release()

    def _sweep(self) -> None:
        for rest in self.path.glob("*.tmp"):
            rest.unlink(missing_ok=True)
        # of a process that died when its part was there already
        for journal in self.path.glob("part-*.journal"):
            if journal.with_suffix(".parquet").exists():
                journal.unlink()

    def described(self) -> dict[str, Any] | None:
        """What it was begun with; None if it was not begun yet."""
        try:
            content = json.loads(self._run_file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if any(self.path.glob("part-*.parquet")):
                raise ConfigError(
                    f"{self.path} holds parts of results without {self._run_file.name}; give "
                    "another --output."
                ) from None
            return None
        except ValueError as error:
            raise ConfigError(f"{self._run_file} cannot be read: {error}") from error
        if content.get("version") != _VERSION:
            raise ConfigError(
                f"{self.path} was begun by {content.get('written_by')}, whose results are of "
                f"version {content.get('version')}, and not {_VERSION}; give another --output."
            )
        return content

    def describe(self, run: Mapping[str, Any]) -> None:
        """Write down what it is begun with."""
        content = {"version": _VERSION, "written_by": f"deepfuse_d2 {__version__}", **run}
        with written(self._run_file) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def part(self, number: int) -> Path:
        return self.path / f"part-{number:08d}.parquet"

    def parts(self, count: int) -> list[Path]:
        return [self.part(number) for number in range(count)]

    def missing(self, sizes: Iterable[int]) -> list[int]:
        """Numbers of the parts that are not there, whole; `sizes` are the rows of each."""
        return [number for number, size in enumerate(sizes) if not self._is_whole(number, size)]

    def _is_whole(self, number: int, size: int) -> bool:
        try:
            # the end of such a file says how many rows it has
            return pq.read_metadata(self.part(number)).num_rows == size
        except (OSError, pa.ArrowException):
            return False

    @contextmanager
    def writer(self, number: int) -> Iterator["PartWriter"]:
        """Yield what takes the rows of a part, which is there when the block ends."""
        with written(self.part(number)) as temporary:
            writer = PartWriter(temporary)
            try:
                yield writer
            finally:
                writer.close()
            # a machine that loses power must not find a name without its content
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())


class PartWriter:
    """Rows into a file, a few in memory at a time."""

    def __init__(self, path: Path):
        self._writer = pq.ParquetWriter(path, SCHEMA, compression="zstd")
        self._rows: list[dict] = []
        self.count = self.errors = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(dict(row))
        self.count += 1
        self.errors += row.get("error") is not None
        if len(self._rows) == _ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=SCHEMA))
            self._rows.clear()
