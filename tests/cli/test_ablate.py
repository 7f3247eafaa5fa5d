"""deepfuse ablate: what it runs, runs again and refuses, and the figures that it reports."""

import csv
import fcntl
import json
import math
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import yaml
from PIL import Image

from deepfuse_d2.ablation import CellRunner, load_plan, read_record
from deepfuse_d2.ablation.curves import mean_curve
from deepfuse_d2.ablation.records import read_curve
from deepfuse_d2.ablation.statistics import estimate, t_quantile
from deepfuse_d2.cli import ablate
from deepfuse_d2.errors import ConfigError
from tests.conftest import REPOSITORY

# In place of a training: SOLVER.BASE_LR is what a setting does, and SOLVER.MAX_ITER how the cell
# behaves. Each call leaves a line in calls.txt beside the script.
TRAINING = """
    import json, os, pathlib, sys, time
    words = sys.argv[1:]
    assert words[0] == "--config-file" and words[2] == "--resume", words
    given = dict(zip(words[3::2], words[4::2]))
    here, output = pathlib.Path(__file__).parent, pathlib.Path(given["OUTPUT_DIR"])
    rate, seed = float(given["SOLVER.BASE_LR"]), int(given["SEED"])
    with open(here / "calls.txt", "a") as calls:
        threads = os.environ.get("OMP_NUM_THREADS")
        calls.write(json.dumps({"rate": rate, "seed": seed, "threads": threads}) + "\\n")
    print("iteration 1", flush=True)
    behaviour = here / f"behaviour_{rate:g}_{seed}"
    behaviour = behaviour.read_text() if behaviour.exists() else ""
    if behaviour == "crash":
        raise FloatingPointError("Loss became infinite or NaN")
    if behaviour == "meet":  # goes on when the other one is here
        (here / f"here_{seed}_{rate:g}").touch()
        until = time.monotonic() + 20
        while len(list(here.glob("here_*"))) < 2:
            assert time.monotonic() < until, "alone"
            time.sleep(0.01)
    if behaviour == "hang" and not (output / "model_0000001.pth").exists():
        (output / "model_0000001.pth").touch()
        (here / "pid.txt.tmp").write_text(str(os.getpid()))
        os.rename(here / "pid.txt.tmp", here / "pid.txt")
        time.sleep(60)
    if behaviour == "silent":
        sys.exit()
    # val: 100 rate + seed^2, train 1 more for each seed
    ap = 100 * rate + seed**2 if behaviour != "nan" else None
    results = {"pennfudan_val": {"segm": {"AP": ap, "AP50": 50.0}}}
    evaluated = eval(given.get("DATASETS.TEST", "()"))
    assert evaluated[:1] in [("pennfudan_val",), ()], given
    if "camvid_sem_seg_test" in evaluated:
        results["camvid_sem_seg_test"] = {"segm": {"AP": 100 * rate - 1, "AP50": 40}}
    if "pennfudan_train_part" in evaluated:
        assert "'OF': 'pennfudan_train', 'COUNT': 3" in given["DATASETS.EXTRA"], given
        results["pennfudan_train_part"] = {"segm": {"AP": 100 * rate + seed**2 + seed, "AP50": 60}}
    if "TEST.EVAL_PERIOD" in given:  # a peak, and then a fall
        name = "pennfudan_val/segm/AP" if len(evaluated) > 1 else "segm/AP"
        values = {9: ap / 2, 19: ap + 7, 29: ap}
        rows = [json.dumps({"iteration": i, name: value}) for i, value in values.items()]
        (output / "metrics.json").write_text("\\n".join(rows))
    for name in ("model_0000001.pth", "model_final.pth"):
        (output / name).touch()
    report = {"iterations": 1, "parameters": int(rate * 1e8), "results": results}
    (output / "results.json").write_text(json.dumps(report))
"""
PLAN = {
    "SEEDS": [1, 2, 3],
    "METRIC": "segm/AP",
    "SETTINGS": {"low": ["SOLVER.BASE_LR", 0.1], "high rate": ["SOLVER.BASE_LR", 0.2]},
    "TRAIN_IMAGES": 3,
}


