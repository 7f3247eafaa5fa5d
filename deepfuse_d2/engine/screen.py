"""What of the log a person reads on the screen; OUTPUT_DIR/log.txt keeps all of it.

detectron2 prints what it writes to the file: the environment with torch's build flags, the merged
config and how it reads its data, some thousand lines before the first loss. On the screen stay
warnings and errors of anybody, what this package has to say, and the course of a training: the bar
of :class:`.writers.ConsoleWriter` in a terminal, else a line now and then.
"""

import logging
import sys
import time

__all__ = ["ScreenFilter", "limit_screen"]

# What detectron2.utils.logger.setup_logger is called for, in setup.py.
_LOGGERS = ("detectron2", "fvcore", "deepfuse_d2")
# They speak every few seconds, of how far a training or an evaluation has come.
_TRAINING, _EVALUATION = "detectron2.utils.events", "detectron2.evaluation.evaluator"
_SECONDS_BETWEEN = 30.0


class ScreenFilter(logging.Filter):
    """Lets through warnings, what this package says, and signs of progress now and then.

    Args:
        shows_bar: whether a bar shows how far the training is; its lines are left out then.
    """

    def __init__(self, shows_bar: bool):
        super().__init__()
        self._shows_bar = shows_bar
        self._last = dict.fromkeys((_TRAINING, _EVALUATION), float("-inf"))

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING:
            return True
        if record.levelno < logging.INFO:
            return False
        if record.name not in self._last:
            return record.name.split(".")[0] == "deepfuse_d2"
        if self._shows_bar and record.name == _TRAINING:
            return False
        now = time.monotonic()
        if now - self._last[record.name] < _SECONDS_BETWEEN:
            return False
        self._last[record.name] = now
        return True


def limit_screen(*, verbose: bool = False) -> None:
    """Let the handlers that print show what :class:`ScreenFilter` does; all with `verbose`."""
    screen = (sys.stdout, sys.stderr)
    for name in _LOGGERS:
        for handler in logging.getLogger(name).handlers:
            ours = [one for one in handler.filters if isinstance(one, ScreenFilter)]
            for one in ours:
                handler.removeFilter(one)
            if not verbose and (ours or getattr(handler, "stream", None) in screen):
                handler.addFilter(ScreenFilter(shows_bar=sys.stdout.isatty()))
