"""Measuring shards, and stopping the graph when they are bad."""

import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.corpus.expectations import bounds_of, explain, judge_shards, report_of
from stages.corpus.judging import Bound, Verdict
from stages.corpus.statistics import (
    MIN_TOKENS_FOR_A_SHARE,
    Statistics,
    measure,
    num_malformed,
    row_hashes,
    shard_statistics,
)
from stages.files import read_json
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


def shards(folder: Path, train: np.ndarray, heldout: np.ndarray) -> Path:
    """A shards folder of two train shards and a held-out one."""
    splits = {"train": np.array_split(train, 2), "heldout": [heldout]}
    return write_shards(folder, splits, VOCABULARY)


def damaged(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Train and held-out rows with one thing wrong, or nothing."""
    train, heldout = good_rows(400, 1), good_rows(20, 2)
    if kind == "ids":
        train[7, 9] = VOCABULARY
    elif kind == "unknown":
        train[:20, 10:40] = SPECIAL.unk
    elif kind == "duplicates":
        train[100:110] = train[0]
    elif kind == "padding":
        train[:40, 20:] = SPECIAL.pad
        train[:40, 19] = SPECIAL.sep
    elif kind == "one word":
        train[:, 5:30] = 77
    elif kind == "few tokens":
        train = train[:300]
    elif kind == "leak":
        heldout[3] = train[11]
    return train, heldout


FAILURES = {
    "nothing": set(),
    "ids": {"ids_in_vocabulary"},
    "unknown": {"unknown_in_each_shard", "unknown_in_train"},
    "duplicates": {"few_duplicates"},
    "padding": {"little_padding", "rows_well_formed"},
    "one word": {"no_dominant_token"},
    "few tokens": {"enough_tokens"},
    "leak": {"heldout_is_held_out"},
}


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
    assert shard_statistics("x", rows, SPECIAL).unknown_fraction is None
    num_rows = MIN_TOKENS_FOR_A_SHARE // LENGTH + 1
    rows = good_rows(num_rows, 0)
    rows[0, 1:11] = SPECIAL.unk
    found = shard_statistics("x", rows, SPECIAL)
    assert found.unknown_fraction == pytest.approx(10 / (num_rows * LENGTH))


def test_the_training_split_is_measured(tmp_path):
    train, heldout = good_rows(400, 1), good_rows(20, 2)
    train[100:110] = train[0]
    train[399, 33:] = SPECIAL.pad
    train[399, 32] = SPECIAL.sep
    train[200, 1:33] = SPECIAL.unk
    heldout[:2] = train[5:7]
    found = measure(shards(tmp_path / "shards", train, heldout))

    assert [shard.num_sequences for shard in found.shards] == [200, 200, 20]
    assert [shard.num_malformed for shard in found.shards] == [0, 0, 0]
    assert found.train.num_tokens == 400 * 64 - 31
    assert found.train.padding_fraction == pytest.approx(31 / (400 * 64))
    assert found.train.duplicate_fraction == pytest.approx(10 / 400)
    assert found.train.unknown_fraction == pytest.approx(32 / (400 * 64 - 31))
    assert found.train.num_distinct_tokens == VOCABULARY - 5
    ordinary = train[train >= 5]
    assert found.train.top_token_fraction == np.bincount(ordinary).max() / len(ordinary)
    assert found.train.num_shared_sequences == 2


def test_ids_past_the_vocabulary_are_seen_and_do_not_stop_the_measuring(tmp_path):
    found = measure(shards(tmp_path / "shards", *damaged("ids")))
    assert [shard.largest_id for shard in found.shards[:2]] == [VOCABULARY, VOCABULARY - 1]


def test_every_bound_is_on_a_measured_column(tmp_path):
    found = measure(shards(tmp_path / "shards", *damaged("nothing")))
    tables = {"shards": asdict(found.shards[0]), "train": asdict(found.train)}
    bounds = bounds_of(SETTINGS, VOCABULARY)
    assert all(bound.column in tables[bound.table] for bound in bounds)
    assert len({bound.name for bound in bounds}) == len(bounds)
    assert all(bound.meaning for bound in bounds)


def test_a_failure_is_told_with_value_bound_and_shard(tmp_path):
    found = measure(shards(tmp_path / "shards", *damaged("ids")))
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


@pytest.mark.slow
def test_planted_damage_is_found_and_nothing_else(tmp_path):
    for kind, expected in FAILURES.items():
        folder = tmp_path / kind
        found: Statistics = measure(shards(folder / "shards", *damaged(kind)))
        verdicts = judge_shards(found, SETTINGS, folder / "docs")
        assert {v.bound.name for v in verdicts if not v.passed} == expected, kind
        report = report_of(found, verdicts)
        assert report["passed"] == (not expected)
        # With few tokens the share of unknown ones in each shard is not judged.
        assert len(report["checks"]) == (9 if kind == "few tokens" else 10)
    pages = list((folder / "docs").rglob("*.html"))
    assert folder / "docs" / "index.html" in pages
    # One page for each table, and the leak is on one of them.
    told = [page for page in pages if "validations" in page.parts]
    assert len(told) == 2
    assert any("num_shared_sequences" in page.read_text() for page in told)


@pytest.mark.slow
def test_the_stage_fails_after_writing_its_report(tmp_path):
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["corpus"]["expectations"] = SETTINGS.model_dump()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    shards(tmp_path / "shards", *damaged("duplicates"))
    command = [sys.executable, "-m", "stages.corpus.expectations", "--shards", "shards"]
    command += ["--report", "reports/expectations.json", "--docs", "reports/data_docs"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "few_duplicates: duplicate_fraction is 0.025, expected <= 0.01" in done.stderr
    assert "Traceback" not in done.stderr
    assert read_json(tmp_path / "reports/expectations.json")["passed"] is False
    assert (tmp_path / "reports/data_docs/index.html").is_file()
