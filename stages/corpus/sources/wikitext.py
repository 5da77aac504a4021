"""Wikitext to prose: paragraphs without tables, templates, references, files and markup.

`markup.cut` takes out, without a parser, what goes whatever is in it. What is left is split into
blocks by the beginnings of lines. Plain links need no parser either; a block that holds more than
those is parsed by mwparserfromhell. Cutting first makes the parser's work several times less, and
changes nothing in the text (tests/test_wikitext.py).
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

import mwparserfromhell
from mwparserfromhell.nodes import Argument, ExternalLink, HTMLEntity, Tag, Template, Text, Wikilink

from stages.corpus.records import Drops
from stages.corpus.sources import templates
from stages.corpus.sources.markup import HIDDEN_LINK, cut
from stages.corpus.sources.wikipedia import APPARATUS, MIN_WORDS_WITHOUT_END

_REDIRECT = re.compile(r"\s*#redirect\b", re.I)
_TELLS_APART = re.compile(
    r"__DISAMBIG__|\{\{\s*(?:[\w ]+ )?(?:disambig(?:uation)?(?: page| cleanup)?|disamb|dab|(?:hn"
    r"|geo|road|school|number|math|hospital|church|sport|callsign)dis|mathdab)\s*(?:\||\}\})",
    re.I,
)
_HEADING = re.compile(r"(={1,6})\s*(.+?)\s*\1\s*$")
_ITEM = re.compile(r"[*#:;]+\s*")
_PLAIN_LINK = re.compile(r"\[\[:?([^\[\]{}|<>\n&]*)(?:\|([^\[\]{}|<>\n&]*))?\]\]")
_NEEDS_PARSER = re.compile(r"\[|\{\{|<|&")
_CELL = ("|", "{|")
"""Begins a line of a table that is never closed."""
_WORD = re.compile(r"\w")
_STYLE = re.compile(r"'{2,}")
_LEFT_OVER = re.compile(r"\[\[|\]\]|\{\{+|\}\}+|\{\||\|\}|</?[a-z]+\b[^<>]*>", re.I)
_SWITCH = re.compile(r"__[A-Z]+__")
# What templates, references and formulas leave behind them.
_HOLES: list[tuple[re.Pattern[str], str]] = [
    (re.compile(r"\(\s*(?:or|[;,:/\u2013-]|\s)*\s*\)|\[\s*\]"), ""),
    (re.compile(r"\((?:\s*[;,:])+\s*"), "("),
    (re.compile(r"\s*[;,]\s*\)"), ")"),
]
_COMMAS = re.compile(r",(?:\s*,)+")
_SPACE_BEFORE = re.compile(r"(?<=\() | (?=[,;)])| (?=[.:!?](?:\s|$))")


def is_redirect(wikitext: str) -> bool:
    """Return whether a page does nothing but send its reader to another."""
    return _REDIRECT.match(wikitext) is not None


def is_disambiguation(title: str, wikitext: str) -> bool:
    """Return whether a page only tells articles of one name apart."""
    return title.endswith(" (disambiguation)") or _TELLS_APART.search(wikitext) is not None


def prose(
    wikitext: str, drops: Drops, headings: bool, lists: Literal["none", "sentences", "all"]
) -> list[str]:
    """Return the paragraphs of an article; what is not running text is counted in `drops`."""
    paragraphs = []
    apparatus_level = 0
    for level, is_item, raw in _blocks(cut(wikitext, drops)):
        text = _plain(raw)
        if level and (not apparatus_level or level <= apparatus_level):
            apparatus_level = level if text.lower() in APPARATUS else 0
        # Where a formula stood by itself, a full stop may be left.
        if not _WORD.search(text):
            continue
        reason = None
        if apparatus_level:
            reason = "apparatus"
        elif level:
            reason = None if headings else "heading"
        elif raw.startswith(_CELL):
            reason = "table"
        elif is_item and lists != "all":
            reason = None if lists == "sentences" and _is_sentence(text) else "list_item"
        if reason is None:
            paragraphs.append(text)
        else:
            drops.add(reason, text)
    return paragraphs


def _is_sentence(text: str) -> bool:
    ends = text.rstrip("\"')").endswith((".", "!", "?"))
    return ends or len(text.split()) >= MIN_WORDS_WITHOUT_END


def _blocks(text: str) -> Iterator[tuple[int, bool, str]]:
    """Yield (heading's level or 0, whether it is a list's item, wikitext) block after block."""
    wrapped: list[str] = []
    for raw in [*text.split("\n"), ""]:
        line = raw.strip()
        heading = _HEADING.match(line)
        item = _ITEM.match(line)
        if wrapped and (not line or heading or item or line.startswith(_CELL)):
            yield 0, False, " ".join(wrapped)
            wrapped = []
        if heading:
            yield len(heading.group(1)), False, heading.group(2)
        elif item:
            yield 0, True, line[item.end() :]
        elif line.startswith(_CELL):
            yield 0, False, line
        elif line and not line.startswith("----"):
            wrapped.append(line)


def _plain(block: str) -> str:
    """Return a block's text without its markup."""
    text = _PLAIN_LINK.sub(_shown, block)
    if _NEEDS_PARSER.search(text):
        text = parsed(text)
    # Most blocks have nothing of one kind or another: to look for it first is faster.
    if "''" in text:
        text = _STYLE.sub("", text)
    if "<" in text or "[[" in text or "]]" in text or "{" in text or "}" in text:
        text = _LEFT_OVER.sub("", text)
    if "__" in text:
        text = _SWITCH.sub("", text)
    if "(" in text or "[" in text:
        for pattern, replacement in _HOLES:
            text = pattern.sub(replacement, text)
    return _SPACE_BEFORE.sub("", " ".join(_COMMAS.sub(",", text).split()))


def _shown(link: re.Match[str]) -> str:
    target, text = link.groups()
    if HIDDEN_LINK.match(link.group()):
        return ""
    return str(target if text is None else text)


def parsed(wikitext: str) -> str:
    """Return the text of wikitext by its syntax tree."""
    return _text(mwparserfromhell.parse(wikitext, skip_style_tags=True))


def _text(code: Any) -> str:
    return "" if code is None else "".join(map(_text_of_node, code.nodes))


def _text_of_node(node: Any) -> str:
    if isinstance(node, Text):
        return str(node.value)
    if isinstance(node, Wikilink):
        if HIDDEN_LINK.match(str(node)):
            return ""
        return _text(node.text) if node.text is not None else _text(node.title).lstrip(":")
    if isinstance(node, HTMLEntity):
        character = str(node.normalize())
        return "" if "\ud800" <= character <= "\udfff" else character
    if isinstance(node, ExternalLink):
        return _text(node.title) if node.brackets else str(node.url)
    if isinstance(node, Tag):
        return " " if node.self_closing else _text(node.contents)
    if isinstance(node, Template):
        name = str(node.name).strip()
        # A parameter without a name is `showkey == False`; its white space counts, but not here.
        values = [_text(p.value).strip() for p in node.params if not p.showkey]
        named = {str(p.name).strip(): _text(p.value).strip() for p in node.params if p.showkey}
        return templates.text_of(name, values, named)
    if isinstance(node, Argument):
        return _text(node.default)
    return ""
