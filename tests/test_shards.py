"""Packing, sharding and reading back."""

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import yaml

from stages.corpus import shards as shards_module
from stages.corpus.curate import SPLITS
from stages.corpus.packing import id_type, open_tokenizer, pack
from stages.corpus.reading import SpecialIds, open_split
from stages.corpus.records import Document, document_writer
from stages.corpus.shards import make_shards, run_rank
from stages.corpus.workers import processes
from stages.errors import DataError
from stages.files import read_json, sha256_of_tree, write_json
from stages.params import Shards
from tests.conftest import ROOT

SPECIAL = SpecialIds(pad=0, unk=1, cls=2, sep=3, mask=4)
SETTINGS = Shards(sequence_length=16, sequences_per_shard=5, num_ranks=3, min_tokens=4)
TEXT = "the cat sees a dog by the old house and the king reads a good book"


@pytest.fixture(autouse=True)
def _scratch_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_curated(folder: Path, num_documents: int) -> Path:
    """Documents of 5 to 44 known words, the same for every call."""
    random = np.random.default_rng(0)
    for split, number in (("train", num_documents), ("heldout", 4)):
        with document_writer(folder / f"{split}.parquet") as writer:
            for i in range(number):
                text = " ".join(random.choice(TEXT.split(), size=random.integers(5, 45)))
                writer.write(Document(f"{split}:{i}", "a", "title", text))
    return folder


def make(curated: Path, tokenizer: Path, out: Path, executor: Executor | None = None) -> Path:
    with executor or ThreadPoolExecutor(1) as pool:
        make_shards(curated, tokenizer, out, SETTINGS, pool)
    return out


def packed(*documents: list[int], length: int = 6) -> list[list[int]]:
    return [row.tolist() for row in pack([np.array(ids) for ids in documents], SPECIAL, length)]


def test_documents_are_packed_end_to_end():
    # Six places a row: [CLS] (2), four tokens, [SEP] (3). A separator stands between documents.
    assert packed([11, 12, 13], [21, 22, 23, 24, 25]) == [
        [2, 11, 12, 13, 3, 3],  # the separator is the row's last place before its end
        [2, 21, 22, 23, 24, 3],
        [2, 25, 3, 0, 0, 0],
    ]


def test_a_row_that_ends_with_its_document_needs_no_separator():
    assert packed([11, 12, 13, 14], [21]) == [[2, 11, 12, 13, 14, 3], [2, 21, 3, 0, 0, 0]]


def test_a_full_last_row_is_not_padded():
    assert packed([11], [21, 22]) == [[2, 11, 3, 21, 22, 3]]


def test_nothing_is_packed_to_nothing():
    assert packed() == []


def test_the_smallest_type_that_holds_a_vocabulary():
    assert id_type(30522) == np.uint16
    assert id_type(65536) == np.uint16
    assert id_type(65537) == np.uint32


def test_whole_documents_are_read_back_in_order(tmp_path, tiny_tokenizer):
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    sequences = open_split(out, "train")
    rows = sequences.rows(np.arange(sequences.num_sequences))

    # The same tokens, rank after rank, although the tokenizer's file asks to cut at 16.
    tokenizer = open_tokenizer(tiny_tokenizer)
    expected = []
    for rank in range(SETTINGS.num_ranks):
        for texts in shards_module._texts(tmp_path / "curated/train.parquet", rank, 3):
            expected += [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    ordinary = rows[rows >= 5]
    assert ordinary.tolist() == [i for ids in expected for i in ids]
    assert len(expected) == 20

    assert (rows[:, 0] == SPECIAL.cls).all()
    assert (np.count_nonzero(rows == 0, axis=1) > 0).sum() <= SETTINGS.num_ranks
    manifest = read_json(out / "manifest.json")["splits"]["train"]
    assert manifest["num_documents"] == 20
    assert manifest["num_tokens"] == np.count_nonzero(rows) == sequences.token_counts.sum()
    counts = np.bincount(rows.ravel(), minlength=sequences.vocabulary_size)
    assert sequences.token_counts.tolist() == [0, *counts[1:].tolist()]  # padding is not counted


def test_rows_come_in_the_order_asked_for(tmp_path, tiny_tokenizer):
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    sequences = open_split(out, "train")
    everything = sequences.rows(np.arange(sequences.num_sequences))
    assert sequences.num_sequences > 2 * SETTINGS.sequences_per_shard
    indices = np.array([sequences.num_sequences - 1, 0, 7, 7])
    assert np.array_equal(sequences.rows(indices), everything[indices])
    assert everything.dtype == np.int64


def test_short_and_unknown_documents_are_dropped_and_counted(tmp_path, tiny_tokenizer):
    curated = write_curated(tmp_path / "curated", 10)
    texts = ["the cat runs", "zebra zebra the dog", "the dog sees the old house"]
    with document_writer(curated / "heldout.parquet") as writer:
        for i, text in enumerate(texts):
            writer.write(Document(f"heldout:{i}", "a", "title", text))
    out = make(curated, tiny_tokenizer, tmp_path / "shards")
    part = read_json(out / "manifest.json")["splits"]["heldout"]
    assert part["num_documents"] == 1
    assert part["dropped"] == {"too_few_tokens": 1, "too_many_unknown": 1}


@pytest.mark.parametrize("num_workers", [2, 5])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, tiny_tokenizer, num_workers):
    curated = write_curated(tmp_path / "curated", 40)
    one = make(curated, tiny_tokenizer, tmp_path / "one", ThreadPoolExecutor(1))
    many = make(curated, tiny_tokenizer, tmp_path / "many", ThreadPoolExecutor(num_workers))
    assert sha256_of_tree(one) == sha256_of_tree(many)


