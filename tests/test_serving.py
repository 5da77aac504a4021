"""The champion over HTTP, on a real store: fill-mask, classification, a change of champion."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from registry_world import MODEL
from starlette.testclient import TestClient
from store_kills import Killed
from test_task_model import LABELS, write_model, write_task

from stages import params
from stages.errors import DataError, DistilleryError, GateError
from stages.export.task_model import export_task_model
from stages.files import read_json, write_json
from stages.registry import classifier
from stages.registry.serve import Champion, listen
from stages.registry.transitions import promote, rollback
from stages.tracking.store import Store

pytestmark = pytest.mark.slow
CLASSIFIER = "toy-student"
JSON = "application/json"
ROWS_OF_OTHER_NAMES = json.dumps({"dataframe_records": [{f"c{i}": 1} for i in range(200)]})
REFUSED = [
    ("", b"{}", 415, "Content-Type is missing: must be application/json"),
    # 16 MiB of it may unpack to any number of rows.
    ("application/vnd.apache.parquet", b"PAR1", 415, "parquet: must be application/json"),
    (JSON, b" " * (2**24 + 1), 413, "larger than the 16777216 bytes"),
    # As many columns as rows.
    (JSON, ROWS_OF_OTHER_NAMES.encode(), 400, "more than 100 different names"),
    (JSON, b"[" * 100_000, 400, "not JSON that this server takes: maximum recursion depth"),
]


def plant_kill(patch: pytest.MonkeyPatch, write: str) -> None:
    """Let a write to the registry die."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    def die(*_arguments: Any, **_named: Any) -> None:
        raise Killed

    patch.setattr(SqlAlchemyStore, write, die)


def first_choice(server: TestClient) -> str:
    asked = {"dataframe_records": [{"text": "a [MASK]"}], "params": {"top_k": 1}}
    reply = server.post("/invocations", json=asked)
    assert reply.status_code == 200, reply.text
    (answer,) = reply.json()["predictions"]
    return str(answer["masks"][0][0]["token"])


def test_a_promotion_and_a_rollback_take_the_next_request(
    two_versions: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DistilleryError, match="has no champion to serve"):
        Champion(two_versions, MODEL)
    promote(two_versions, MODEL, 1)
    served = Champion(two_versions, MODEL)
    assert str(served) == f"{MODEL} version 1"
    server = TestClient(served)
    assert server.get("/ping").status_code == 200
    assert first_choice(server) == "paris"
    promote(two_versions, MODEL, 2)
    assert first_choice(server) == "paris"
    served.refresh()
    assert first_choice(server) == "capital"
    assert server.get("/champion").json() == {"model": MODEL, "version": 2}
    rollback(two_versions, MODEL)
    served.refresh()
    assert first_choice(server) == "paris"
    # A mistake of the caller's is told as such.
    for text, said in (
        ("no mask", "the text has no [MASK]"),
        (None, "row 1: text = nan: must be a string"),
        ("[MASK] " * 15, "row 1: the text has 17 tokens, the model reads at most 16"),
        ("a" * 999_993, "the request has 1000001 characters, and model_config max_characters"),
    ):
        rows = [{"text": "a [MASK]"}, {"text": text}]
        reply = server.post("/invocations", json={"dataframe_records": rows})
        assert reply.status_code == 400
        assert said in reply.text
    for row, count, said in (("a", 1001, "1001 rows"), ("[MASK] " * 14, 72, "1008 masks")):
        reply = server.post("/invocations", json={"dataframe_records": [{"text": row}] * count})
        assert reply.status_code == 400
        assert f"the request has {said}, and model_config max_" in reply.text
    for kind, body, status, said in REFUSED:
        headers = {"Content-Type": kind} if kind else {}
        # In pieces, and so without a length that could be believed.
        reply = server.post("/invocations", content=iter([body[:1], body[1:]]), headers=headers)
        assert (reply.status_code, said in reply.text) == (status, True), reply.text
    # What cannot be loaded changes nothing.
    two_versions.client.set_registered_model_alias(MODEL, "champion", "2")
    for graph in Path("mlruns/artifacts").rglob("model.onnx"):
        graph.write_bytes(b"torn")
    refreshed_once(served, caplog)
    assert first_choice(server) == "paris"


def test_a_port_that_is_taken_is_refused_before_a_model_is_loaded() -> None:
    with listen(0) as listening:
        port = listening.getsockname()[1]
        with pytest.raises(DistilleryError, match=rf"port {port} of .* give another: --port N"):
            listen(port)


