"""docs/tutorial.ipynb, run in a small form."""

import base64
import copy
import os
import re

import cv2
import numpy as np
import pytest

nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")

# Too little to learn anything, and every command all the same.
SMALL = {
    "TUTORIAL_PHOTOS": "8",
    "TUTORIAL_SEEDS": "1",
    "TUTORIAL_KEYS": "SOLVER.MAX_ITER 2 SOLVER.IMS_PER_BATCH 2 DATALOADER.NUM_WORKERS 0",
    "OMP_NUM_THREADS": "1",
}


def cells(notebook) -> dict:
    """Cells of code by their tag."""
    return {c.metadata.tags[0]: c for c in notebook.cells if c.cell_type == "code"}


def text(cell) -> str:
    return "".join(output.get("text", "") for output in cell.outputs)


def picture(cell) -> np.ndarray:
    (data,) = [output.data for output in cell.outputs if "data" in output]
    encoded = base64.b64decode(data.get("image/jpeg") or data["image/png"])
    return cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)


@pytest.fixture(scope="module")
def kept(repository):
    return nbformat.read(repository / "docs" / "tutorial.ipynb", as_version=4)


@pytest.fixture(scope="module")
def run_again(kept, repository, tmp_path_factory):
    from benchmarks.tutorial import execute

    folder = tmp_path_factory.mktemp("tutorial")
    path = os.pathsep.join(filter(None, [str(repository), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**SMALL, "PYTHONPATH": path}.items():
            patch.setenv(name, value)
        patch.delenv("TUTORIAL_DATA", raising=False)
        notebook = copy.deepcopy(kept)
        execute(notebook, folder)
    return cells(notebook), folder


def test_every_step_of_it_does_what_it_says(run_again):
    found, folder = run_again
    assert len(list((folder / "photos" / "PNGImages").iterdir())) == 8
    assert "images of about 240 x 320 pixels to train on" in text(found["init"])
    assert "CLASSES: [pedestrian]" in (folder / "people.yaml").read_text()
    assert "Training would run." in text(found["check"])
    assert "| pedestrian" in text(found["check"])
    assert {"config.yaml", "model_final.pth", "results.json"} <= set(text(found["train"]).split())
    assert len(re.findall(r"AP50", text(found["eval"]))) == 2
    assert re.search(r"^\| neck +\| .*\d", text(found["analyze"]), re.M)
    assert re.search(r"^\| FPN +\|.*\n\| DeepFuse +\|", text(found["ablate"]), re.M)
    assert {"config.yaml", "labels.json", "model.safetensors"} <= set(text(found["pack"]).split())
    assert "coco_instances_results.json" in text(found["predict"])
    assert text(found["predictor"]).count("people, best scores") == 4
    assert re.search(r"^\w+\.png \d+ people;.*\nexit code 0$", text(found["serve"]), re.M)
    for tag in ("sheet", "curve", "compared", "drawn"):
        assert picture(found[tag]).std() > 5, tag
