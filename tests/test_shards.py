"""Packing, sharding and reading back."""

import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from stages.corpus import one_shard, records
from stages.corpus import shards as shards_module
from stages.corpus import workers as workers_module
from stages.corpus.curate import SPLITS
from stages.corpus.one_shard import make_shard
from stages.corpus.reading import open_split
from stages.corpus.records import Document, document_writer, read_documents
from stages.corpus.shards import Workers, make_shards
from stages.corpus.tokenising import open_tokenizer
from stages.corpus.workers import cluster, processes
from stages.errors import DataError, SettingsError
from stages.files import read_json, sha256_of_tree, write_json
from stages.params import Shards
from tests.conftest import ROOT
from tests.tiny_shards import SPECIAL

SETTINGS = Shards(sequence_length=16, num_shards=3, cross_documents=True, min_tokens=4)
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


def make(
    curated: Path,
    tokenizer: Path,
    out: Path,
    workers: Workers = lambda: ThreadPoolExecutor(1),
    **changes: Any,
) -> Path:
    make_shards(curated, tokenizer, out, SETTINGS.model_copy(update=changes), workers)
    return out


def test_whole_documents_are_read_back_in_order(tmp_path, tiny_tokenizer, monkeypatch):
    # Shares begin and end within row groups, and these within batches.
    monkeypatch.setattr(records, "ROWS_PER_GROUP", 3)
    monkeypatch.setattr(one_shard, "DOCUMENTS_PER_BATCH", 2)
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    sequences = open_split(out, "train")
    rows = sequences.rows(np.arange(sequences.num_sequences))

    # The same tokens, shard after shard, although the tokenizer's file asks to cut at 16.
    tokenizer = open_tokenizer(tiny_tokenizer)
    expected = [
        tokenizer.encode(document.text, add_special_tokens=False).ids
        for document in read_documents(tmp_path / "curated/train.parquet")
    ]
    ordinary = rows[rows >= 5]
    assert ordinary.tolist() == [i for ids in expected for i in ids]
    assert len(expected) == 20

    assert (rows[:, 0] == SPECIAL.cls).all()
    assert (np.count_nonzero(rows == 0, axis=1) > 0).sum() <= SETTINGS.num_shards
    manifest = read_json(out / "manifest.json")["splits"]["train"]
    assert manifest["num_documents"] == 20
    assert manifest["num_tokens"] == np.count_nonzero(rows) == sequences.token_counts.sum()
    counts = np.bincount(rows.ravel(), minlength=sequences.vocabulary_size)
    assert sequences.token_counts.tolist() == [0, *counts[1:].tolist()]  # padding is not counted


def test_rows_come_in_the_order_asked_for(tmp_path, tiny_tokenizer):
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    sequences = open_split(out, "train")
    everything = sequences.rows(np.arange(sequences.num_sequences))
    indices = np.array([sequences.num_sequences - 1, 0, 7, 7])
    assert np.array_equal(sequences.rows(indices), everything[indices])
    assert everything.dtype == np.int64


def test_short_and_unknown_documents_are_dropped_and_counted(tmp_path, tiny_tokenizer):
    curated = write_curated(tmp_path / "curated", 10)
    texts = ["the cat runs", "zebra zebra the dog", "the dog sees the old house"]
    texts += ["old cat sees good old dog"]
    with document_writer(curated / "heldout.parquet") as writer:
        for i, text in enumerate(texts):
            writer.write(Document(f"heldout:{i}", "a", "title", text))
    out = make(curated, tiny_tokenizer, tmp_path / "shards")
    part = read_json(out / "manifest.json")["splits"]["heldout"]
    assert part["num_documents"] == 2
    # All of the last one, which has no word that English cannot do without.
    assert sum(shard["num_foreign_tokens"] for shard in part["shards"]) == 6
    assert part["dropped"] == {"too_few_tokens": 1, "too_many_unknown": 1}
    assert part["examples"] == {"too_few_tokens": texts[:1], "too_many_unknown": texts[1:2]}


@pytest.mark.parametrize("num_workers", [2, 5])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path, tiny_tokenizer, num_workers):
    curated = write_curated(tmp_path / "curated", 40)
    one = make(curated, tiny_tokenizer, tmp_path / "one")
    many = make(
        curated, tiny_tokenizer, tmp_path / "many", partial(ThreadPoolExecutor, num_workers)
    )
    assert sha256_of_tree(one) == sha256_of_tree(many)


