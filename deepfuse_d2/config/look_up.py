"""Names of a config in registries and tables."""

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils.registry import Registry

from ..errors import ConfigError

__all__ = ["OWN_PREFIX", "keyword_arguments", "look_up"]

#: What our names in registries that other projects share begin with; see modeling/registration.py.
OWN_PREFIX = "deepfuse_d2."


def look_up(known: Registry | Mapping[str, Any], name: str, key: str) -> Any:
    """``known.get(name)``, with an error that names the config `key` and what is known."""
    if name not in known:
        things = dict(known)
        # of two names for one thing, the short one
        names = [
            other
            for other, thing in things.items()
            if not other.startswith(OWN_PREFIX)
            or things.get(other.removeprefix(OWN_PREFIX)) is not thing
        ]
        raise ConfigError(f'{key} = "{name}" is unknown; choose one of: {", ".join(sorted(names))}')
    return known.get(name)


def keyword_arguments(
    mappings: Sequence[Mapping[str, Any]], key: str, function: str, example: Mapping[str, Any]
) -> dict[str, Any]:
    """One mapping of `mappings`, the value of the config `key`: arguments of another's function.

    detectron2's configs take a list of mappings as it is, but make a node of keys of a mapping.

    Args:
        function: in words, for the error.
        example: of one mapping, for the error.
    """
    if not all(isinstance(mapping, Mapping) for mapping in mappings):
        raise ConfigError(
            f"{key} = {mappings} must be a list of mappings from argument names of {function} to "
            f"values, e.g. [{dict(example)}]."
        )
    return {name: value for mapping in mappings for name, value in mapping.items()}
