"""Published networks by name: one key in place of the keys that describe one."""

import inspect
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode, get_cfg

from ...config.flatten import flatten
from ...config.keys import add_deepfuse_config
from ...config.look_up import look_up
from ...errors import ConfigError

__all__ = ["published_or_own"]


def published_or_own(
    network: type,
    cfg: CfgNode,
    name_key: str,
    published: Mapping[str, Mapping[str, Any]],
    keys: Mapping[str, str],
) -> dict[str, Any]:
    """Arguments of `network` from the name in a config, or without one from the single keys.

    Args:
        network: the class; its defaults complete what `published` says.
        name_key: the config key of the name; "" there leaves the choice to the single keys.
        published: name -> arguments that differ from the defaults.
        keys: argument -> the config key that says it.

    Raises:
        ConfigError: the name is unknown, or a single key contradicts it. A key that has its default
            value, which nobody may have written, does not.
    """
    values = flatten(cfg)
    name = values[name_key]
    if not name:
        return {argument: values[key] for argument, key in keys.items()}
    chosen = look_up(published, name, name_key)
    parameters = inspect.signature(network.__init__).parameters
    arguments = {argument: chosen.get(argument, parameters[argument].default) for argument in keys}
    plain = get_cfg()
    add_deepfuse_config(plain)
    unset = flatten(plain)
    for argument, key in keys.items():
        if values[key] not in (unset[key], arguments[argument]):
            raise ConfigError(
                f'{key} is {values[key]}, but {name_key} = "{name}" has {arguments[argument]}. '
                f'Leave it out; or set {name_key} to "" and describe a network of your own.'
            )
    return arguments
