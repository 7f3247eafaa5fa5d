"""benchmarks/model_cards.py: the page in the repository is current, and how it comes to be."""

import importlib
import json
import sys

import pytest
import yaml

from deepfuse_d2 import get_config, list_configs

FPN = "MiniCity/mask_rcnn_R_18_FPN_quick"
SEMANTIC = "MiniCity/sem_seg_R_18_SemSegFPN_quick"


@pytest.fixture
def tool(repository, monkeypatch):
    monkeypatch.chdir(repository)
    # the page's module keeps configs from call to call, so each test has one of its own
    for name in ("benchmarks.model_cards", "benchmarks.model_page"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("benchmarks.model_cards")


@pytest.fixture
def run(tool, monkeypatch, tmp_path):
    """Run the command on two recipes, in a folder of its own."""
    names = (FPN, SEMANTIC)

    def listed(pattern="*"):
        return [name for name in list_configs(pattern) if name in names]

    monkeypatch.setattr(tool, "list_configs", listed)
    return lambda *words: tool.main([*map(str, words), "--docs", str(tmp_path)])


def test_the_page_in_the_repository_is_what_the_command_would_write_now(tool, capsys):
    try:
        code = tool.main(["--check"])
    except RuntimeError as error:
        if "meta tensors" not in str(error):
            raise
        pytest.skip(f"this torch builds detectron2's Swin on no meta device: {error}")
    assert code == 0, capsys.readouterr().out


def test_every_recipe_is_on_the_page_and_links_to_a_config_that_is_there(repository):
    docs = repository / "docs"
    rows = [x for x in (docs / "models.md").read_text().splitlines() if x.startswith("| [")]
    links = [row.partition("](")[2].partition(")")[0] for row in rows]
    assert links == [f"../configs/{name}.yaml" for name in list_configs()]
    assert all((docs / link).is_file() for link in links)


def test_every_result_has_a_value_for_each_seed_its_data_and_a_command(repository):
    measured = yaml.safe_load((repository / "docs" / "models.yaml").read_text())
    results = [(name, result) for name, x in measured.items() for result in x.get("results", [])]
    assert results
    for name, result in results:
        assert result["command"].startswith(("deepfuse ", "make ", "python ")), name
        assert set(result["data"]) <= set(get_config(name).DATASETS.TEST)
        for values in (x for task in result["metrics"].values() for x in task.values()):
            assert len(values) == len(result["seeds"])
            assert all(0 <= value <= 100 for value in values)


def test_a_page_is_written_once_and_then_found_current(run, tmp_path, capsys):
    assert run("--check") == 1
    assert not (tmp_path / "models.md").exists()
    assert run() == 0
    page = (tmp_path / "models.md").read_text()
    capsys.readouterr()
    assert run("--check") == 0
    assert capsys.readouterr().out == ""
    # 12,394,560 parameters; a dash where nothing was measured
    row = "| [mask_rcnn_R_18_FPN_quick](../configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml) "
    assert f"{row}| 12.39 | 25.1 | - | - | minicity_fine_instance_seg_train |" in page
    assert "###" not in page


def test_a_check_shows_the_line_that_is_out_of_date_and_writes_nothing(run, tmp_path, capsys):
    run()
    file = tmp_path / "models.md"
    edited = file.read_text().replace("| 12.39 |", "| 11.11 |")
    file.write_text(edited)
    capsys.readouterr()
    assert run("--check") == 1
    out = capsys.readouterr().out
    assert "-| [mask_rcnn_R_18_FPN_quick]" in out
    assert "models.md is out of date; make cards brings it up to date." in out
    assert file.read_text() == edited


def leave_training(folder, *opts, seed=1, ap=12.3456, name=FPN, data=None):
    """What a finished training leaves in its folder."""
    cfg = get_config(name, ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(folder), *opts])
    cfg.SEED = seed
    folder.mkdir()
    (folder / "config.yaml").write_text(cfg.dump())
    results = {"segm": {"AP": ap, "AP50": 2 * ap, "AP-car": 50.0}, "bbox": {"APs": None}}
    left = {"parameters": 12394560, "results": {data or cfg.DATASETS.TEST[0]: results}}
    (folder / "results.json").write_text(json.dumps(left))
    return folder


def test_a_training_of_the_recipe_as_it_is_needs_no_more_than_its_folder(run, tmp_path):
    assert run("--record", FPN, leave_training(tmp_path / "a")) == 0
    (result,) = yaml.safe_load((tmp_path / "models.yaml").read_text())[FPN]["results"]
    assert result == {
        "data": ["minicity_fine_instance_seg_val"],
        "metrics": {"segm": {"AP": [12.346], "AP50": [24.691]}},
        "seeds": [1],
        "parameters": 12394560,
        "command": f"python train_net.py --config-file configs/{FPN}.yaml",
    }
    page = (tmp_path / "models.md").read_text()
    assert "| - | mask AP 12.3 | minicity" in page
    card = page.partition(f"### {FPN}\n")[2].partition("\n#")[0]
    assert "GeneralizedRCNN, build_resnet_backbone, FPN, StandardROIHeads; 8 classes" in card
    assert "1000 iterations of 2 images of minicity_fine_instance_seg_train, AdamW" in card
    assert "Start: random weights" in card
    assert "**mask AP 12.3, mask AP50 24.7** (seed 1)." in card
    assert f"  python train_net.py --config-file configs/{FPN}.yaml\n" in card


