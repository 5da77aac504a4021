"""What goes from wikitext whatever is in it: comments, references, tables, files, templates.

Nested brackets are matched by a stack, in one pass over the text. What is never closed is text.
"""

import re

from stages.corpus.records import Drops
from stages.corpus.sources import templates

HIDDEN_LINK = re.compile(
    r"\[\[\s*(?:(?:file|image|media|category)\s*:|(?-i:[a-z]{2,3}(?:-[a-z-]+)?|simple):(?=\S))",
    re.I,
)
"""Files, categories and links to other languages, whose codes are lower case ("CSI: Miami" is no
language); with a colon before them they are text."""

# An element ends before the next of its name begins: one that is never closed must not take the
# text up to the end of another, and looking for its end again and again would take for ever.
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.S)
_REFERENCE = re.compile(
    r"<ref\b[^<>]*/>|<ref\b[^<>]*>[^<]*(?:<(?!/?ref\b)[^<]*)*</ref\s*>",
    re.I,
)
_NOT_PROSE = re.compile(
    r"<(gallery|timeline|syntaxhighlight|source|score|hiero|imagemap|templatestyles|graph|mapframe"
    r"|references|pre|templatedata|inputbox|categorytree|chem|ce)\b"
    r"(?:[^<>]*/>|[^<>]*>[^<]*(?:<(?!/?\1\b)[^<]*)*</\1\s*>)",
    re.I,
)
_MATH = re.compile(r"<math\b[^<>]*>([^<]*(?:<(?!/?math\b)[^<]*)*)</math\s*>", re.I)
_SIMPLE_MATH = re.compile(r"[\w\s+*/=.,()-]{1,40}")
_MATH_SPACE = re.compile(r"\\[,;:! ]")
_POWER = re.compile(r"(?<=\d)<sup>\s*([-\u2212]?\d+)\s*</sup>", re.I)
_NOWIKI = re.compile(r"<nowiki\s*>([^<]*(?:<(?!/?nowiki\b)[^<]*)*)</nowiki\s*>", re.I)
_MARKUP_CHARACTER = re.compile(r"[\[\]{}|<>=]|''+")
_BREAK = re.compile(
    r"</?(?:p|blockquote|div|center|poem|li|ol|ul|dl|dd|dt|h\d|hr|section|table|tr|td|th)\b[^<>]*>",
    re.I,
)
_FORMAT = re.compile(
    r"</?(?:small|big|span|u|s|b|i|em|strong|tt|code|kbd|var|samp|font|cite|abbr|q|sub|sup|del|ins|bdi"
    r"|strike|time|mark|dfn|nowiki|onlyinclude|noinclude|includeonly|ref|section|rb|rp|rt|ruby|math"
    r"|nobr|gallery|references|wbr)\b[^<>]*>",
    re.I,
)
_LINE_BREAK = re.compile(r"<br\b[^<>]*>|</br>", re.I)
# A table opens and ends at the beginning of a line: `{{x|{|}}` has none.
_BRACKET = re.compile(r"\{\{|\}\}|^[ \t:*#]*\{\||^[ \t:*]*\|\}(?!\})|\[\[|\]\]", re.M)
_NAME = re.compile(r"[^|{}<>\[\]\n]*")
MAX_DEPTH = 100
"""Brackets inside of brackets; MediaWiki itself stops at 40."""
_CLOSES = {"}}": "{{", "]]": "[[", "|}": "{|"}


def cut(wikitext: str, drops: Drops) -> str:
    """Return wikitext without what is not prose; tables and templates are counted."""
    text = _COMMENT.sub("", wikitext)
    text = _NOWIKI.sub(lambda match: _MARKUP_CHARACTER.sub("", match.group(1)), text)
    text = _REFERENCE.sub("", text)
    text = _NOT_PROSE.sub("", text)
    text = _POWER.sub(r"^\1", _MATH.sub(_simple_math, text))
    text = _LINE_BREAK.sub(" ", _FORMAT.sub("", _BREAK.sub("\n\n", text)))
    return _without_brackets(text, drops)


def _simple_math(match: re.Match[str]) -> str:
    formula = _MATH_SPACE.sub("", match.group(1)).strip()
    return formula if _SIMPLE_MATH.fullmatch(formula) else ""


def _without_brackets(text: str, drops: Drops) -> str:
    """Return a text without its tables, its hidden links, and templates that stand for no words."""
    out: list[str] = []
    stack: list[tuple[str, int, int]] = []  # bracket, where it begins, length of `out` before it
    position = 0
    for match in _BRACKET.finditer(text):
        bracket = match.group().lstrip(" \t:*#")
        if bracket in ("{{", "{|", "[["):
            if len(stack) == MAX_DEPTH:
                continue
            out.append(text[position : match.start()])
            stack.append((bracket, match.start(), len(out)))
            position = match.start()
            continue
        opening = _CLOSES[bracket]
        depth = next((i for i in range(len(stack), 0, -1) if stack[i - 1][0] == opening), 0)
        if not depth or (bracket == "]]" and depth < len(stack)):
            # It closes nothing; a link never ends outside of the template it began in.
            continue
        end = match.end()
        _, begin, kept = stack[depth - 1]
        del stack[depth - 1 :]
        inside = "".join(out[kept:]) + text[position:end]
        del out[kept:]
        out.append(_instead(bracket, inside, text[begin:end], drops, is_outer=not stack))
        position = end
    return "".join(out) + text[position:]


def _instead(bracket: str, inside: str, whole: str, drops: Drops, is_outer: bool) -> str:
    """Return what stays of a bracketed piece, whose own inner pieces are already cut."""
    if bracket == "]]":
        return "" if HIDDEN_LINK.match(inside) else inside.replace("\n", " ")
    if bracket == "}}":
        name = _NAME.match(inside, 2)
        if name and templates.is_shown(name.group()):
            kept = inside.replace("\n", " ")
            return f"\n\n{kept}\n\n" if templates.key(name.group()) in templates.BLOCKS else kept
    if is_outer:
        drops.add("table" if bracket == "|}" else "template", whole)
    return ""
