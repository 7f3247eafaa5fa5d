"""Images that kill the process that decodes them, as a system does when memory is short."""

import multiprocessing
import os
import signal
from pathlib import Path

__all__ = ["DEADLY", "deadly_environment", "make_deadly"]

#: At the end of a file, behind an image that is whole.
DEADLY = b"deadly"


def make_deadly() -> None:
    """From now on, in this process and its forks; processes that nobody started are spared."""
    import PIL.Image

    usual = PIL.Image.open

    def deadly(file, *words, **options):
        is_worker = multiprocessing.parent_process() is not None
        if is_worker and hasattr(file, "getvalue") and file.getvalue().endswith(DEADLY):
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(file, *words, **options)

    PIL.Image.open = deadly


def deadly_environment(folder: Path) -> dict[str, str]:
    """An environment in which it is so in every python that starts."""
    place = folder / "deadly"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(
        "from benchmarks.application_faults.deadly import make_deadly\nmake_deadly()\n"
    )
    path = os.pathsep.join(
        filter(None, [str(place), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    )
    return {**os.environ, "PYTHONPATH": path}
