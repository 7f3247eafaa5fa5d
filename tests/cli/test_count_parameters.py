"""The table of parameters: every published number, and a command that says so."""

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


def test_the_command_prints_the_table_and_fails_on_a_difference(deepfuse, monkeypatch, capsys):
    right = published_counts.Row("GCNHead", "k=15", 2_579_556)
    wrong = published_counts.Row("GCNHead", "k=15, wrong", 2_579_557)
    monkeypatch.setattr(published_counts, "ROWS", (right,))
    assert deepfuse("count-parameters") == 0
    assert "2,579,556" in capsys.readouterr().out
    monkeypatch.setattr(published_counts, "ROWS", (right, wrong))
    assert deepfuse("count-parameters") == 1
    assert "-1" in capsys.readouterr().out
