"""Submissions, written as an evaluator does and read back by the official Cityscapes scripts."""

import contextlib
import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util

from deepfuse_d2.data.datasets.voc import voc_palette
from deepfuse_d2.errors import ConfigError, UserError
from deepfuse_d2.submission import SubmissionWriter, build_submission_writer

FRAMES = ("bonn_000000_000019", "bonn_000001_000019")


def write(writer, outputs):
    """Run a writer over all images of its data set, as detectron2's inference loop does."""
    writer.reset()
    records = DatasetCatalog.get(writer._dataset_name)
    for record, output in zip(records, outputs, strict=False):
        writer.process([record], [output])
    return writer.evaluate()


def semantic(seed=0, classes=19):
    generator = torch.Generator().manual_seed(seed)
    return {"sem_seg": torch.rand(classes, 20, 40, generator=generator)}


def test_instances_are_written_for_every_image_and_packed(town, perfect, tmp_path):
    folder = tmp_path / "out"
    nothing = {"instances": perfect["instances"][:0]}
    assert write(SubmissionWriter("my_test", folder), [perfect, nothing]) == {}
    lines = (folder / "results" / f"{FRAMES[0]}_pred.txt").read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [
        [f"masks/{FRAMES[0]}_0.png", "26"],
        [f"masks/{FRAMES[0]}_1.png", "24"],
        [f"masks/{FRAMES[0]}_2.png", "24"],
    ]
    assert [float(line.split()[2]) for line in lines] == pytest.approx([0.9, 0.8, 0.7])
    assert (folder / "results" / f"{FRAMES[1]}_pred.txt").read_text() == ""
    with zipfile.ZipFile(folder / "results.zip") as archive:
        names = {f"{frame}_pred.txt" for frame in FRAMES}
        names |= {f"masks/{FRAMES[0]}_{i}.png" for i in range(3)}
        assert set(archive.namelist()) == names
        assert archive.testzip() is None
    assert sorted(path.name for path in folder.iterdir()) == ["results", "results.zip"]
    assert not (tmp_path / "out.unfinished").exists()


def test_masks_come_in_any_form(town, perfect, ground_truth, tmp_path):
    masks = perfect["instances"].pred_masks.numpy()
    rle = perfect["instances"]
    rle.pred_masks_rle = [mask_util.encode(np.asfortranarray(m.astype(np.uint8))) for m in masks]
    rle.remove("pred_masks")
    write(SubmissionWriter("my_test", tmp_path / "rle"), [perfect] * 2)

    unpasted = rle[:1]
    unpasted.pred_masks = torch.ones(1, 1, 28, 28)
    unpasted.pred_boxes.tensor[0] = torch.tensor([2.0, 2.0, 14.0, 18.0])
    writer = SubmissionWriter("my_test", tmp_path / "small")
    assert writer.accepts_unpasted_masks
    write(writer, [{"instances": unpasted}] * 2)
    for name in ("rle", "small"):
        with Image.open(tmp_path / name / "results" / "masks" / f"{FRAMES[1]}_0.png") as image:
            assert image.mode == "L"
            np.testing.assert_array_equal(np.asarray(image), (ground_truth == 26000) * 255)


def test_the_official_script_finds_every_instance_of_a_perfect_submission(
    town, perfect, tmp_path, repository, monkeypatch
):
    monkeypatch.syspath_prepend(str(repository / "tools"))
    from benchmarks.evaluation_oracle.official import runnable

    folder = tmp_path / "out"
    write(SubmissionWriter("my_instances", folder), [perfect] * 2)
    gt_files = [
        str(town / "gtFine" / "val" / "bonn" / f"{frame}_gtFine_instanceIds.png")
        for frame in FRAMES
    ]
    with runnable(tmp_path) as script:
        monkeypatch.setattr(script.args, "predictionPath", str(folder / "results"))
        monkeypatch.setattr(script.args, "predictionWalk", None)
        monkeypatch.setattr(script.args, "gtInstancesFile", str(tmp_path / "gt.json"))
        monkeypatch.setattr(script.args, "JSONOutput", False)
        # the script's own search and its own reader of the text files
        files = [script.getPrediction(file, script.args) for file in gt_files]
        result = script.evaluateImgLists(files, gt_files, script.args)
    classes = result["averages"]["classes"]
    assert classes["car"]["ap"] == pytest.approx(1)
    assert classes["person"]["ap"] == pytest.approx(1)


