"""MediaWiki dumps: wikitext to prose, and what is read of a dump that is damaged."""

import bz2
import random
import re
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from stages.corpus.records import Document, Drops, Tally
from stages.corpus.sources import dump, mediawiki
from stages.corpus.sources.wikitext import parsed, prose
from stages.errors import DataError
from stages.params import MediawikiSource

HEAD = "<mediawiki>\n  <siteinfo><sitename>Test</sitename></siteinfo>\n"
MARKUP = re.compile(r"\{\{|\}\}|\[\[|\]\]|\||==|<ref|''|&#?\w+;|<[a-z]")


def page(number: int, text: str = "", ns: int = 0, extra: str = "") -> str:
    text = text or f"Page {number} has a sentence that says something about nothing at all."
    return (
        f"  <page>\n    <title>Title {number}</title>\n    <ns>{ns}</ns>\n    <id>{number}</id>\n"
        f"{extra}    <revision><id>9</id><text>{escape(text)}</text></revision>\n  </page>\n"
    )


def dump_of(*pages: str) -> bytes:
    return (HEAD + "".join(pages) + "</mediawiki>\n").encode()


LONG_TEXTS = [random.Random(i).randbytes(100_000).hex(" ", 4) for i in range(12)]
LONG_PAGES = [page(i, text) for i, text in enumerate(LONG_TEXTS)]
"""2.7 MB, which is three blocks of bz2."""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Read a dump given as bytes in threads, which start faster; return documents and tally."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mediawiki, "processes", ThreadPoolExecutor)

    def read(
        content: bytes, name: str = "dump.xml", **more: object
    ) -> tuple[list[Document], Tally]:
        (tmp_path / name).write_bytes(content)
        settings = MediawikiSource.model_validate(
            {"kind": "mediawiki", "files": ["dump*.xml*"], **more}
        )
        tally = Tally()
        found = list(mediawiki.documents("wiki", settings, str, tally))
        assert tally.num_read == len(found) + tally.documents.counts.total()
        return found, tally

    return read


def paragraphs_of(wikitext: str, **more) -> list[str]:
    return prose(wikitext, Drops(), **({"headings": False, "lists": "none"} | more))


@pytest.mark.parametrize(
    ("wikitext", "expected"),
    [
        ("'''Bold''' and ''italic'' of the [[cat]]s of [[Rome (city)|Rome]].",
         "Bold and italic of the cats of Rome."),
        ("It fell.<ref name=\"a/b\">{{cite|x}}</ref> It rose.<ref name=x /> End.",
         "It fell. It rose. End."),
        ("A <ref>never closed. B<ref>c</ref>.", "A never closed. B."),
        ("Before [[File:a.jpg|thumb|A [[nested]] caption {{x}}]]after.", "Before after."),
        ("At {{convert|7|\u00b0C|0|abbr=on}}, {{convert|5|C-change|0}} up.",
         "At 7 \u00b0C, 5 \u00b0C up."),
        ("It is {{convert|5|km|mi|abbr=on}} or {{convert|2|to|3|ft}} long.",
         "It is 5 km or 2 to 3 ft long."),
        ("He ({{IPA-en|x}}; {{lang|fr|Jean}}, born 1900) ran {{unknown|a|{{b}}}}.",
         "He (Jean, born 1900) ran."),
        ("Salt &amp; pepper&nbsp;&mdash; 5 &lt; 6.", "Salt & pepper \u2014 5 < 6."),
        ("See [http://a.b the site] and [[:Category:Cats]] at [[fr:Chat]] CSI: [[CSI: Miami]].",
         "See the site and Category:Cats at CSI: CSI: Miami."),
        ("A{{citation needed}} b {{Unclosed | c [[d]].", "A b Unclosed | c d."),
        ("x<sup>2</sup>, 10<sup>5</sup>, H<sub>2</sub>O <math>\\frac{a}{b}</math><math>n</math>.",
         "x2, 10^5, H2O n."),
        ("{{As of|2012|5|3}} {{ill|Jo Po|de|lt=Jo}} and {{Interlanguage link|Al|fr}} had "
         "{{US$|2 million}}, {{INR}}5; {{as of|1999|lc=y}}.",
         "As of 3 May 2012 Jo and Al had US$2 million, \u20b95; as of 1999."),
        ("Before.\n{| class=x\n| a cell\n|-\n", "Before."),
        ("So\n\n<math>\\frac{a}{b}</math>.\n\n", "So"),
        ("<!-- no -->Yes<!-- never closed {{", "Yes"),
        ("Text {| not a table |} here.", "Text not a table here."),
        ("{{quote|text=So it was.|author=X}}", "So it was."),
        ("== References ==\nA.\n== Legacy ==\nIt stayed.", "It stayed."),
        ("Half &#xd800;a pair.", "Half a pair."),
    ],
)  # fmt: skip
def test_markup_becomes_what_a_reader_sees(wikitext, expected):
    assert paragraphs_of(wikitext) == [expected]


