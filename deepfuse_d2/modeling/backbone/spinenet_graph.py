"""Reading a table of SpineNet: is it sound, what does an output need, and a table out of a yaml."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import ConfigError
from .spinenet_tables import Block, Table

__all__ = ["ancestors", "check_table", "output_blocks", "with_own_blocks"]

_KINDS = ("residual", "bottleneck", "mbconv")
_LEVELS = range(1, 9)
_KEYS = ("LEVEL", "KIND", "INPUTS", "WIDTH", "REPEATS", "ADD", "OUTPUT", "UNUSED")


def check_table(table: Table) -> None:
    """Raise an error that names the block unless the graph of `table` can be built and is used.

    Raises: ConfigError.
    """
    blocks = table.all_blocks
    outputs: dict[int, int] = {}
    for index, block in enumerate(blocks[2:], 2):
        what = f"Block {index} (MODEL.SPINENET.BLOCKS[{index - 2}])"
        if block.kind not in _KINDS:
            raise ConfigError(f'{what} is of kind "{block.kind}"; choose one of {list(_KINDS)}.')
        if block.level not in _LEVELS:
            raise ConfigError(
                f"{what} has level {block.level}; choose one of {_LEVELS[0]} to {_LEVELS[-1]}: its "
                "maps have stride 2^level."
            )
        if block.width < 1 or block.repeats < 1:
            raise ConfigError(
                f"{what} has width {block.width} and {block.repeats} repeats; both are 1 or more."
            )
        if not block.inputs:
            raise ConfigError(f"{what} has no inputs; name one or more blocks before it.")
        for source in (*block.inputs, *block.add):
            if not 0 <= source < index:
                raise ConfigError(
                    f"{what} takes block {source}; it can take those before it, 0 to {index - 1}."
                )
            if blocks[source].unused:
                raise ConfigError(f"{what} takes block {source}, which is said to be unused.")
        for source in block.add:
            other = blocks[source]
            if (other.level, other.channels) != (block.level, block.channels):
                raise ConfigError(
                    f"{what} adds block {source} as it is, of level {other.level} and "
                    f"{other.channels} channels to level {block.level} and {block.channels}; they "
                    "must be the same. Name it in INPUTS to have it resampled."
                )
        if block.output:
            if block.level in outputs:
                raise ConfigError(
                    f"{what} and block {outputs[block.level]} are both the output p{block.level}; "
                    "a level has one."
                )
            outputs[block.level] = index
    if not outputs:
        raise ConfigError("No block is an output; set OUTPUT: True for one a level.")
    _check_use(blocks)


def _check_use(blocks: Sequence[Block]) -> None:
    used = {
        source for block in blocks if not block.unused for source in (*block.inputs, *block.add)
    }
    for index, block in enumerate(blocks):
        is_used = block.output or index in used
        if index >= 2 and is_used == block.unused:
            wrong = (
                "is said to be unused, and is an output"
                if is_used
                else "is no output, and no block takes it; say UNUSED: True if that is meant"
            )
            raise ConfigError(f"Block {index} (MODEL.SPINENET.BLOCKS[{index - 2}]) {wrong}.")


def output_blocks(table: Table, out_features: Sequence[str]) -> dict[str, int]:
    """Index of the block of each output among `out_features`, by name and from p<low> to p<high>.

    Raises: ConfigError: an output is asked for that the table does not have.
    """
    known = {f"p{b.level}": i for i, b in enumerate(table.all_blocks) if b.output}
    unknown = [name for name in out_features if name not in known]
    if unknown or not out_features:
        raise ConfigError(
            f"MODEL.SPINENET.OUT_FEATURES is {list(out_features)}; this network gives one or more "
            f"of {sorted(known)}."
        )
    return {name: known[name] for name in sorted(set(out_features))}


def ancestors(table: Table, indices: Sequence[int]) -> list[int]:
    """`indices` and every block that they are made from, in order."""
    found: set[int] = set()
    waiting = list(indices)
    while waiting:
        index = waiting.pop()
        block = table.all_blocks[index]
        found.add(index)
        # the stem is a chain
        waiting += [0] if index == 1 else [*block.inputs, *block.add]
    return sorted(found)


def with_own_blocks(table: Table, rows: Sequence[Mapping[str, Any]]) -> Table:
    """`table` with other blocks behind its stem: those of a yaml, MODEL.SPINENET.BLOCKS.

    Args:
        rows: mappings with LEVEL, KIND and INPUTS, and where wanted WIDTH (default: that of the
            level in `table`, if it has one), REPEATS (1), ADD ([]), OUTPUT (False), UNUSED (False).

    Raises: ConfigError: a row is incomplete, or the graph is not sound.
    """
    blocks = tuple(_block(table, row, index) for index, row in enumerate(rows, 2))
    own = dataclasses.replace(table, blocks=blocks)
    check_table(own)
    return own


def _block(table: Table, row: Mapping[str, Any], index: int) -> Block:
    where = f"MODEL.SPINENET.BLOCKS[{index - 2}] (block {index})"
    if not isinstance(row, Mapping):
        raise ConfigError(f"{where} is {row!r}; give a mapping with the keys {', '.join(_KEYS)}.")
    unknown = sorted(set(row) - set(_KEYS))
    missing = [key for key in _KEYS[:3] if key not in row]
    if unknown or missing:
        raise ConfigError(
            f"{where} has unknown keys {unknown} and lacks {missing}; the keys are "
            f"{', '.join(_KEYS)}, of which LEVEL, KIND and INPUTS must be given."
        )
    if "WIDTH" not in row and row["LEVEL"] not in table.widths:
        raise ConfigError(
            f"{where} has no WIDTH, and MODEL.SPINENET.NAME names a network without one width for "
            f"level {row['LEVEL']}; give WIDTH."
        )
    try:
        return Block(
            level=int(row["LEVEL"]),
            kind=str(row["KIND"]),
            inputs=tuple(int(i) for i in row["INPUTS"]),
            width=int(row.get("WIDTH", table.widths.get(row["LEVEL"], 0))),
            repeats=int(row.get("REPEATS", 1)),
            add=tuple(int(i) for i in row.get("ADD", ())),
            output=bool(row.get("OUTPUT", False)),
            unused=bool(row.get("UNUSED", False)),
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} is {dict(row)}: {error}.") from error
