"""The table of parameters: every published number, and a command that says so."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope="module")
def tool(repository):
    path = repository / "tools" / "count_parameters.py"
    spec = importlib.util.spec_from_file_location("count_parameters", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["count_parameters"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["count_parameters"]


def test_every_head_has_the_published_parameters(tool):
    differing = {
        (row.head, row.settings): (tool.count(row), row.published)
        for row in tool.ROWS
        if row.published is not None and tool.count(row) != row.published
    }
    assert not differing
    published = {row.published for row in tool.ROWS}
    assert {118_052_437, 27_357_525, 46_349_653, 61_993_301, 3_284_565} <= published
    heads = {"RefineNetHead", "GCNHead", "ExFuseHead", "DeepFuseSemSegHead"}
    assert {row.head for row in tool.ROWS} == heads


def test_the_command_prints_the_table_and_fails_on_a_difference(tool, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["count_parameters.py"])
    right = tool.Row("GCNHead", "k=15", 2_579_556)
    wrong = tool.Row("GCNHead", "k=15, wrong", 2_579_557)
    monkeypatch.setattr(tool, "ROWS", (right,))
    assert tool.main() == 0
    assert "2,579,556" in capsys.readouterr().out
    monkeypatch.setattr(tool, "ROWS", (right, wrong))
    assert tool.main() == 1
    assert "-1" in capsys.readouterr().out