@pytest.fixture(autouse=True)
def no_logger(monkeypatch):
    """It would keep other tests from seeing the package's messages."""
    monkeypatch.setattr("detectron2.utils.logger.setup_logger", lambda **_: None)


@pytest.fixture
def study(tmp_path, deepfuse, monkeypatch):
    """A plan with a training that takes no time."""

    class Study:
        folder, output = tmp_path, tmp_path / "output"
        command = (sys.executable, str(tmp_path / "training.py"))

        def write(self, **changes):
            (tmp_path / "base.yaml").write_text(
                "{VERSION: 2, DATASETS: {TRAIN: [pennfudan_train], TEST: [pennfudan_val]}}"
            )
            paths = {"BASE": str(tmp_path / "base.yaml"), "OUTPUT": str(self.output)}
            content = yaml.safe_dump({**PLAN, **paths, **changes}, sort_keys=False)
            (tmp_path / "plan.yaml").write_text(content)
            return self

        def behave(self, rate, seed, how):
            (tmp_path / f"behaviour_{rate:g}_{seed}").write_text(how)

        def run(self, *arguments):
            return deepfuse("ablate", tmp_path / "plan.yaml", *arguments)

        def calls(self):
            path = tmp_path / "calls.txt"
            return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []

        def record(self, setting, seed):
            return json.loads((self.output / setting / f"seed_{seed}" / "cell.json").read_text())

        def table(self):
            return (self.output / "table.md").read_text()

    monkeypatch.setattr(ablate, "TRAINING", Study.command)
    (tmp_path / "training.py").write_text(textwrap.dedent(TRAINING))
    return Study().write()


@pytest.mark.parametrize(
    ("freedom", "expected"),
    [(1, 12.70620), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227)],
)
def test_the_quantile_of_t_is_that_of_the_tables(freedom, expected):
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=5e-6)


