"""Writers by name: what arrives where, and in which run."""

import json
import logging
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from detectron2.utils.events import EventStorage

from deepfuse_d2.engine import load_config
from deepfuse_d2.engine.writers import ConsoleWriter, build_writers
from deepfuse_d2.errors import ConfigError


@pytest.fixture
def config(tmp_path):
    def build(*writers, **monitor):
        cfg = load_config("", ["MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path / "run")])
        cfg.MONITOR.WRITERS = list(writers)
        cfg.SOLVER.MAX_ITER = 10
        for key, value in monitor.items():
            cfg.MONITOR[key] = value
        return cfg

    return build


def write(writers, iterations, images=False):
    """Two values in each of `iterations`; written after every one."""
    with EventStorage(iterations[0]) as storage:
        for iteration in iterations:
            storage.iter = iteration
            storage.put_scalars(total_loss=10.0 - iteration, lr=0.1, smoothing_hint=False)
            if images:
                storage.put_image("street", torch.zeros(3, 4, 6, dtype=torch.uint8))
            for writer in writers:
                writer.write()
        for writer in writers:
            writer.close()
        return storage


def test_the_default_writers_are_those_of_detectron2(config, tmp_path):
    cfg = load_config("", ["OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu"])
    write(build_writers(cfg), [0, 1], images=True)
    lines = (tmp_path / "run" / "metrics.json").read_text().splitlines()
    assert json.loads(lines[1]) == {"iteration": 1, "lr": 0.1, "total_loss": 9.0}
    assert list((tmp_path / "run").glob("events.out.tfevents*"))


def test_images_do_not_pile_up_where_nobody_writes_them(config):
    storage = write(build_writers(config("json")), [0, 1, 2], images=True)
    assert storage._vis_data == []


def test_an_unknown_writer_is_answered_with_the_known_ones(config):
    with pytest.raises(ConfigError, match=r"has 'tensorbord', .*choose any of \['console'"):
        build_writers(config("json", "tensorbord"))


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_is_named_with_its_extra(config, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=rf'pip install "deepfuse-d2\[{name}\]"'):
        build_writers(config(name))


class Wandb(ModuleType):
    """Keeps what wandb would be told."""

    def __init__(self):
        super().__init__("wandb")
        self.started, self.logged, self.finished = [], [], 0

    def init(self, **arguments):
        self.started.append(arguments)
        return SimpleNamespace(id=arguments["id"] or "run-17", log=self.log, finish=self.finish)

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1

    @staticmethod
    def Image(array):
        return array.shape


def test_wandb_gets_values_images_and_the_config_and_goes_on_in_its_run(config, monkeypatch):
    stub = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    cfg = config("tensorboard", "wandb", PROJECT="streets")
    write(build_writers(cfg), [0, 1], images=True)
    first = stub.started[0]
    assert (first["project"], first["name"], first["id"]) == ("streets", "run", None)
    assert first["config"]["SOLVER"]["MAX_ITER"] == 10
    assert json.dumps(first["config"])  # plain values
    assert (0, {"total_loss": 10.0, "lr": 0.1}) in stub.logged
    assert (1, {"total_loss": 9.0, "lr": 0.1}) in stub.logged
    assert [step for step, values in stub.logged if values == {"street": (4, 6, 3)}] == [0, 1]
    assert stub.finished == 1

    write(build_writers(config("wandb", RUN_NAME="mine")), [2])
    assert (stub.started[1]["id"], stub.started[1]["name"]) == ("run-17", "mine")
    assert stub.logged[-1] == (2, {"total_loss": 8.0, "lr": 0.1})


class MLflow(ModuleType):
    """Keeps what mlflow would be told, and refuses what it refuses."""

    def __init__(self):
        super().__init__("mlflow")
        self.experiment, self.runs, self.parameters, self.metrics, self.ended = None, [], {}, [], 0

    def set_experiment(self, name):
        self.experiment = name

    def start_run(self, run_id=None, run_name=None):
        self.runs.append((run_id, run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    def log_params(self, parameters):
        assert len(parameters) <= 100
        assert all(len(value) <= 500 for value in parameters.values())
        self.parameters |= parameters

    def log_metrics(self, metrics, step):
        assert all(c.isalnum() or c in "_-. /" for name in metrics for c in name)
        self.metrics.append((step, metrics))

    def end_run(self):
        self.ended += 1


def test_mlflow_gets_values_and_parameters_and_goes_on_in_its_run(config, monkeypatch):
    stub = MLflow()
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    write(build_writers(config("mlflow")), [0, 1])
    assert stub.experiment == "deepfuse_d2"
    assert stub.parameters["SOLVER.MAX_ITER"] == "10"
    assert stub.metrics == [
        (0, {"total_loss": 10.0, "lr": 0.1}), (1, {"total_loss": 9.0, "lr": 0.1}),
    ]  # fmt: skip
    count = len(stub.parameters)
    write(build_writers(config("mlflow")), [2])
    assert stub.runs == [(None, "run"), ("abc", "run")]
    assert len(stub.parameters) == count
    assert stub.ended == 2


def test_names_that_mlflow_refuses_are_changed(config, monkeypatch):
    stub = MLflow()
    monkeypatch.setitem(sys.modules, "mlflow", stub)
    (writer, _) = build_writers(config("mlflow"))
    with EventStorage(0) as storage:
        storage.put_scalar("[metric] AP@50", 3.0, smoothing_hint=False)
        writer.write()
    assert stub.metrics == [(0, {"_metric_ AP_50": 3.0})]


def test_without_a_terminal_the_console_shows_lines_alone(capsys, caplog):
    with caplog.at_level(logging.INFO):
        write([ConsoleWriter(10)], [0, 1])
    assert "iter: 1  total_loss: 9" in caplog.text
    assert "Training" not in capsys.readouterr().out


def test_in_a_terminal_a_bar_stands_below_the_lines(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    logger = logging.getLogger("deepfuse_d2")
    handler = logging.StreamHandler(sys.stdout)
    logger.addHandler(handler)
    before = sys.stdout
    writer = ConsoleWriter(10, is_terminal=True)
    try:
        with EventStorage(0) as storage:
            storage.iter = 3
            storage.put_scalars(total_loss=1.25, images_per_second=7.5)
            writer.write()
            assert handler.stream is not before  # goes above the bar
            writer.close()
    finally:
        logger.removeHandler(handler)
    assert sys.stdout is before
    assert handler.stream is before
    shown = capsys.readouterr().out
    assert "4/10" in shown
    assert "loss 1.2500" in shown
    assert "7.5 images/s" in shown
