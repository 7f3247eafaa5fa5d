"""Our names in registries that we share with other projects.

Everything of ours is registered under ``deepfuse_d2.<name>``, and under ``<name>`` too where that
is free. Detic and CenterNet2 bring a ``build_timm_backbone``, a ``build_dla_backbone`` and a
``build_res2net_backbone`` of their own: in one program with them, whichever is imported first, the
short names are theirs, and one message says so.
"""

import logging
from typing import Any, TypeVar

from detectron2.utils.registry import Registry

from ..config.look_up import OWN_PREFIX

__all__ = ["register"]

T = TypeVar("T")


def register(registry: Registry):
    """Decorator of what is ours: in place of ``@registry.register()``."""

    def decorate(thing: T) -> T:
        name = thing.__name__
        registry._do_register(f"{OWN_PREFIX}{name}", thing)
        if name in registry:
            _tell(registry, name)
        else:
            registry._do_register(name, thing)
            _let_take(registry, name)
        return thing

    return decorate


class _YieldingRegistry(Registry):
    """A registry in which others may take a short name of ours, instead of failing to import."""

    ours: set[str]

    def _do_register(self, name: str, obj: Any) -> None:
        if name in self.ours:
            self.ours.discard(name)
            del self._obj_map[name]
            _tell(self, name)
        super()._do_register(name, obj)


def _let_take(registry: Registry, name: str) -> None:
    # The failure would be in the other project's registration, which is the registry's own method:
    # its class is the one place where that can be helped. All else of it stays as it is.
    if type(registry) is Registry:
        registry.__class__ = _YieldingRegistry
        registry.ours = set()
    if isinstance(registry, _YieldingRegistry):
        registry.ours.add(name)


def _tell(registry: Registry, name: str) -> None:
    logging.getLogger(__name__).warning(
        '"%s" in the %s registry is another project\'s; ours is "%s%s".',
        name,
        registry._name,
        OWN_PREFIX,
        name,
    )