@pytest.mark.slow
def test_processes_give_the_bytes_of_threads(tmp_path, tiny_tokenizer):
    curated = write_curated(tmp_path / "curated", 40)
    threads = make(curated, tiny_tokenizer, tmp_path / "threads")
    other = make(curated, tiny_tokenizer, tmp_path / "processes", partial(processes, 2))
    assert sha256_of_tree(threads) == sha256_of_tree(other)


def test_finished_shards_are_not_made_again(tmp_path, tiny_tokenizer, monkeypatch):
    curated = write_curated(tmp_path / "curated", 40)
    whole = make(curated, tiny_tokenizer, tmp_path / "whole")
    done = []

    def dies_after_two(shard):
        if len(done) == 2:
            raise KeyboardInterrupt
        make_shard(shard)
        done.append(shard.out.with_suffix(".arrow"))

    monkeypatch.setattr(shards_module, "make_shard", dies_after_two)
    with pytest.raises(KeyboardInterrupt):
        make(curated, tiny_tokenizer, tmp_path / "shards")
    assert not (tmp_path / "shards").exists()
    kept = {path.stat().st_mtime_ns for path in done}

    monkeypatch.setattr(shards_module, "make_shard", make_shard)
    make(curated, tiny_tokenizer, tmp_path / "shards")
    assert kept < {path.stat().st_mtime_ns for path in (tmp_path / "shards/train").iterdir()}
    assert sha256_of_tree(tmp_path / "shards") == sha256_of_tree(whole)
    assert list(Path(".scratch").iterdir()) == []


def test_workers_that_break_down_are_started_again(tmp_path, tiny_tokenizer, monkeypatch):
    curated = write_curated(tmp_path / "curated", 40)
    whole = make(curated, tiny_tokenizer, tmp_path / "whole")
    num_calls = 0

    def breaks(shard, when):
        nonlocal num_calls
        num_calls += 1
        if num_calls in when:
            raise BrokenProcessPool("terminated abruptly")
        make_shard(shard)

    monkeypatch.setattr(shards_module, "make_shard", partial(breaks, when={2, 9}))
    out = make(curated, tiny_tokenizer, tmp_path / "shards")
    assert sha256_of_tree(out) == sha256_of_tree(whole)
    assert num_calls > 9

    monkeypatch.setattr(shards_module, "make_shard", partial(breaks, when=range(1000)))
    with pytest.raises(DataError, match="worker processes were lost 3 times"):
        make(curated, tiny_tokenizer, tmp_path / "never", min_tokens=5)


def test_a_worker_with_other_libraries_is_refused(tmp_path, tiny_tokenizer, monkeypatch):
    curated = write_curated(tmp_path / "curated", 5)

    def elsewhere(shard):
        monkeypatch.setattr(one_shard, "versions", lambda: {"tokenizers": "0.1"})
        make_shard(shard)

    monkeypatch.setattr(shards_module, "make_shard", elsewhere)
    with pytest.raises(DataError, match=r"has {'tokenizers': '0.1'}, and the shards are made with"):
        make(curated, tiny_tokenizer, tmp_path / "shards")


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


NEVER_ENDING = """
import time
from stages.corpus import shards

assembled = shards._assemble


def waiting(done, folder, split):
    part = assembled(done, folder, split)
    time.sleep(600 if split == "heldout" else 0)
    return part


if __name__ == "__main__":
    shards._assemble = waiting
    shards.run(shards.main, shards.parser_for(None, ["curated", "tokenizer", "out"]))
"""


@pytest.mark.slow
def test_a_killed_stage_goes_on_where_it_stopped(tmp_path, tiny_tokenizer):
    settings = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings["corpus"]["shards"] |= {"num_shards": 12, "sequence_length": 16}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    write_curated(tmp_path / "curated", 20_000)
    # However fast the machine, what is to be killed does not end before.
    (tmp_path / "never_ending.py").write_text(NEVER_ENDING)
    ends = [sys.executable, "-m", "stages.corpus.shards"]
    never_ends = [sys.executable, "never_ending.py"]
    arguments = ["--curated", "curated", "--tokenizer", str(tiny_tokenizer), "--out"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    rng = np.random.default_rng()
    for num_done in (0, 3):
        killed = subprocess.Popen(
            [*never_ends, *arguments, "shards"], env=environment, start_new_session=True
        )
        deadline = time.monotonic() + 120
        while len(done := list(Path(".scratch").glob("shards-*/train-*.json"))) < num_done:
            assert killed.poll() is None, "it ended with an error"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.1 if num_done else 4))
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        assert not Path("shards").exists()
    finished = {path.with_suffix(".arrow").stat().st_mtime_ns for path in done}

    subprocess.run([*ends, *arguments, "shards"], env=environment, check=True)
    # Finished shards were linked into the result, not written again.
    assert finished <= {path.stat().st_mtime_ns for path in Path("shards/train").iterdir()}
    subprocess.run([*ends, *arguments, "again"], env=environment, check=True)
    assert sha256_of_tree(Path("shards")) == sha256_of_tree(Path("again"))


