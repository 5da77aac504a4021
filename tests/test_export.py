"""A small random student, really exported, really run: in this process and in one without us."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import yaml
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import DistilBertConfig, DistilBertForMaskedLM

from stages.corpus.reading import Sequences
from stages.errors import DataError
from stages.export.card import model_card
from stages.export.export import Texts, export, texts_of
from stages.export.parity import (
    Parity,
    ParityError,
    Tally,
    as_report,
    check,
    heldout_batches,
    masked_rows,
    measure,
    open_session,
)
from stages.export.parity import torch_logits as torch_rows
from stages.export.quantise import write_int8
from stages.export.story import Source, Story
from stages.files import sha256_of
from stages.params import Export
from stages.params.release import Int8

VOCABULARY, LENGTH, PAD, MASK = 300, 32, 0, 4


class Rows:
    """Held-out rows as stages/corpus/reading.py gives them; the last one is padded."""

    num_sequences = 6
    sequence_length = LENGTH
    special = SimpleNamespace(pad=PAD, unk=1, cls=2, sep=3, mask=MASK)
    spread = Sequences.spread

    def rows(self, indices: np.ndarray) -> np.ndarray:
        rows = np.random.default_rng(0).integers(5, VOCABULARY, size=(6, LENGTH))
        rows[5, 20:] = PAD
        return rows[indices]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("students") / "small"
    config = DistilBertConfig(
        vocab_size=VOCABULARY,
        dim=32,
        hidden_dim=64,
        n_layers=2,
        n_heads=4,
        max_position_embeddings=64,
        pad_token_id=PAD,
        # Wider than BERT, so that few logits are almost equal.
        initializer_range=0.1,
    )
    DistilBertForMaskedLM(config).save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    # As somebody's last call left it; all-MiniLM's file is so.
    cut, fill = {"max_length": 128, "stride": 0}, {"strategy": {"Fixed": 128}}
    words = {
        word: i for i, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", "<mask>", "\u00e9"])
    }
    tokenizer = json.loads(Tokenizer(WordLevel(words, "<unk>")).to_str())
    fill |= {"direction": "Right", "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"}
    tokenizer |= {"truncation": cut | {"strategy": "LongestFirst"}, "padding": fill}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture(scope="module")
def exported(student: Path, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("export")
    out, report = root / "models" / "small", root / "reports" / "small.json"
    texts = Texts([], heldout_batches(Rows()))
    result = export(student, texts, Export(students=["small"]), out, report)
    return SimpleNamespace(out=out, report=report, result=result)


def torch_logits(student: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    model = DistilBertForMaskedLM.from_pretrained(student).eval()
    with torch.inference_mode():
        inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
        return model(**inputs).logits.numpy()


def test_the_folder_holds_these_files_and_the_report_their_hashes(exported: SimpleNamespace):
    files = {path.name: sha256_of(path) for path in exported.out.iterdir()}
    assert set(files) == {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "model.onnx",
        "model.int8.onnx",
        "README.md",
    }
    report = json.loads(exported.report.read_text())
    assert report == exported.result
    assert {name: entry["sha256"] for name, entry in report["files"].items()} == files
    for name, entry in report["files"].items():
        assert entry["megabytes"] == (exported.out / name).stat().st_size / 1e6
    assert report["student"] == "small"


def test_fp32_answers_as_pytorch_does(exported: SimpleNamespace):
    assert exported.result["fp32"]["max_logit_difference"] < 1e-4
    assert exported.result["fp32"]["agreement"] == 1.0


def test_int8_mostly_has_the_same_first_choice(exported: SimpleNamespace):
    assert exported.result["int8"]["agreement"] > 0.9
    assert exported.result["int8"]["max_logit_difference"] > 1e-4


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (5, 3), (2, 17)])
def test_batch_and_sequence_are_free(student: Path, exported: SimpleNamespace, shape):
    ids = np.random.default_rng(1).integers(5, VOCABULARY, size=shape)
    mask = np.ones_like(ids)
    mask[-1, shape[1] // 2 + 1 :] = 0
    found = open_session(exported.out / "model.onnx").run(
        ["logits"], {"input_ids": ids, "attention_mask": mask}
    )[0]
    real = mask.astype(bool)
    expected = torch_logits(student, ids, mask)
    assert found.shape == (*shape, VOCABULARY)
    np.testing.assert_allclose(found[real], expected[real], atol=1e-4)


def test_padding_does_not_change_an_answer(exported: SimpleNamespace):
    session = open_session(exported.out / "model.onnx")
    ids = np.array([[2, 7, 8, 3]])
    padded = np.array([[2, 7, 8, 3, PAD, PAD]])
    alone = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]
    mask = (padded != PAD).astype(np.int64)
    within = session.run(["logits"], {"input_ids": padded, "attention_mask": mask})[0]
    np.testing.assert_allclose(within[:, :4], alone, atol=1e-4)


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_a_graph_is_one_file_with_named_inputs_and_output(exported: SimpleNamespace, file: str):
    graph = onnx.load(exported.out / file, load_external_data=False).graph
    assert [entry.name for entry in graph.input] == ["input_ids", "attention_mask"]
    assert [entry.name for entry in graph.output] == ["logits"]
    external = onnx.TensorProto.DataLocation.EXTERNAL
    assert not [w.name for w in graph.initializer if w.data_location == external]
    shape = graph.output[0].type.tensor_type.shape.dim
    assert [bool(axis.dim_param) for axis in shape] == [True, True, False]


def test_every_weight_matrix_is_eight_bits_wide(exported: SimpleNamespace):
    # 2 layers of 6 matrices, the head's transform and the vocabulary projection.
    graph = onnx.load(exported.out / "model.int8.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") + kinds.count("DynamicQuantizeMatMul") == 14
    wide = [w.name for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    shapes = {w.name: list(w.dims) for w in graph.initializer}
    assert not [name for name in wide if len(shapes[name]) == 2]
    # Each with a scale for every feature that comes out; embeddings have one in all.
    scales = [shape for name, shape in shapes.items() if name.endswith("_scale")]
    assert sorted(shape for shape in scales if shape) == sorted(
        [[32]] * 11 + [[64]] * 2 + [[VOCABULARY]]
    )


ELSEWHERE = """
import sys
import numpy as np, onnxruntime
assert not any(name.split('.')[0] in ('torch', 'transformers', 'stages') for name in sys.modules)
session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
ids = np.array([[2, 7, 4, 9, 3]])
logits = session.run(None, {'input_ids': ids, 'attention_mask': np.ones_like(ids)})[0]
print(*logits.argmax(-1)[0])
"""


def test_the_tokenizer_pads_and_cuts_nothing(exported: SimpleNamespace):
    found = json.loads((exported.out / "tokenizer.json").read_text(encoding="utf-8"))
    assert (found.pop("truncation"), found.pop("padding")) == (None, None)
    assert found["model"]["vocab"]["\u00e9"] == 5


@pytest.mark.parametrize("file", ["model.onnx", "model.int8.onnx"])
def test_another_process_without_our_code_gets_the_same_answer(
    student: Path, exported: SimpleNamespace, tmp_path: Path, file: str
):
    ids = np.array([[2, 7, 4, 9, 3]])
    expected = torch_logits(student, ids, np.ones_like(ids)).argmax(-1)[0]
    found = subprocess.run(
        [sys.executable, "-I", "-c", ELSEWHERE, str(exported.out / file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    answer = [int(token) for token in found.stdout.split()]
    wrong = sum(a != b for a, b in zip(answer, expected, strict=True))
    assert wrong <= (0 if file == "model.onnx" else 1)


def test_a_damaged_graph_is_found(student: Path, exported: SimpleNamespace):
    """Parity compares: a graph does not pass for that of a model of other weights."""
    torch.manual_seed(1)
    other = DistilBertForMaskedLM(DistilBertForMaskedLM.from_pretrained(student).config).eval()
    parity = measure(other, {"fp32": exported.out / "model.onnx"}, heldout_batches(Rows()))
    assert parity["fp32"].agreement < 0.5
    assert parity["fp32"].max_logit_difference > 1


def test_an_export_past_its_bounds_writes_the_report_and_no_folder(
    student: Path, exported: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # The same graph as before: making one takes seconds.
    graph = exported.out / "model.onnx"
    monkeypatch.setattr("stages.export.export.write_fp32", lambda _, path: shutil.copy(graph, path))
    settings = Export(students=["small"], max_logit_difference=1e-12)
    report = tmp_path / "small.json"
    with pytest.raises(ParityError, match=r"differs from PyTorch's by .* allows 1e-12\n"):
        export(
            student,
            Texts([], heldout_batches(Rows())),
            settings,
            tmp_path / "out" / "small",
            report,
        )
    assert json.loads(report.read_text())["fp32"]["max_logit_difference"] > 1e-12
    assert list((tmp_path / "out").iterdir()) == []


def test_too_little_agreement_and_nan_are_both_refused(tmp_path: Path):
    settings = Export(students=["small"], max_logit_difference=1e-3, min_int8_agreement=0.9)
    good = {"fp32": Parity(1e-6, 1.0, 0.0), "int8": Parity(0.5, 0.9, 0.01)}
    check(good, settings, tmp_path)
    with pytest.raises(ParityError, match=r"on 89\.00% of tokens, and .* wants 90\.00%"):
        check(good | {"int8": Parity(0.5, 0.89, 0.01)}, settings, tmp_path)
    with pytest.raises(ParityError, match="by nan"):
        check(good | {"fp32": Parity(float("nan"), 1.0, 0.0)}, settings, tmp_path)


def test_parity_is_measured_on_whole_rows_padding_and_a_single_token(student: Path):
    batches = heldout_batches(Rows())
    shapes = [batch["input_ids"].shape for batch in batches]
    assert shapes == [(4, 32), (2, 32), (1, 32), (1, 1), (3, 17)]
    ids, mask = batches[-1].values()
    assert mask.sum(1).tolist() == [17, 9, 3]
    # Padding is not compared.
    model = DistilBertForMaskedLM.from_pretrained(student)
    assert torch_rows(model, batches[-1]).shape == (17 + 9 + 3, VOCABULARY)
    assert (ids[mask == 0] == PAD).all()
    whole, whole_mask = batches[1].values()
    assert whole_mask[1].sum() == 20
    # Tokens 3, 10, 17, 24 and 31 are masked, where there is a token.
    assert np.flatnonzero(whole[0] == MASK).tolist() == [3, 10, 17, 24, 31]
    assert np.flatnonzero(whole[1] == MASK).tolist() == [3, 10, 17]


def test_divergence_is_of_the_originals_distribution():
    tally = Tally()
    # p = (1/2, 1/2) against q = (3/4, 1/4): (log 2/3 + log 2) / 2 nats; as many of every row.
    tally.add(np.log(np.float32([[0.5, 0.5]] * 2)), np.log(np.float32([[0.75, 0.25]] * 2)))
    found = tally.parity()
    assert found.divergence == pytest.approx((np.log(2 / 3) + np.log(2)) / 2, abs=1e-6)
    assert found.agreement == 1.0


def test_a_nan_stays_whatever_comes_after_it():
    tally = Tally()
    tally.add(np.zeros((1, 2), np.float32), np.full((1, 2), np.nan, np.float32))
    tally.add(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32))
    found = tally.parity()
    assert np.isnan(found.max_logit_difference)
    assert np.isnan(found.divergence)
    # JSON has neither NaN nor infinity: the report says that there is no number.
    assert as_report(Parity(float("inf"), 1.0, None))["max_logit_difference"] is None
    assert as_report(found) == {"max_logit_difference": None, "agreement": 1.0, "divergence": None}


def quantised(exported: SimpleNamespace, path: Path, settings: Int8) -> onnx.GraphProto:
    calibration = masked_rows(Rows(), settings.calibration_rows)
    write_int8(exported.out / "model.onnx", path, settings, [calibration])
    return onnx.load(path).graph


def test_feed_forward_outputs_may_stay_in_fp32(exported: SimpleNamespace, tmp_path: Path):
    graph = quantised(exported, tmp_path / "x.onnx", Int8(feed_forward_out=False))
    wide = [w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    # Two layers, each with one map from 64 to 32 features.
    assert [list(w.dims) for w in wide if len(w.dims) == 2] == [[64, 32]] * 2


def test_activations_may_be_calibrated(student: Path, exported: SimpleNamespace, tmp_path: Path):
    path = tmp_path / "x.onnx"
    graph = quantised(exported, path, Int8(activations="calibrated", feed_forward_out=False))
    kinds = [node.op_type for node in graph.node]
    # Activation ranges are constants of the graph: nothing is measured as it comes.
    assert "DynamicQuantizeLinear" not in kinds
    assert kinds.count("QuantizeLinear") > 4
    model = DistilBertForMaskedLM.from_pretrained(student)
    assert measure(model, {"int8": path}, heldout_batches(Rows()))["int8"].agreement > 0.8


def test_activations_are_calibrated_on_text_that_is_learned_from(monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []
    monkeypatch.setattr(
        "stages.export.export.open_split", lambda shards, split: asked.append(split) or Rows()
    )
    texts = texts_of(Path("shards"), Int8(activations="calibrated", calibration_rows=4))
    assert asked == ["train", "heldout"]
    assert [row["input_ids"].shape for row in texts.calibration] == [(1, LENGTH)] * 4


def test_a_student_without_weights_is_named(tmp_path: Path):
    settings = Export(students=["small"])
    with pytest.raises(DataError, match=r"small/model.safetensors does not exist"):
        export(
            tmp_path / "small", Texts([], []), settings, tmp_path / "out", tmp_path / "report.json"
        )


def test_a_card_says_how_the_student_was_made(exported: SimpleNamespace):
    config = json.loads((exported.out / "config.json").read_text())
    student_report = {
        "num_parameters": 17_000,
        "num_steps": 100,
        "num_tokens": 204_800,
        "phases": [
            {"weights": {"ce": 5.0, "mlm": 2.0, "cos": 1.0}, "temperature": 2.0, "positions": "all"}
        ],
        "teacher_layers": [0, 2, 5],
        "initialise": "layers",
        "taught_by": ["teacher"],
        "after": None,
        "recipe": {"scale_steps": 1.0},
        "heldout": {"kl": 1.25, "mlm": 5.0, "cos": 0.25},
        "initial_heldout": {"kl": 2.5, "mlm": 7.0, "cos": 0.75},
    }
    story = Story(
        student=student_report | {"device": "cpu", "device_hours": 0.05, "energy_joules": 7.2e6},
        adapted={"num_steps": 10, "device": "cpu", "device_hours": 0.025},
        corpus={
            "num_documents": {"train": 900, "heldout": 100},
            "num_characters": {"train": 50_000},
            "dropped": {"too_short": 7, "no_prose": 3},
        },
        teacher="a/teacher",
        teacher_on_hub="a/teacher",
        sources=(Source("wiki", "CC BY-SA 4.0", "wikimedia/wikipedia"),),
        licence="apache-2.0",
        language="en",
    )
    card = model_card("small", config, exported.result, story)
    assert "2 layers of width 32, 4 heads, 300 tokens" in card
    said = (
        "Made from layers 0, 2, 5 of a/teacher (counted from 0), and trained in 100 steps on "
        "204,800 tokens, taught by a/teacher. Loss: ce 5, mlm 2, cos 1 (ce at temperature 2 on all "
        "tokens)."
    )
    assert said in card

    def told(**changes: object) -> str:
        told_of = replace(story, student=story.student | {"teacher_layers": []} | changes)
        return model_card("next", config, exported.result, told_of)

    layers = {"weights": {"feature_maps": 100.0}}
    mixed = {"weights": {"ce": 0.5, "mlm": 0.5}, "temperature": 1.0, "positions": "masked"}
    later = told(
        initialise="student",
        after="first",
        taught_by=["teacher", "first", "second"],
        recipe={"scale_steps": 0.25},
        phases=[layers, layers, mixed],
    )
    said = (
        "Begun from the student first, and trained in 100 steps (every phase 0.25 times as long as "
        "its recipe says) on 204,800 tokens, taught by a/teacher and the student first and its "
        "teacher second. Loss: feature_maps 100; then ce 0.5, mlm 0.5 (ce at temperature 1 on "
        "masked tokens)."
    )
    assert said in later
    alone = told(initialise="random", phases=[{"weights": {"mlm": 1.0}}])
    assert "weights at random, and trained in 100 steps on 204,800 tokens, without a" in alone
    assert "classifier of a/teacher, and not trained. 17,000 parameters." in told(
        initialise="embeddings", phases=[]
    )
    assert "| divergence from the teacher, nats per token | 2.5000 | 1.2500 |" in card
    assert "10 of the documents read were dropped" in card
    assert "- wiki: CC BY-SA 4.0" in card
    assert "900 documents, 50,000 characters of training text; 100 documents are held out." in card
    assert "## Training" in card
    # Nothing of distillation where no teacher taught.
    assert ("A distilled masked" in card, "A distilled masked" in alone) == (True, False)
    assert ("distillation" in card.split("---")[1], "distillation" in alone.split("---")[1]) == (
        True,
        False,
    )
    int8 = {"max_logit_difference": 1.25, "agreement": 0.9625, "divergence": 0.003}
    measured = model_card("small", config, exported.result | {"int8": int8}, story)
    assert "on 100.00% of tokens; INT8 has it on 96.25%, 0.003 nats away" in measured
    untouched = replace(story, adapted=story.adapted | {"num_steps": 0})
    assert "| teacher, adapted |" not in model_card("small", config, exported.result, untouched)
    assert "| teacher, adapted | cpu | 0.025 | not measured |" in card
    assert "| student | cpu | 0.05 | 2 kWh |" in card
    about = yaml.safe_load(card.split("---\n")[1])
    assert about["license"] == "apache-2.0"
    assert about["base_model"] == "a/teacher"
    assert about["datasets"] == ["wikimedia/wikipedia"]
    assert about["pipeline_tag"] == "fill-mask"
    assert about["language"] == ["en"]
    other = model_card("small", config, exported.result, replace(story, language=None))
    assert "language" not in yaml.safe_load(other.split("---\n")[1])
    assert ("It reads English" in card, "It reads English" in other) == (True, False)


def test_a_card_without_a_training_report_has_no_training_part(exported: SimpleNamespace):
    card = (exported.out / "README.md").read_text()
    assert "## Training" not in card
    # As this tokenizer writes it.
    assert "He put the <mask> on the table." in card
    assert "| model.int8.onnx |" in card
