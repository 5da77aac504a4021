"""The layout of a docstring: which of its lines are running text, and which are something else.

Docstrings come in three dialects (numpydoc, Google, Sphinx fields) with two markups
(reStructuredText, Markdown), and in all mixtures of them.
"""

import re
from collections.abc import Iterator

# Sections that explain one name after the other: the names go, an explanation may be prose.
_DEFINITIONS = frozenset(
    """
    args arguments parameters params parameter other-parameters keyword-args keyword-arguments
    keyword-parameters kwargs return returns yield yields receives raise raises except exceptions
    warns attributes attribute properties fields members variables input inputs output outputs
    options flags keys hyperparameters config configuration
    """.split()  # noqa: SIM905
)
# Sections of code, literature and lists of names: nothing in them is running text.
_LISTINGS = frozenset(
    """
    methods method shape shapes see-also seealso references reference bibliography citation
    citations index usage example-usage sample-usage usage-example usage-examples syntax signature
    signatures routine-listings functions classes function class contents table-of-contents todo
    todos changelog authors author license copyright history default defaults type types
    """.split()  # noqa: SIM905
)
_ADMONITIONS = frozenset(
    ["note", "warning", "important", "tip", "hint", "caution", "attention", "danger", "admonition"]
)

# Not of backticks, which are a fence in Markdown.
_UNDERLINE = re.compile(r"([-=~^*#+\"'_])\1{2,}|--")
_FENCE = re.compile(r"```|~~~")
_DIRECTIVE = re.compile(r"\.\.\s+([\w:-]+?)::\s*(.*)")
_ROLES = "class|func|meth|mod|attr|data|ref|math|obj|doc|exc|term|py:"
_FIELD = re.compile(rf":(?!{_ROLES})[\w *,.\[\]-]+:|@\w+\s")
_BULLET = re.compile(r"(?:[-*+]|\d{1,2}[.)]|\(?[a-z0-9]\))\s+(?=\S)")
_SECTION = re.compile(r"([A-Z][A-Za-z]*(?: [A-Za-z]+){0,3}) ?::?")
_TABLE = re.compile(r"^[|+].*[|+]$|={3,} +={3,}|-{3,} +-{3,}|\S {3,}\S")
_ENTRY = re.compile(r"`?\*{0,2}[\w./-]+`?(?:, ?`?\*{0,2}\w+`?)*\s*(?:\(.*\))?:(?:\s+|$)")


def blocks(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield (form, text) for each block of a dedented text, in order, its hard wraps joined.

    The form is `text`, `item` (of a list) or `definition` (of a parameter) for what may be prose.
    Any other form is the reason why the block is none.
    """
    i = 0
    section = ""
    while i < len(lines):
        line = lines[i].strip()
        if not line or _UNDERLINE.fullmatch(line):
            i += 1
        elif _is_heading(lines, i):
            section = _kind_of_section(line)
            i += 2
        elif section == "definitions":
            end = i
            while end < len(lines) and not _is_heading(lines, end):
                end += 1
            yield from _definitions(lines[i:end])
            i = end
        elif section == "listing":
            i, text = _paragraph(lines, i)
            yield "listing", text
        elif fence := _FENCE.match(line):
            end = i + 1
            while end < len(lines) and not lines[end].strip().startswith(fence.group()):
                end += 1
            yield "code", " ".join(lines[i:end])
            i = end + 1
        elif line.startswith(".."):
            i, body = _body(lines, i)
            yield from _directive(line, body)
        elif line.startswith(">>>"):
            i, text = _paragraph(lines, i)
            yield "code", text
        elif _SECTION.fullmatch(line):
            i, body = _body(lines, i)
            yield from _indented_section(line, body)
        elif _FIELD.match(line):
            i, text = _paragraph(lines, i)
            yield "listing", text
        elif bullet := _BULLET.match(line):
            i, body = _body(lines, i)
            num_wrapped = next((n for n, text in enumerate(body) if not text), len(body))
            yield "item", " ".join([line[bullet.end() :], *map(str.strip, body[:num_wrapped])])
            yield from blocks(body[num_wrapped:])
        else:
            start = i
            i, text = _paragraph(lines, start)
            if i > start + 1 and _indent(lines[start + 1]) > _indent(lines[start]):
                # A term with its definition below it: a table by another name.
                i, body = _body(lines, start)
                yield "listing", " ".join([line, *body])
            elif any(_TABLE.search(raw.strip()) for raw in lines[start:i]):
                yield "table", text
            else:
                yield "text", text
                if text.endswith("::"):
                    i, body = _body(lines, i - 1)
                    yield "code", " ".join(body)


def _directive(line: str, body: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what a reStructuredText directive, comment or footnote holds."""
    directive = _DIRECTIVE.match(line)
    if directive and directive.group(1) in _ADMONITIONS:
        first = [] if directive.group(1) == "admonition" else [directive.group(2)]
        yield from blocks([*first, *body])
    else:
        yield "directive", " ".join([line, *body])


def _indented_section(line: str, body: list[str]) -> Iterator[tuple[str, str]]:
    """Yield what stands below a line such as `Args:`."""
    kind = _kind_of_section(line.rstrip(": "))
    if kind == "definitions":
        yield from _definitions(body)
    elif kind == "listing":
        yield "listing", " ".join([line, *body])
    elif line.endswith("::") and line.rstrip(": ").lower() not in _ADMONITIONS:
        yield "code", " ".join([line, *body])
    else:
        yield from blocks(body)


def _definitions(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the explanations in a section such as `Parameters`, without the names explained."""
    i = 0
    while i < len(lines):
        line = lines[i].strip()
        if not line:
            i += 1
            continue
        start = i
        i, body = _body(lines, start)
        entry = _ENTRY.match(line)
        if entry and " : " not in line:
            # `name (type): explanation`, which may go on in the indented lines.
            body = [line[entry.end() :], *body]
        elif not body:
            i, text = _paragraph(lines, start)
            body = [text]
        for form, text in blocks(body):
            yield ("definition" if form in ("text", "item") else form), text


def _is_heading(lines: list[str], i: int) -> bool:
    """Return whether a line is underlined, as a title is."""
    return (
        i + 1 < len(lines)
        and _UNDERLINE.fullmatch(lines[i + 1].strip()) is not None
        and lines[i].strip()[:1].isalnum()
    )


def _kind_of_section(title: str) -> str:
    name = title.strip().lower().replace(" ", "-")
    if name in _DEFINITIONS:
        return "definitions"
    return "listing" if name in _LISTINGS else "text"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _paragraph(lines: list[str], start: int) -> tuple[int, str]:
    """Return where the paragraph that begins at `start` ends, and its lines joined."""
    end = start + 1
    while end < len(lines) and (line := lines[end].strip()):
        begins_other = line.startswith(("..", ">>>", "```")) or _BULLET.match(line)
        if begins_other or _is_heading(lines, end) or _SECTION.fullmatch(line):
            break
        end += 1
    return end, " ".join(line.strip() for line in lines[start:end])


def _body(lines: list[str], start: int) -> tuple[int, list[str]]:
    """Return where the block indented below line `start` ends, and its lines dedented."""
    indent = _indent(lines[start])
    end = start + 1
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > indent):
        end += 1
    body = lines[start + 1 : end]
    margin = min((_indent(line) for line in body if line.strip()), default=0)
    return end, [line[margin:].rstrip() for line in body]
