"""Size, work and time: the published counts, the arithmetic of ratios, a whole small report."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, DistilBertConfig, DistilBertForMaskedLM

from stages.errors import DataError
from stages.evaluation.speed import (
    measure_speed,
    open_encoder,
    percentiles,
    speedup,
)
from stages.params import SpeedTest
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


def test_the_report_holds_every_model_and_a_ratio_for_every_student(folders: dict[str, Path]):
    settings = SpeedTest(batch_sizes=[1, 2], sequence_length=16, num_rounds=2)
    report = measure_speed(folders, settings)
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


def test_what_is_timed_has_no_head(folders: dict[str, Path]):
    assert type(open_encoder(folders["small"])).__name__ == "DistilBertModel"


def test_a_missing_model_is_named_with_the_stage_that_makes_it(tmp_path: Path):
    with pytest.raises(DataError, match=r"nobody/model.safetensors does not exist; run: dvc repro"):
        open_encoder(tmp_path / "nobody")
