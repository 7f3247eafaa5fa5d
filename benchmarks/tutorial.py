"""Run docs/tutorial.ipynb anew, and keep its outputs: after a step or what it prints has changed.

python -m benchmarks.tutorial

It works in output/tutorial, where a training that was stopped goes on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient

__all__ = ["execute", "main"]

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial.ipynb"


def execute(notebook: nbformat.NotebookNode, folder: Path) -> None:
    """Run all cells in `folder`; the outputs are put into `notebook`.

    Raises: nbclient.exceptions.CellExecutionError: a cell failed; the message has what it said.
    """
    if hasattr(KernelManager, "transport_encryption"):  # without it, such a version warns
        KernelManager.transport_encryption.default_value = "auto"
    folder.mkdir(parents=True, exist_ok=True)
    resources = {"metadata": {"path": str(folder)}}
    # one output a stream, and no times, so that a second run changes little
    client = NotebookClient(
        notebook, timeout=3600, kernel_name="python3", resources=resources,
        coalesce_streams=True, record_timing=False,
    )  # fmt: skip
    client.execute()
    notebook.metadata.language_info = {"name": "python", "pygments_lexer": "ipython3"}


def main() -> int:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    execute(notebook, Path("output/tutorial"))
    nbformat.write(notebook, NOTEBOOK)
    return 0


if __name__ == "__main__":
    sys.exit(main())
