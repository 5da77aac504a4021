"""A table as text: for a terminal, for a page of Markdown, and turned on its side."""

from collections.abc import Sequence
from typing import Any


def as_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table for a terminal: names to the left, numbers to the right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]
    return "\n".join([lines[0], "-" * max(len(line) for line in lines), *lines[1:]])


def as_markdown(header: Sequence[str], rows: Sequence[Sequence[str]], rule: str = "---:") -> str:
    """Return a table in Markdown, by default with every column but the first to the right."""
    rules = ["---", *[rule] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rules, *rows])


def turned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[Any, Any]:
    """Return header and rows of the same table with a model per column instead of per row."""
    first, *others = zip(header, *rows, strict=True)
    return first, others
