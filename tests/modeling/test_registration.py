"""Our names beside those of another project, whichever is imported first."""

import os
import subprocess
import sys

import pytest
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY
from detectron2.utils.registry import Registry

import deepfuse_d2.modeling  # noqa: F401
from deepfuse_d2.config.look_up import look_up
from deepfuse_d2.errors import ConfigError
from deepfuse_d2.modeling.registration import register


@pytest.mark.parametrize(
    "registry",
    [BACKBONE_REGISTRY, META_ARCH_REGISTRY, SEM_SEG_HEADS_REGISTRY],
    ids=lambda r: r._name,
)
def test_everything_of_ours_has_a_prefixed_name_and_the_short_one_where_it_is_free(registry):
    things = dict(registry)
    ours = {n: t for n, t in things.items() if t.__module__.startswith("deepfuse_d2.")}
    assert ours
    short = {name for name in ours if "." not in name}
    assert {f"deepfuse_d2.{name}" for name in short} == ours.keys() - short
    assert all(things[name] is things[f"deepfuse_d2.{name}"] for name in short)


OTHER = """
from detectron2.modeling import BACKBONE_REGISTRY

@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg, input_shape):
    return "theirs"

@BACKBONE_REGISTRY.register()
def build_dla_backbone(cfg, input_shape):
    return "theirs"

@BACKBONE_REGISTRY.register()
def build_res2net_backbone(cfg, input_shape):
    return "theirs"
"""
PROGRAM = """
import logging
logging.basicConfig(format="%(message)s")
import {first}, {second}
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, build_backbone

cfg = get_cfg()
deepfuse_d2.add_deepfuse_config(cfg)
for kind in ("timm", "dla", "res2net"):
    assert BACKBONE_REGISTRY.get(f"build_{{kind}}_backbone")(None, None) == "theirs"
cfg.merge_from_list([
    "MODEL.BACKBONE.NAME", "build_neck_backbone", "MODEL.RESNETS.NORM", "BN",
    "MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3', 'res4', 'res5']",
    "MODEL.NECK.BOTTOM_UP", "deepfuse_d2.build_dla_backbone", "MODEL.DLA.NAME", "dla60",
])
print(type(build_backbone(cfg, ShapeSpec(channels=3)).bottom_up).__name__)
"""


@pytest.mark.parametrize("order", [("other", "deepfuse_d2"), ("deepfuse_d2", "other")])
def test_a_project_with_the_same_names_runs_in_one_program(order, tmp_path, repository):
    (tmp_path / "other.py").write_text(OTHER)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{repository}"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(first=order[0], second=order[1])],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["DLA"]
    for kind in ("timm", "dla", "res2net"):
        told = (
            f'"build_{kind}_backbone" in the BACKBONE registry is another project\'s; ours is '
            f'"deepfuse_d2.build_{kind}_backbone".'
        )
        assert done.stderr.count(told) == 1


def test_a_name_of_ours_is_given_away_once():
    registry = Registry("TEST")

    def build():
        pass

    ours = build
    assert register(registry)(ours) is ours

    def build():
        pass

    registry.register(build)
    assert registry.get("build") is build
    assert registry.get("deepfuse_d2.build") is ours
    with pytest.raises(AssertionError, match="already registered"):
        registry.register(build)


def test_an_unknown_name_is_answered_with_short_names_where_they_are_ours():
    registry = Registry("TEST")
    for name in ("first", "second"):
        thing = type(name, (), {})
        register(registry)(thing)
    registry.register(type("first", (), {}))
    with pytest.raises(ConfigError, match=r"choose one of: deepfuse_d2\.first, first, second$"):
        look_up(registry, "third", "KEY")
