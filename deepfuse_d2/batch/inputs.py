"""What is to be predicted, as a list that lies beside the results and is the same in every attempt.

The list is a Parquet file with a row an image: ``name``, under which it is spoken of; ``path`` of
the file; and ``row``, where that file is a Parquet file that holds the images themselves. A group
of rows is what one file of results speaks of.
"""

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.images import IMAGE_SUFFIXES
from ..errors import ConfigError, ImageError

__all__ = ["Image", "ListOfImages", "find_inputs", "read_group", "write_list"]

_SCHEMA = pa.schema([("name", pa.string()), ("path", pa.binary()), ("row", pa.int64())])
# columns that are looked for, in this order
_PATHS = ("path", "file_name", "filename")
_BYTES = ("bytes", "image", "content")
_NAMES = ("name", "file_name", "filename", "path", "id")


class Image(NamedTuple):
    """One image: its name, the file it is in, and its row there (None: the file is the image)."""

    name: str
    path: str
    row: int | None


class ListOfImages(NamedTuple):
    """How many images there are, and what tells one list from another."""

    images: int
    digest: str


def find_inputs(sources: Sequence[str | os.PathLike], column: str = "") -> Iterator[Image]:
    """Yield what is to be predicted, in an order that is the same every time.

    Args:
        sources: image files, folders (with the folders in them), patterns as of a shell (``**`` is
            any number of folders), Parquet files with a column of paths or of bytes of image files,
            and lists: text files of one path a line, from the folder of the process.
        column: of a Parquet file; by default the one of a usual name.
    """
    for source in [os.fspath(source) for source in sources]:
        any_image = False
        for image in _of(source, column):
            any_image = True
            yield image
        if not any_image:
            raise ImageError(
                f"--input {source} holds no image: give a folder or a pattern of image files "
                f"({', '.join(sorted(IMAGE_SUFFIXES))}), a text file of paths, or a .parquet file."
            )


def write_list(images: Iterable[Image], path: Path, group: int) -> ListOfImages:
    """Write the list of images, `group` rows at once, with the memory of one such group."""
    digest, count = hashlib.sha256(), 0
    images = iter(images)
    with pq.ParquetWriter(path, _SCHEMA) as writer:
        while rows := list(islice(images, group)):
            # a name of a file may be no text, and is one here; its path stays what it is
            names = [image.name.encode("utf-8", "replace").decode() for image in rows]
            for name, image in zip(names, rows, strict=True):
                digest.update(f"{name}\0{image.row}\n".encode())
            paths = [os.fsencode(image.path) for image in rows]
            columns = [names, paths, [image.row for image in rows]]
            writer.write_table(pa.Table.from_pydict(dict(zip(_SCHEMA.names, columns, strict=True)),
                                                    schema=_SCHEMA))  # fmt: skip
            count += len(rows)
    return ListOfImages(count, digest.hexdigest())


