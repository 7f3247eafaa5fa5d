"""Our keys beside those of other projects, and under the names they had."""

import pickle

import pytest
from detectron2.config import CfgNode, get_cfg

from deepfuse_d2 import add_deepfuse_config
from deepfuse_d2.config.checking import check_config
from deepfuse_d2.config.flatten import flatten
from deepfuse_d2.config.keys import old_names, with_current_names
from deepfuse_d2.config.loading import load_config
from deepfuse_d2.engine.resume.changes import changes
from deepfuse_d2.errors import ConfigError


# The keys that these projects add, by their names and values; what they compute is not needed.
def add_deeplab_config(cfg):
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.SOLVER.POLY_LR_POWER = 0.9
    cfg.SOLVER.POLY_LR_CONSTANT_ENDING = 0.0
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TYPE = "hard_pixel_mining"
    cfg.MODEL.RESNETS.RES5_MULTI_GRID = [1, 2, 4]


def add_panoptic_deeplab_config(cfg):
    add_deeplab_config(cfg)
    cfg.INPUT.GAUSSIAN_SIGMA = 10
    cfg.SOLVER.OPTIMIZER = "ADAM"
    cfg.MODEL.SEM_SEG_HEAD.LOSS_TOP_K = 0.2
    cfg.MODEL.PANOPTIC_DEEPLAB = CfgNode({"NMS_KERNEL": 7})


def add_maskformer2_config(cfg):
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.INPUT.COLOR_AUG_SSD = False
    cfg.SOLVER.OPTIMIZER = "ADAMW"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 0.1
    cfg.MODEL.MASK_FORMER = CfgNode({"TEST": CfgNode({"SEMANTIC_ON": True})})
    cfg.MODEL.SEM_SEG_HEAD.MASK_DIM = 256


def add_centernet_config(cfg):
    """It puts whole nodes in the place of ours, with other keys, and one name of ours."""
    cfg.SOLVER.OPTIMIZER = "SGD"
    cfg.SOLVER.BACKBONE_MULTIPLIER = 1.0
    cfg.MODEL.TIMM = CfgNode({"BASE_NAME": "resnet50", "OUT_LEVELS": (3, 4, 5), "NORM": "FrozenBN"})
    cfg.MODEL.DLA = CfgNode({"NUM_LAYERS": 34, "NORM": "BN"})
    cfg.MODEL.BIFPN = CfgNode({"NUM_LEVELS": 5, "NORM": "GN"})


PROJECTS = [
    add_deeplab_config,
    add_panoptic_deeplab_config,
    add_maskformer2_config,
    add_centernet_config,
]


@pytest.fixture(autouse=True)
def warnings_anew():
    old_names._warn_once.cache_clear()


def config():
    cfg = get_cfg()
    add_deepfuse_config(cfg)
    return cfg


def warnings(caplog):
    """What was said of keys."""
    return [record.getMessage() for record in caplog.records if "is now" in record.getMessage()]


@pytest.mark.parametrize("add_theirs", PROJECTS)
@pytest.mark.parametrize("ours_first", [True, False])
def test_another_project_has_its_keys_and_we_have_ours_in_either_order(add_theirs, ours_first):
    alone = get_cfg()
    add_theirs(alone)
    cfg = get_cfg()
    for add in (add_deepfuse_config, add_theirs)[:: 1 if ours_first else -1]:
        add(cfg)
    cfg.merge_from_list(["SOLVER.BASE_LR", 0.5, "DEEPFUSE_D2.SOLVER.OPTIMIZER", "AdamW"])
    values, ours, theirs = flatten(cfg), flatten(config()), flatten(alone)
    for key, value in theirs.items():
        assert values[key] == value or key == "SOLVER.BASE_LR", key
    for key, value in ours.items():
        if key not in theirs:
            assert values[key] == ("AdamW" if key.endswith("D2.SOLVER.OPTIMIZER") else value), key
    assert values["SOLVER.BASE_LR"] == 0.5


