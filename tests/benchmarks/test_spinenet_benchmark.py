"""Commands about SpineNet: the drawing in the documentation, and the table of costs."""

import importlib
import sys

import pytest


@pytest.fixture
def tool(repository, monkeypatch):
    monkeypatch.chdir(repository)
    return lambda name: importlib.import_module(f"benchmarks.{name}")


def test_the_drawing_in_the_documentation_is_what_the_command_would_draw_now(tool):
    graph = tool("spinenet_graph")
    assert graph.DRAWING.read_text() == graph.draw(graph.NAME, graph.VARIANTS[graph.NAME])


@pytest.mark.parametrize("name", ["SpineNet-49", "MBConv-49", "d0"])
def test_every_block_and_edge_of_a_table_is_drawn(tool, tmp_path, name):
    graph = tool("spinenet_graph")
    file = tmp_path / "graph.svg"
    assert graph.main(["--name", name, "--output", str(file)]) == 0
    drawn, blocks = file.read_text(), graph.VARIANTS[name].all_blocks
    assert drawn.count("<path") == 1 + sum(len(b.inputs) + len(b.add) for b in blocks)
    assert drawn.count("stroke-dasharray") == sum(len(b.add) for b in blocks) == 1
    assert drawn.count('stroke="#333333"') == len(blocks) + sum(b.output for b in blocks)
    for block in blocks:
        if block.output:
            assert f" p{block.level}</text>" in drawn


def test_the_table_of_costs_has_every_network_that_was_asked_for(tool, monkeypatch, capsys):
    words = "--rounds 1 --size 128 --batch 2 --names MBConv-49"
    monkeypatch.setattr(sys, "argv", ["spinenet", *words.split()])
    tool("spinenet").main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")]
    assert [row[0].strip() for row in rows[1:]] == ["R50-FPN", "MBConv-49"]
    assert float(rows[2][1]) == 2.27
    assert float(rows[1][5]) == float(rows[1][7]) == 1.0
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:])
