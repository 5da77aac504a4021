"""Size, work and time: the published counts, the arithmetic of ratios, a whole small report."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from stages.errors import DataError, SettingsError
from stages.evaluation.task_folder import Example
from stages.export.quantise import write_int8
from stages.params import SpeedTest
from stages.params.release import Int8
from stages.speed.memory import peak_growth
from stages.speed.published import compare, sentence_pairs
from stages.speed.runners import onnx_runner, open_encoder
from stages.speed.speed import INT8, TORCH, measure_speed, open_runners, table
from stages.speed.timing import by_turn, percentiles, speedup, time_batches
from stages.students.flops import encoder_gflops


def bert(layers: int, width: int, inner: int) -> BertConfig:
    return BertConfig(num_hidden_layers=layers, hidden_size=width, intermediate_size=inner)


@pytest.mark.parametrize(
    ("config", "published"),
    [
        (bert(12, 768, 3072), 22.35),
        (DistilBertConfig(), 11.17),
        (bert(4, 312, 1200), 1.25),
        (bert(4, 512, 2048), 3.36),
        (bert(6, 384, 1536), 2.87),
        (bert(3, 768, 3072), 5.59),
    ],
    ids=["BERT-base", "DistilBERT", "TinyBERT4", "BERT-small", "MiniLM-L6", "BERT3-PKD"],
)
def test_work_is_counted_as_in_the_published_tables(config, published: float):
    assert encoder_gflops(config) == pytest.approx(published, abs=0.005)


def test_a_speedup_is_the_median_of_the_rounds_ratios():
    # Ratios 2, 3 and 10: a round that the machine disturbed does not move the result.
    teacher, student = np.array([[2.0], [3.0], [50.0]]), np.array([[1.0], [1.0], [5.0]])
    assert speedup(teacher, student) == 3.0


def test_within_a_round_the_median_pass_counts():
    teacher, student = np.array([[4.0, 4.0, 90.0]]), np.array([[1.0, 2.0, 3.0]])
    assert speedup(teacher, student) == 2.0


def test_percentiles_are_in_milliseconds_over_all_passes():
    # 1..21 ms: the 50th percentile is the 11th value, the 95th the 20th.
    seconds = np.arange(1, 22).reshape(3, 7) / 1000
    assert percentiles(seconds) == {"p50": 11.0, "p95": 20.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    sizes = {"vocab_size": 100, "max_position_embeddings": 64}
    BertForMaskedLM(
        BertConfig(
            num_hidden_layers=4,
            hidden_size=16,
            intermediate_size=32,
            num_attention_heads=2,
            **sizes,
        )
    ).save_pretrained(root / "teacher")
    DistilBertForMaskedLM(
        DistilBertConfig(n_layers=2, dim=16, hidden_dim=32, n_heads=2, **sizes)
    ).save_pretrained(root / "small")
    return {"teacher": root / "teacher", "small": root / "small"}


@pytest.fixture(scope="module")
def report(folders: dict[str, Path]) -> dict:
    settings = SpeedTest(batch_sizes=[1, 2], sequence_lengths=[16, 8], num_rounds=2)
    int8 = Int8(activations="calibrated", feed_forward_out=False)
    made = []

    def write(fp32: Path, path: Path, *given: object) -> None:
        write_int8(fp32, path, *given)
        made.append((given[0], onnx.load(path).graph.node, path.stat().st_size))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("stages.speed.speed.write_int8", write)
        found = measure_speed(folders, ["small"], settings, int8)
    ((taken, nodes, size),) = made
    files = {runtime["runtime"]: runtime["file_megabytes"] for runtime in found["runtimes"]}
    assert files[INT8] == round(size / 1e6, 3)
    assert taken == int8, "INT8 is timed as export.int8 has it made"
    assert any(node.op_type == "QuantizeLinear" for node in nodes)
    return found


@pytest.mark.slow
def test_the_report_holds_every_model_and_a_ratio_for_every_student(
    folders: dict[str, Path], report: dict
):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert set(report["models"]) == {"teacher", "small"}
    assert set(report["ratios"]) == {"small"}
    small, teacher = report["models"]["small"], report["models"]["teacher"]
    # A layer: 4 (16^2 + 16) attention, 2 x 16 x 32 + 32 + 16 feed-forward, 4 x 16 norms = 2,224.
    # Embeddings: (100 + 64) x 16 + 2 x 16 norm = 2,656; BERT's 2 token types and its pooler more.
    assert small["num_parameters"] == 2656 + 2 * 2224
    assert teacher["num_parameters"] == 2656 + 2 * 16 + 4 * 2224 + 16 * 16 + 16
    fraction = report["ratios"]["small"]["parameter_fraction"]
    assert fraction == pytest.approx(7104 / 11856, abs=1e-4)
    assert small["encoder_gflops"] == pytest.approx(teacher["encoder_gflops"] / 2, abs=1e-3)
    for model in (small, teacher):
        assert set(model["latency_ms"]) == {"1", "2"}
        assert 0 < model["latency_ms"]["1"]["p50"] <= model["latency_ms"]["1"]["p95"]
    size = (folders["small"] / "model.safetensors").stat().st_size
    assert small["weights_megabytes"] == pytest.approx(size / 1e6, abs=1e-3)
    assert set(report["ratios"]["small"]["speedup"]) == {"1", "2"}


@pytest.mark.slow
def test_every_runtime_is_beside_the_teacher_in_pytorch(report: dict):
    found = {(r["model"], r["runtime"]): r for r in report["runtimes"]}
    assert list(found) == [
        ("teacher", "PyTorch"),
        ("small", "PyTorch"),
        ("small", "ONNX fp32"),
        ("small", "ONNX INT8"),
    ]
    shapes = [(1, 16), (2, 16), (1, 8), (2, 8)]
    for runtime in found.values():
        assert [(cell["batch"], cell["length"]) for cell in runtime["cells"]] == shapes
    for cell in found["teacher", TORCH]["cells"]:
        assert cell["speedup"] == 1.0
    for cell in found["small", INT8]["cells"]:
        median = cell["latency_ms"]["p50"] / 1000
        assert cell["sequences_per_second"] == pytest.approx(cell["batch"] / median, rel=0.02)
    ratio = report["ratios"]["small"]["speedup"]["1"]
    assert found["small", TORCH]["cells"][0]["speedup"] == ratio
    assert len(table(report)) == 1 + 4


def test_what_is_timed_has_no_head(folders: dict[str, Path]):
    assert type(open_encoder(folders["small"])).__name__ == "DistilBertModel"


def test_lengths_past_a_models_positions_are_refused(folders: dict[str, Path]):
    settings = SpeedTest(batch_sizes=[1], sequence_lengths=[8, 65])
    with pytest.raises(SettingsError, match=r"sequence_lengths = \[8, 65\]: teacher has .* 64 tok"):
        measure_speed(folders, [], settings, Int8())


def test_a_missing_model_is_named_with_the_stage_that_makes_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"nobody/model.safetensors does not exist; run: dvc repro"):
        open_encoder(tmp_path / "nobody")


def test_models_take_turns_and_another_begins_each_round():
    calls: list[str] = []
    runners = {name: lambda ids, mask, name=name: calls.append(name) for name in "ab"}
    seconds, joules = time_batches(runners, batch=4, length=8, num_rounds=3, meter=None)
    # One round before those that count; a batch of four is a turn of one pass.
    assert "".join(calls) in ("abbaabba", "baabbaab")
    assert {name: found.shape for name, found in seconds.items()} == {"a": (3, 1), "b": (3, 1)}
    assert joules == {"a": None, "b": None}


def test_one_pass_reads_every_text_once_and_compares_with_the_first():
    read: dict[str, list[int]] = {"teacher": [], "small": []}

    def reader(name: str):
        def run(ids: np.ndarray, mask: np.ndarray) -> None:
            assert mask.all()
            read[name].append(ids.shape[1])

        return run

    rows = [np.zeros((1, length), dtype=np.int64) for length in (*range(1, 41),)]
    found = compare({name: reader(name) for name in read}, rows)
    # The first text once more, untimed.
    assert read["teacher"] == read["small"] == [1, *range(1, 41)]
    assert found["num_texts"] == 40
    assert found["mean_length"] == 20.5
    assert found["speedup"]["teacher"] == 1.0


def test_a_pass_of_half_the_seconds_is_twice_as_fast(monkeypatch: pytest.MonkeyPatch):
    seconds = {"teacher": np.full(20, 2.0), "small": np.full(20, 1.0)}
    monkeypatch.setattr("stages.speed.published.time_pass", lambda runners, rows: seconds)
    found = compare({}, [np.zeros((1, 7), dtype=np.int64)] * 20)
    assert found["seconds"] == {"teacher": 40.0, "small": 20.0}
    assert found["speedup"] == {"teacher": 1.0, "small": 2.0}


def test_pairs_are_cut_at_the_papers_length_and_not_padded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, "[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=200)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    pairs = [Example("a a", "a", 1.0), Example("a " * 90, "a " * 90, 2.0)]
    data = SimpleNamespace(validation={"validation": pairs})
    monkeypatch.setattr("stages.speed.published.read_public", lambda task, settings: (data, None))
    found = sentence_pairs(SimpleNamespace(), tmp_path / "tokenizer.json")
    assert [row.shape for row in found] == [(1, 3), (1, 128)]


def test_memory_is_taken_at_the_largest_batch_and_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shapes: list[tuple[int, ...]] = []
    monkeypatch.setattr("stages.speed.speed.open_encoder", lambda folder: None)
    monkeypatch.setattr(
        "stages.speed.speed.torch_runner", lambda model: lambda ids, mask: shapes.append(ids.shape)
    )
    (tmp_path / "model.safetensors").touch()
    settings = SpeedTest(batch_sizes=[1, 3], sequence_lengths=[16, 32, 8])
    open_runners({"teacher": tmp_path}, {}, settings)
    assert set(shapes) == {(3, 32)}


def test_onnx_runtime_has_as_many_threads_as_pytorch(monkeypatch: pytest.MonkeyPatch):
    given = []
    session = SimpleNamespace(get_inputs=list)
    monkeypatch.setattr(
        "stages.speed.runners.open_session",
        lambda path, num_threads: given.append(num_threads) or session,
    )
    onnx_runner(Path("x.onnx"))
    assert given == [torch.get_num_threads()]


def test_a_turn_of_a_pass_is_ten_texts_and_the_last_what_is_left():
    assert by_turn(np.ones(23)).tolist() == [10.0, 10.0, 3.0]


def test_memory_is_what_was_taken_and_not_what_was_there():
    held, megabytes = peak_growth(lambda: np.ones(40_000_000, dtype=np.uint8))
    assert held.nbytes == 40_000_000
    if megabytes is None:
        pytest.skip("this system does not tell its peak of memory")
    assert 38 < megabytes < 60
    # What was freed again before the end was taken too.
    _, meanwhile = peak_growth(lambda: int(np.ones(40_000_000, dtype=np.uint8).sum()))
    assert meanwhile is not None
    assert 38 < meanwhile < 60
    _, later = peak_growth(lambda: np.ones(1000, dtype=np.uint8))
    assert later is not None
    assert later < 10


def test_energy_is_of_one_sequence():
    class Counter:
        used = 0.0

        def joules(self) -> float:
            self.used += 6.0
            return self.used

    # A turn of two passes over two sequences lies between two readings, 6 J apart.
    _, joules = time_batches({"a": lambda ids, mask: None}, 2, 8, num_rounds=3, meter=Counter())
    assert joules == {"a": 1.5}