@pytest.mark.slow
def test_processes_give_the_bytes_of_threads(tmp_path, tiny_tokenizer):
    curated = write_curated(tmp_path / "curated", 40)
    threads = make(curated, tiny_tokenizer, tmp_path / "threads")
    with processes(2) as executor:
        other = make(curated, tiny_tokenizer, tmp_path / "processes", executor)
    assert sha256_of_tree(threads) == sha256_of_tree(other)


def test_finished_ranks_are_not_done_again(tmp_path, tiny_tokenizer, monkeypatch):
    curated = write_curated(tmp_path / "curated", 40)
    whole = make(curated, tiny_tokenizer, tmp_path / "whole")
    done = []

    def dies_after_two(rank):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(rank.out.name)
        return run_rank(rank)

    monkeypatch.setattr(shards_module, "run_rank", dies_after_two)
    with pytest.raises(KeyboardInterrupt):
        make(curated, tiny_tokenizer, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    kept = {path: path.stat().st_mtime_ns for path in Path(".scratch").glob("shards-*/*-*")}
    assert len(kept) == 2

    times = []

    def watched(rank):
        run_rank(rank)
        times.append(kept.get(rank.out.relative_to(Path())) in (None, rank.out.stat().st_mtime_ns))

    monkeypatch.setattr(shards_module, "run_rank", watched)
    make(curated, tiny_tokenizer, tmp_path / "shards")
    assert all(times)
    assert sha256_of_tree(tmp_path / "shards") == sha256_of_tree(whole)
    assert list(Path(".scratch").iterdir()) == []


@pytest.mark.slow
def test_processes_end_with_the_one_that_started_them(tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(
        "import os, time\n"
        "from stages.corpus.workers import processes\n"
        "if __name__ == '__main__':\n"
        "    with processes(1) as executor:\n"
        "        print(executor.submit(os.getpid).result(), flush=True)\n"
        "        time.sleep(600)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists():
            break
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.slow
def test_a_killed_stage_goes_on_where_it_stopped(tmp_path, tiny_tokenizer):
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["corpus"]["shards"] |= {"num_ranks": 12, "sequence_length": 16}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    write_curated(tmp_path / "curated", 60_000)
    command = [sys.executable, "-m", "stages.corpus.shards", "--curated", "curated"]
    command += ["--tokenizer", str(tiny_tokenizer), "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    killed = subprocess.Popen([*command, "shards"], env=environment, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(Path(".scratch").glob("shards-*/train-*")):
        assert killed.poll() is None, "it was done before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    finished = {p: p.stat().st_mtime_ns for p in Path(".scratch").glob("shards-*/train-*/*.arrow")}
    assert not Path("shards").exists()

    subprocess.run([*command, "shards"], env=environment, check=True)
    # Finished shards were linked into the result, not written again.
    linked = {path.stat().st_mtime_ns for path in Path("shards/train").iterdir()}
    assert finished
    assert set(finished.values()) <= linked
    subprocess.run([*command, "again"], env=environment, check=True)
    assert sha256_of_tree(Path("shards")) == sha256_of_tree(Path("again"))


def test_datasets_maps_a_shard(tmp_path, tiny_tokenizer):
    datasets = pytest.importorskip("datasets")
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    shard = datasets.Dataset.from_file(str(out / "train/shard-00001.arrow"))
    rows = open_split(out, "train").rows(np.arange(5, 10))
    assert np.array_equal(np.array(shard["input_ids"]), rows)


def test_a_damaged_shard_is_refused(tmp_path, tiny_tokenizer):
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    path = out / "train/shard-00000.arrow"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"shard-00000\.arrow is damaged: .*dvc checkout"):
        open_split(out, "train")
    assert open_split(out, "train", verify=False).num_sequences > 0
    assert open_split(out, "heldout").num_sequences > 0


def test_a_missing_shard_is_named(tmp_path, tiny_tokenizer):
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    (out / "train/shard-00001.arrow").unlink()
    with pytest.raises(DataError, match=r"shard-00001\.arrow does not exist"):
        open_split(out, "train")


def test_shards_of_another_format_are_refused(tmp_path, tiny_tokenizer):
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    write_json(out / "manifest.json", {**read_json(out / "manifest.json"), "format": 99})
    with pytest.raises(DataError, match="has format 99, and format 1 is read here"):
        open_split(out, "train")


def test_a_tokenizer_without_special_tokens_is_refused(tmp_path, tiny_tokenizer):
    vocabulary = json.loads(tiny_tokenizer.read_text())
    vocabulary["added_tokens"] = []
    vocabulary["model"]["vocab"].pop("[MASK]")
    vocabulary["model"]["vocab"].pop("[CLS]")
    vocabulary["post_processor"] = None
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(vocabulary))
    with pytest.raises(DataError, match=r"has no token \[CLS\], \[MASK\]: it is not a BERT"):
        make(write_curated(tmp_path / "curated", 5), path, tmp_path / "shards")


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(DataError, match=r"is not a tokenizer\.json"):
        open_tokenizer(path)
    with pytest.raises(DataError, match="nothing does not exist"):
        open_tokenizer(tmp_path / "nothing")


def test_a_split_without_a_sequence_is_refused(tmp_path, tiny_tokenizer):
    curated = write_curated(tmp_path / "curated", 20)
    with document_writer(curated / "heldout.parquet") as writer:
        writer.write(Document("heldout:0", "a", "title", "the cat"))
    with pytest.raises(DataError, match=r"no sequence is left for the heldout split"):
        make(curated, tiny_tokenizer, tmp_path / "shards")
    assert SPLITS == ("train", "heldout")
