"""Names of a config in registries and tables."""

from collections.abc import Mapping
from typing import Any

from detectron2.utils.registry import Registry

from ..errors import ConfigError

__all__ = ["look_up"]


def look_up(known: Registry | Mapping[str, Any], name: str, key: str) -> Any:
    """``known.get(name)``, with an error that names the config `key` and what is known."""
    if name not in known:
        raise ConfigError(
            f'{key} = "{name}" is unknown; choose one of: {", ".join(sorted(dict(known)))}'
        )
    return known.get(name)
