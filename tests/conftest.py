"""Fixtures that several test files share."""

import os
import shutil
import signal
import sqlite3
from contextlib import suppress
from pathlib import Path

import pytest

from stages.registry import backup
from stages.tracking.store import Store, open_store
from tests.registry_world import other_student, register_now, write_gate, write_world

# Before anything imports torch: models this small only lose time by sharing their work, and more
# of it wherever other processes use the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell gives its background jobs an ignored SIGINT, and children inherit it: what is stopped by
# Ctrl-C in these tests must hear it however the tests were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent
LONGEST = ("test_pipeline.py", "test_distill_stage.py", "test_flow.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first: started last, one would leave the other core idle."""
    items.sort(key=lambda item: LONGEST.index(name) if (name := item.path.name) in LONGEST else 9)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real GLUE, Wikipedia and book text, where the machine has it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real data is not here: {folder} does not exist")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer.json with BERT's special tokens (ids 0 to 4) and some eighty English words."""
    from tokenizers import BertWordPieceTokenizer

    words = """
        a an and are as at be by for from has in is it no not of on or so that the this to was we
        with you cat dog bird house tree river road king queen child water fire book word day night
        old new small big red green good bad first last long short
        runs sees finds takes gives reads writes opens sleeps sings falls
    """
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *".,;:!?",
        *words.split(),
        "##s",
        "##ed",
    ]
    folder = tmp_path_factory.mktemp("tokenizer")
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    tokenizer = BertWordPieceTokenizer(str(vocabulary), lowercase=True)
    # As downloaded ones do: whoever reads whole documents must switch this off.
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database, made once: it takes some ten seconds."""
    from sqlalchemy import Engine, event

    event.listen(Engine, "connect", _without_flushing)
    root = tmp_path_factory.mktemp("database")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_store(root)
    return root / "mlruns" / "mlflow.db"


def _without_flushing(connection: sqlite3.Connection, _record: object) -> None:
    """Let no commit wait for the disk: a test's database need not outlive a power cut."""
    # One of a test is no database.
    with suppress(sqlite3.DatabaseError):
        connection.execute("PRAGMA synchronous = OFF")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """The folder of a finished pipeline with an empty MLflow store, and the working folder."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    make_world(tmp_path, empty_database)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_world(folder: Path, empty_database: Path) -> None:
    write_world(folder)
    write_gate(folder)
    (folder / "mlruns").mkdir()
    shutil.copy(empty_database, folder / "mlruns" / "mlflow.db")


@pytest.fixture
def store(world: Path) -> Store:
    return open_store()


@pytest.fixture(scope="session")
def two_registered(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    """A world whose student was registered, and then another; beside it, the store's backup."""
    folder = tmp_path_factory.mktemp("registered") / "world"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        make_world(folder, empty_database)
        patch.chdir(folder)
        register_now(folder)
        other_student(folder, "capital")
        register_now(folder)
    backup.save(folder / "mlruns", folder.parent / "store.tar")
    shutil.rmtree(folder / "mlruns")
    return folder


@pytest.fixture
def two_versions(world: Path, two_registered: Path) -> Store:
    """Version 1 fills in paris, version 2 capital; none is champion."""
    from mlflow.tracking._tracking_service.utils import _artifact_repos_cache

    # By the run's id, which copies of a store share: MLflow would write into another test's.
    _artifact_repos_cache.clear()
    shutil.rmtree(world / "mlruns")
    shutil.copytree(two_registered, world, dirs_exist_ok=True)
    backup.restore(two_registered.parent / "store.tar", world / "mlruns")
    return open_store()


@pytest.fixture(scope="session")
def bert_tokenizer() -> Path:
    """The tokenizer of bert-base-uncased, where the demo has fetched its teacher."""
    path = ROOT / "models" / "teacher_source" / "tokenizer.json"
    if not path.is_file():
        pytest.skip(f"no real tokenizer is here: {path} does not exist (dvc repro fetch_teacher)")
    return path
