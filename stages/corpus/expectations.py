r"""Judge the shards before anything is trained on them; bad data stops the graph here.

By hand: python -m stages.corpus.expectations --shards data/shards \
             --report reports/expectations.json --versions reports/corpus_versions.json \
             --docs reports/data_docs --passed data/shards_passed.json
Writes the report and, for people, Great Expectations' Data Docs (open index.html in a browser).
--versions holds the corpora that were found good last, in outline: it is read to see how far this
one has drifted, and replaced if this one is good.
--passed is there only where all holds, and names the shards and nothing else: training depends on
it, and so another bound that holds as well trains nothing anew.

numpy measures, one row per shard, one for the training split and one for the drift; Great
Expectations judges these small tables. It knows no Arrow, and all the tokens would take it hours.
"""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.judging import Bound, Verdict, judge
from stages.corpus.statistics import Statistics, measure
from stages.corpus.verdict_page import write_verdict_page
from stages.corpus.versions import Drift, drift, previous_of, versions_json
from stages.errors import DataError
from stages.files import atomic_output, sha256_of, write_json


def bounds_of(settings: params.Expectations, vocabulary_size: int) -> list[Bound]:
    """Return everything that is expected of the shards, the training split and the held-out one."""
    unknown = settings.max_unknown_fraction, "Many [UNK] mean the wrong tokenizer or language."
    mojibake = settings.max_mojibake_fraction, "Such text was decoded wrongly on its way here."
    foreign = (
        settings.max_foreign_fraction,
        "The teacher knows English, and its words were counted.",
    )
    return [
        Bound(
            "ids_in_vocabulary",
            "shards",
            "largest_id",
            vocabulary_size - 1,
            "The model has no embedding for an id past its vocabulary.",
        ),
        Bound(
            "rows_well_formed",
            "shards",
            "num_malformed",
            0,
            "A row is [CLS] ... [SEP], filled up with padding only where documents end.",
        ),
        Bound("unknown_in_each_shard", "shards", "unknown_fraction", *unknown),
        Bound("unknown_in_train", "train", "unknown_fraction", *unknown),
        Bound("mojibake_in_each_shard", "shards", "mojibake_fraction", *mojibake),
        Bound("mojibake_in_train", "train", "mojibake_fraction", *mojibake),
        Bound("english_in_each_shard", "shards", "foreign_fraction", *foreign),
        Bound("english_in_train", "train", "foreign_fraction", *foreign),
        Bound(
            "enough_tokens",
            "train",
            "num_tokens",
            settings.min_tokens,
            "Too little text is learned by heart.",
            is_minimum=True,
        ),
        Bound(
            "enough_distinct_tokens",
            "train",
            "num_distinct_tokens",
            settings.min_distinct_tokens,
            "Tokens that never occur are never learned.",
            is_minimum=True,
        ),
        Bound(
            "no_dominant_token",
            "train",
            "top_token_fraction",
            settings.max_top_token_fraction,
            "A token that is everywhere comes from markup or boilerplate.",
        ),
        Bound(
            "little_padding",
            "train",
            "padding_fraction",
            settings.max_padding_fraction,
            "Padding is work that teaches nothing.",
        ),
        Bound(
            "few_duplicates",
            "train",
            "duplicate_fraction",
            settings.max_duplicate_fraction,
            "Repeated rows are learned by heart.",
        ),
        Bound(
            "heldout_is_held_out",
            "train",
            "shared_fraction",
            settings.max_shared_fraction,
            "A held-out row that is trained on measures nothing.",
        ),
        Bound(
            "tokens_as_before",
            "drift",
            "token_distance",
            settings.max_token_drift,
            "Other words than in the previous version: other text, or other cleaning.",
        ),
        Bound(
            "lengths_as_before",
            "drift",
            "length_distance",
            settings.max_length_drift,
            "Documents of other lengths than in the previous version were cut or joined otherwise.",
        ),
        Bound(
            "sources_as_before",
            "drift",
            "source_distance",
            settings.max_source_drift,
            "Another mixture than in the previous version: a source has lost or gained text.",
        ),
    ]


def judge_shards(
    statistics: Statistics, found: Drift, settings: params.Expectations, docs: Path
) -> list[Verdict]:
    """Judge what was measured, and replace the Data Docs."""
    tables = {
        "shards": [asdict(shard) for shard in statistics.shards],
        "train": [asdict(statistics.train)],
        "drift": [asdict(found)],
    }
    bounds = [
        bound
        for bound in bounds_of(settings, statistics.vocabulary_size)
        # A column that is None throughout was not measured: every shard is too small, or there is
        # no previous version.
        if any(row[bound.column] is not None for row in tables[bound.table])
    ]
    judged = {bound.table for bound in bounds}
    with atomic_output(docs) as folder:
        folder.mkdir()
        verdicts = judge({name: tables[name] for name in tables if name in judged}, bounds, folder)
        write_verdict_page(folder, verdicts)
    return verdicts


def report_of(statistics: Statistics, found: Drift, verdicts: list[Verdict]) -> dict[str, Any]:
    """Return what reports/expectations.json holds."""
    return {
        "passed": all(verdict.passed for verdict in verdicts),
        "checks": [verdict.as_json() for verdict in verdicts],
        "statistics": {"num_shards": len(statistics.shards), **asdict(statistics.train)},
        "drift": asdict(found),
        "dropped": statistics.drops.counts,
        "examples": statistics.drops.examples,
    }


def explain(verdicts: list[Verdict], statistics: Statistics, docs: Path) -> str:
    """Say which expectations failed, by how much, and in which shard."""
    lines = []
    for verdict in verdicts:
        bound = verdict.bound
        if verdict.passed:
            continue
        where = ""
        if bound.table == "shards":
            worst = max(statistics.shards, key=lambda shard: getattr(shard, bound.column) or 0)
            where = f" in {worst.file}"
        lines.append(
            f"  {bound.name}: {bound.column} is {verdict}{where}, expected {bound}. {bound.meaning}"
        )
    return "\n".join(
        [
            f"the shards break {len(lines)} expectation(s), so nothing is trained on them:",
            *lines,
            f"Look at {docs / 'index.html'}. Mend the sources (corpus.sources, corpus.curate in "
            "params.yaml), or change the bounds under corpus.expectations.",
            *(
                ["If another corpus than before is meant, delete reports/corpus_versions.json."]
                if any(v.bound.table == "drift" and not v.passed for v in verdicts)
                else []
            ),
        ]
    )


def main(arguments: argparse.Namespace) -> None:
    """Measure, judge, report; fail if the shards are not as expected."""
    settings = params.load().corpus.expectations
    arguments.passed.unlink(missing_ok=True)
    statistics = measure(arguments.shards)
    previous = previous_of(arguments.versions, statistics.outline)
    found = drift(statistics.outline, previous)
    verdicts = judge_shards(statistics, found, settings, arguments.docs)
    report = report_of(statistics, found, verdicts)
    write_json(arguments.report, report)
    if not report["passed"]:
        raise DataError(explain(verdicts, statistics, arguments.docs))
    write_json(arguments.versions, versions_json(arguments.versions, statistics.outline))
    manifest = sha256_of(arguments.shards / "manifest.json")
    write_json(arguments.passed, {"manifest_sha256": manifest})
    log.info(
        "the shards keep all %d expectations; see %s", len(verdicts), arguments.docs / "index.html"
    )


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["shards", "report", "versions", "docs", "passed"]))
