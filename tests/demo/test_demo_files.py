"""What the demo takes and writes: images, folders, videos, streams; pictures, videos, JSON."""

import json

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from deepfuse_d2.cli.main import main
from deepfuse_d2.data.datasets.cityscapes import cityscapes_metadata
from deepfuse_d2.demo import DemoModel, compare
from deepfuse_d2.demo.sources import find_sources
from deepfuse_d2.errors import UserError

HEIGHT, WIDTH, FRAMES = 48, 64, 5


class FakeModel:
    """Finds a car in the left half at a score of 0.9, and one in the right half at 0.3."""

    def __init__(self, kinds=("instances",)):
        self.kinds, self.calls = kinds, 0
        self.metadata = Metadata(name="fake", **cityscapes_metadata("instance_seg"))

    def __call__(self, image):
        self.calls += 1
        height, width = image.shape[:2]
        instances = Instances((height, width))
        half = width / 2
        instances.pred_boxes = Boxes(
            torch.tensor([[0.0, 0.0, half, height], [half, 0.0, width, height]])
        )
        instances.scores = torch.tensor([0.9, 0.3])
        instances.pred_classes = torch.tensor([2, 2])
        instances.pred_masks = torch.ones(2, 1, 28, 28)
        labels = np.zeros((height, width), np.uint8)
        labels[: height // 2] = 10  # sky
        found = {"instances": instances, "labels": labels}
        return {kind: found[kind] for kind in self.kinds}


@pytest.fixture
def demo(monkeypatch, capsys):
    """Run ``deepfuse predict`` on a fake model; a mistake ends in SystemExit with its message."""
    monkeypatch.setattr("deepfuse_d2.config.recipes.find_config", lambda name: name)

    def run(*arguments, model=None):
        model = model or FakeModel()
        monkeypatch.setattr(DemoModel, "load", lambda trained, opts, **how: model)
        words = ["predict", "--config-file", "c", "--weights", "w", *map(str, arguments)]
        if main(words) != 0:
            raise SystemExit(capsys.readouterr().err)
        return model

    return run


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "street"
    folder.mkdir()
    for number in range(2):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    return folder


@pytest.fixture
def video(tmp_path):
    """Five frames of 64 x 48 at 10 frames a second, each brighter than the one before."""
    path = tmp_path / "drive.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no videos")
    for number in range(FRAMES):
        writer.write(np.full((HEIGHT, WIDTH, 3), 40 * number + 20, np.uint8))
    writer.release()
    return path


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (frame := capture.read())[0]:
        frames.append(frame[1].astype(int))
    return frames, capture.get(cv2.CAP_PROP_FPS)


