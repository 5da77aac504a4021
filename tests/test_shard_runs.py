"""Shards over several runs: two at once, one after a kill, one with other inputs at old paths."""

import json
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from stages import files
from stages.corpus import one_shard
from stages.corpus import shards as shards_module
from stages.corpus.one_shard import Shard, make_shard
from stages.corpus.reading import open_split
from stages.corpus.workers import cluster
from stages.errors import DataError, DistilleryError
from stages.files import sha256_of_tree
from tests.test_shards import make, write_curated


@pytest.fixture
def curated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_curated(tmp_path / "curated", 5)


def test_two_runs_do_not_make_the_same_shards(curated, tmp_path, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(shards_module, "SECONDS_TO_LET_GO", 0.1)

    def meanwhile(shard):
        make_shard(shard)
        with pytest.raises(DataError, match=r"another process makes these shards in .*shards-"):
            make(curated, tiny_tokenizer, tmp_path / "other")

    monkeypatch.setattr(shards_module, "make_shard", meanwhile)
    assert open_split(make(curated, tiny_tokenizer, tmp_path / "shards"), "train")


def test_a_kill_while_finished_shards_are_deleted_costs_no_rerun(
    curated, tmp_path, tiny_tokenizer, monkeypatch
):
    def deletes_some(folder: Path, ignore_errors: bool = False) -> None:
        # What earlier kills left, or unfinished files; here there are none.
        if ignore_errors:
            return
        for suffix in (".arrow", ".npy"):
            (folder / "train-00000").with_suffix(suffix).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(files, "shutil", SimpleNamespace(rmtree=deletes_some))
        with pytest.raises(KeyboardInterrupt):
            make(curated, tiny_tokenizer, tmp_path / "killed")
    again = make(curated, tiny_tokenizer, tmp_path / "again")
    assert sha256_of_tree(again) == sha256_of_tree(tmp_path / "killed")
    assert list(Path(".scratch").iterdir()) == []


def test_another_tokenizer_at_the_same_path_is_opened(curated, tmp_path, tiny_tokenizer):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tiny_tokenizer.read_bytes())
    make(curated, path, tmp_path / "before")
    described = json.loads(path.read_text())
    words = described["model"]["vocab"]
    words["cat"], words["dog"] = words["dog"], words["cat"]
    path.write_text(json.dumps(described))
    # The process that makes these is the same, as a worker of a cluster may be.
    after = open_split(make(curated, path, tmp_path / "after"), "train")
    before = open_split(tmp_path / "before", "train")
    assert after.token_counts[words["cat"]] == before.token_counts[words["dog"]] > 0
    assert after.token_counts[words["dog"]] == before.token_counts[words["cat"]] > 0
    with pytest.raises(DataError, match=r"and the run's is 0000: every worker must see the same"):
        one_shard._tokenizer(path, "0000")


@pytest.mark.parametrize("what", ["documents", "tokenizer", "settings", "code"])
def test_what_a_killed_run_left_is_nothing_to_a_run_of_other(
    curated, tmp_path, tiny_tokenizer, monkeypatch, what
):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(tiny_tokenizer.read_bytes())

    def killed(_shard: Shard) -> None:
        raise KeyboardInterrupt

    def left(**changes: object) -> set[str]:
        with pytest.raises(KeyboardInterrupt):
            make(curated, path, tmp_path / "shards", **changes)
        return {folder.name for folder in Path(".scratch").iterdir()}

    monkeypatch.setattr(shards_module, "make_shard", killed)
    before = left()
    assert left() == before
    if what == "documents":
        write_curated(curated, 6)
    elif what == "tokenizer":
        path.write_text(json.dumps(json.loads(path.read_text())))
    elif what == "code":
        monkeypatch.setattr(shards_module, "versions", lambda: {"code": "another"})
    changes = {"min_tokens": 5} if what == "settings" else {}
    assert len(left(**changes) - before) == 1


def test_damaged_token_counts_are_refused(curated, tmp_path, tiny_tokenizer):
    out = make(curated, tiny_tokenizer, tmp_path / "shards")
    counts = np.load(out / "token_counts.npy")
    counts[7] += 1
    np.save(out / "token_counts.npy", counts)
    with pytest.raises(DataError, match=r"token_counts\.npy is damaged"):
        open_split(out, "heldout")


def test_a_scheduler_that_is_lost_is_named():
    distributed = pytest.importorskip("distributed")
    here = distributed.LocalCluster(
        n_workers=0, processes=False, protocol="tcp", dashboard_address=None
    )
    with (
        here,
        pytest.raises(DistilleryError, match=r"the Dask scheduler at tcp://.* was lost"),
        cluster(here.scheduler_address),
    ):
        raise CancelledError  # as from every future when the scheduler is gone
