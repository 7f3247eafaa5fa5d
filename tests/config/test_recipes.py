"""Recipes by name, from the source tree and from a wheel."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model

import deepfuse_d2
from deepfuse_d2 import get_config, list_configs
from deepfuse_d2.config import recipes
from deepfuse_d2.engine import EVALUATORS, check_config, load_config
from deepfuse_d2.engine.evaluators import check_evaluators
from deepfuse_d2.errors import ConfigError

DEEPFUSE = "Cityscapes/mask_rcnn_R_50_DeepFuseFPN"


def test_a_recipe_is_the_config_of_its_file(repository):
    cfg = get_config(DEEPFUSE)
    assert cfg == load_config(str(repository / "configs" / f"{DEEPFUSE}.yaml"))
    assert cfg.MODEL.NECK.NAME == "DeepFuseFPN"
    assert cfg == get_config(f"{DEEPFUSE}.yaml")


def test_overrides_win_and_the_result_may_be_changed():
    cfg = get_config(DEEPFUSE, ["MODEL.DEEPFUSE.DEPTH", "2"])
    assert cfg.MODEL.DEEPFUSE.DEPTH == 2
    cfg.MODEL.DEEPFUSE.DEPTH = 3
    assert get_config(DEEPFUSE).MODEL.DEEPFUSE.DEPTH == 1


def test_the_list_has_every_recipe_and_no_base_and_no_plan_of_an_ablation(repository):
    root = repository / "configs"
    folders = [path.name for path in root.iterdir() if path.is_dir() and path.name != "ablations"]
    expected = [
        f"{folder}/{file.stem}"
        for folder in folders
        for file in (root / folder).glob("*.yaml")
        if not file.stem.startswith("Base")
    ]
    assert list_configs() == sorted(expected)
    assert len(expected) > 30


@pytest.mark.parametrize("name", list_configs("COCO/[!m]*"))
def test_recipes_of_the_other_meta_architectures_build_and_are_evaluated(name):
    cfg = get_config(name, ["MODEL.WEIGHTS", "", "MODEL.DEVICE", "meta"])
    check_config(cfg)
    check_evaluators(cfg)
    with torch.device("meta"):
        model = build_model(cfg)
    kind = {"retinanet": "RetinaNet", "fcos": "FCOS", "panoptic": "PanopticFPN"}
    assert type(model).__name__ == kind[name.split("/")[1].split("_")[0]]
    assert sum(p.numel() for p in model.parameters()) > 10e6
    for dataset in cfg.DATASETS.TEST:
        assert MetadataCatalog.get(dataset).evaluator_type in EVALUATORS


def test_there_are_recipes_of_every_meta_architecture_that_the_readme_names():
    found = {re.split("_R_50|_SpineNet", name)[0] for name in list_configs("COCO/[!m]*")}
    assert found == {"COCO/retinanet", "COCO/fcos", "COCO/panoptic_fpn"}


def test_the_list_can_be_filtered():
    assert list_configs("PennFudan/*") == [
        "PennFudan/mask_rcnn_R_18_DeepFuseFPN",
        "PennFudan/mask_rcnn_R_18_FPN",
    ]
    assert list_configs("nothing*") == []


def test_relative_paths_of_a_recipe_start_from_the_working_directory(tmp_path, monkeypatch):
    weights = tmp_path / "datasets" / "weights" / "resnet18_places365_fp16.pth"
    weights.parent.mkdir(parents=True)
    weights.touch()
    monkeypatch.chdir(tmp_path)
    check_config(get_config("CamVid/sem_seg_R_18_SemSegFPN"))
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"datasets/weights/resnet18_places365_fp16\.pth"):
        check_config(get_config("CamVid/sem_seg_R_18_SemSegFPN"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Cityscapes/mask_rcnn_R50_DeepFuseFPN", f"Did you mean: {DEEPFUSE}, "),
        (DEEPFUSE.lower(), f"Did you mean: {DEEPFUSE}, "),
        ("mask_rcnn_R_50_DeepFuseFPN.yaml", f"Did you mean: {DEEPFUSE}, "),
        ("Base-MaskRCNN", r'no recipe "Base-MaskRCNN"\. deepfuse_d2\.list_configs\(\) gives all'),
        ("ablations/deepfuse_minicity", r"There is no recipe .* gives all \d+; .*load_config"),
        ("../configs/MiniCity/mask_rcnn_R_18_FPN_quick", "There is no recipe"),
        ("", 'no recipe ""'),
    ],
)
def test_an_unknown_recipe_is_answered_with_close_names(name, message):
    with pytest.raises(ConfigError, match=message):
        get_config(name)


def test_a_wrong_override_is_named():
    with pytest.raises(ConfigError, match=r"unknown config key MODEL\.DEEPFUSE\.DETPH"):
        get_config(DEEPFUSE, ["MODEL.DEEPFUSE.DETPH", "1"])


def test_an_installation_without_configs_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(recipes, "_FOLDERS", (tmp_path / "configs",))
    with pytest.raises(ConfigError, match=r"neither inside the package nor beside it: .*install"):
        list_configs()


INSTALLED = """
import sys
sys.path.insert(0, sys.argv[1])
import deepfuse_d2
print(deepfuse_d2.__file__)
print(deepfuse_d2.config.recipes.config_path("Cityscapes/mask_rcnn_R_50_DeepFuseFPN"))
print(deepfuse_d2.get_config("Cityscapes/mask_rcnn_R_50_DeepFuseFPN").MODEL.NECK.NAME)
print(*deepfuse_d2.list_configs())
"""


def test_a_wheel_holds_the_configs_and_gives_them(repository, tmp_path):
    source, site, elsewhere = tmp_path / "source", tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("deepfuse_d2", "configs"):
        shutil.copytree(repository / name, source / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "deepfuse_command.py"):
        shutil.copy(repository / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, source], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(site)
    top = {name.split("/")[0] for name in names if ".dist-info" not in name}
    assert top == {"deepfuse_d2", "deepfuse_command.py"}
    files = (repository / "configs").rglob("*.yaml")
    expected = {f"deepfuse_d2/{file.relative_to(repository).as_posix()}" for file in files}
    assert expected == {name for name in names if name.endswith(".yaml")}
    assert "deepfuse_d2/py.typed" in names
    static = (repository / "deepfuse_d2" / "demo" / "static").iterdir()
    assert {f"deepfuse_d2/demo/static/{file.name}" for file in static} <= set(names)

    shutil.rmtree(source)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INSTALLED, str(site)],
        cwd=elsewhere, capture_output=True, text=True, check=True,
    )  # fmt: skip
    package, path, neck, names = done.stdout.splitlines()
    assert package == str(site / "deepfuse_d2" / "__init__.py")
    assert path == str(site / "deepfuse_d2" / "configs" / f"{DEEPFUSE}.yaml")
    assert neck == "DeepFuseFPN"
    assert names.split() == deepfuse_d2.list_configs()