def test_a_video_becomes_a_video_of_as_many_frames_and_the_same_speed(demo, video, tmp_path):
    demo("--input", video, "--output", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["drive.mp4"]
    frames, fps = frames_of(tmp_path / "out" / "drive.mp4")
    assert len(frames) == FRAMES
    assert fps == pytest.approx(10)
    for number, frame in enumerate(frames):
        # right of the one car that is sure enough, the frame is as it was
        assert abs(frame[:, 44:].mean() - (40 * number + 20)) < 12
        assert np.abs(frame[24:40, 8:24] - (40 * number + 20)).mean() > 12


def test_a_stream_without_an_end_stops_where_it_is_told_to(demo, video, tmp_path):
    out = tmp_path / "out"
    model = demo(
        "--camera", video, "--max-frames", "2", "--output", out, "--fps", "5",
        "--save", "video", "pictures",
    )  # fmt: skip
    assert model.calls == 2
    names = ["camera.mp4", "camera_000000.png", "camera_000001.png"]
    assert sorted(path.name for path in out.iterdir()) == names
    frames, fps = frames_of(out / "camera.mp4")
    assert (len(frames), fps) == (2, pytest.approx(5))


def test_ctrl_c_ends_a_camera_and_keeps_what_came(demo, video, tmp_path, capsys):
    class Stopped(FakeModel):
        def __call__(self, image):
            if self.calls == 3:
                raise KeyboardInterrupt
            return super().__call__(image)

    demo("--camera", video, "--output", tmp_path / "out", model=Stopped())
    assert len(frames_of(tmp_path / "out" / "camera.mp4")[0]) == 3
    assert "3 frames" in capsys.readouterr().out


def test_a_folder_becomes_a_video_if_asked_for_also_of_an_odd_size(demo, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((33, 51, 3), 90, np.uint8))
    demo("--input", folder, "--output", tmp_path / "out", "--save", "video", "--fps", "7")
    frames, fps = frames_of(tmp_path / "out" / "odd.mp4")
    assert len(frames) == 3
    assert frames[0].shape == (34, 52, 3)
    assert fps == pytest.approx(7)


def test_the_json_is_what_pycocotools_reads(demo, images, tmp_path):
    out = tmp_path / "out"
    demo("--input", images, "--output", out, "--save", "coco", "--threshold", "0")
    names = {"coco_images.json", "coco_instances_results.json"}
    assert {path.name for path in out.iterdir()} == names
    truth = COCO(str(out / "coco_images.json"))
    results = truth.loadRes(str(out / "coco_instances_results.json"))
    assert truth.loadCats(truth.getCatIds()) == [{"id": 3, "name": "car"}]
    assert [image["file_name"] for image in truth.loadImgs([1, 2])] == [
        str(images / "0.png"), str(images / "1.png"),
    ]  # fmt: skip
    found = results.loadAnns(results.getAnnIds(imgIds=[2]))
    assert [x["score"] for x in found] == pytest.approx([0.9, 0.3])
    assert found[1]["bbox"] == [WIDTH / 2, 0, WIDTH / 2, HEIGHT]
    mask = mask_util.decode(found[0]["segmentation"])
    assert mask.shape == (HEIGHT, WIDTH)
    assert mask[4:-4, 4:28].all()
    assert not mask[:, 36:].any()


def test_the_threshold_holds_for_what_is_written_too(demo, images, tmp_path):
    demo("--input", images, "--output", tmp_path / "out", "--save", "coco")
    results = json.loads((tmp_path / "out" / "coco_instances_results.json").read_text())
    assert [x["score"] for x in results] == pytest.approx([0.9, 0.9])


def test_labels_become_a_mask_a_class(demo, images, tmp_path):
    out = tmp_path / "out"
    demo("--input", images, "--output", out, "--save", "coco", model=FakeModel(("labels",)))
    results = json.loads((out / "coco_sem_seg_results.json").read_text())
    assert [(x["image_id"], x["category_id"]) for x in results] == [
        (1, 1),
        (1, 11),
        (2, 1),
        (2, 11),
    ]
    sky = mask_util.decode(results[1]["segmentation"])
    assert sky[: HEIGHT // 2].all()
    assert not sky[HEIGHT // 2 :].any()
    names = {x["name"] for x in json.loads((out / "coco_images.json").read_text())["categories"]}
    assert names == {"road", "sky"}
    assert not (out / "coco_instances_results.json").exists()


def test_the_layout_of_cityscapes_holds_label_ids(demo, images, tmp_path):
    out = tmp_path / "out"
    both = FakeModel(("instances", "labels"))
    demo("--input", images, "--output", out, "--save", "cityscapes", model=both)
    assert (out / "cityscapes" / "0_pred.txt").read_text().startswith("masks/0_0.png 26 0.8")
    mask = cv2.imread(str(out / "cityscapes" / "masks" / "0_0.png"), cv2.IMREAD_UNCHANGED)
    assert mask[4:-4, 4:28].all()
    labels = cv2.imread(str(out / "cityscapes_labels" / "1_pred.png"), cv2.IMREAD_UNCHANGED)
    assert (labels[0, 0], labels[-1, 0]) == (23, 7)  # sky and road
    with pytest.raises(SystemExit, match="holds files of another run"):
        demo("--input", images, "--output", out, "--save", "cityscapes", model=both)


def test_classes_that_cityscapes_does_not_have_are_named(demo, images, tmp_path):
    model = FakeModel()
    model.metadata = Metadata(name="zoo", thing_classes=["bear", "ape", "cat"])
    with pytest.raises(SystemExit, match=r"\['bear', 'ape', 'cat'\]"):
        demo("--input", images, "--output", tmp_path / "out", "--save", "cityscapes", model=model)


def test_what_is_drawn_of_a_model_that_gives_both_can_be_chosen(demo, images, tmp_path):
    drawn = {}
    for layers in (["instances"], ["semantics"], ["instances", "semantics"]):
        out = tmp_path / "-".join(layers)
        model = FakeModel(("instances", "labels"))
        demo("--input", images / "0.png", "--output", out, "--show", *layers, model=model)
        drawn[len(drawn)] = cv2.imread(str(out / "0.png")).astype(int)
    right = np.s_[:20, 48:]  # sky without a car, or its label
    assert (drawn[0][right] == 90).all()
    assert (drawn[1][right] != 90).any()
    assert (drawn[1][right] == drawn[2][right]).all()
    assert (drawn[1][30:44, 4:28] != drawn[2][30:44, 4:28]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to look at: give --input or --camera"),
        (["--camera", "0", "--threshold", "2"], "--threshold 2: give 0 to 1"),
        (["--camera", "0", "--fps", "0"], "--fps 0: give more than 0"),
        (["--camera", "0", "--save", "gif"], "invalid choice: 'gif'"),
    ],
)
def test_arguments_that_make_no_sense_are_named(demo, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as ended:
        demo("--output", tmp_path / "out", *arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_video_that_is_none_is_named(demo, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(SystemExit, match=r"broken.mp4 cannot be opened as a video"):
        demo("--input", tmp_path / "broken.mp4", "--output", tmp_path / "out")


def test_names_of_results_never_meet(tmp_path, images, video):
    other = tmp_path / "other"
    other.mkdir()
    for source in images.iterdir():
        (other / source.name).write_bytes(source.read_bytes())
    (other / "0.jpg").write_bytes(next(images.iterdir()).read_bytes())
    (other / "0_2.png").write_bytes(next(images.iterdir()).read_bytes())
    (other / "drive.avi").write_bytes(video.read_bytes())
    sources = find_sources([images, other, video])
    assert [source.name for source in sources] == ["street", "other", "drive", "drive_2"]
    assert [source.count for source in sources] == [2, 4, FRAMES, FRAMES]
    names = [frame.name for source in sources for frame in source]
    assert len(set(names)) == len(names) == 6 + 2 * FRAMES
    with pytest.raises(UserError, match="is neither a file nor a folder"):
        find_sources([tmp_path / "nowhere"])


def test_two_models_are_compared_by_the_names_of_their_classes():
    first, second = FakeModel(("instances", "labels")), FakeModel(("instances", "labels"))
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    one, other = first(image), second(image)
    second.metadata = Metadata(
        name="town", thing_classes=["car", "lorry"], stuff_classes=["sky", "road"]
    )
    other["instances"].pred_classes = torch.tensor([0, 1])
    other["labels"] = np.where(one["labels"] == 10, 0, 1).astype(np.uint8)
    other["labels"][0] = 1
    result = compare(one, other, first.metadata, second.metadata)
    assert [shape.text for shape in result.both] == ["car 90%"]
    assert [shape.text for shape in result.first] == ["car 30%"]
    assert [shape.text for shape in result.second] == ["lorry 30%"]
    assert result.pixels[0].all()
    assert not result.pixels[1:].any()
    nothing = compare(
        {"labels": one["labels"]}, {"instances": one["instances"]}, first.metadata, second.metadata
    )
    assert nothing is None