@pytest.mark.parametrize("add_theirs", PROJECTS)
def test_a_name_that_another_project_defines_is_theirs(add_theirs, caplog):
    cfg = config()
    add_theirs(cfg)
    theirs = [key for key in old_names.old_names() if key in flatten(cfg)]
    assert theirs
    for key in theirs:
        value = flatten(cfg)[key]
        cfg.merge_from_list([key, "mine" if isinstance(value, str) else 0.25])
    assert all(flatten(cfg)[key] in ("mine", 0.25) for key in theirs)
    assert flatten(cfg.DEEPFUSE_D2) == flatten(config().DEEPFUSE_D2)
    assert not warnings(caplog)


def test_adding_it_again_or_to_a_frozen_config_changes_nothing():
    cfg = config()
    cfg.MODEL.DEEPFUSE.DEPTH = 7
    before = cfg.clone()
    cfg.freeze()
    add_deepfuse_config(cfg)
    assert cfg == before
    with pytest.raises(AttributeError):
        cfg.DEEPFUSE_D2.SOLVER.ACCUMULATE = 2


def test_configs_do_not_share_their_lists():
    first, second = config(), config()
    first.DEEPFUSE_D2.TEST.SEM_SEG.TILE.append(3)
    assert second.DEEPFUSE_D2.TEST.SEM_SEG.TILE == [0, 0]


def test_no_key_of_ours_but_the_promised_one_stands_in_a_node_of_detectron2():
    plain, ours = flatten(get_cfg()), flatten(config())
    nodes = {key.rpartition(".")[0] for key in plain} - {""}
    added = [key for key in ours if key not in plain and key.rpartition(".")[0] in nodes]
    assert added == ["DATASETS.EXTRA"]


def test_one_value_in_the_place_of_a_node_is_named():
    cfg = get_cfg()
    cfg.MONITOR = True
    with pytest.raises(ConfigError, match=r"one value at MONITOR, where deepfuse_d2 has a node"):
        add_deepfuse_config(cfg)


def test_a_config_of_a_project_s_own_class_keeps_it():
    class Own(CfgNode):
        pass

    cfg = Own(get_cfg())
    add_deepfuse_config(cfg)
    assert type(cfg) is Own
    assert cfg.DEEPFUSE_D2.SOLVER.OPTIMIZER == "SGD"


# -- old names -------------------------------------------------------------------------------------


def test_old_names_in_a_yaml_go_on_working_with_one_warning(tmp_path, caplog):
    file = tmp_path / "own.yaml"
    file.write_text(
        "VERSION: 2\nSOLVER:\n  BASE_LR: 0.5\n  OPTIMIZER: AdamW\n  AMP: {DTYPE: bfloat16}\n"
        "  SAFETY: {NONFINITE: skip}\nTEST:\n  SEM_SEG: {TILE: [256, 512]}\n"
    )
    cfg = config()
    cfg.merge_from_file(str(file))
    assert cfg.DEEPFUSE_D2.SOLVER.OPTIMIZER == "AdamW"
    assert cfg.DEEPFUSE_D2.SOLVER.AMP.DTYPE == "bfloat16"
    assert cfg.DEEPFUSE_D2.SOLVER.SAFETY.NONFINITE == "skip"
    assert cfg.DEEPFUSE_D2.TEST.SEM_SEG.TILE == [256, 512]
    assert cfg.SOLVER.BASE_LR == 0.5
    assert "OPTIMIZER" not in cfg.SOLVER
    assert "SEM_SEG" not in cfg.TEST
    cfg.MODEL.DEVICE = "cpu"
    assert cfg == load_config(str(file), ["MODEL.DEVICE", "cpu"])
    (message,) = warnings(caplog)
    assert "SOLVER.OPTIMIZER is now DEEPFUSE_D2.SOLVER.OPTIMIZER; " in message
    assert "TEST.SEM_SEG.TILE is now DEEPFUSE_D2.TEST.SEM_SEG.TILE" in message
    assert "docs/config.md" in message


def test_an_own_file_with_old_names_overrides_its_base_with_new_ones(tmp_path, repository, caplog):
    base = repository / "configs" / "MiniCity" / "Base-SemSeg.yaml"
    file = tmp_path / "own.yaml"
    file.write_text(f"_BASE_: {base}\nSOLVER: {{OPTIMIZER: SGD, BASE_LR: 0.1}}\n")
    cfg = load_config(str(file))
    assert cfg.DEEPFUSE_D2.SOLVER.OPTIMIZER == "SGD"
    assert cfg.DEEPFUSE_D2.INPUT.SCALE_JITTER == [0.5, 2.0]
    (message,) = warnings(caplog)
    assert "(both are given; the value of the old name is taken)" in message


