"""What the site shows of the package itself: every config key, and every command.

A page asks for it by a comment, which a code host does not show: ``<!-- generated: keys -->``.
"""

import argparse
import ast
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.config import get_cfg

from deepfuse_d2.cli.main import COMMANDS, build_parser, module_of
from deepfuse_d2.config import keys
from deepfuse_d2.config.flatten import flatten
from deepfuse_d2.config.keys.defaults import defaults

__all__ = ["Key", "command_reference", "config_keys", "fill_in", "key_tables"]


@dataclass(frozen=True)
class Key:
    """A key of the config, or a node of keys, for which `default` is None."""

    name: str
    default: Any
    #: lines of the comment above it
    comment: list[str] = field(repr=False)


def fill_in(app, docname: str, source: list[str]) -> None:
    """Put what is generated in the place of the comments that ask for it; Sphinx calls this."""
    made = {"keys": key_tables, "commands": command_reference}
    source[0] = re.sub(r"<!-- generated: (\w+) -->", lambda m: made[m[1]](), source[0])


# -- config keys -----------------------------------------------------------------------------------


def key_tables() -> str:
    """Return Markdown: a heading and a table for each node that has keys."""
    nodes, tables = {}, {}
    for key in config_keys():
        if key.default is None:
            nodes[key.name] = key.comment
        else:
            tables.setdefault(key.name.rpartition(".")[0], []).append(key)
    lines = []
    for node, rows in sorted(tables.items()):
        above = nodes.get(node, [])
        lines += ["", f"## {node}", "", _prose(above), ""]
        lines += ["| key | default | type | meaning |", "|:---|:---|:---|:---|"]
        for key in rows:
            meaning = _prose(key.comment) if key.comment is not above else "see above"
            above = key.comment
            value, kind = _value(key.default), type(key.default).__name__
            lines.append(f"| `{key.name}` | `{value}` | {kind} | {meaning} |")
    return "\n".join(lines)


def config_keys() -> list[Key]:
    """Every key and node of ours with the comment that stands above it in config/keys/.

    A key without one shares that of the key in the line above.
    """
    values = flatten(defaults())
    found = {}
    for path in sorted(Path(keys.__file__).parent.glob("*.py")):
        found.update(_commented(path.read_text(encoding="utf-8")))
    return [Key(name, values.get(name), comment) for name, comment in found.items()]


def _commented(source: str) -> Iterator[tuple[str, list[str]]]:
    lines = source.splitlines()
    last = -1, []
    for name, first, end in _assigned(ast.parse(source)):
        above = first - 1
        while above > 0 and lines[above - 1].lstrip().startswith("#"):
            above -= 1
        comment = [line.strip()[1:] for line in lines[above : first - 1]]
        if not comment and last[0] == first - 1:
            comment = last[1]
        last = end, comment
        yield name, comment


def _assigned(tree: ast.Module) -> Iterator[tuple[str, int, int]]:
    """Names of keys and nodes, with the first and last lines that set them, as they stand."""
    fields = [
        (f"MODEL.DEEPFUSE.{node.target.id.upper()}", node)
        for owner in tree.body
        if isinstance(owner, ast.ClassDef) and owner.name == "FuseSettings"
        for node in owner.body
        if isinstance(node, ast.AnnAssign)
    ]
    adds = [f for f in tree.body if isinstance(f, ast.FunctionDef) and f.name == "add"]
    set_by_add = [
        (name, node)
        for function in adds
        for node in function.body
        if isinstance(node, ast.Assign) and (name := _key(ast.unparse(node.targets[0])))
    ]
    for name, node in fields + set_by_add:
        yield name, node.lineno, node.end_lineno or node.lineno


def _key(target: str) -> str:
    """``cfg.MODEL.NECK`` -> ``MODEL.NECK``; "" for what is no key."""
    root, _, name = target.partition(".")
    return {"cfg": name, "own": f"DEEPFUSE_D2.{name}"}.get(root, "") if name else ""


def _value(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else str(default)


def _prose(comment: list[str]) -> str:
    """A comment as Markdown of one line: what is typed is code, lists stay lists."""
    parts = [""]
    for line in comment:
        if line.startswith("    "):  # goes on with the entry above
            parts[-1] += " " + line.strip()
        elif line.startswith("  "):
            parts.append(re.sub(r"  +", ": ", line.strip(), count=1))
        elif len(parts) > 1 and not parts[-1].startswith(" "):
            parts.append(line)  # behind a list
        else:
            parts[-1] += line
    return "<br>".join(_marked(part.strip()) for part in parts)


_TYPED = re.compile(
    r"""
    "[^"]*"                                     # a value
    | ~?[\w.*]*(?:/[\w.*-]*[\w*])+              # a path
    | \$?\b[A-Z][A-Z0-9_]+\b(?:\.(?:[A-Z0-9_]+|\*|\{[^}]*\}))*    # a key
    | \b[a-z]\w*_\w+(?:\.\w+)*\b              # a name in code
    | \[[^\][()]*\]                             # a list
    """,
    re.VERBOSE,
)


def _marked(text: str) -> str:
    result, at = "", 0
    for match in _TYPED.finditer(text):
        word = match[0]
        if word.isalpha() and word.isupper() and word not in _words_of_keys():
            continue  # an abbreviation
        result += _escaped(text[at : match.start()]) + f"`{word}`".replace("|", r"\|")
        at = match.end()
    return result + _escaped(text[at:])


@functools.cache
def _words_of_keys() -> set[str]:
    """Parts of the names of all keys, without those as short as FPN."""
    names = [*flatten(get_cfg()), *flatten(defaults())]
    return {word for name in names for word in name.split(".") if len(word) > 3}


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|#])", r"\\\1", text)


# -- commands --------------------------------------------------------------------------------------


def command_reference() -> str:
    """Return Markdown: for each command what its docstring says, its usage and its options."""
    lines = []
    for title, names in COMMANDS.items():
        lines += ["", f"## {title}"]
        for name in names:
            lines += ["", f"### deepfuse {name}", "", _description(name), ""]
            lines += ["```text", _usage(build_parser(name, f"deepfuse {name}")), "```"]
    return "\n".join(lines)


def _description(command: str) -> str:
    """Its docstring: indented lines are code in Markdown too, the others hold plain text."""
    lines = (module_of(command).__doc__ or "").strip().splitlines()
    return "\n".join(line if line.startswith("    ") else _escaped(line) for line in lines)


def _usage(parser: argparse.ArgumentParser) -> str:
    parser.description = None
    parser.formatter_class = functools.partial(argparse.HelpFormatter, width=82)
    return parser.format_help().strip()
