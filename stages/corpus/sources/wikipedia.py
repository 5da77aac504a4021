"""Articles of the hub's wikimedia/wikipedia, one document each.

The data set is plain text, a line a paragraph, but headings, list items and the articles'
apparatus (references, links, categories) are still in it as lines of their own.
"""

from collections.abc import Callable, Iterator
from itertools import islice

from stages.corpus.records import Document, Tally
from stages.corpus.sources.hub import stream
from stages.params import WikipediaSource

APPARATUS = frozenset(
    [
        "see also",
        "notes",
        "footnotes",
        "references",
        "citations",
        "sources",
        "bibliography",
        "further reading",
        "external links",
        "notes and references",
        "references and notes",
        "works cited",
    ]
)
"""With the first of these headings an article's running text is over."""
MIN_WORDS_WITHOUT_END = 12
"""A line of fewer words that ends no sentence is a heading, a list item or a table cell."""


def documents(
    name: str, settings: WikipediaSource, hub_path: Callable[[str], str], tally: Tally
) -> Iterator[Document]:
    """Yield articles in the order of the data set."""
    rows = stream(hub_path(settings.dataset), settings.config, ["id", "title", "text"])
    for row in islice(rows, settings.max_documents):
        tally.num_read += 1
        article = row["text"] or ""
        text = running_text(article, tally)
        if text:
            yield Document(f"{name}:{row['id']}", name, str(row["title"]), text)
        else:
            tally.documents.add("no_running_text", article)


def running_text(article: str, tally: Tally) -> str:
    """Return the sentences of an article, its paragraphs separated by a blank line."""
    kept = []
    lines = [line.strip() for line in article.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.lower() in APPARATUS:
            for left in lines[number:]:
                tally.paragraphs.add("apparatus", left)
            break
        ends = line.rstrip("\"')").endswith((".", "!", "?"))
        if ends or len(line.split()) >= MIN_WORDS_WITHOUT_END:
            kept.append(line)
        else:
            tally.paragraphs.add("heading_or_item", line)
    return "\n\n".join(kept)
