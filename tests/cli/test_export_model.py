"""deepfuse export: a folder that stands alone, verified."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from deepfuse_d2 import get_config
from deepfuse_d2.cli import export
from deepfuse_d2.inference.export import folder, graphs
from deepfuse_d2.inference.export.formats import load_exported

SEMANTIC = "MiniCity/sem_seg_R_18_SemSegFPN_quick"
SMALL = [
    "MODEL.NECK.OUT_CHANNELS", "16", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32",
    "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128",
]  # fmt: skip


@pytest.fixture
def words(repository, tmp_path):
    """Arguments for a network of random weights."""
    torch.manual_seed(0)
    model = build_model(get_config(SEMANTIC, [*SMALL, "MODEL.DEVICE", "cpu"]))
    torch.save({"model": model.state_dict()}, tmp_path / "weights.pth")
    return [
        "--config-file", str(repository / "configs" / f"{SEMANTIC}.yaml"),
        "--weights", str(tmp_path / "weights.pth"),
        "--output", str(tmp_path / "exported"),
        *SMALL,
    ]  # fmt: skip


def test_the_folder_holds_model_sample_and_description_and_was_verified(
    deepfuse, words, tmp_path, capsys
):
    assert deepfuse("export", *words, "--formats", "torchscript") == 0
    out = tmp_path / "exported"
    names = {path.name for path in out.iterdir()}
    assert names == {"model.ts", "sample.npz", "README.md", "config.yaml"}
    assert "model.ts: verified; largest difference" in capsys.readouterr().out

    sample = np.load(out / "sample.npz")
    assert sample["image"].shape == (1, 3, 64, 128)
    assert sample["image"].max() > 100
    (found,) = load_exported(out / "model.ts")(torch.from_numpy(sample["image"]))
    np.testing.assert_allclose(found.numpy(), sample["sem_seg"], atol=1e-5)

    readme = (out / "README.md").read_text()
    for line in (
        '# FusionSemanticSegmentor, part "semantic"',
        "`image`: float32 (N, C, H, W), BGR, values 0 to 255, not normalised.",
        "to multiples of 32.",
        "resized to 64 pixels, the longer one to 128 at most.",
        "from 64 pixels on; so may the number of images",
        "| `sem_seg` | float32 | [1, 19, 64, 128] | (N, K, H, W) logits;",
        "Classes: 0 road, 1 sidewalk, ",
        "| `model.ts` | largest difference 0.0e+00 of the largest value |",
        "(64 x 128, 63 x 85, 64 x 128 pixels)",
    ):
        assert line in readme
    code = readme.split("```python\n")[1:]
    script = "\n".join(block.partition("```")[0] for block in code)
    namespace = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(out)
        exec(script, namespace)
    np.testing.assert_allclose(namespace["outputs"][0].numpy(), sample["sem_seg"], atol=1e-5)


def test_a_file_that_differs_from_the_model_is_told_by_the_exit_code(
    deepfuse, words, tmp_path, capsys, monkeypatch
):
    def load_another(file):
        run = load_exported(file)
        return lambda image: tuple(x + 1 for x in run(image))

    monkeypatch.setattr(folder, "load_exported", load_another)
    assert deepfuse("export", *words, "--formats", "torchscript") == 1
    assert "model.ts: DIFFERS FROM THE MODEL; largest diff" in capsys.readouterr().out


def test_the_sample_may_be_a_file_in_the_order_of_channels_of_the_network(tmp_path):
    Image.new("RGB", (128, 64), (200, 0, 10)).save(tmp_path / "red.png")
    for order, expected in (("RGB", [200, 0, 10]), ("BGR", [10, 0, 200])):
        cfg = get_config(SEMANTIC, [*SMALL, "INPUT.FORMAT", order])
        image = folder.sample_image(cfg, str(tmp_path / "red.png"))
        assert image.shape == (64, 128, 3)
        assert image[5, 5].tolist() == expected


def test_detections_are_described_by_difference_and_partners():
    values = [{"difference": 1e-6, "unmatched": 0.0}, {"difference": 2e-6, "unmatched": 0.01}]
    expected = "largest difference 2.0e-06 of the largest value, detections without a partner 1.0%"
    assert folder.describe(values) == expected
    assert all(map(folder.agrees, values))
    assert not folder.agrees({"difference": 1e-6, "unmatched": 0.03})
    assert not folder.agrees({"difference": 2e-3})


def test_the_command_offers_all_parts_and_formats():
    assert set(export.PARTS) == set(graphs.PARTS)
    assert tuple(folder.ENDINGS) == export.FORMATS


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--weights", "no.pth"], 'MODEL.WEIGHTS = "no.pth" does not exist'),
        (["--weights", ""], "There are no weights to export: give a file with --weights"),
        (["--part", "detector"], 'The part "detector" is of R-CNNs'),
        (["--image", "no.png"], "--image no.png does not exist or is no image"),
        (["INPUT.MIN_SIZE_TEST", "32"], "The sample image has 32 x 64 pixels, but"),
    ],
)
def test_a_mistake_ends_in_one_message(deepfuse, words, changed, message, capsys):
    assert deepfuse("export", *words, *changed) == 2
    assert f"deepfuse export: {message}" in capsys.readouterr().err
