"""What a registered version is to those who load it, and a store to those who open it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from registry_world import MODEL, ROOT
from tiny_pipeline import environment

from stages.registry.transitions import promote
from stages.tracking.store import open_store

pytestmark = pytest.mark.slow

LOAD_ELSEWHERE = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
uri = f"models:/{sys.argv[2]}@champion"
model = mlflow.pyfunc.load_model(uri)
texts = [{"text": "paris is the [MASK]"}, {"text": "[MASK] is the [MASK]"}, {"text": "[MASK]"}]
answers = model.predict(texts, params={"top_k": 2})
int8 = mlflow.pyfunc.load_model(uri, model_config={"precision": "int8"}).predict(texts[:1])
mistakes = []
for text in ("no mask here", "[MASK] " * 20):
    try:
        model.predict([{"text": text}])
    except mlflow.exceptions.MlflowException as error:
        mistakes.append(str(error))
foreign = [name for name in ("torch", "transformers", "stages") if name in sys.modules]
print(json.dumps({"answers": answers, "int8": int8, "mistakes": mistakes, "foreign": foreign}))
"""


def test_champion_predicts_in_a_process_with_neither_torch_nor_the_project(two_versions, tmp_path):
    promote(two_versions, MODEL, 1)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ELSEWHERE, two_versions.tracking_uri, MODEL],
        cwd=elsewhere,
        env=environment(PYTHONPATH="", MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["foreign"] == []
    # The favourite's logit is 2, the nine others' 0: e^2 / (e^2 + 9) and 1 / (e^2 + 9).
    (best, second) = said["answers"][0]["masks"][0]
    assert best == {"token": "paris", "probability": pytest.approx(0.45085, abs=1e-5)}
    assert second["probability"] == pytest.approx(0.06102, abs=1e-5)
    assert [len(answer["masks"]) for answer in said["answers"]] == [1, 2, 1]
    # Twice the logit: e^4 / (e^4 + 9).
    assert said["int8"][0]["masks"][0][0]["probability"] == pytest.approx(0.85848, abs=1e-5)
    assert "row 0: the text has no [MASK]" in said["mistakes"][0]
    assert "has 22 tokens, the model reads at most 16" in said["mistakes"][1]


def test_version_holds_no_pickle(two_versions, world):
    suffixes = {path.suffix for path in (world / "mlruns/artifacts/models").rglob("*.*")}
    assert not suffixes & {".pkl", ".pickle", ".bin", ".pt", ".pth"}
    assert ".onnx" in suffixes


def test_two_processes_that_open_a_new_store_at_once_both_succeed(tmp_path):
    code = (
        "from stages.tracking.store import open_store\n"
        "store = open_store()\n"
        "with store.locked(): print(store.experiment_id('distillation'))"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=tmp_path, env=environment(PYTHONPATH=str(ROOT)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    ended = [process.communicate(timeout=200) for process in started]
    assert [out.strip() for out, _ in ended] == ["1", "1"], ended
    assert {path.name for path in (tmp_path / "mlruns").iterdir()} == {".lock", "mlflow.db"}


def test_opening_a_store_does_not_redirect_the_next_one(tmp_path, monkeypatch, empty_database):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("a", "b"):
        (tmp_path / name / "mlruns").mkdir(parents=True)
        shutil.copy(empty_database, tmp_path / name / "mlruns" / "mlflow.db")
    uris = [open_store(Path(tmp_path / name)).tracking_uri for name in ("a", "b")]
    assert uris == [f"sqlite:///{tmp_path}/{name}/mlruns/mlflow.db" for name in ("a", "b")]