def refreshed_once(served: Champion, caplog: pytest.LogCaptureFixture) -> None:
    """Let the server look once, and say what it could not load."""

    class Once:
        answers = iter((False, True))

        def wait(self, _seconds: float) -> bool:
            return next(self.answers)

    caplog.set_level(logging.WARNING)
    once: Any = Once()
    served.keep_fresh(0, once)
    assert "version 1 goes on" in caplog.text


def test_a_classifier_is_registered_once_promoted_and_answers(store: Store, tmp_path: Path) -> None:
    names = dict(enumerate(LABELS))
    model = write_model(
        tmp_path / "model", id2label=names, label2id={b: a for a, b in names.items()}
    )
    task = write_task(tmp_path / "task", "classification")
    loaded = params.load()
    export = loaded.export.model_copy(update={"max_score_drop": 50.0, "min_int8_agreement": 0.5})
    tuning = loaded.evaluation.finetune.model_copy(update={"max_length": 8})
    evaluation = loaded.evaluation.model_copy(update={"finetune": tuning})
    settings = loaded.model_copy(update={"export": export, "evaluation": evaluation})
    folder, path = tmp_path / "export", tmp_path / "report.json"
    export_task_model(model, task, settings, folder, path)
    report = read_json(path)
    with pytest.MonkeyPatch.context() as patch:
        # All but the version is there.
        plant_kill(patch, "create_model_version")
        with pytest.raises(Killed):
            classifier.register(store, CLASSIFIER, folder, report, settings)
    version = classifier.register(store, CLASSIFIER, folder, report, settings)
    (run,) = store.client.search_runs([store.experiment_id(settings.registry.experiment)])
    assert version.run_id == run.info.run_id
    # What is lost comes back.
    (graph,) = Path("mlruns/artifacts").rglob("model.onnx")
    graph.write_bytes(b"torn")
    assert classifier.register(store, CLASSIFIER, folder, report, settings) == version
    assert (version.version, version.gate) == (1, "passed")
    promote(store, CLASSIFIER)
    server = TestClient(Champion(store, CLASSIFIER))
    rows = [
        {"text": "a good film", "text_pair": "the book"},
        {"text": "not bad " * 40, "text_pair": "a very good book"},
    ]
    reply = server.post("/invocations", json={"dataframe_records": rows})
    assert reply.status_code == 200, reply.text
    for answer in reply.json()["predictions"]:
        shares = answer["probabilities"]
        assert list(shares) == LABELS
        assert sum(shares.values()) == pytest.approx(1)
        assert answer["label"] == max(shares, key=shares.get)
    # What the model never read where it was scored changes nothing.
    texts = [{"text": "not bad " * 3 + end} for end in ("bad bad bad", "good good good")]
    cut = server.post("/invocations", json={"dataframe_records": texts}).json()["predictions"]
    assert cut[0] == cut[1]

    def sure_of_first(*rows: dict[str, str]) -> list[float]:
        reply = server.post("/invocations", json={"dataframe_records": rows})
        assert reply.status_code == 200, reply.text
        return [answer["probabilities"][LABELS[0]] for answer in reply.json()["predictions"]]

    # A row is answered for itself, whichever stand beside it.
    pair, single = rows[0], {"text": "a film"}
    alone = sure_of_first(pair) + sure_of_first(single)
    assert sure_of_first(pair, single) == pytest.approx(alone)
    reply = server.post("/invocations", json={"dataframe_records": [{**pair, "text_pair": 3}]})
    assert reply.status_code == 400
    assert "row 0: text_pair = 3: must be a string" in reply.text
    for wrong, said in (
        ([single] * 1001, "1001 rows"),
        ([{"text": "a" * 1_000_001}], "characters"),
    ):
        reply = server.post("/invocations", json={"dataframe_records": wrong})
        assert reply.status_code == 400
        assert said in reply.text

    # A file that scores too low is registered, and never promoted.
    report["scores"]["model.onnx"] = 0.0
    report["scores"]["PyTorch"] = 90.0
    again = classifier.register(store, CLASSIFIER, folder, report, settings)
    assert (again.version, again.gate) == (1, "failed")
    (folder / "vocab.txt").write_text("")
    assert classifier.register(store, CLASSIFIER, folder, report, settings).gate == "failed"
    with pytest.raises(GateError, match=r"score/model.onnx: 0 must be at least 40"):
        promote(store, CLASSIFIER)
    (folder / "model.onnx").write_bytes(b"another")
    write_json(path, report)
    with pytest.raises(DataError, match="is not the file that the report is of"):
        classifier.register(store, CLASSIFIER, folder, report, settings)