def test_pixel_labels_are_label_ids_that_the_official_script_reads(town, tmp_path, monkeypatch):
    import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as script

    records = DatasetCatalog.get("my_pixels")
    outputs = []
    for record in records:  # perfect where there is a label, anything elsewhere
        truth = np.asarray(Image.open(record["sem_seg_file_name"]))
        outputs.append({"sem_seg": torch.from_numpy(np.where(truth == 255, 3, truth))})
    folder = tmp_path / "out"
    write(SubmissionWriter("my_pixels", folder), outputs)
    with zipfile.ZipFile(folder / "results.zip") as archive:
        assert archive.namelist() == [f"{frame}_pred.png" for frame in FRAMES]

    gt_files = [
        str(town / "gtFine" / "val" / "bonn" / f"{frame}_gtFine_labelIds.png") for frame in FRAMES
    ]
    args = script.CArgs()
    vars(args).update(vars(script.args))
    args.predictionPath, args.predictionWalk = str(folder / "results"), None
    args.JSONOutput, args.quiet, args.evalPixelAccuracy = False, True, False
    files = [script.getPrediction(args, file) for file in gt_files]
    assert [os.path.basename(file) for file in files] == [f"{frame}_pred.png" for frame in FRAMES]
    monkeypatch.setattr(np, "in1d", np.isin, raising=False)  # the script knows older NumPys only
    with contextlib.redirect_stdout(io.StringIO()):
        result = script.evaluateImgLists(files, gt_files, args)
    for name in ("car", "person", "road"):
        assert result["classScores"][name] == pytest.approx(1)
    assert set(np.unique(Image.open(files[0]))) == {7, 24, 26}


