"""The documentation: nothing is missing in what is generated, and every link leads somewhere."""

import ast
import html
import importlib
import itertools
import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

import deepfuse_d2
from deepfuse_d2.cli.main import COMMANDS, build_parser
from deepfuse_d2.config.flatten import flatten
from deepfuse_d2.config.keys.defaults import defaults

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(deepfuse_d2.__file__).parent
PAGES = sorted([*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"),
                REPOSITORY / "datasets" / "README.md"])  # fmt: skip


@pytest.fixture(scope="module")
def generated():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(REPOSITORY / "docs" / "site")
        yield importlib.import_module("generated")


def rows(markdown: str) -> dict[str, list[str]]:
    """The first cell of each row of the tables -> the others."""
    lines = [line[2:-2].split(" | ") for line in markdown.splitlines() if line.startswith("| `")]
    return {first.strip("`"): rest for first, *rest in lines}


def test_every_key_stands_in_the_table_with_its_default_and_a_meaning(generated):
    values = flatten(defaults())
    table = rows(generated.key_tables())
    assert table.keys() == values.keys()
    for name, (default, kind, meaning) in table.items():
        assert kind == type(values[name]).__name__
        assert default == (f'`"{values[name]}"`' if kind == "str" else f"`{values[name]}`")
        assert len(meaning) > 8, name


def test_a_comment_becomes_the_meaning_of_its_key(generated):
    table = rows(generated.key_tables())
    assert table["MODEL.NECK.TOP_BLOCK"][2].startswith(
        'Extra, coarser levels: `"maxpool"` (p6 by subsampling, for R-CNN), `"p6p7"` '
        '(convolutions, for RetinaNet and FCOS), `"avgpool"`'
    )
    assert table["MODEL.DEEPFUSE.DEPTH"][2].startswith("Units after each fusion; 0 is simple")
    # keys that one comment explains
    assert table["DEEPFUSE_D2.INPUT.LARGE_SCALE_JITTER.SIZE"][2] == "see above"
    assert "<br>yolo: DATA" in table["DATASETS.EXTRA"][2]
    assert r"in \[0, 1)" in table["MODEL.DEEPFUSE.DROP_PATH"][2]


def test_every_command_is_described_with_all_of_its_options(generated):
    reference = generated.command_reference()
    parts = dict(re.findall(r"^### deepfuse (\S+)\n(.*?)(?=^##|\Z)", reference, re.M | re.S))
    assert list(parts) == [name for names in COMMANDS.values() for name in names]
    for name, text in parts.items():
        for action in build_parser(name, f"deepfuse {name}")._actions:
            assert all(option in text for option in action.option_strings), name


def test_every_package_that_gives_names_out_stands_in_the_python_reference():
    told = "".join(path.read_text() for path in REPOSITORY.glob("docs/api/*.md"))
    packages = [path for path in PACKAGE.rglob("__init__.py") if "__all__" in path.read_text()]
    names = [".".join(path.parent.relative_to(PACKAGE.parent).parts) for path in packages]
    # what users meet by commands and configs, and never by an import
    inside = {"cli", "config", "config.keys", "demo", "inference.optimize", "modeling"}
    missing = [
        name
        for name in names
        if f"automodule:: {name}\n" not in told and name.partition(".")[2] not in inside
    ]
    assert not missing
    assert len(names) > 15


def links(page: Path) -> list[str]:
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    found = [t.attrs for token in tokens for t in token.children or [] if t.type != "text"]
    return [html.unescape(str(x.get("href") or x.get("src"))) for x in found if x]


def anchors(page: Path) -> set[str]:
    """What code hosts, and the site, make of the headings of a page."""
    tokens = MarkdownIt("commonmark").parse(page.read_text(encoding="utf-8"))
    titles = [b.content for a, b in itertools.pairwise(tokens) if a.type == "heading_open"]
    plain = [re.sub(r"[`*\[\]]|\(http\S*\)", "", title) for title in titles]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_inside_of_the_repository_lead_to_files_and_headings(page):
    wrong = []
    for link in links(page):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    assert not wrong


def test_links_are_found_and_a_wrong_one_is_noticed(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n\n| a |\n|---|\n| [x](#one-two-three) ![y](y.png) |\n")
    assert links(page) == ["#one-two-three", "y.png"]
    assert anchors(page) == {"one-two-three"}


def said_by_the_package() -> list[str]:
    """Texts in the source, with "..." in the place of what is filled in."""
    texts = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [x.value if isinstance(x, ast.Constant) else "..." for x in node.values]
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(re.sub(r"%\w", "...", node.value))
    return texts


def test_the_messages_of_the_page_what_went_wrong_are_those_of_the_package():
    page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \|", page, re.M)
    assert len(messages) > 30
    texts = said_by_the_package()
    pieces = {x.strip(" ,;:"): m for m in messages for x in m.split("...") if x.strip(" ,;:")}
    wrong = [m for piece, m in pieces.items() if not any(piece in text for text in texts)]
    assert not wrong


def test_the_front_page_leads_to_what_people_ask_for():
    front = (REPOSITORY / "docs" / "index.md").read_text(encoding="utf-8")
    asked = {"My own data": "datasets", "Which neck": "which_network", "How fast": "how_fast",
             "What went wrong": "troubleshooting"}  # fmt: skip
    for words, page in asked.items():
        assert f"{{grid-item-card}} {words}\n:link: {page}\n" in front
        assert (REPOSITORY / "docs" / f"{page}.md").is_file()
