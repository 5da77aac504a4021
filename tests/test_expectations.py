"""Measuring shards, and stopping the graph when they are bad."""

import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.corpus.expectations import bounds_of, explain, judge_shards, report_of
from stages.corpus.judging import Bound, Verdict
from stages.corpus.statistics import (
    MIN_TOKENS_FOR_A_SHARE,
    measure,
    num_malformed,
    row_hashes,
    shard_statistics,
)
from stages.corpus.versions import Drift, drift, previous_of, versions_json
from stages.files import read_json, sha256_of, write_json
from stages.params import Expectations
from tests.conftest import ROOT
from tests.tiny_shards import SPECIAL, write_shards

VOCABULARY = 500
LENGTH = 64
SETTINGS = Expectations(min_tokens=20_000, max_unknown_fraction=0.01, min_distinct_tokens=200)


def good_rows(num_rows: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).integers(5, VOCABULARY, (num_rows, LENGTH))
    rows[:, 0], rows[:, -1] = SPECIAL.cls, SPECIAL.sep
    return rows


def shards(folder: Path, train: np.ndarray, heldout: np.ndarray, **more: object) -> Path:
    """A shards folder of two train shards and a held-out one."""
    splits = {"train": np.array_split(train, 2), "heldout": [heldout]}
    return write_shards(folder, splits, VOCABULARY, **more)


def planted(folder: Path, kinds: set[str]) -> Path:
    """A shards folder with these things wrong."""
    train, heldout = good_rows(400, 1), good_rows(20, 2)
    if "few words" in kinds:
        ordinary = train >= 5
        train[ordinary] = 5 + train[ordinary] % 150
    if "ids" in kinds:
        train[7, 50] = VOCABULARY
    if "unknown" in kinds:
        train[:20, 10:40] = SPECIAL.unk
    if "one word" in kinds:
        train[:, 5:30] = 77
    if "few tokens" in kinds:
        train = train[:300]
    if "leak" in kinds:
        heldout[3] = train[11]
    if "padding" in kinds:
        train[40:80, 20:] = SPECIAL.pad
        train[40:80, 19] = SPECIAL.sep
    if "duplicates" in kinds:
        train[100:110] = train[0]
    more: dict[str, object] = {"tokens": {"books": 60_000, "wikipedia": 40_000}}
    if "source" in kinds:
        more["tokens"] = {"books": 60_000, "wikipedia": 10_000}
    if "lengths" in kinds:
        more["lengths"] = {"6": 300, "9": 100}
    made = shards(folder, train, heldout, **more)
    manifest = read_json(made / "manifest.json")
    first = manifest["splits"]["train"]["shards"][0]
    if "mojibake" in kinds:
        first["num_mojibake"] = first["num_characters"] // 1000
    if "language" in kinds:
        first["num_foreign_tokens"] = first["num_tokens"] // 2
    write_json(made / "manifest.json", manifest)
    return made


FAILURES = {
    "ids": {"ids_in_vocabulary"},
    "unknown": {"unknown_in_each_shard", "unknown_in_train"},
    "duplicates": {"few_duplicates"},
    "padding": {"little_padding", "rows_well_formed"},
    "one word": {"no_dominant_token", "tokens_as_before"},
    "few words": {"enough_distinct_tokens", "tokens_as_before"},
    "few tokens": {"enough_tokens"},
    "leak": {"heldout_is_held_out"},
    "mojibake": {"mojibake_in_each_shard", "mojibake_in_train"},
    "language": {"english_in_each_shard", "english_in_train"},
    "lengths": {"lengths_as_before"},
    "source": {"sources_as_before"},
}
EVERY_NAME = set().union(*FAILURES.values())


@pytest.mark.parametrize("kind", FAILURES)
def test_planted_damage_breaks_its_expectation_and_no_other(tmp_path, kind):
    before = measure(planted(tmp_path / "before", set())).outline
    found = measure(planted(tmp_path / "shards", {kind}))
    tables = {
        "shards": found.shards,
        "train": [found.train],
        "drift": [drift(found.outline, before)],
    }
    broken = set()
    for bound in bounds_of(SETTINGS, VOCABULARY):
        values = [getattr(row, bound.column) for row in tables[bound.table]]
        known = [value for value in values if value is not None]
        if any(v < bound.limit if bound.is_minimum else v > bound.limit for v in known):
            broken.add(bound.name)
    assert broken == FAILURES[kind]


