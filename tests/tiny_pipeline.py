"""A whole project at toy size: its own teacher, tokenizer and settings, the real graph and code.

The corpus is the docstrings of two small installed packages; the teacher a random BERT with a
masked-language-model head; every stage is the real one.
"""

import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForMaskedLM

from stages.files import sha256_of
from tests.conftest import ROOT

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
FREQUENT = """the of a to is in and for that it be with as this are if by on not from or an at will
can return returns value values used when which all one given object function class default name set
model input output layer tensor array data type file string list number int float true false none
"""


def save_tokenizer(folder: Path) -> int:
    """Write a WordPiece tokenizer of letters, digits and frequent words; return its size."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,()'-_:;/\"`=<>*[]"
    tokens = [*SPECIAL, *letters, *(f"##{c}" for c in letters), *FREQUENT.split()]
    tokens = list(dict.fromkeys(tokens))
    tokenizer = Tokenizer(
        models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.add_special_tokens(SPECIAL)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(tokens)


def save_teacher(folder: Path) -> str:
    """Write a random teacher with its tokenizer; return the sha256 of its weights."""
    torch.manual_seed(1)
    size = save_tokenizer(folder)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=size,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
            initializer_range=0.1,
            pad_token_id=0,
        )
    )
    model.save_pretrained(folder)
    return sha256_of(folder / "model.safetensors")


def settings(teacher: Path, sha256: str) -> dict[str, Any]:
    """The offline profile with everything made small."""
    chosen: dict[str, Any] = yaml.safe_load((ROOT / "profiles" / "offline.yaml").read_text())
    chosen["corpus"]["sources"]["docstrings"] |= {
        "packages": ["pydantic", "jinja2"],
        "max_megabytes": 0.1,
    }
    chosen["corpus"]["curate"]["heldout_fraction"] = 0.2
    chosen["corpus"]["shards"] |= {"sequence_length": 32, "num_shards": 2}
    chosen["corpus"]["expectations"] |= {
        "min_tokens": 500,
        "max_unknown_fraction": 0.2,
        "min_distinct_tokens": 20,
        "max_top_token_fraction": 0.5,
        "max_padding_fraction": 0.1,
        "max_duplicate_fraction": 0.1,
        # Rows of 32 letters are short enough to be the same by chance.
        "max_shared_fraction": 0.1,
        "max_foreign_fraction": 0.5,
    }
    chosen["teacher"]["source"] = {
        "kind": "folder",
        "path": str(teacher),
        "sha256": {"model.safetensors": sha256},
    }
    chosen["teacher"]["adapt"]["num_steps"] = 6
    for student in chosen["students"].values():
        student["teacher_layers"] = [0, 2]
    chosen["distill"]["schedule"]["num_steps"] = 12
    chosen["distill"]["heldout_sequences"] = 16
    chosen["evaluation"]["tasks"] = ["package"]
    chosen["evaluation"]["seeds"] = [1, 2]
    chosen["evaluation"]["finetune"] |= {
        "num_epochs": 1,
        "max_length": 48,
        "max_train_examples": 40,
        "max_validation_examples": 30,
    }
    chosen["evaluation"]["speed"] |= {"sequence_lengths": [32], "num_rounds": 3}
    # A random teacher teaches nothing: the gate's mechanics are tested, not its verdict.
    chosen["gate"] = {
        "min_retention": 0.0,
        "min_task_retention": 0.0,
        "max_parameter_fraction": 1.0,
        "min_speedup": 0.01,
        "must_beat_baseline_on": [],
    }
    chosen["export"] |= {"min_int8_agreement": 0.0}
    chosen["launch"] |= {"checkpoint_every_seconds": 0}
    return chosen


def make_project(folder: Path, **changes: Any) -> Path:
    """Make a project with the real code and graph, under git and DVC; return its folder."""
    project = folder / "project"
    project.mkdir(parents=True)
    for name in ("stages", "flows"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "requirements.lock", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project / name)
    sha256 = save_teacher(folder / "teacher")
    write_params(project, settings(folder / "teacher", sha256) | changes)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (
        [*git, "init", "--quiet"],
        [sys.executable, "-m", "dvc", "init", "--quiet", "--force"],
        [sys.executable, "-m", "dvc", "config", "core.analytics", "false"],
        [*git, "add", "--all"],
        [*git, "commit", "--quiet", "--message", "A project"],
    ):
        subprocess.run(command, cwd=project, check=True, env=environment())
    shutil.copy(ROOT / ".dvcignore", project / ".dvcignore")
    return project


def write_params(project: Path, chosen: dict[str, Any]) -> None:
    (project / "params.yaml").write_text(yaml.safe_dump(chosen, sort_keys=False))


def environment(**more: str) -> dict[str, str]:
    """The environment of a stage: this interpreter first on PATH, no telemetry, no server."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return (
        kept
        | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DO_NOT_TRACK": "1",
            "DVC_NO_ANALYTICS": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "OMP_NUM_THREADS": "1",
        }
        | more
    )


def stage(
    project: Path, module: str, *arguments: str, max_file_bytes: int | None = None
) -> subprocess.Popen[str]:
    """Start a stage by hand, as DVC would, in its own process group.

    `max_file_bytes` makes every larger write fail, as on a full disk.
    """

    def limit() -> None:
        if max_file_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, max_file_bytes))

    # Python 3.11 takes a module's cache that it could not write whole for whole.
    forbidden = {} if max_file_bytes is None else {"PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=project,
        env=environment(**forbidden),
        preexec_fn=limit,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