@pytest.mark.parametrize(
    "piece", ["<gallery>", "<math>x", "<ref>", "{{lang|", "[[", "{{x|[[", "<!--", "<nowiki>", "''["]
)
def test_hostile_text_takes_no_longer_than_its_length(piece):
    # A search that begins again for each piece would take minutes.
    paragraphs_of(piece * 40_000 + "]] }} " * 1_000)


ARTICLE = """{{Infobox
| name = X
| list = {{plainlist|
* a
}}
}}
The lead of
the article.

== History ==
It began.
{| class="wikitable"
|-
| cell || [[File:x.jpg]] {{y}}
{|
| nested
|}
|}
* An item.
* item
{{quote|He said
so.|Someone}}
=== See also ===
* [[Others]].
==== Deeper ====
Still apparatus.
== Legacy ==
It stayed.
[[Category:Things]]
"""


def test_an_article_keeps_its_sentences_and_counts_the_rest():
    drops = Drops()
    assert prose(ARTICLE, drops, headings=False, lists="sentences") == [
        "The lead of the article.",
        "It began.",
        "An item.",
        "He said so.",
        "It stayed.",
    ]
    assert drops.counts == {
        "template": 1, "table": 1, "heading": 2, "list_item": 1, "apparatus": 4
    }  # fmt: skip
    assert paragraphs_of(ARTICLE, headings=True, lists="all")[1:5] == [
        "History", "It began.", "An item.", "item"
    ]  # fmt: skip


def test_only_articles_are_read(read):
    found, tally = read(
        dump_of(
            page(1),
            page(2, ns=10),
            page(3, extra='    <redirect title="Title 1" />\n'),
            page(4, "#REDIRECT [[Title 1]]"),
            page(5, "Title may be:\n* [[A]]\n{{disambiguation|geo}}"),
            page(6, "{{other uses|X (disambiguation)}} An article.{{disambiguation needed}}"),
            page(7, "{{stub}}"),
        )
    )
    assert [(document.id, document.title) for document in found] == [
        ("wiki:1", "Title 1"),
        ("wiki:6", "Title 6"),
    ]
    assert found[1].text == "An article."
    assert tally.documents.counts == {
        "other_namespace": 1, "redirect": 2, "disambiguation": 1, "no_running_text": 1
    }  # fmt: skip


