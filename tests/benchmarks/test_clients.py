"""Scripts and projects of a checkout run with this package's keys, without a change to them."""

import sys

import pytest
from detectron2.config import get_cfg

from benchmarks.clients.checkout import arguments, import_project, narrow_config, run_script

RECIPE = "MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick"
TOOL = """
import sys
from detectron2.config import get_cfg
import beside
cfg = get_cfg()
cfg.merge_from_file(sys.argv[1])
cfg.merge_from_list(sys.argv[2:])
print(beside.WORD, __name__, cfg.MODEL.NECK.NAME, cfg.MODEL.DEVICE)
"""


@pytest.fixture
def checkout(tmp_path):
    files = {
        "tools/show.py": TOOL,
        "tools/beside.py": "WORD = 'tool'",
        "projects/Twice-Two/twice_two/__init__.py": "from .four import FOUR",
        "projects/Twice-Two/twice_two/four.py": "FOUR = 4",
        "projects/Broken/broken/__init__.py": "import nothing_of_this_name",
    }
    for name, text in files.items():
        path = tmp_path / "checkout" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "checkout"


def test_a_script_of_the_checkout_knows_our_keys_and_leaves_no_trace(checkout, tmp_path, capsys):
    path = list(sys.path)
    config = narrow_config(RECIPE, tmp_path)
    run_script(checkout, "tools/show.py", config, "MODEL.NECK.NAME", "PAFPN")
    assert capsys.readouterr().out.splitlines()[-1] == "tool __main__ PAFPN cpu"
    assert sys.path == path
    assert not hasattr(get_cfg().MODEL, "NECK")


def test_a_project_is_imported_as_detectron2s_own(checkout):
    project = import_project(checkout, "Twice-Two", "twice_two")
    assert project.FOUR == 4
    assert sys.modules["detectron2.projects.twice_two"] is project
    with pytest.raises(ImportError, match="nothing_of_this_name"):
        import_project(checkout, "Broken", "broken")
    assert "detectron2.projects.broken" not in sys.modules


def test_a_checkout_that_is_not_there_is_told_with_the_way_to_get_it(tmp_path, capsys):
    with pytest.raises(SystemExit):
        arguments("git clone URL CHECKOUT", [str(tmp_path / "nowhere")])
    assert "is no folder; clone what the text above says" in capsys.readouterr().err
