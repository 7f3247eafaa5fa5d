"""Messages of libraries about things that are as they should be, for commands to leave out."""

import logging
import warnings

__all__ = ["quiet_libraries"]

# Of a machine without CUDA that it has no compiler of CUDA; of a question that detectron2 asks in
# each convolution, that its answer will be another one in exports.
_LOGGERS = ("torch.utils.cpp_extension", "torch.fx._symbolic_trace")
# Of detectron2's anchors.
_WARNINGS = ("torch.meshgrid: in an upcoming release",)


def quiet_libraries() -> None:
    """Leave these messages out in this process, which is a command's and not a user's program."""
    for message in _WARNINGS:
        warnings.filterwarnings("ignore", message, UserWarning)
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
