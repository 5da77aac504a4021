"""MLflow's copy of an exported model, with the code that serves it.

The model is code (`student_pyfunc.py`, `classify_pyfunc.py`), two ONNX graphs and a tokenizer: no
pickle is written, and the requirements name what that code imports, so serving installs no torch.
"""

import tempfile
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from stages.command import log
from stages.files import read_json
from stages.registry.versions import TAG_EXPORT, TAG_GATE, find_version
from stages.tracking.live import TAG_LINEAGE
from stages.tracking.store import Store

FILL_MASK = Path(__file__).with_name("student_pyfunc.py")
CLASSIFY = Path(__file__).with_name("classify_pyfunc.py")
# What one request may ask for; whoever loads a model may set other bounds (docs/registry.md).
BOUNDS = {"max_rows": 1000, "max_characters": 1_000_000}
MAX_MASKS = 1000
# Rows that the models answer; promotion tries them (admission.py).
EXAMPLE = "The model was {mask} on a large corpus."
PAIR = {"text": "A sentence to classify.", "text_pair": "And another."}
WRITTEN_BESIDE = ("input_example.json", "requirements.txt")
# What both import, pinned as installed.
REQUIREMENTS = ("mlflow", "numpy", "onnxruntime", "pandas", "tokenizers")


def run_of_lineage(store: Store, lineage: str) -> str | None:
    """Return the run of a lineage, brought back if somebody deleted it; None if there is none.

    A version names its run for ever, and the gate's report is in there: also where the experiment
    has another name by now.
    """
    from mlflow.entities import ViewType

    runs = store.client.search_runs(
        [experiment.experiment_id for experiment in store.client.search_experiments()],
        f"tags.{TAG_LINEAGE} = '{lineage}'",
        run_view_type=ViewType.ALL,
        order_by=["attributes.start_time"],
    )
    if not runs:
        return None
    if runs[0].info.lifecycle_stage == "deleted":
        store.client.restore_run(runs[0].info.run_id)
    return str(runs[0].info.run_id)


def registered_version(
    store: Store,
    experiment_id: str,
    model: str,
    name: str,
    contents: dict[str, Any],
    tags: dict[str, str],
) -> int:
    """Return the number of the registered version of some files, made if there is none.

    Call it inside a run. A version that is there gets what MLflow's copy has lost, and the verdict.

    Args:
        store: the open store.
        experiment_id: where MLflow's copy belongs.
        model: the registered model.
        name: what MLflow calls the copy.
        contents: from `fill_mask` or `classify`.
        tags: lineage and export hash, by which copy and version are found again, the verdict of
            the gate, and what else to tell.
    """
    import mlflow

    known = find_version(store, model, tags[TAG_LINEAGE], tags[TAG_EXPORT])
    if known is not None:
        _mend_upload(store, model, known.version, contents)
        number = str(known.version)
        store.client.set_model_version_tag(model, number, TAG_GATE, tags[TAG_GATE])
        return known.version
    copy = _logged_model(store, experiment_id, name, contents, tags)
    return int(mlflow.register_model(f"models:/{copy}", model, tags=tags).version)


def _logged_model(
    store: Store, experiment_id: str, name: str, contents: dict[str, Any], tags: dict[str, str]
) -> str:
    """Return the id of MLflow's copy of the exported files, uploaded if there is no whole one.

    What a killed upload left is deleted.
    """
    import mlflow

    found = store.client.search_logged_models(
        [experiment_id], f"tags.{TAG_LINEAGE} = '{tags[TAG_LINEAGE]}'"
    )
    mine = [m for m in found if m.tags.get(TAG_EXPORT) == tags[TAG_EXPORT]]
    whole = [m for m in mine if m.status.name == "READY"]
    for left_over in (m for m in mine if m not in whole):
        store.client.delete_logged_model(left_over.model_id)
    if whole:
        return str(whole[0].model_id)
    return str(mlflow.pyfunc.log_model(name=name, tags=tags, **contents).model_id)


def _mend_upload(store: Store, model: str, version: int, contents: dict[str, Any]) -> None:
    """Upload a version's exported files again, if MLflow's copy has lost some or parts of them."""
    import mlflow

    # models:/<id of the copy>; the version's own model_id is empty in a local store.
    model_id = store.client.get_model_version(model, str(version)).source.rpartition("/")[2]
    sizes = {
        entry.path.rpartition("/")[2]: entry.file_size
        for place in (None, "artifacts")
        for entry in store.client.list_logged_model_artifacts(model_id, place)
    }
    files = [Path(path) for path in contents["artifacts"].values()]
    # The code may have gone on since, and a version keeps the one it was registered with.
    written = ("MLmodel", Path(contents["python_model"]).name, *WRITTEN_BESIDE)
    if all(map(sizes.get, written)) and all(sizes.get(p.name) == p.stat().st_size for p in files):
        return
    log.warning("%s version %d has lost files: uploading it again", model, version)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.pyfunc.save_model(Path(folder) / "model", **contents)
        store.client.log_model_artifacts(model_id, str(Path(folder) / "model"))


def fill_mask(export: Path) -> dict[str, Any]:
    """Return what MLflow keeps of an exported student."""
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
    tokenizer = read_json(export / "tokenizer_config.json")
    example = {"text": EXAMPLE.format(mask=tokenizer["mask_token"])}
    return _contents(FILL_MASK, export, signature, example, max_masks=MAX_MASKS)


def classify(export: Path) -> dict[str, Any]:
    """Return what MLflow keeps of an exported classifier."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    text = [ColSpec("string", "text"), ColSpec("string", "text_pair", required=False)]
    signature = ModelSignature(inputs=Schema(text))
    return _contents(CLASSIFY, export, signature, PAIR)


def _contents(
    code: Path, export: Path, signature: Any, example: dict[str, str], **bounds: int
) -> dict[str, Any]:
    """Return what MLflow's pyfunc keeps of an exported folder and the code that serves it."""
    import pandas as pd

    return {
        "python_model": str(code),
        "artifacts": {
            "onnx_fp32": str(export / "model.onnx"),
            "onnx_int8": str(export / "model.int8.onnx"),
            "tokenizer": str(export / "tokenizer.json"),
            "tokenizer_config": str(export / "tokenizer_config.json"),
            "config": str(export / "config.json"),
        },
        "model_config": {"precision": "fp32"} | BOUNDS | bounds,
        "signature": signature,
        "input_example": pd.DataFrame([example]),
        "pip_requirements": [f"{name}=={installed_version(name)}" for name in REQUIREMENTS],
    }