def test_old_names_on_the_command_line_go_on_working_with_one_warning(caplog):
    opts = ["MODEL.FAST_KERNELS", "False", "SOLVER.ACCUMULATE", "2", "INPUT.COLOR_JITTER", "0.5"]
    cfg = load_config("", opts)
    assert not cfg.DEEPFUSE_D2.MODEL.FAST_KERNELS
    assert cfg.DEEPFUSE_D2.SOLVER.ACCUMULATE == 2
    assert cfg.DEEPFUSE_D2.INPUT.COLOR_JITTER == 0.5
    (message,) = warnings(caplog)
    assert "MODEL.FAST_KERNELS is now DEEPFUSE_D2.MODEL.FAST_KERNELS" in message
    load_config("", opts)
    assert len(warnings(caplog)) == 1


def test_a_wrong_value_under_an_old_name_is_refused():
    with pytest.raises(ConfigError, match=r"Type mismatch .*DEEPFUSE_D2\.SOLVER\.ACCUMULATE"):
        load_config("", ["SOLVER.ACCUMULATE", "two"])


def test_the_saved_config_of_an_earlier_training_is_the_config_of_today(tmp_path, caplog):
    """Every key under the name it had, as config.yaml of an output folder has them."""
    now = config()
    now.DEEPFUSE_D2.SOLVER.OPTIMIZER = "AdamW"
    now.DEEPFUSE_D2.MODEL.SEM_SEG_HEAD.LOSSES = [["dice", 2.0]]
    then = CfgNode(now.clone())
    for key in old_names.old_names():
        old_names._set(then, key, old_names._pop(then, f"DEEPFUSE_D2.{key}"))
    assert "DEEPFUSE_D2" not in then
    file = tmp_path / "config.yaml"
    file.write_text(then.dump())
    now.MODEL.DEVICE = "cpu"
    assert flatten(load_config(str(file), ["MODEL.DEVICE", "cpu"])) == flatten(now)
    (message,) = warnings(caplog)
    assert f"and {len(old_names.old_names()) - 6} more, each with DEEPFUSE_D2. in front" in message


def test_a_resumed_training_compares_settings_under_the_names_of_today():
    then = {"SOLVER.OPTIMIZER": "SGD", "SOLVER.SAFETY.NONFINITE": "skip", "SOLVER.BASE_LR": 1.0}
    now = flatten(config()) | {"DEEPFUSE_D2.SOLVER.OPTIMIZER": "AdamW", "SOLVER.BASE_LR": 1.0}
    assert changes(then, now) == {"DEEPFUSE_D2.SOLVER.OPTIMIZER": ("SGD", "AdamW")}
    assert changes(with_current_names(then), now) == changes(then, now)
    # with the name of today beside it, the other is another project's
    both = then | {"DEEPFUSE_D2.SOLVER.OPTIMIZER": "AdamW"}
    assert changes(both, now) == {}


def test_a_key_that_code_sets_under_an_old_name_is_named_before_training(caplog):
    cfg = config()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    check_config(cfg)
    assert not warnings(caplog)
    cfg.SOLVER.OPTIMIZER = "AdamW"
    check_config(cfg)
    (message,) = warnings(caplog)
    assert "SOLVER.OPTIMIZER is now DEEPFUSE_D2.SOLVER.OPTIMIZER" in message


def test_a_config_goes_through_clone_pickle_and_dump():
    cfg = config()
    cfg.merge_from_list(["DEEPFUSE_D2.SOLVER.OPTIMIZER", "AdamW"])
    assert cfg.clone() == cfg == pickle.loads(pickle.dumps(cfg))
    again = config()
    again.merge_from_other_cfg(CfgNode.load_cfg(cfg.dump()))
    assert flatten(again) == flatten(cfg)
    other = cfg.clone()
    other.merge_from_list(["SOLVER.ACCUMULATE", 3])
    assert (other.DEEPFUSE_D2.SOLVER.ACCUMULATE, cfg.DEEPFUSE_D2.SOLVER.ACCUMULATE) == (3, 1)
