"""Which engines a start is measured of, and what becomes of one that fails."""

import torch

from benchmarks.engine_start import CANDIDATES, COLUMNS, here, in_own_process
from deepfuse_d2.inference.engines import ENGINES


def test_only_what_the_folder_holds_is_measured(tmp_path):
    assert {"native", "eager"} <= set(here(tmp_path)) <= set(CANDIDATES)
    assert not {"aot", "openvino, int8"} & set(here(tmp_path))
    (tmp_path / "aot").mkdir()
    (tmp_path / "aot" / "aot.json").touch()
    (tmp_path / "int8.json").touch()
    more = set(here(tmp_path))
    assert ("aot" in more) == (not ENGINES["aot"].why_not(torch.device("cpu")))
    assert ("openvino, int8" in more) == ("openvino" in more)


def test_an_engine_that_fails_has_its_message_for_a_row(tmp_path):
    row = in_own_process("native", tmp_path / "none", tmp_path / "none.png", str(tmp_path))
    assert len(row) == len(COLUMNS)
    assert "none.png" in row[0]