@pytest.mark.slow
def test_great_expectations_finds_no_damage_and_all_damage(tmp_path):
    found = measure(planted(tmp_path / "good", set()))
    unknown = drift(found.outline, None)
    first = judge_shards(found, unknown, SETTINGS, tmp_path / "docs")
    assert all(verdict.passed for verdict in first)
    # Nothing is said of drift where there is no previous version.
    assert {verdict.bound.table for verdict in first} == {"shards", "train"}
    assert report_of(found, unknown, first)["passed"]

    bad = measure(planted(tmp_path / "bad", set(FAILURES) - {"few tokens"}))
    settings = SETTINGS.model_copy(update={"min_tokens": 30_000})
    moved = drift(bad.outline, found.outline)
    verdicts = judge_shards(bad, moved, settings, tmp_path / "docs")
    assert {verdict.bound.name for verdict in verdicts if not verdict.passed} == EVERY_NAME
    assert len(verdicts) == len(EVERY_NAME)
    assert not report_of(bad, moved, verdicts)["passed"]
    pages = list((tmp_path / "docs").rglob("*.html"))
    assert tmp_path / "docs" / "index.html" in pages
    # One page for each table, and the leak is on one of them.
    told = [page for page in pages if "validations" in page.parts]
    assert len(told) == 3
    assert any("shared_fraction" in page.read_text() for page in told)


def test_the_version_before_is_the_last_other_corpus_found_good(tmp_path):
    path = tmp_path / "versions.json"
    outlines = [
        measure(planted(tmp_path / kind, {kind})).outline for kind in ("ids", "leak", "source")
    ]
    first, second, third = outlines
    assert previous_of(path, first) is None
    write_json(path, versions_json(path, first))
    # Judged again, the same corpus is still the first of its kind.
    assert previous_of(path, first) is None
    assert previous_of(path, second) == first
    write_json(path, versions_json(path, second))
    assert previous_of(path, second) == first
    assert previous_of(path, third) == second
    # Another profile in between, with other sources or another tokenizer, is another corpus.
    for other in (
        replace(third, tokenizer_sha256="1", digest="1"),
        replace(third, sources={"books": 1.0}, digest="2"),
    ):
        assert previous_of(path, other) is None
        write_json(path, versions_json(path, other))
        assert previous_of(path, other) is None
    assert previous_of(path, second) == first
    write_json(path, versions_json(path, third))
    assert previous_of(path, third) == second
    assert len(read_json(path)["versions"]) == 4


def test_drift_is_the_share_that_would_have_to_be_other(tmp_path):
    before = measure(planted(tmp_path / "before", set())).outline
    after = measure(planted(tmp_path / "after", {"source", "lengths"})).outline
    moved = drift(after, before)
    # 60 and 40 of 100 became 60 and 10 of 70.
    assert moved.source_distance == pytest.approx(60 / 70 - 60 / 100, abs=1e-5)
    assert moved.length_distance == pytest.approx(0.25)
    assert moved.token_distance < 0.01
    assert drift(before, before) == Drift(0, 0, 0)
    assert drift(before, None) == Drift(None, None, None)


def test_malformed_rows_are_counted():
    rows = np.array(
        [
            [2, 9, 9, 9, 3],
            [9, 9, 9, 9, 3],  # no [CLS]
            [2, 9, 9, 9, 9],  # no [SEP]
            [2, 9, 3, 0, 0],  # padded, and not the last
            [2, 9, 0, 9, 3],  # padding inside
            [0, 0, 0, 0, 0],  # nothing but padding
            [2, 9, 3, 0, 0],  # padded, and the last
        ]
    )
    assert num_malformed(rows, SPECIAL) == 5
    assert num_malformed(rows[[0, 6]], SPECIAL) == 0
    assert num_malformed(rows[[4]], SPECIAL) == 1
    # Where every document has its own rows, any may end in padding.
    assert num_malformed(rows, SPECIAL, padded=True) == 4
    # Nor may the last of a batch, where the shard goes on.
    shard = {"file": "x", "num_sequences": 2}
    assert shard_statistics(shard, [rows[[6]], rows[[0]]], SPECIAL).num_malformed == 1


def test_equal_rows_have_equal_hashes_and_others_do_not():
    rows = good_rows(50, 0)
    rows[7] = rows[3]
    swapped = rows[3].copy()
    swapped[[5, 6]] = rows[3][[6, 5]]
    hashes = row_hashes(np.vstack([rows, swapped]))
    assert hashes[7] == hashes[3]
    assert len(np.unique(hashes)) == 50


def test_a_small_shard_has_no_share_of_unknown_tokens():
    rows = good_rows(10, 0)
    shard = {
        "file": "x",
        "num_sequences": 10,
        "num_tokens": 64,
        "num_characters": 1000,
        "num_mojibake": 5,
        "num_foreign_tokens": 16,
    }
    assert shard_statistics(shard, [rows], SPECIAL).unknown_fraction is None
    num_rows = MIN_TOKENS_FOR_A_SHARE // LENGTH + 1
    rows = good_rows(num_rows, 0)
    rows[0, 1:11] = SPECIAL.unk
    found = shard_statistics(shard, [rows], SPECIAL)
    assert found.unknown_fraction == pytest.approx(10 / (num_rows * LENGTH))
    assert found.mojibake_fraction == 0.005
    assert found.foreign_fraction == 0.25


