"""Names of a config in registries."""

from detectron2.utils.registry import Registry

from ..errors import ConfigError

__all__ = ["look_up"]


def look_up(registry: Registry, name: str, key: str):
    """``registry.get(name)``, with an error that names the config `key` and what is known."""
    if name not in registry:
        raise ConfigError(
            f'{key} = "{name}" is unknown; choose one of: '
            + ", ".join(sorted(known for known, _ in registry))
        )
    return registry.get(name)