@pytest.mark.parametrize("pack", [bytes, bz2.compress], ids=["plain", "bz2"])
def test_a_dump_cut_in_the_middle_gives_what_came_before(read, pack):
    whole = pack(dump_of(*LONG_PAGES))
    found, tally = read(whole[: len(whole) // 2])
    assert 1 <= len(found) < 12
    assert [document.id for document in found] == [f"wiki:{i}" for i in range(len(found))]
    (warning,) = tally.warnings
    assert re.search(r"dump\.xml: .*byte \d+", warning)
    assert f"what comes after page 'Title {len(found) - 1}' was not read" in warning


def test_a_dump_cut_between_two_pages_is_told_from_a_whole_one(read, tmp_path, monkeypatch):
    whole = dump_of(page(1), page(2), page(3))
    found, tally = read(whole[: whole.index(b"<page>", whole.index(b"Title 2"))])
    assert [document.id for document in found] == ["wiki:1", "wiki:2"]
    (warning,) = tally.warnings
    assert re.search(r"dump\.xml: it is cut off after byte \d+ of its text, between two", warning)
    # A multistream dump and its index, both of which end with a stream.
    monkeypatch.setattr(dump, "STREAMS_PER_RANGE", 2)
    content = multistream(tmp_path, [page(i) for i in range(40)])
    _, _, last = dump.ranges(tmp_path / "dump-multistream.xml.bz2")
    found, tally = read(content[: last.start], "dump-multistream.xml.bz2")
    assert len(found) < 40
    assert "was read without its index" in tally.warnings[0]
    assert "between two pages" in tally.warnings[1]


def test_a_damaged_block_of_bz2_is_not_text(read):
    content = bytearray(bz2.compress(dump_of(*LONG_PAGES)))
    middle = len(content) // 2
    content[middle : middle + 4] = b"\0\0\0\0"
    found, tally = read(bytes(content))
    assert found
    # Not a word that was never written: the block with the damage is left out as a whole.
    assert {document.text for document in found} <= set(LONG_TEXTS)
    assert "the bz2 data is damaged" in tally.warnings[0]


def test_invalid_utf8_is_said_and_survived(read):
    content = dump_of(page(1), page(2, "A caf\u00e9 stood there."), page(3))
    found, tally = read(content.replace("\u00e9".encode(), b"\xe9"))
    assert [document.text for document in found][1] == "A caf\ufffd stood there."
    assert tally.warnings == [
        "dump.xml: page 'Title 2' holds bytes that are not UTF-8; they became U+FFFD"
    ]


def test_pages_are_found_however_their_text_arrives():
    content = dump_of(page(1), page(2), page(3))
    pieces = [content[i : i + 5] for i in range(0, len(content), 5)]
    found = list(dump.pages(pieces))
    # The end of a page that never began is none.
    assert found == list(dump.pages([b"</page>" + content]))
    assert len(found) == 3


def test_a_page_without_an_end_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(dump, "MAX_PAGE_BYTES", 1000)
    with pytest.raises(dump.Damage, match="no page ends within 1000 bytes of byte 0 of the text"):
        list(dump.pages([b"<page>" + bytes(2000)]))


def test_a_damaged_page_spoils_no_other(read):
    broken = page(2).replace("</revision>", "")
    never_ends = page(3).replace("</page>", "")
    found, tally = read(dump_of(page(1), broken, never_ends, page(4)))
    assert [document.id for document in found] == ["wiki:1", "wiki:4"]
    assert tally.documents.counts == {"damaged_page": 2}
    assert len(tally.warnings) == 2


def test_entities_cannot_be_defined(read):
    bomb = b'<!DOCTYPE m [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;"><!ENTITY c SYSTEM "/etc/passwd">]>'
    entities = page(1, "X.").replace("X.", "&b;&c;")
    found, tally = read(bomb + dump_of(entities, page(2)))
    assert [document.id for document in found] == ["wiki:2"]
    assert "undefined entity" in tally.warnings[0]


@pytest.mark.parametrize(
    "filler", [b"\0", b"<page>", page(1, "word " * 4000).encode()], ids=["zeros", "tags", "pages"]
)
def test_a_bomb_is_left_after_a_bounded_piece(read, filler, monkeypatch):
    monkeypatch.setattr(dump, "FREE_BYTES", 1_000_000)
    # 12 MB in a few kB, made stream by stream: bz2 files may be concatenated.
    piece = bz2.compress(filler * (400_000 // len(filler)))
    content = bz2.compress(dump_of(page(0)).replace(b"</mediawiki>", b"")) + piece * 30
    tracemalloc.start()
    found, tally = read(content, "dump.xml.bz2")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0].id == "wiki:0"
    assert "expands more than 200 times, as no text does" in tally.warnings[-1]
    assert peak < 30e6


def test_what_is_no_dump_is_refused(read):
    with pytest.raises(DataError, match=r"dump\.xml is no MediaWiki dump: it does not begin"):
        read(b"Just a text.")
    with pytest.raises(DataError, match=r"dump\.xml is no MediaWiki dump"):
        read(bz2.compress(b"\0" * 2_000_000))


def multistream(folder: Path, pages: list[str]) -> bytes:
    """Write a multistream dump of ten pages a stream with its index; return the plain bytes."""
    content = bz2.compress(HEAD.encode())
    index = ""
    for first in range(0, len(pages), 10):
        stream = pages[first : first + 10]
        index += "".join(f"{len(content)}:{first + i}:Title\n" for i in range(len(stream)))
        content += bz2.compress("".join(stream).encode())
    content += bz2.compress(b"</mediawiki>\n")
    (folder / "dump-multistream.xml.bz2").write_bytes(content)
    (folder / "dump-multistream-index.txt.bz2").write_bytes(bz2.compress(index.encode()))
    return content


def test_a_multistream_dump_is_read_by_its_index(read, tmp_path, monkeypatch):
    monkeypatch.setattr(dump, "STREAMS_PER_RANGE", 2)
    pages = [page(i) for i in range(95)]
    content = multistream(tmp_path, pages)
    assert len(dump.ranges(tmp_path / "dump-multistream.xml.bz2")) == 6
    by_index, tally = read(content, "dump-multistream.xml.bz2")
    assert not tally.warnings
    (tmp_path / "dump-multistream-index.txt.bz2").unlink()
    in_one, tally = read(content, "dump-multistream.xml.bz2")
    assert by_index == in_one
    assert [document.id for document in in_one] == [f"wiki:{i}" for i in range(95)]
    assert not tally.warnings


def test_damage_in_a_multistream_dump_costs_its_streams_alone(read, tmp_path, monkeypatch):
    monkeypatch.setattr(dump, "STREAMS_PER_RANGE", 2)
    content = bytearray(multistream(tmp_path, [page(i) for i in range(95)]))
    middle = len(content) // 2
    content[middle : middle + 30] = bytes(30)
    found, tally = read(bytes(content), "dump-multistream.xml.bz2")
    assert 75 <= len(found) < 95
    assert found[-1].id == "wiki:94"
    assert "was not read up to the next sound stream" in tally.warnings[0]


def test_an_index_of_another_file_is_not_believed(read, tmp_path, monkeypatch):
    content = multistream(tmp_path, [page(i) for i in range(25)])
    (tmp_path / "dump-multistream-index.txt.bz2").write_bytes(bz2.compress(b"77:1:Title\n"))
    found, tally = read(content, "dump-multistream.xml.bz2")
    assert len(found) == 25
    assert "names byte 77, where no bz2 stream begins" in tally.warnings[0]
    monkeypatch.setattr(dump, "MAX_RANGE_BYTES", 100)
    (tmp_path / "dump-multistream-index.txt.bz2").write_bytes(b"")
    found, tally = read(content, "dump-multistream.xml.bz2")
    assert len(found) == 25
    assert f"names no stream from byte 0 to {len(content)}" in tally.warnings[0]


def test_memory_does_not_grow_with_the_dump(read):
    def peak(num_pages: int) -> int:
        content = dump_of(*(page(i, "word " * 2000) for i in range(num_pages)))
        path = Path("dump.xml")
        path.write_bytes(content)
        del content
        tracemalloc.start()
        num_found = sum(1 for _ in dump.pages(dump.chunks(path)))
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert num_found == num_pages
        return result

    assert peak(3000) < 1.1 * peak(300)


@pytest.mark.slow
def test_other_processes_read_the_same(read, shared_data, monkeypatch):
    path = shared_data / "wikipedia_dump" / "enwiki-table-markup.xml.bz2"
    in_threads, tally = read(path.read_bytes(), "dump.xml.bz2")
    monkeypatch.undo()
    settings = MediawikiSource(kind="mediawiki", files=[str(path)], outside_workspace=True)
    again = Tally()
    assert list(mediawiki.documents("wiki", settings, str, again)) == in_threads
    assert again == tally
    assert len(in_threads) == 5


def real_pages(shared_data: Path) -> list[tuple[str, str]]:
    """Title and wikitext of the articles in the smallest of the real dumps."""
    from xml.etree import ElementTree

    path = shared_data / "wikipedia_dump" / "enwiki-table-markup.xml.bz2"
    found = [ElementTree.fromstring(raw) for raw in dump.pages(dump.chunks(path))]
    return [(p.findtext("title", ""), p.findtext("revision/text", "")) for p in found]


def test_real_articles_come_out_as_prose(shared_data):
    pages = real_pages(shared_data)
    assert len(pages) == 5
    texts = ["\n".join(paragraphs_of(wikitext, lists="sentences")) for _, wikitext in pages]
    num_marks = sum(len(MARKUP.findall(text)) for text in texts)
    assert num_marks < 1e-4 * sum(map(len, texts))
    vote = dict(zip((title for title, _ in pages), texts, strict=True))[
        "Constructive vote of no confidence"
    ]
    assert vote.startswith(
        "The constructive vote of no confidence (in German: konstruktives Misstrauensvotum, in "
        "Spanish: moci\u00f3n de censura constructiva) is a variation on the motion of "
    )
    assert "(2) Forty-eight hours must elapse between the motion and the election." in vote


def test_cutting_first_gives_the_text_that_parsing_all_gives(shared_data):
    """The blocks of real articles whose plain links were cut, against the parser alone."""
    from stages.corpus.sources import markup, wikitext

    num_blocks = 0
    begin = time.monotonic()
    for _, source in real_pages(shared_data):
        for _, _, block in wikitext._blocks(markup.cut(source, Drops())):
            if "[[" in block:
                num_blocks += 1
                cut = wikitext._PLAIN_LINK.sub(wikitext._shown, block)
                assert parsed(cut) == parsed(block)
        if time.monotonic() - begin > 3:
            break
    assert num_blocks > 50
