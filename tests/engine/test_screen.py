"""What of the log reaches the screen, and that the file has all of it."""

import argparse
import logging
import sys
import warnings

import pytest
from detectron2.utils import logger as detectron2_logger

from deepfuse_d2.engine import screen, setup
from deepfuse_d2.engine.screen import ScreenFilter
from deepfuse_d2.noise import quiet_libraries


def record(name, level=logging.INFO):
    return logging.LogRecord(name, level, __file__, 1, "said", None, None)


@pytest.fixture
def handlers():
    """Loggers without handlers, as at the start of a process; in the end those of before."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "deepfuse_d2")]
    before = [(one, one.handlers, one.level, one.propagate) for one in loggers]
    for one in loggers:
        one.handlers = []
    detectron2_logger.setup_logger.cache_clear()
    yield
    detectron2_logger.setup_logger.cache_clear()
    for one, kept, level, propagate in before:
        one.handlers, one.propagate = kept, propagate
        one.setLevel(level)
    for name in ("torch.utils.cpp_extension", "torch.fx._symbolic_trace"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def start(tmp_path, **options):
    opts = ["OUTPUT_DIR", str(tmp_path / "run"), "MODEL.DEVICE", "cpu"]
    setup(argparse.Namespace(config_file="", opts=opts, eval_only=False, resume=False, **options))
    logging.getLogger("detectron2.data.build").info("Using training sampler")
    logging.getLogger("detectron2.data.build").warning("Few images")
    logging.getLogger("deepfuse_d2.engine.trainer").info("12 M parameters")
    logging.getLogger("deepfuse_d2.engine.trainer").debug("all of its modules")
    return (tmp_path / "run" / "log.txt").read_text()


def test_the_screen_has_warnings_and_our_words_and_the_file_has_all(handlers, tmp_path, capsys):
    text = start(tmp_path)
    shown = capsys.readouterr().out
    assert "Few images" in shown
    assert "12 M parameters" in shown
    assert len(shown.splitlines()) == 2
    for words in ("Running with full config", "Using training sampler", "Few images",
                  "12 M parameters", "all of its modules"):  # fmt: skip
        assert words in text


def test_all_of_the_log_is_shown_when_it_is_asked_for(handlers, tmp_path, capsys):
    start(tmp_path, verbose=True)
    shown = capsys.readouterr().out
    assert "Running with full config" in shown
    assert "all of its modules" in shown


def test_what_was_limited_once_can_be_shown_again(handlers, tmp_path, capsys):
    start(tmp_path)
    screen.limit_screen(verbose=True)
    capsys.readouterr()
    logging.getLogger("detectron2.data.build").info("once more")
    assert "once more" in capsys.readouterr().out


def test_lines_of_progress_come_now_and_then(monkeypatch):
    now = 0.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    passes = ScreenFilter(shows_bar=False).filter
    training = record("detectron2.utils.events")
    assert passes(training)
    assert passes(record("detectron2.evaluation.evaluator"))  # each has its own time
    passed = []
    for now in range(5, 100, 5):
        passed += [now] if passes(training) else []
    assert passed == [30, 60, 90]


def test_a_bar_takes_the_place_of_the_lines_of_a_training(monkeypatch):
    passes = ScreenFilter(shows_bar=True).filter
    assert not passes(record("detectron2.utils.events"))
    assert passes(record("detectron2.evaluation.evaluator"))
    assert passes(record("detectron2.utils.events", logging.WARNING))


@pytest.mark.parametrize(
    ("name", "level", "expected"),
    [
        ("deepfuse_d2.engine.trainer", logging.INFO, True),
        ("deepfuse_d2", logging.INFO, True),
        ("deepfuse_d2_other", logging.INFO, False),
        ("deepfuse_d2.engine.trainer", logging.DEBUG, False),
        ("detectron2.engine.defaults", logging.INFO, False),
        ("fvcore.common.checkpoint", logging.ERROR, True),
    ],
)
def test_who_speaks_at_which_level_decides(name, level, expected):
    assert ScreenFilter(shows_bar=False).filter(record(name, level)) is expected


def test_only_what_prints_is_limited(handlers, tmp_path):
    start(tmp_path)
    limited = [
        handler.stream
        for handler in logging.getLogger("detectron2").handlers
        if any(isinstance(one, ScreenFilter) for one in handler.filters)
    ]
    assert limited == [sys.stdout]


def test_what_libraries_say_of_things_that_are_right_is_left_out(handlers, caplog, monkeypatch):
    # torch prints what its loggers say itself: nothing reaches the root, where pytest listens
    exports = logging.getLogger("torch.fx._symbolic_trace")
    monkeypatch.setattr(exports, "handlers", [caplog.handler])
    monkeypatch.setattr(exports, "propagate", False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        quiet_libraries()
        warnings.warn("torch.meshgrid: in an upcoming release, it will be required", stacklevel=1)
        warnings.warn("torch.meshgrid is broken", stacklevel=1)
        exports.warning("another answer in exports")
        exports.error("no answer")
    assert [str(one.message) for one in caught] == ["torch.meshgrid is broken"]
    assert [one.message for one in caplog.records] == ["no answer"]
