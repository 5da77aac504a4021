"""MLflow's copy of an exported model, with the code that serves it.

The model is code (`student_pyfunc.py`, `classify_pyfunc.py`), two ONNX graphs and a tokenizer: no
pickle is written, and the requirements name what that code imports, so serving installs no torch.
"""

import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from stages.command import log
from stages.registry.versions import TAG_EXPORT
from stages.tracking.live import TAG_LINEAGE
from stages.tracking.store import Store

FILL_MASK = Path(__file__).with_name("student_pyfunc.py")
CLASSIFY = Path(__file__).with_name("classify_pyfunc.py")
EXAMPLE = "The model was [MASK] on a large corpus."
# What both import, pinned as installed.
REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "pandas", "tokenizers")


def logged_model(
    store: Store, experiment_id: str, student: str, export: Path, tags: dict[str, str]
) -> str:
    """Return the id of MLflow's copy of the exported files, uploaded if there is no whole one.

    Call it inside a run. What a killed upload left is deleted.

    Args:
        store: the open store.
        experiment_id: where the copy belongs.
        student: its name.
        export: the exported folder.
        tags: lineage and export hash, by which the copy is found again, and what else to tell.
    """
    found = store.client.search_logged_models(
        [experiment_id], f"tags.{TAG_LINEAGE} = '{tags[TAG_LINEAGE]}'"
    )
    mine = [m for m in found if m.tags.get(TAG_EXPORT) == tags[TAG_EXPORT]]
    whole = [m for m in mine if m.status.name == "READY"]
    for left_over in (m for m in mine if m not in whole):
        store.client.delete_logged_model(left_over.model_id)
    if whole:
        return str(whole[0].model_id)
    return _log(f"fill_mask_{student}", _fill_mask(export), tags)


def mend_upload(store: Store, model: str, version: int, export: Path) -> None:
    """Upload a version's exported files again, if somebody has deleted some of MLflow's copy.

    Args:
        store: the open store.
        model: the registered model.
        version: its number.
        export: the exported folder that the version is of.
    """
    import mlflow

    # models:/<id of the copy>; the version's own model_id is empty in a local store.
    model_id = store.client.get_model_version(model, str(version)).source.rpartition("/")[2]
    entries = [
        entry.path.rpartition("/")[2]
        for place in (None, "artifacts")
        for entry in store.client.list_logged_model_artifacts(model_id, place)
    ]
    contents = _fill_mask(export)
    wanted = {"MLmodel", *(Path(path).name for path in contents["artifacts"].values())}
    if wanted <= set(entries):
        return
    log.warning("%s version %d has lost files: uploading it again", model, version)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(Path(folder) / "model", **contents)
        store.client.log_model_artifacts(model_id, str(Path(folder) / "model"))


def _fill_mask(export: Path) -> dict[str, Any]:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    candidate = Object(
        [Property("token", DataType.string), Property("probability", DataType.double)]
    )
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "text")]),
        outputs=Schema([ColSpec(Array(Array(candidate)), "masks")]),
        params=ParamSchema([ParamSpec("top_k", "long", 5)]),
    )
    return _contents(FILL_MASK, export, signature, {"text": EXAMPLE})


def log_model(
    name: str,
    code: Path,
    export: Path,
    signature: Any,
    example: dict[str, str],
    tags: dict[str, str],
) -> str:
    """Upload an exported folder with the code that serves it; return the id of MLflow's copy.

    Call it inside a run.

    Args:
        name: what MLflow calls the copy.
        code: the file that serves it.
        export: the exported folder: both graphs, tokenizer.json and config.json.
        signature: an mlflow.models.ModelSignature.
        example: a row that the model answers; promotion tries it (admission.py).
        tags: of the copy.
    """
    return _log(name, _contents(code, export, signature, example), tags)


def _log(name: str, contents: dict[str, Any], tags: dict[str, str]) -> str:
    import mlflow

    return str(mlflow.pyfunc.log_model(name=name, tags=tags, **contents).model_id)


def _contents(code: Path, export: Path, signature: Any, example: dict[str, str]) -> dict[str, Any]:
    """Return what MLflow's pyfunc keeps of an exported folder and the code that serves it."""
    import pandas as pd

    return {
        "python_model": str(code),
        "artifacts": {
            "onnx_fp32": str(export / "model.onnx"),
            "onnx_int8": str(export / "model.int8.onnx"),
            "tokenizer": str(export / "tokenizer.json"),
            "config": str(export / "config.json"),
        },
        "model_config": {"precision": "fp32"},
        "signature": signature,
        "input_example": pd.DataFrame([example]),
        "pip_requirements": [f"{name}=={installed_version(name)}" for name in REQUIREMENTS],
    }