@pytest.mark.slow
def test_a_cluster_gives_the_same_bytes_though_a_worker_is_killed(tmp_path, tiny_tokenizer):
    distributed = pytest.importorskip("distributed")
    curated = write_curated(tmp_path / "curated", 12_000)
    alone = make(curated, tiny_tokenizer, tmp_path / "alone", num_shards=12)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    python = [sys.executable, "-m"]
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    scheduler = [*python, "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    worker = [*python, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    started = [
        subprocess.Popen(command, env=environment, cwd=folder)
        for command, folder in (
            ([*scheduler, "--port", str(port), "--no-dashboard"], tmp_path),
            # Another folder than this one, as on another machine.
            ([*worker, "--no-dashboard"], tmp_path / "curated"),
            ([*worker, "--no-dashboard"], tmp_path / "curated"),
        )
    ]
    try:
        with distributed.Client(address, timeout=30, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)

        def kills_one() -> None:
            while not list(Path(".scratch").glob("shards-*/train-*.json")):
                assert not (tmp_path / "cluster").exists(), "it was done before one could be killed"
                time.sleep(0.005)
            started[1].kill()

        with ThreadPoolExecutor(1) as pool:
            killed = pool.submit(kills_one)
            out = make(
                curated,
                tiny_tokenizer,
                tmp_path / "cluster",
                partial(cluster, address),
                num_shards=12,
            )
            killed.result()
        assert started[1].wait(10) == -signal.SIGKILL
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert sha256_of_tree(out) == sha256_of_tree(alone)


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def test_a_cluster_that_does_not_answer_is_named(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(workers_module, "SECONDS_TO_CONNECT", 0.2)
    address = f"tcp://127.0.0.1:{free_port()}"
    with (
        pytest.raises(SettingsError, match=r"launch.dask_address = tcp.*no Dask scheduler answers"),
        cluster(address),
    ):
        pass


def test_sentence_starts_are_read_back(tmp_path, tiny_tokenizer):
    curated = write_curated(tmp_path / "curated", 10)
    with document_writer(curated / "train.parquet") as writer:
        for i in range(9):
            writer.write(Document(f"a:{i}", "a", "", "The cat sees a dog. It runs! " * (i + 1)))
    sequences = open_split(make(curated, tiny_tokenizer, tmp_path / "shards"), "train")
    indices = np.arange(sequences.num_sequences)[::-1]
    rows, starts = sequences.rows(indices), sequences.sentence_starts(indices)
    the, it = (open_tokenizer(tiny_tokenizer).token_to_id(word) for word in ("the", "it"))
    assert np.array_equal(starts, (rows == the) | (rows == it))
    assert starts.any()


def test_datasets_maps_a_shard(tmp_path, tiny_tokenizer):
    datasets = pytest.importorskip("datasets")
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    shard = datasets.Dataset.from_file(str(out / "train/shard-00001.arrow"))
    sequences = open_split(out, "train")
    first = read_json(out / "manifest.json")["splits"]["train"]["shards"][0]["num_sequences"]
    indices = np.arange(first, first + len(shard))
    assert np.array_equal(np.array(shard["input_ids"]), sequences.rows(indices))
    assert np.array_equal(np.array(shard["sentence_starts"]), sequences.sentence_starts(indices))


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
    with pytest.raises(DataError, match="has format 99, and format 2 is read here"):
        open_split(out, "train")


def test_rows_that_the_manifest_does_not_count_are_refused(tmp_path, tiny_tokenizer):
    out = make(write_curated(tmp_path / "curated", 20), tiny_tokenizer, tmp_path / "shards")
    manifest = read_json(out / "manifest.json")
    manifest["splits"]["train"]["num_sequences"] += 1
    write_json(out / "manifest.json", manifest)
    with pytest.raises(DataError, match=r"train holds (\d+) rows where the manifest says (?!\1)"):
        open_split(out, "train")


def test_a_split_without_a_sequence_is_refused(tmp_path, tiny_tokenizer):
    curated = write_curated(tmp_path / "curated", 20)
    with document_writer(curated / "heldout.parquet") as writer:
        writer.write(Document("heldout:0", "a", "title", "the cat"))
    with pytest.raises(DataError, match=r"no sequence is left for the heldout split"):
        make(curated, tiny_tokenizer, tmp_path / "shards")
    assert SPLITS == ("train", "heldout")
