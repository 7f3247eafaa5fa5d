"""The table of parameters: every published number, and a command that says so."""

import pytest

from deepfuse_d2.analysis import published_counts


def test_every_head_has_the_published_parameters():
    differing = {
        (row.head, row.settings): (published_counts.count(row), row.published)
        for row in published_counts.ROWS
        if row.published is not None and published_counts.count(row) != row.published
    }
    assert not differing
    published = {row.published for row in published_counts.ROWS}
    assert {118_052_437, 27_357_525, 46_349_653, 61_993_301, 3_284_565} <= published
    heads = {"RefineNetHead", "GCNHead", "ExFuseHead", "DeepFuseSemSegHead"}
    assert {row.head for row in published_counts.ROWS} == heads


def test_detectors_on_spinenet_have_the_published_parameters_as_far_as_these_fit_the_recipe():
    differing = {
        recipe: published_counts.count_detector(recipe) / 1e6 - published
        for recipe, published in published_counts.DETECTORS.items()
    }
    # the RPN of the recipe has six convolutions of 384 filters more than what was printed
    assert differing.pop("COCO/mask_rcnn_SpineNet_190") == pytest.approx(6 * 9 * 0.384**2, abs=0.1)
    assert differing.pop("COCO/retinanet_SpineNet_49S") == pytest.approx(-0.74, abs=0.01)
    assert all(abs(difference) <= 0.06 for difference in differing.values()), differing


def test_the_command_prints_the_table_and_fails_on_a_difference(deepfuse, monkeypatch, capsys):
    right = published_counts.Row("GCNHead", "k=15", 2_579_556)
    wrong = published_counts.Row("GCNHead", "k=15, wrong", 2_579_557)
    detectors = {"COCO/mask_rcnn_SpineNet_49S": 13.9}
    monkeypatch.setattr(published_counts, "DETECTORS", detectors)
    monkeypatch.setattr(published_counts, "ROWS", (right,))
    assert deepfuse("count-parameters") == 0
    out = capsys.readouterr().out
    assert "2,579,556" in out
    assert "| COCO/mask_rcnn_SpineNet_49S |     13.94 |           13.9 |" in out
    monkeypatch.setattr(published_counts, "ROWS", (right, wrong))
    assert deepfuse("count-parameters") == 1
    assert "-1" in capsys.readouterr().out