def test_seeds_are_averaged_and_what_was_changed_is_told(run, tmp_path):
    opts = ["SOLVER.MAX_ITER", "120", "INPUT.MIN_SIZE_TRAIN", "(224, 256)"]
    folders = [
        leave_training(tmp_path / str(seed), *opts, seed=seed, ap=ap)
        for seed, ap in ((4, 10.0), (5, 13.0))
    ]
    assert run("--record", FPN, *folders, "--note", "A short one.") == 0
    (result,) = yaml.safe_load((tmp_path / "models.yaml").read_text())[FPN]["results"]
    assert result["seeds"] == [4, 5]
    assert result["metrics"]["segm"]["AP"] == [10.0, 13.0]
    assert result["changes"] == {"INPUT.MIN_SIZE_TRAIN": [224, 256], "SOLVER.MAX_ITER": 120}
    assert result["command"].endswith("INPUT.MIN_SIZE_TRAIN '[224, 256]' SOLVER.MAX_ITER 120")
    page = (tmp_path / "models.md").read_text()
    assert "| mask AP 11.5 ± 2.1 * |" in page  # of two: their difference over sqrt(2)
    assert "(seeds 4, 5). A short one. Trained otherwise than the recipe: `INPUT.MIN_SI" in page


def test_all_figures_of_a_result_stand_on_its_card(tool):
    pixels = {"mIoU": [57.9], "pACC": [90.0]}
    result = {"data": ["street"], "metrics": {"sem_seg": pixels}, "seeds": [1]}
    card = sys.modules["benchmarks.model_page"].measurement(result)
    assert card.startswith("- On street: **mIoU 57.9, pixel accuracy 90.0** (seed 1).")


def test_the_recipe_itself_leads_and_the_same_training_again_takes_its_place(run, tmp_path):
    run("--record", FPN, leave_training(tmp_path / "a", "SOLVER.MAX_ITER", "9", ap=40.0))
    run("--record", FPN, leave_training(tmp_path / "b", ap=20.0))
    run("--record", FPN, leave_training(tmp_path / "c", ap=21.0))
    results = yaml.safe_load((tmp_path / "models.yaml").read_text())[FPN]["results"]
    assert [x["metrics"]["segm"]["AP"] for x in results] == [[40.0], [21.0]]
    page = (tmp_path / "models.md").read_text()
    assert "| mask AP 21.0 |" in page
    assert "mask AP 40.0, mask AP50 80.0" in page


def test_latency_is_measured_of_what_matches_alone(tool, run, tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "SIZE", (64, 64))
    assert run("--time", "*SemSegFPN_quick", "--rounds", 2, "--clock", "cpu") == 0
    measured = yaml.safe_load((tmp_path / "models.yaml").read_text())
    assert list(measured) == [SEMANTIC]
    latency = measured[SEMANTIC]["latency"]
    assert latency["milliseconds"] > 0
    assert latency["parameters"] == 11646611
    assert latency["measured"].endswith("median of 2 rounds")
    page = (tmp_path / "models.md").read_text()
    assert f"| {latency['milliseconds']:.0f} | - | minicity_fine_sem_seg_train |" in page
    assert f"Latency: {latency['measured']}.\n" in page


def test_a_figure_of_a_network_that_has_changed_since_is_refused(run, tmp_path, capsys):
    run("--record", FPN, leave_training(tmp_path / "a"))
    file = tmp_path / "models.yaml"
    file.write_text(file.read_text().replace("parameters: 12394560", "parameters: 1234"))
    assert run("--check") == 2
    message = "has 12,394,560 parameters, and in docs/models.yaml a figure of a network of 1,234"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--time", "nothing*"], 'No recipe matches "nothing*"; names are like MiniCity/'),
        (["--record", "MiniCity/x", "a"], 'There is no recipe "MiniCity/x"'),
        (["--record", FPN], f"--record {FPN}: give the output folder of a training as well"),
        (["--record", FPN, "nowhere"], "nowhere has no results.json that can be read"),
    ],
)
def test_a_mistake_ends_in_one_message(run, words, message, capsys):
    assert run(*words) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"make_model_cards.py: {message}")


def test_trainings_that_do_not_belong_together_or_here_are_refused(run, tmp_path, capsys):
    folders = [
        leave_training(tmp_path / "a"),
        leave_training(tmp_path / "b", "SOLVER.MAX_ITER", "9"),
    ]
    assert run("--record", FPN, *folders) == 2
    assert "differ in more than their seeds" in capsys.readouterr().err
    other = leave_training(tmp_path / "c", data="pennfudan_val")
    assert run("--record", FPN, other) == 2
    assert "was evaluated on pennfudan_val, and MiniCity/mask" in capsys.readouterr().err
    (tmp_path / "models.yaml").write_text("MiniCity/gone: {}\n")
    assert run() == 2
    assert 'There is no recipe "MiniCity/gone"' in capsys.readouterr().err


def test_operators_that_cannot_be_counted_are_refused(tool, monkeypatch):
    analysis = type("Analysis", (), {"unsupported": {"aten::_cdist_forward": 1}})
    monkeypatch.setattr(tool, "analyze", lambda model, size: analysis)
    with pytest.raises(tool.ConfigError, match=r"cannot count: aten::_cdist_forward\. Add them"):
        tool.count(FPN)