def test_the_training_split_is_measured(tmp_path):
    train, heldout = good_rows(400, 1), good_rows(20, 2)
    train[100:110] = train[0]
    train[399, 33:] = SPECIAL.pad
    train[399, 32] = SPECIAL.sep
    train[200, 1:33] = SPECIAL.unk
    heldout[:2] = train[5:7]
    dropped = {"dropped": {"too_few_tokens": 1}, "examples": {"too_few_tokens": ["Text."]}}
    found = measure(shards(tmp_path / "shards", train, heldout, **dropped))

    # Of either split.
    assert found.drops.counts == {"too_few_tokens": 2}
    assert not {str(i) for i in range(5)} & found.outline.tokens.keys()
    assert [shard.num_sequences for shard in found.shards] == [200, 200, 20]
    assert [shard.num_malformed for shard in found.shards] == [0, 0, 0]
    assert found.train.num_tokens == 400 * 64 - 31
    assert found.train.padding_fraction == pytest.approx(31 / (400 * 64))
    assert found.train.duplicate_fraction == pytest.approx(10 / 400)
    assert found.train.unknown_fraction == pytest.approx(32 / (400 * 64 - 31))
    assert found.train.num_distinct_tokens == VOCABULARY - 5
    ordinary = train[train >= 5]
    assert found.train.top_token_fraction == np.bincount(ordinary).max() / len(ordinary)
    assert found.train.shared_fraction == 2 / 20


def test_ids_past_the_vocabulary_are_seen_and_do_not_stop_the_measuring(tmp_path):
    found = measure(planted(tmp_path / "shards", {"ids"}))
    assert [shard.largest_id for shard in found.shards[:2]] == [VOCABULARY, VOCABULARY - 1]


def test_every_bound_is_on_a_measured_column(tmp_path):
    found = measure(planted(tmp_path / "shards", set()))
    moved = asdict(drift(found.outline, None))
    tables = {"shards": asdict(found.shards[0]), "train": asdict(found.train), "drift": moved}
    bounds = bounds_of(SETTINGS, VOCABULARY)
    assert all(bound.column in tables[bound.table] for bound in bounds)
    assert len({bound.name for bound in bounds}) == len(bounds)
    assert all(bound.meaning for bound in bounds)


def test_a_failure_is_told_with_value_bound_and_shard(tmp_path):
    found = measure(planted(tmp_path / "shards", {"ids"}))
    bound = Bound("ids_in_vocabulary", "shards", "largest_id", VOCABULARY - 1, "No embedding.")
    few = Bound("enough_tokens", "train", "num_tokens", 1_000_000, "Few.", is_minimum=True)
    kept = Bound("few_duplicates", "train", "duplicate_fraction", 0.01, "Learned by heart.")
    text = explain(
        [Verdict(bound, 500.0, False), Verdict(few, 25_600.0, False), Verdict(kept, 0.0, True)],
        found,
        Path("docs"),
    )
    assert (
        "ids_in_vocabulary: largest_id is 500 in train/shard-00000.arrow, expected <= 499" in text
    )
    assert "enough_tokens: num_tokens is 25,600, expected >= 1,000,000" in text
    assert "few_duplicates" not in text
    assert "docs/index.html" in text
    assert "corpus.expectations" in text


def judge_in(folder: Path, **bounds: float) -> subprocess.CompletedProcess[str]:
    """Run the stage on the shards of a folder, as DVC does."""
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["corpus"]["expectations"] = SETTINGS.model_dump() | bounds
    (folder / "params.yaml").write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "stages.corpus.expectations", "--shards", "shards"]
    command += ["--report", "reports/expectations.json", "--docs", "reports/data_docs"]
    command += ["--versions", "reports/corpus_versions.json", "--passed", "passed.json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_the_stage_fails_after_writing_its_report(tmp_path):
    planted(tmp_path / "shards", {"duplicates"})
    (tmp_path / "passed.json").write_text("of other shards")
    done = judge_in(tmp_path)
    assert done.returncode == 1
    assert "few_duplicates: duplicate_fraction is 0.025, expected <= 0.01" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_json(tmp_path / "reports/expectations.json")["passed"] is False
    # What is found bad is nothing to compare the next with, and nothing to train on.
    assert not (tmp_path / "reports/corpus_versions.json").exists()
    assert not (tmp_path / "passed.json").exists()
    page = (tmp_path / "reports/data_docs/index.html").read_text()
    # What failed comes first, and nothing is loaded from anywhere.
    assert page.index('<tr class="failed"><th scope="row">few_duplicates') < page.index('"passed"')
    assert "://" not in page
    assert (tmp_path / "reports/data_docs" / page.split('<a href="')[1].split('"')[0]).is_file()
    # A bound that lets it pass: what training depends on names the shards alone.
    assert judge_in(tmp_path, max_duplicate_fraction=0.03).returncode == 0
    manifest = sha256_of(tmp_path / "shards" / "manifest.json")
    assert read_json(tmp_path / "passed.json") == {"manifest_sha256": manifest}
