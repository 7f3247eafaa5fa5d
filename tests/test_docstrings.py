"""Docstrings in one mood: what a function does is told in the imperative ("Return the masks")."""

import ast
import re
from pathlib import Path

import deepfuse_d2

# A first word that names a value ("Masks of ...") is as good; these name an act.
THIRD_PERSON = [
    "Adds",
    "Averages",
    "Builds",
    "Checks",
    "Closes",
    "Collects",
    "Converts",
    "Draws",
    "Ends",
    "Fills",
    "Finds",
    "Gives",
    "Holds",
    "Keeps",
    "Lets",
    "Loads",
    "Looks",
    "Makes",
    "Moves",
    "Opens",
    "Packs",
    "Prints",
    "Puts",
    "Raises",
    "Reads",
    "Registers",
    "Removes",
    "Renames",
    "Reports",
    "Returns",
    "Says",
    "Sets",
    "Starts",
    "Takes",
    "Tells",
    "Warns",
    "Writes",
    "Yields",
]


def test_functions_tell_what_they_do_in_the_imperative():
    package = Path(deepfuse_d2.__file__).parent
    wrong, seen = [], 0
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            words = re.findall(r"[\w.]+", ast.get_docstring(node) or "")[:1]
            seen += len(words)
            if words and words[0] in THIRD_PERSON:
                wrong.append(f"{path.relative_to(package)}:{node.lineno}: {words[0]}")
    assert not wrong, "\n".join(wrong)
    assert seen > 500
