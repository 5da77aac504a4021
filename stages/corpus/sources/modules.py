"""The docstrings of one Python file, parsed with `ast` and split into judged paragraphs."""

import ast
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.corpus.sources.prose import paragraphs

_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Docstring:
    """What one docstring says."""

    title: str
    """The qualified name of what it documents."""
    paragraphs: tuple[tuple[str, str | None], ...]
    """Each paragraph, and why it is dropped; None if it is prose."""


def docstrings_of(module: str, path: Path) -> list[Docstring]:
    """Return the docstrings of a module and of all it defines, top to bottom."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        # Some packages ship templates and files of another Python; they document nothing.
        return []
    return [Docstring(title, tuple(paragraphs(text))) for title, text in _inside(tree, module)]


def _inside(node: _Definition, name: str) -> Iterator[tuple[str, str]]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring:
        yield name, docstring
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _inside(child, f"{name}.{child.name}")
        elif isinstance(child, ast.Expr | ast.Assign) and isinstance(child.value, ast.Call):
            yield from _added(child.value, name)


def _added(call: ast.Call, name: str) -> Iterator[tuple[str, str]]:
    """Yield the docstring that a call such as `add_newdoc("name", ...)` gives to compiled code."""
    function = ast.unparse(call.func).rpartition(".")[2]
    if function.lstrip("_") not in ("add_newdoc", "add_docstr") or len(call.args) < 2:
        return
    *subject, text = call.args
    strings = [node.value for node in ast.walk(text) if isinstance(node, ast.Constant)]
    docstring = max((s for s in strings if isinstance(s, str)), key=len, default="")
    if docstring:
        parts = [ast.unparse(part).strip("'").rpartition(".")[2] for part in subject]
        yield ".".join([name, *parts]), docstring