def read_group(list_file: Path, number: int, column: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (name, source) of one group; a source is a path or the bytes of a file.

    What cannot be read is an error in the place of its source.
    """
    with pq.ParquetFile(list_file) as file:
        rows = _images(file.read_row_group(number))
    for (path, inside), some in groupby(rows, key=lambda image: (image.path, image.row is None)):
        images = list(some)
        if inside:
            yield from ((image.name, path) for image in images)
            continue
        contents = _contents(path, [image.row or 0 for image in images], column)
        yield from ((image.name, next(contents)) for image in images)


def _images(rows: pa.Table | pa.RecordBatch) -> list[Image]:
    return [Image(row["name"], os.fsdecode(row["path"]), row["row"]) for row in rows.to_pylist()]


def _of(source: str, column: str) -> Iterator[Image]:
    if os.path.isdir(source):
        return _of_folder(source)
    if not os.path.exists(source):
        if glob.has_magic(source):
            found = sorted(glob.iglob(source, recursive=True))
            return (_file(path) for path in found if os.path.isfile(path))
        raise ImageError(f"--input {source} does not exist (folder of the process: {os.getcwd()}).")
    suffix = Path(source).suffix.lower()
    if suffix in (".parquet", ".pq"):
        return _of_parquet(source, column)
    if suffix in (".txt", ".lst", ".list"):
        return _of_text(source)
    return iter([_file(source)])


def _file(path: str, name: str = "") -> Image:
    return Image(name or path, os.path.abspath(path), None)


def _of_folder(folder: str) -> Iterator[Image]:
    """In the order of a walk by name, which holds the names of one folder at a time."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders.sort()
        for file in sorted(files):
            if Path(file).suffix.lower() in IMAGE_SUFFIXES:
                path = os.path.join(parent, file)
                yield _file(path, os.path.relpath(path, folder))


def _of_text(path: str) -> Iterator[Image]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            if line.strip():
                yield _file(line.strip("\r\n"))


def _of_parquet(path: str, column: str) -> Iterator[Image]:
    with _open_parquet(path) as file:
        schema = file.schema_arrow
        if schema.equals(_SCHEMA):  # such a list: the one beside the results
            for batch in file.iter_batches():
                yield from _images(batch)
            return
        column = _column(path, schema, column)
        if pa.types.is_string(schema.field(column).type) or pa.types.is_large_string(
            schema.field(column).type
        ):
            for batch in file.iter_batches(columns=[column]):
                yield from (_file(name) for name in batch.column(0).to_pylist())
            return
        names = next((x for x in _NAMES if x in schema.names and x != column), None)
        base, number = os.path.basename(path), 0
        for batch in file.iter_batches(columns=[names] if names else []):
            given = batch.column(0).to_pylist() if names else [None] * batch.num_rows
            for name in given:
                label = f"{base}:{number}" if name is None else str(name)
                yield Image(label, os.path.abspath(path), number)
                number += 1


def _column(path: str, schema: pa.Schema, column: str) -> str:
    """The column that holds images or their paths."""
    if column and column not in schema.names:
        raise ConfigError(f"--column {column}: {path} has the columns {', '.join(schema.names)}.")
    usual = [name for name in (*_BYTES, *_PATHS) if name in schema.names]
    name = column or (usual[0] if usual else "")
    if not name:
        raise ConfigError(
            f"{path} has the columns {', '.join(schema.names)}; say by --column which one holds "
            "paths or bytes of image files."
        )
    kind = schema.field(name).type
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not texts and not _is_binary(kind) and not _has_bytes(kind):
        raise ConfigError(
            f"Column {name} of {path} holds {kind}; expected paths (string), files (binary), or "
            "a struct with a field bytes."
        )
    return name


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _has_bytes(kind: pa.DataType) -> bool:
    """As Hugging Face's data sets hold images: {bytes, path}."""
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _contents(path: str, rows: Sequence[int], column: str) -> Iterator[Any]:
    """What lies in ascending `rows` of a Parquet file; few of them are in memory at a time."""
    try:
        with _open_parquet(path) as file:
            column = _column(path, file.schema_arrow, column)
            groups, first = [], 0
            for number in range(file.num_row_groups):
                after = first + file.metadata.row_group(number).num_rows
                if first <= rows[-1] and after > rows[0]:
                    groups.append((number, first))
                first = after
            wanted, position = iter([*rows, -1]), groups[0][1]
            row = next(wanted)
            numbers = [number for number, _ in groups]
            for batch in file.iter_batches(16, row_groups=numbers, columns=[column]):
                while row >= 0 and row < position + batch.num_rows:
                    value = batch.column(0)[row - position].as_py()
                    value = value.get("bytes") if isinstance(value, dict) else value
                    yield value or ImageError(f"Row {row} of {path} is empty.")
                    row = next(wanted)
                position += batch.num_rows
            raise IndexError(f"it has no row {row} any more")
    except (OSError, pa.ArrowException, IndexError, ConfigError) as error:
        while True:  # whoever asks for more rows gets the same answer
            yield ImageError(f"{path} cannot be read: {error}")


def _open_parquet(path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (OSError, pa.ArrowException) as error:
        raise ImageError(f"{path} cannot be read as Parquet: {error}") from error
