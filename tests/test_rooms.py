"""Who imports whom: the rooms of the package in order, and no circle among its files.

Read from the source, imports inside of functions and for type checkers too.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import deepfuse_d2

PACKAGE = Path(deepfuse_d2.__file__).parent

# From the ground up. A room imports those above it in this list, and itself; rooms in one line
# stand side by side, and neither imports the other. A file may stand lower than its folder.
ROOMS = (
    ("errors", "version"),
    ("files", "noise", "randomness"),
    ("checkpoint.array_pickle", "config.flatten", "config.look_up", "config.recipes"),
    ("checkpoint.tensorflow_bundle",),
    ("checkpoint.safe_load", "config.keys"),
    ("kernels", "layers"),
    ("structures",),
    ("checkpoint", "data", "modeling"),
    ("config",),
    ("deepfuse_d2",),
    ("analysis", "evaluation", "visualization"),
    ("submission",),
    ("engine", "inference"),
    ("ablation", "batch", "demo", "serving"),
    ("cli",),
    ("__main__",),
)
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}


def module_name(path: Path) -> str:
    """Name of a file's module below the package; "deepfuse_d2" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join(parts) or "deepfuse_d2"


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imported(name: str) -> Iterator[str]:
    """Modules of the package that a file of it imports anywhere; of others, the first part."""
    path = FILES[name]
    folder = list(path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.removeprefix("deepfuse_d2.")
        elif isinstance(node, ast.ImportFrom):
            start = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            module = module.removeprefix("deepfuse_d2.") if not node.level else module
            for alias in node.names:
                below = f"{module}.{alias.name}".removeprefix(".").removeprefix("deepfuse_d2.")
                yield below if below in FILES else module or "deepfuse_d2"


def room_of(name: str) -> str:
    """The room of a module: its longest name that stands in the table."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        if ".".join(parts[:end]) in LEVEL:
            return ".".join(parts[:end])
    raise AssertionError(f"{name} is in no room; add it to ROOMS")


ARROWS = {name: {to for to in imported(name) if to in FILES} - {name} for name in FILES}


def test_every_import_goes_down_to_a_room_below():
    wrong = [
        f"{name} imports {to}"
        for name, arrows in ARROWS.items()
        for to in sorted(arrows)
        if room_of(to) != room_of(name) and LEVEL[room_of(to)] >= LEVEL[room_of(name)]
    ]
    assert not wrong, "\n".join(wrong)


def test_no_files_import_each_other_in_a_circle():
    try:
        order = list(TopologicalSorter(ARROWS).static_order())
    except CycleError as error:
        pytest.fail("a circle: " + " -> ".join(error.args[1]))
    assert len(order) == len(FILES) > 200


def test_the_package_imports_nothing_of_the_repository_around_it():
    around = {"benchmarks", "tools", "tests", "train_net", "datasets"}
    firsts = {name: {to.split(".")[0] for to in imported(name)} for name in FILES}
    assert not [name for name in FILES if around & firsts[name]]


@pytest.mark.parametrize(
    ("call", "place"),
    [
        ("frPyObjects(", "structures.run_lengths"),  # COCO's run lengths are written
        ("mask_util.merge(", "structures.run_lengths"),
        ("embedding_bag(", "kernels.roi_align"),  # boxes are pooled
    ],
)
def test_what_is_written_once_stays_in_its_file(call, place):
    found = [name for name, path in FILES.items() if call in path.read_text(encoding="utf-8")]
    assert found == [place]


def test_imports_are_found_wherever_they_stand():
    assert {"inference", "visualization"} <= ARROWS["demo.side_by_side"]
    assert "config.keys" in ARROWS["config"]  # in a function
    assert "data" in ARROWS["deepfuse_d2"]  # under an if
    assert "version" in ARROWS["cli.main"]


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("deepfuse_d2.inference", "deepfuse_d2.engine"),
        ("deepfuse_d2.inference", "deepfuse_d2.cli"),
        ("deepfuse_d2.engine", "deepfuse_d2.inference"),
    ],
)
def test_who_predicts_loads_no_trainer_and_who_trains_no_predictor(module, absent):
    script = f"import sys, {module}; print([x for x in sys.modules if x.startswith({absent!r})])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