def test_logits_become_the_id_of_the_highest(town, tmp_path):
    output = semantic()
    write(SubmissionWriter("my_pixels", tmp_path / "out"), [output] * 2)
    ids = np.asarray(Image.open(tmp_path / "out" / "results" / f"{FRAMES[0]}_pred.png"))
    label_ids = [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    classes = output["sem_seg"].argmax(dim=0).numpy()
    np.testing.assert_array_equal(ids, np.array(label_ids)[classes])


def test_voc_gets_palette_images_in_the_folders_of_comp6(voc, tmp_path):
    folder = tmp_path / "out"
    output = semantic(classes=21)
    write(SubmissionWriter("my_voc", folder), [output] * 2)
    place = "results/VOC2012/Segmentation/comp6_test_cls"
    with Image.open(folder / place / "2008_000006.png") as image:
        assert image.mode == "P"
        assert image.getpalette()[: 3 * 21] == voc_palette()[:21].ravel().tolist()
        np.testing.assert_array_equal(np.asarray(image), output["sem_seg"].argmax(0).numpy())
    with tarfile.open(folder / "results.tgz") as archive:
        names = [f"{place}/2008_000006.png", f"{place}/2008_000011.png"]
        assert archive.getnames() == names
    assert (
        "comp6_val_cls" in SubmissionWriter("voc_2012_sem_seg_val", tmp_path / "b")._format._place
    )


def test_the_same_submission_makes_the_same_zip(town, tmp_path):
    for name in ("a", "b"):
        write(SubmissionWriter("my_pixels", tmp_path / name), [semantic()] * 2)
    assert len({(tmp_path / name / "results.zip").read_bytes() for name in ("a", "b")}) == 1


def test_an_image_shown_twice_is_written_once(town, perfect, tmp_path):
    writer = SubmissionWriter("my_test", tmp_path / "out")
    writer.reset()
    first, second = DatasetCatalog.get("my_test")
    writer.process([first, second], [perfect, perfect])
    writer.process([first], [perfect])
    writer.evaluate()
    text = (tmp_path / "out" / "results" / f"{FRAMES[0]}_pred.txt").read_text()
    assert len(text.splitlines()) == 3


def test_scores_that_are_no_numbers_are_left_out_aloud(town, perfect, tmp_path, caplog):
    perfect["instances"].scores[1] = float("nan")
    write(SubmissionWriter("my_test", tmp_path / "out"), [perfect] * 2)
    text = (tmp_path / "out" / "results" / f"{FRAMES[0]}_pred.txt").read_text()
    assert len(text.splitlines()) == 2
    assert "an instance of score nan is left out" in caplog.text


def test_a_missing_image_fails_the_check_and_nothing_appears(town, perfect, tmp_path):
    folder = tmp_path / "out"
    with pytest.raises(UserError, match=rf"failed its check: {FRAMES[1]}_pred\.txt is missing\."):
        write(SubmissionWriter("my_test", folder), [perfect])
    assert not folder.exists()
    assert (tmp_path / "out.unfinished" / "results").is_dir()
    write(SubmissionWriter("my_test", folder), [perfect] * 2)
    assert not (tmp_path / "out.unfinished").exists()


def test_a_submission_is_overwritten_on_request_only(town, perfect, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()  # an empty folder is free
    write(SubmissionWriter("my_test", folder), [perfect] * 2)
    before = (folder / "results.zip").read_bytes()
    with pytest.raises(ConfigError, match=r"out exists and is not empty; .*--overwrite"):
        SubmissionWriter("my_test", folder)

    writer = SubmissionWriter("my_test", folder, overwrite=True)
    writer.reset()
    assert (folder / "results.zip").read_bytes() == before  # until the new one is complete
    write(writer, [{"instances": perfect["instances"][:1]}] * 2)
    assert (folder / "results.zip").read_bytes() != before
    assert not (folder / "results" / "masks" / f"{FRAMES[0]}_1.png").exists()
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]

    (folder / "thesis.tex").touch()
    with pytest.raises(ConfigError, match="holds more than a submission"):
        SubmissionWriter("my_test", folder, overwrite=True)


def test_in_evaluation_every_run_gets_a_folder_of_its_own(town, perfect, tmp_path):
    for _ in range(2):
        write(build_submission_writer("my_test", str(tmp_path / "run")), [perfect] * 2)
    assert sorted(os.listdir(tmp_path / "run")) == ["submission", "submission_2"]


def test_a_foreign_folder_in_the_way_is_not_touched(town, tmp_path):
    mine = tmp_path / "out.unfinished" / "mine.txt"
    mine.parent.mkdir()
    mine.touch()
    with pytest.raises(ConfigError, match=r"out\.unfinished is in the way"):
        SubmissionWriter("my_test", tmp_path / "out").reset()
    assert mine.exists()


def test_wrong_predictions_are_named(town, perfect, tmp_path):
    writer = SubmissionWriter("my_test", tmp_path / "out")
    writer.reset()
    record = DatasetCatalog.get("my_test")[0]
    with pytest.raises(ConfigError, match=r"gives \['sem_seg'\] and no instances"):
        writer.process([record], [semantic()])
    with pytest.raises(ConfigError, match=r'is not in data set "my_test" \(2 images'):
        writer.process([{"file_name": "/elsewhere/a.png"}], [perfect])
    perfect["instances"].pred_classes[0] = 8
    with pytest.raises(ConfigError, match=r"class indices from 0 to 8, .* has 8 classes"):
        writer.process([record], [perfect])

    writer = SubmissionWriter("my_pixels", tmp_path / "out")
    writer.reset()
    with pytest.raises(ConfigError, match=r"gives \['instances'\] and no sem_seg"):
        writer.process([record], [perfect])
    with pytest.raises(ConfigError, match=r"sem_seg is \(10, 40\) .* and the image \(20, 40\)"):
        writer.process([record], [{"sem_seg": torch.zeros(19, 10, 40)}])
    with pytest.raises(ConfigError, match=r"from 19 to 19, but the data set has 19 classes"):
        writer.process([record], [{"sem_seg": torch.full((20, 40), 19)}])


def test_a_data_set_without_a_known_layout_is_told(town):
    with pytest.raises(ConfigError, match=r"No submission is known for data set \"pennfudan_val\""):
        SubmissionWriter("pennfudan_val", "nowhere")
    metadata = MetadataCatalog.get("my_test")
    MetadataCatalog["my_test"] = metadata.__class__(
        name="my_test", evaluator_type="cityscapes_instance", thing_classes=["cell"]
    )
    with pytest.raises(ConfigError, match=r"has the classes \['cell'\]; .*named as there: person"):
        SubmissionWriter("my_test", "nowhere")


def test_the_writer_needs_no_figures_from_detectron2s_loop(town, perfect, tmp_path):
    from detectron2.evaluation import inference_on_dataset, print_csv_format

    records = DatasetCatalog.get("my_test")
    writer = SubmissionWriter("my_test", tmp_path / "out")
    results = inference_on_dataset(lambda batch: [perfect], [[r] for r in records], writer)
    print_csv_format(results)
    assert results == {}
    assert (tmp_path / "out" / "results.zip").is_file()
