"""Fixtures that several test files share."""

import os
import signal
from pathlib import Path

import pytest

# Before anything imports torch: models this small only lose time by sharing their work, and more
# of it wherever other processes use the same cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell gives its background jobs an ignored SIGINT, and children inherit it: what is stopped by
# Ctrl-C in these tests must hear it however the tests were started.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parent.parent


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