def test_the_quantile_of_t_equals_scipys():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 3, 4, 7, 8, 25, 100):
        for probability in (0.5, 0.51, 0.9, 0.975, 0.9995):
            expected = stats.t.ppf(probability, freedom)
            # scipy 1.10 is up to 5e-9 off the closed forms of one and two degrees of freedom
            assert t_quantile(probability, freedom) == pytest.approx(expected, rel=1e-8, abs=1e-12)
    for probability in (0.5, 0.51, 0.9, 0.975, 0.9995):
        one = math.tan(math.pi * (probability - 0.5))
        two = (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
        assert t_quantile(probability, 1) == pytest.approx(one, rel=1e-9, abs=1e-12)
        assert t_quantile(probability, 2) == pytest.approx(two, rel=1e-9, abs=1e-12)
    with pytest.raises(ValueError, match=r"probability = 0.4, freedom = 2; expected 0.5 <="):
        t_quantile(0.4, 2)


def test_an_estimate_equals_the_hand_worked_one():
    assert estimate([1.0, 2.0, 3.0]) == pytest.approx((2.0, 1.0, 4.302653 / math.sqrt(3), 3))
    # standard deviation with n - 1: sqrt((1 + 1 + 1 + 1) / 3)
    assert estimate([1.0, 3.0, 1.0, 3.0]) == pytest.approx(
        (2.0, 1.154701, 3.182446 * 1.154701 / 2, 4), rel=1e-6
    )
    assert estimate([5.0, 5.0])[:3] == (5.0, 0.0, 0.0)
    one, none = estimate([4.0]), estimate([])
    assert (one.mean, one.count, none.count) == (4.0, 1, 0)
    assert all(map(math.isnan, (one.deviation, one.half_width, none.mean)))


def test_every_cell_is_trained_and_the_report_has_the_hand_worked_figures(study, capsys):
    assert study.run() == 0
    seeds = [(call["seed"], call["rate"]) for call in study.calls()]
    assert seeds == [(1, 0.1), (1, 0.2), (2, 0.1), (2, 0.2), (3, 0.1), (3, 0.2)]

    with open(study.output / "cells.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["setting"] for row in rows] == ["low", "high rate"] * 3
    assert rows[3]["seed"] == "2"
    assert float(rows[3]["val segm/AP"]) == 24.0
    assert float(rows[3]["train segm/AP"]) == 26.0
    assert float(rows[3]["gap segm/AP"]) == 2.0
    assert rows[3]["parameters"] == "20000000"
    assert float(rows[3]["seconds"]) >= 0

    table = study.table()
    # 11, 14, 19 and 21, 24, 29: the same difference with each seed, however much seeds differ
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    (low,) = (line for line in cells if line[:1] == ["low"])
    (high,) = (line for line in cells if line[:1] == ["high rate"])
    assert low[:4] == ["low", "3", "14.67 ± 4.04", "reference"]
    assert low[4:7] == ["16.67 ± 5.03", "2.00 ± 1.00", "reference"]
    assert high[1:4] == ["3", "24.67 ± 4.04", "+10.00 [+10.00, +10.00]"]
    assert high[6:8] == ["+0.00 [+0.00, +0.00]", "20.00"]
    assert "Not complete" not in table
    assert table in capsys.readouterr().out
    with Image.open(study.output / "plot.png") as plot:
        assert plot.width > plot.height > 200


def test_the_interval_is_that_of_the_paired_differences(study):
    study.write(METRIC=["segm/AP50", "segm/AP"]).run()
    for seed, ap in ((1, 31.0), (2, 35.0), (3, 39.0)):  # 20, 21, 20 above the reference
        path = study.output / "high_rate" / f"seed_{seed}" / "cell.json"
        record = json.loads(path.read_text())
        record["results"]["pennfudan_val"]["segm"]["AP"] = ap
        path.write_text(json.dumps(record))
    assert study.run("--report-only") == 0
    # mean 61 / 3, deviation 0.57735, half width 4.302653 * 0.57735 / sqrt(3)
    assert "+20.33 [+18.90, +21.77]" in study.table()
    headers = re.findall(r"val (segm/\w+) \|", study.table())
    assert headers == ["segm/AP50", "segm/AP"]


def test_what_is_finished_is_not_trained_again(study):
    assert study.run() == 0
    assert study.run() == 0
    assert len(study.calls()) == 6
    folder = study.output / "low" / "seed_1"
    assert (folder / "model_final.pth").exists()
    assert not (folder / "model_0000001.pth").exists()

    # one more seed and one more setting: only what is new
    settings = {**PLAN["SETTINGS"], "more": ["SOLVER.BASE_LR", 0.3]}
    study.write(SEEDS=[1, 2, 3, 4], SETTINGS=settings)
    assert study.run() == 0
    assert len(study.calls()) == 12


def test_a_partial_report_says_what_is_missing_and_trains_nothing(study):
    assert study.run("--report-only", "--seeds", "1") == 0
    assert "**Not complete**: 2 waiting of 2 cells." in study.table()
    assert study.calls() == []
    assert study.run("--seeds", "1") == 0
    assert study.run("--report-only") == 0
    assert "**Not complete**: 2 finished, 4 waiting of 6 cells." in study.table()
    assert "+10.00 [one seed]" in study.table()


def test_cells_run_side_by_side_and_share_the_cores(study, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    for rate in (0.1, 0.2):
        study.behave(rate, 1, "meet")
    assert study.run("--jobs", "2", "--seeds", "1") == 0
    assert [call["threads"] for call in study.calls()] == ["3", "3"]


def test_several_gpus_are_shared_out_in_turn(study, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    script = study.folder / "training.py"
    show = "\n(output / 'gpu.txt').write_text(os.environ['CUDA_VISIBLE_DEVICES'])\n"
    script.write_text(script.read_text() + show)
    for rate in (0.1, 0.2):
        study.behave(rate, 1, "meet")
    assert study.run("--jobs", "2", "--seeds", "1") == 0
    seen = {path.read_text() for path in study.output.rglob("gpu.txt")}
    assert seen == {"4", "5"}


def test_a_failed_cell_leaves_the_others_alone_and_is_tried_again(study):
    study.behave(0.2, 2, "crash")
    assert study.run() == 1
    table = study.table()
    log = study.output / "high_rate" / "seed_2" / "train.log"
    assert "**Not complete**: 5 finished, 1 failed of 6 cells." in table
    assert f"**high rate, seed 2** failed: exit code 1. Log: {log}" in table
    assert "FloatingPointError: Loss became infinite or NaN" in table
    # the pairs that there are
    assert "| high rate |       2 |" in table
    assert study.run("--report-only") == 1
    assert len(study.calls()) == 6

    study.behave(0.2, 2, "")
    seconds = study.record("high_rate", 2)["seconds"]
    assert study.run() == 0
    assert len(study.calls()) == 7
    assert study.record("high_rate", 2)["seconds"] > seconds
    assert "reason" not in study.record("high_rate", 2)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("nan", "METRIC segm/AP of pennfudan_val is not a number; figures there: segm/AP, segm/AP"),
        ("silent", r"no usable .*results\.json \(FileNotFoundError"),
    ],
)
def test_a_training_without_the_figure_asked_for_has_failed(study, how, reason):
    study.behave(0.1, 1, how)
    assert study.run("--seeds", "1") == 1
    record = study.record("low", 1)
    assert record["state"] == "failed"
    assert re.search(reason, record["reason"])


def test_another_config_of_a_begun_cell_is_refused_by_its_keys(study, capsys):
    study.behave(0.2, 1, "crash")
    study.run("--seeds", "1")
    for cell in ("low", "high_rate"):  # finished, and half way
        keep = PLAN["SETTINGS"]["low"], PLAN["SETTINGS"]["high rate"]
        changed = {"low": keep[0], "high rate": keep[1]}
        changed[cell.replace("_", " ")] = ["SOLVER.BASE_LR", 0.7]
        study.write(SETTINGS=changed)
        for arguments in ([], ["--report-only"]):
            assert study.run("--seeds", "1", *arguments) == 2
            error = capsys.readouterr().err
            assert "SOLVER.BASE_LR: 0." in error
            assert " -> 0.7" in error
            assert f"{study.output / cell / 'seed_1'} was begun with another config" in error
            assert "choose another OUTPUT, or delete that folder" in error
    assert len(study.calls()) == 2
    study.write()
    assert study.run("--seeds", "1", "--train-images", "4") == 2
    assert "TRAIN_IMAGES: 3 -> 4" in capsys.readouterr().err


def test_a_change_of_the_base_config_is_noticed_and_a_new_default_key_is_none(study, capsys):
    study.run("--seeds", "1")
    for record in study.output.rglob("cell.json"):
        content = json.loads(record.read_text())
        del content["config"]["MODEL.DEEPFUSE.DEPTH"]  # as if it had not been there yet
        content["config"]["MODEL.GONE"] = 1
        record.write_text(json.dumps(content))
    assert study.run("--seeds", "1") == 0
    assert len(study.calls()) == 2
    (study.folder / "base.yaml").write_text(
        (study.folder / "base.yaml").read_text().replace("2,", "2, MODEL: {DEEPFUSE: {DEPTH: 2}},")
    )
    assert study.run("--seeds", "1") == 2
    assert "MODEL.DEEPFUSE.DEPTH: 1 -> 2" in capsys.readouterr().err


def test_a_damaged_record_is_named(study, capsys):
    study.run("--seeds", "1")
    (study.output / "low" / "seed_1" / "cell.json").write_text("{")
    assert study.run("--seeds", "1") == 2
    assert "cell.json is damaged" in capsys.readouterr().err


def test_an_interrupt_ends_the_training_and_the_next_call_goes_on(study, repository):
    study.behave(0.1, 1, "hang")
    main = (
        # a process in the background of a shell inherits that interrupts are ignored
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "import sys; from deepfuse_d2.cli import ablate, main; "
        f"ablate.TRAINING = {study.command!r}; "
        "sys.exit(main.main(['ablate', *sys.argv[1:]]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", main, str(study.folder / "plan.yaml")],
        cwd=repository, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (study.folder / "pid.txt").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "The same command goes on from here." in error
    with pytest.raises(ProcessLookupError):
        os.kill(int((study.folder / "pid.txt").read_text()), 0)
    record = study.record("low", 1)
    assert record["state"] == "begun"
    assert record["seconds"] > 0
    assert len(study.calls()) == 1

    assert study.run() == 0  # with the checkpoint that was there
    assert len(study.calls()) == 7


def test_two_ablations_in_one_folder_are_refused(study, capsys):
    study.output.mkdir()
    with open(study.output / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert study.run() == 2
    assert "Another ablation, or a training that outlived one" in capsys.readouterr().err
    assert study.calls() == []


def test_without_a_train_part_there_is_no_gap(study):
    assert study.write(TRAIN_IMAGES=0).run("--seeds", "1") == 0
    assert "gap" not in study.table().splitlines()[-5]
    assert study.record("low", 1)["results"].keys() == {"pennfudan_val"}


def test_held_out_data_has_a_column_of_its_own_and_no_part_in_differences(study):
    assert study.write(HELD_OUT="camvid_sem_seg_test", TRAIN_IMAGES=0).run("--seeds", "1", "2") == 0
    header, _, low, high = (
        [word.strip() for word in line.split("|")[1:-1]] for line in study.table().splitlines()[3:7]
    )
    row = dict(zip(header, high, strict=True))
    assert row["camvid_sem_seg_test segm/AP"] == "19.00 ± 0.00"
    assert row["val segm/AP"] == "22.50 ± 2.12"
    assert row["difference"] == "+10.00 [+10.00, +10.00]"
    assert dict(zip(header, low, strict=True))["camvid_sem_seg_test segm/AP"] == "9.00 ± 0.00"
    with open(study.output / "cells.csv") as file:
        assert [row["camvid_sem_seg_test segm/AP"] for row in csv.DictReader(file)] == [
            "9.0", "19.0", "9.0", "19.0"
        ]  # fmt: skip


@pytest.mark.parametrize("train_images", [0, 3])
def test_the_best_evaluation_stands_beside_the_last(study, train_images):
    changes = {"OVERRIDES": ["TEST.EVAL_PERIOD", 10], "TRAIN_IMAGES": train_images}
    assert study.write(**changes).run("--seeds", "1", "2") == 0
    header, _, low = (
        [word.strip() for word in line.split("|")[1:-1]] for line in study.table().splitlines()[3:6]
    )
    row = dict(zip(header, low, strict=True))
    assert row["best val"] == "19.50 ± 2.12"
    assert row["val segm/AP"] == "12.50 ± 2.12"
    # the record tells it after the folder's other files are gone
    assert study.record("low", 1)["course"]["segm/AP"] == [[9, 5.5], [19, 18.0], [29, 11.0]]


def test_one_evaluation_alone_has_no_best(study):
    assert study.run("--seeds", "1") == 0
    assert "best val" not in study.table()


def test_curves_are_means_over_the_iterations_that_all_seeds_have(study, tmp_path):
    assert study.write(CURVES=["loss"], TRAIN_IMAGES=0).run("--seeds", "1", "2") == 0
    for seed, lines in ((1, [(19, 4), (39, 2), (59, 1)]), (2, [(19, 6), (39, 3)])):
        rows = [json.dumps({"iteration": i, "loss": loss, "lr": 1}) for i, loss in lines]
        rows.insert(1, json.dumps({"iteration": 29, "lr": 1}))
        file = study.output / "low" / f"seed_{seed}" / "metrics.json"
        file.write_text("\n".join([*rows, '{"iteration": 79, "lo']))
    files = [study.output / "low" / f"seed_{seed}" / "metrics.json" for seed in (1, 2)]
    curves = [read_curve(file, "loss") for file in files]
    assert curves == [{19: 4, 39: 2, 59: 1}, {19: 6, 39: 3}]
    assert mean_curve(curves) == {19: 5, 39: 2.5}
    assert read_curve(tmp_path / "none.json", "loss") == mean_curve([]) == {}
    plain = (study.output / "curves.png").read_bytes()  # of trainings without metrics
    assert study.run("--seeds", "1", "2", "--report-only") == 0
    with Image.open(study.output / "curves.png") as image:
        assert image.format == "PNG"
    assert (study.output / "curves.png").read_bytes() != plain


def test_held_out_data_that_is_not_registered_is_refused_before_the_first_training(study, capsys):
    assert study.write(HELD_OUT="camvid_sem_seg_tset").run() == 2
    assert (
        'HELD_OUT names the data set "camvid_sem_seg_tset", which is not' in capsys.readouterr().err
    )
    assert study.calls() == []


def test_the_command_line_alone_is_a_plan_too(study, deepfuse):
    arguments = [
        "--base", str(study.folder / "base.yaml"), "--output", str(study.output), "--seeds", "1",
        "--metric", "segm/AP", "segm/AP50", "--train-images", "3",
        "--setting", "low", "SOLVER.BASE_LR", "0.1", "--setting", "high", "SOLVER.BASE_LR", "0.2",
        "--overrides", "SOLVER.MAX_ITER", "7",
    ]  # fmt: skip
    assert deepfuse("ablate", *arguments) == 0
    assert study.record("high", 1)["config"]["SOLVER.MAX_ITER"] == 7
    assert "val segm/AP50" in study.table()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"SEED": 1}, "SEED is unknown; there are BASE, .* Did you mean SEEDS"),
        ({"SEEDS": []}, "SEEDS is missing or empty"),
        ({"SEEDS": [1, 1]}, r"SEEDS = \[1, 1\]; expected different numbers from 0 on"),
        ({"SEEDS": [-1]}, r"SEEDS = \[-1\]; expected different numbers"),
        ({"METRIC": "AP"}, r"METRIC = \['AP'\]; expected a name such as segm/AP"),
        ({"SETTINGS": ["FPN"]}, "SETTINGS is no mapping of name"),
        (
            {"SETTINGS": {"a": ["SOLVER.BASE_LR"]}},
            r"SETTINGS, a = .*; expected a list \[KEY, V",
        ),
        ({"SETTINGS": {"a b": [], "A/b": []}}, "have names that give no folder of their own"),
        ({"OVERRIDES": "SEED 1"}, "OVERRIDES = 'SEED 1'; expected a list"),
        ({"CURVES": "total_loss"}, "CURVES = 'total_loss'; expected a list of names"),
        ({"HELD_OUT": ["a"]}, r"HELD_OUT = \['a'\]; expected the name of a data set"),
        ({"TRAIN_IMAGES": -1}, "TRAIN_IMAGES = -1; expected a number from 0 on"),
        ({"SETTINGS": {"a": ["SEED", 1]}}, 'Setting "a": SEED cannot be overridden'),
        (
            {"SETTINGS": {"a": ["MODEL.NEKC", 1]}},
            'Setting "a": On the command line: unknown',
        ),
        (
            {"SETTINGS": {"a": ["MODEL.NECK.NAME", "X"]}},
            'Setting "a": MODEL.NECK.NAME = "X" is',
        ),
        ({"OVERRIDES": ["DATASETS.TEST", "()"]}, "DATASETS.TEST cannot be overridden"),
        ({"OVERRIDES": ["DATASETS.TRAIN", "()"]}, "names no DATASETS.TRAIN or no DATASETS.TEST"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_is_trained(study, changes, message, capsys):
    study.write(**changes)
    assert study.run() == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert study.calls() == []


def test_a_plan_that_is_not_there_or_no_yaml_is_named(study, tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist .* See configs/ab"):
        load_plan("nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml is no yaml"):
        load_plan(tmp_path / "bad.yaml")
    with pytest.raises(ConfigError, match="--jobs 0: expected 1 or more"):
        CellRunner(load_plan(study.folder / "plan.yaml"), study.command, jobs=0)


@pytest.mark.parametrize("name", ["minicity", "pennfudan"])
def test_the_projects_own_plans_hold_what_the_documentation_compares(name, repository, monkeypatch):
    monkeypatch.chdir(repository)
    # the FPN that every cell starts from is not there before it is trained
    monkeypatch.setattr("deepfuse_d2.ablation.plan.check_config", lambda cfg: None)
    plan = load_plan(f"configs/ablations/deepfuse_{name}.yaml")
    assert len(plan.cells) == 21
    configs = {cell.setting: cell.config for cell in plan.cells}
    assert plan.reference == "FPN"
    assert configs["FPN"]["MODEL.DEEPFUSE.DEPTH"] == 0
    family = {(c["MODEL.DEEPFUSE.UNIT"], c["MODEL.DEEPFUSE.DEPTH"]) for c in configs.values()}
    for member in (("residual", 1), ("bottleneck", 1), ("bottleneck", 2), ("separable", 1)):
        assert member in family
    assert {c["MODEL.DEEPFUSE.MERGE"] for c in configs.values()} == {"sum", "gated"}
    assert {c["MODEL.DEEPFUSE.DROP_PATH"] for c in configs.values()} == {0.0, 0.2}
    # all but what is compared is the same
    for config in configs.values():
        differing = {key for key, value in config.items() if value != configs["FPN"][key]}
        assert all(key.startswith("MODEL.DEEPFUSE.") for key in differing)


@pytest.mark.parametrize(
    "plan", sorted((REPOSITORY / "configs/ablations").glob("*.yaml")), ids=lambda file: file.stem
)
def test_every_plan_of_the_project_makes_configs(plan, repository, monkeypatch):
    monkeypatch.chdir(repository)
    plan = load_plan(str(plan))
    assert len({cell.folder for cell in plan.cells}) == len(plan.settings) * len(plan.seeds)


def test_a_real_training_is_evaluated_on_val_and_as_many_train_images(
    deepfuse, repository, tiny_minicity, tiny_opts, tmp_path, monkeypatch
):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_minicity))
    monkeypatch.chdir(repository)
    seedless = tiny_opts[: tiny_opts.index("SEED")]
    settings = {"tiny": seedless}
    plan = {
        "BASE": "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml",
        "OUTPUT": str(tmp_path / "output"),
        "SEEDS": [5],
        "METRIC": "segm/AP",
        "OVERRIDES": ["SOLVER.MAX_ITER", 2, "SOLVER.CHECKPOINT_PERIOD", 1, "TEST.EVAL_PERIOD", 1],
        "SETTINGS": settings,
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    assert deepfuse("ablate", str(tmp_path / "plan.yaml")) == 0
    (cell,) = load_plan(tmp_path / "plan.yaml").cells
    record = read_record(cell)
    assert record["state"] == "finished"
    results = record["results"]["minicity_fine_instance_seg_val"]
    (first, _), (last, value) = record["course"]["segm/AP"]
    assert first < last
    assert value == results["segm"]["AP"]
    folder = tmp_path / "output" / "tiny" / "seed_5"
    assert record["results"] == json.loads((folder / "results.json").read_text())["results"]
    for split, images in (("val", 2), ("train_part", 2)):
        name = f"minicity_fine_instance_seg_{split}"
        assert record["results"][name]["segm"]["AP"] >= 0
        log = (folder / "train.log").read_text()
        assert f"Instance AP on {images} images of {name}" in log
    assert "SEED: 5" in (folder / "config.yaml").read_text()
    assert [path.name for path in folder.glob("*.pth")] == ["model_final.pth"]
