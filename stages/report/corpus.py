"""What the page shows of the corpus: what was dropped and why, with samples."""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.report.reading import Reports
from stages.report.sections import Bar

MAX_SAMPLES = 2


@dataclass(frozen=True, slots=True)
class Drops:
    """What was dropped: a bar per reason, and texts that it befell."""

    what: str
    bars: Sequence[Bar]
    samples: dict[str, Sequence[str]]
    """By reason, in the order of the bars."""
    note: str


def drops(reports: Reports) -> list[Drops]:
    """Return the documents, and the paragraphs within documents, that were dropped."""
    curated, sharded = reports.corpus or {}, reports.expectations or {}
    documents = ("dropped", "examples")
    paragraphs = ("dropped_paragraphs", "paragraph_examples")
    kinds = [
        ("documents", curated, documents, "Nothing is dropped without one."),
        ("paragraphs", curated, paragraphs, "Their documents may have stayed."),
        ("tokenised documents", sharded, documents, "They are in no shard."),
    ]
    found = [
        Drops(what, _bars(report.get(counts, {})), _samples(report.get(samples, {})), note)
        for what, report, (counts, samples), note in kinds
    ]
    return [group for group in found if group.bars]


def _bars(counted: dict[str, int]) -> list[Bar]:
    """Return the reasons, the commonest first."""
    most = max(counted.values(), default=0)
    return [
        Bar(reason.replace("_", " "), "drop", number / most, f"{number:,}")
        for reason, number in sorted(counted.items(), key=lambda item: (-item[1], item[0]))
        if number
    ]


def _samples(texts: dict[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    return {
        reason.replace("_", " "): found[:MAX_SAMPLES] for reason, found in texts.items() if found
    }


def num_tokens(reports: Reports) -> int | None:
    """Return the tokens to learn from, where the expectations counted them."""
    found: int | None = ((reports.expectations or {}).get("statistics") or {}).get("num_tokens")
    return found
