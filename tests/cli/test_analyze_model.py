"""deepfuse analyze: the table, the comparison, and what it does without."""

import json

import pytest

DEEPFUSE = "configs/MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick.yaml"
FPN = "configs/MiniCity/mask_rcnn_R_18_FPN_quick.yaml"
SMALL = ["--size", "64", "128", "--proposals", "5", "--detections", "2"]


@pytest.fixture(autouse=True)
def in_repository(repository, monkeypatch):
    monkeypatch.chdir(repository)


def rows(text):
    """The cells of the table by the name of the part."""
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    header, _, *body = [[cell.strip() for cell in line] for line in lines]
    return {cells[0]: cells[1:] for cells in [header, *body]}


def test_one_config_gives_a_table_of_its_parts_and_says_what_was_counted(deepfuse, capsys):
    assert deepfuse("analyze", DEEPFUSE, *SMALL) == 0
    text = capsys.readouterr().out
    table = rows(text)
    assert list(table) == [
        "part", "bottom-up", "neck", "proposal generator", "box head", "mask head", "total",
    ]  # fmt: skip
    for column in range(4):
        parts = [float(table[name][column]) for name in list(table)[1:-1]]
        assert float(table["total"][column]) == pytest.approx(sum(parts), abs=0.03)
    assert "One image of 64 x 128 (padded: 64 x 128); 5 proposals for each box head, 2 det" in text
    assert "a multiply-add as one" in text
    assert "Not known" not in text


def test_two_configs_stand_side_by_side_with_ratios(deepfuse, capsys):
    assert deepfuse("analyze", FPN, DEEPFUSE, *SMALL, "--json") == 0
    fpn, fused = json.loads(capsys.readouterr().out)["models"]
    assert deepfuse("analyze", FPN, DEEPFUSE, *SMALL) == 0
    text = capsys.readouterr().out
    assert f"A: {FPN}\nB: {DEEPFUSE}" in text
    table = rows(text)
    for name in ("neck", "total"):
        ratios = []
        for field in ("parameters", "multiply_adds", "activations"):
            a, b = (({**x["parts"], "total": x["total"]})[name][field] for x in (fpn, fused))
            ratios.append(f"{b / a:.3f}")
        assert table[name][2::3] == ratios
        assert float(ratios[0]) > 1
    assert table["mask head"][2::3] == ["1.000"] * 3


def test_json_holds_plain_numbers_of_every_part(deepfuse, capsys):
    assert deepfuse("analyze", FPN, *SMALL, "--json", "MODEL.MASK_ON", "False") == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["size"], content["proposals"], content["detections"]) == ([64, 128], 5, 2)
    (model,) = content["models"]
    assert model["config"] == FPN
    assert model["padded_size"] == [64, 128]
    assert "mask head" not in model["parts"]
    assert model["unsupported"] == {}
    for field, total in model["total"].items():
        assert total == sum(part[field] for part in model["parts"].values())


def test_neither_weights_nor_data_are_read(deepfuse, capsys):
    overrides = ["MODEL.WEIGHTS", "nowhere.pth", "DATASETS.TRAIN", "('nowhere',)"]
    assert deepfuse("analyze", FPN, *SMALL, *overrides, "MODEL.DEVICE", "cuda") == 0
    assert "total" in rows(capsys.readouterr().out)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["MODEL.MASK_ON", "False"], "0 configs were given"),
        (
            [FPN, FPN, FPN],
            "3 configs were given (*.yaml, or recipes); give one, or two to compare.",
        ),
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        ([FPN, "MODEL.MASKON", "False"], "unknown config key MODEL.MASKON"),
        ([FPN, "--size", "0", "64"], "expected numbers of 1 and more"),
    ],
)
def test_a_mistake_ends_in_one_message(deepfuse, words, message, capsys):
    assert deepfuse("analyze", *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("deepfuse analyze: ")
    assert message in error
