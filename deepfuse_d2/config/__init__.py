"""Config keys, their names and recipes. Its keys are on the ground: they import no other room."""

__all__ = ["add_deepfuse_config"]


def __getattr__(name: str):
    # Not at import: detectron2's configs load torch, and the command `deepfuse` lists recipes
    # while a line is completed.
    if name != "add_deepfuse_config":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .keys import add_deepfuse_config

    return add_deepfuse_config
