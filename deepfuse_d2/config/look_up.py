"""Names of a config in registries and tables."""

from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import Registry

from ..errors import ConfigError

__all__ = ["OWN_PREFIX", "look_up"]

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
