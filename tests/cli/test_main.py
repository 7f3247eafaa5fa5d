"""The command deepfuse: its table, its help, and the way from a command line to an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import deepfuse_d2.cli
from deepfuse_d2.cli.main import COMMANDS, build_parser, module_of, parse
from deepfuse_d2.errors import ConfigError

NAMES = [name for names in COMMANDS.values() for name in names]
NO_COMMANDS = {"__init__", "arguments", "main"}

# As the console script does it.
ENTRY = """
import sys
import deepfuse_command
try:
    code = deepfuse_command.main()
finally:
    print("torch" in sys.modules, file=sys.stderr)
sys.exit(code)
"""


def entry(*words, **variables):
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENTRY, *words],
        capture_output=True, text=True, env={**os.environ, **variables}, timeout=120,
    )  # fmt: skip


def test_each_file_of_the_folder_is_a_command():
    files = {path.stem for path in Path(deepfuse_d2.cli.__file__).parent.glob("*.py")}
    assert {name.replace("-", "_") for name in NAMES} == files - NO_COMMANDS
    assert len(set(NAMES)) == len(NAMES)


def test_each_data_set_that_a_script_prepares_is_one_of_the_command(repository, capsys):
    with pytest.raises(SystemExit):
        parse(["prepare", "--help"])
    text = capsys.readouterr().out
    scripts = sorted((repository / "datasets").glob("*.py"))
    for script in scripts:
        name = script.stem.removeprefix("prepare_")
        assert f'run_script("{name}")' in script.read_text()
        assert f"    {name}" in text
    assert len(scripts) == 6
    with pytest.raises(SystemExit):
        parse(["prepare", "minifields", "--help"])
    assert "--mode {mixed,xor}" in capsys.readouterr().out


def test_each_script_in_tools_is_a_command(repository):
    for path in (repository / "tools").glob("*.py"):
        source = path.read_text()
        assert any(f'run_tool("{name}")' in source for name in NAMES) or "runpy" in source, path


@pytest.mark.parametrize("name", NAMES)
def test_every_command_says_what_it_does_in_one_line_and_has_help(name, capsys):
    first = module_of(name).__doc__.split("\n\n")[0]
    assert first.count("\n") == 0, "one line"
    assert first.endswith(".")
    build_parser(name, "x").print_help()
    text = capsys.readouterr().out
    assert first in text
    assert f"deepfuse {name}" in text or name in ("count-parameters", "install-detectron2")


def test_help_lists_every_command_without_loading_torch():
    done = entry("--help")
    assert done.returncode == 0
    assert done.stderr.strip() == "False"
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert set(NAMES) <= set(listed)
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("words", [["train", "--help"], ["export", "--hepl"], ["recipes"]])
def test_help_mistakes_and_lists_need_no_torch(words):
    assert entry(*words).stderr.splitlines()[-1] == "False"


def test_a_command_runs_with_all_that_the_package_registers():
    script = ENTRY.replace(
        "    code = deepfuse_command.main()\n",
        "    code = deepfuse_command.main()\n"
        "    import deepfuse_d2\n"
        "    from detectron2.modeling import BACKBONE_REGISTRY as known\n"
        "    print('build_neck_backbone' in known, deepfuse_d2.load_config.__name__)\n",
    )
    words = ["count-parameters"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *words], capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == "True load_config", done.stderr


def test_the_shell_completes_commands_options_and_recipes(tmp_path):
    def complete(line):
        answer = tmp_path / "answer"
        with answer.open("wb") as out:
            subprocess.run(
                [sys.executable, "-c", f"import os; os.dup2({out.fileno()}, 8)\n{ENTRY}"],
                env={
                    **os.environ, "_ARGCOMPLETE": "1", "COMP_LINE": line,
                    "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n",
                },
                pass_fds=[out.fileno()], capture_output=True, timeout=60,
            )  # fmt: skip
        return answer.read_text().split("\n")

    assert complete("deepfuse exp") == ["export "]
    assert "--num-gpus" in [word.strip() for word in complete("deepfuse train --num-g")]
    found = [word.strip() for word in complete("deepfuse train MiniCity/mask_rcnn_R_18_D")]
    assert "MiniCity/mask_rcnn_R_18_DeepFuseFPN_quick" in found
    assert complete("deepfuse prepare pen") == ["pennfudan "]
    assert "--source" in [word.strip() for word in complete("deepfuse prepare camvid --so")]


def test_an_unknown_command_is_answered_with_close_ones(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(["trian"])
    assert ended.value.code == 2
    assert 'no command "trian". Did you mean: train' in capsys.readouterr().err


def test_the_version_is_printed(deepfuse, capsys):
    with pytest.raises(SystemExit) as ended:
        deepfuse("--version")
    assert ended.value.code == 0
    assert deepfuse_d2.__version__ in capsys.readouterr().out


def test_recipes_are_listed_shown_and_found(deepfuse, capsys, repository):
    assert deepfuse("recipes", "PennFudan/*") == 0
    names = capsys.readouterr().out.split()
    assert names == ["PennFudan/mask_rcnn_R_18_DeepFuseFPN", "PennFudan/mask_rcnn_R_18_FPN"]
    assert deepfuse("recipes", names[0], "--show") == 0
    file = repository / "configs" / f"{names[0]}.yaml"
    assert capsys.readouterr().out == file.read_text()
    assert deepfuse("recipes", "nothing*") == 2
    assert 'deepfuse recipes: No recipe matches "nothing*"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "config", "opts"),
    [
        (["A/b"], "A/b", []),
        (["A/b", "SEED", "3"], "A/b", ["SEED", "3"]),
        (["--config-file", "a.yaml", "SEED", "-3"], "a.yaml", ["SEED", "-3"]),
        (["A/b", "SEED", "3", "--resume", "VERSION", "2"], "A/b", ["SEED", "3", "VERSION", "2"]),
        (["SEED", "3"], "", ["SEED", "3"]),
    ],
)
def test_a_first_word_too_many_is_the_recipe(words, config, opts):
    from deepfuse_d2.cli.arguments import config_and_overrides

    assert config_and_overrides(parse(["train", *words])) == (config, opts)


def test_a_recipe_goes_wherever_a_config_file_goes(repository):
    from deepfuse_d2 import get_config, load_config

    name = "PennFudan/mask_rcnn_R_18_FPN"
    assert load_config(name) == get_config(name)
    with pytest.raises(ConfigError, match=r"does not exist .* Did you mean: PennFudan/mask_rcnn"):
        load_config("PennFudan/mask_rcnn_R18_FPN")


def test_options_are_those_of_detectron2(capsys):
    from detectron2.engine import default_argument_parser

    theirs = vars(default_argument_parser().parse_args(["--num-gpus", "2", "A", "1"]))
    ours = vars(parse(["train", "--num-gpus", "2", "A", "1"]))
    # theirs is one port a user, at which two trainings of one user meet
    theirs["dist_url"] = "auto"
    assert {key: ours[key] for key in theirs} == theirs
