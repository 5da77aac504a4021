"""Students that begin from another student, or learn from it, alone or beside the teacher."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from stages import params
from stages.distillation.distill import distill
from stages.distillation.phases import batches_of, phase_losses, stretches
from stages.errors import SettingsError, TeacherError, TrainingError
from stages.files import read_json, sha256_of
from stages.params import Recipe, Successor
from stages.students.building import build
from stages.teacher.adapt import adapt
from stages.teacher.fetch import fetch_others, fetch_teacher
from stages.teacher.models import open_teacher, pooler_in, save_model
from stages.training.frozen_teacher import FrozenTeacher
from tests.kills import random_shards
from tests.test_params import RECIPE, broken, mistakes
from tests.test_recipes import MOBILE, NARROW, SETTINGS, padded_batch, value
from tests.tiny_models import ALONE, tiny_teacher
from tests.tiny_pipeline import save_teacher, settings

DISTILBERT = {"kind": "distilbert", "num_layers": 3}
SOFT = {"kind": "soft_targets"}


def made(architecture: dict[str, object], seed: int = 3, **more: object):
    """A student of an architecture, at random unless `more` says otherwise."""
    recipe = {"architecture": architecture, "initialise": {"kind": "random"}, "phases": []}
    recipe["phases"] = [{"name": "only", "objectives": [SOFT]}]
    before = more.pop("before", None)
    given = Recipe.model_validate(recipe | more) if before is None else following(recipe | more)
    return build(tiny_teacher(), given, dropout=0.1, seed=seed, before=before)


def following(recipe: dict[str, object]) -> Successor:
    return Successor.model_validate(recipe | {"after": "first"})


@pytest.mark.parametrize("architecture", [NARROW, MOBILE, DISTILBERT], ids=lambda a: a["kind"])
def test_second_stage_begins_with_the_weights_of_the_first(architecture) -> None:
    first = made(architecture)
    second = made(architecture, seed=8, before=first, initialise={"kind": "student"})
    assert type(second) is type(first)
    for name, weights in first.state_dict().items():
        assert torch.equal(weights, second.state_dict()[name]), name
    # A copy: training the second must not change the first.
    assert not FrozenTeacher(first).shares_weights_with(second)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_smaller_student_takes_layers_of_its_assistant(kind: str) -> None:
    shape = {"kind": kind, "num_layers": 3}
    assistant = made(shape, initialise={"kind": "layers", "layers": [2, 1, 0]})
    small = made(
        shape | {"num_layers": 2}, before=assistant,
        initialise={"kind": "student", "layers": [0, 2]},
    )  # fmt: skip
    theirs, mine = assistant.state_dict(), small.state_dict()
    assert [n for n in mine if ".layer.1." in n]
    for name, weights in mine.items():
        assert torch.equal(weights, theirs[name.replace(".layer.1.", ".layer.2.")]), name


def test_distilbert_takes_layers_of_a_bert_assistant() -> None:
    assistant = made({"kind": "bert", "num_layers": 2})
    small = made(
        {"kind": "distilbert", "num_layers": 1}, before=assistant,
        initialise={"kind": "student", "layers": [1]},
    )  # fmt: skip
    assert torch.equal(
        small.distilbert.transformer.layer[0].ffn.lin1.weight,
        assistant.bert.encoder.layer[1].intermediate.dense.weight,
    )


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"not of one architecture, they differ in .*; name"):
        made(NARROW | {"width": 16}, before=made(NARROW), initialise={"kind": "student"})


def taught(*teachers, objectives: list[dict[str, object]]):
    recipe = {"architecture": NARROW, "initialise": {"kind": "random"}}
    given = following(recipe | {"phases": [{"name": "only", "objectives": objectives}]})
    student = build(tiny_teacher(), given, dropout=0.0, seed=3)
    plan = stretches(given, SETTINGS, 40, 3)
    frozen = FrozenTeacher(*teachers)
    (loss,) = phase_losses(plan, student, frozen, teachers[0].config, SETTINGS, seed=5)
    return loss


def test_averaged_teachers_have_the_gradient_of_the_averaged_losses() -> None:
    """The mean of the divergences from each differs by a constant alone, whatever their sizes."""
    teacher, assistant = tiny_teacher(), made(DISTILBERT | {"num_layers": 1}, seed=6)
    batch = padded_batch()
    values, gradients = zip(
        *(
            value(taught(*teachers, objectives=[SOFT]), batch)
            for teachers in ((teacher,), (assistant,), (teacher, assistant))
        ),
        strict=True,
    )
    assert 0 < values[2] < (values[0] + values[1]) / 2
    for name, both in gradients[2].items():
        mean = (gradients[0][name] + gradients[1][name]) / 2
        torch.testing.assert_close(both, mean, rtol=1e-3, atol=1e-6)


def test_hidden_states_and_attention_are_those_of_the_first() -> None:
    teacher, assistant = tiny_teacher(), made(DISTILBERT, seed=6)
    objectives = [{"kind": "hidden_states"}, {"kind": "attention_scores"}]
    alone, both = (
        value(taught(*teachers, objectives=objectives), padded_batch())[0]
        for teachers in ((teacher,), (teacher, assistant))
    )
    assert both == alone


def test_every_teacher_is_guarded() -> None:
    teacher, assistant = tiny_teacher(), made(DISTILBERT, seed=6)
    loss = taught(teacher, assistant, objectives=[SOFT])
    value(loss, padded_batch())
    assert not any(p.requires_grad or p.grad is not None for p in assistant.parameters())
    assert FrozenTeacher(teacher, assistant).shares_weights_with(assistant)
    assistant.train()
    with pytest.raises(TrainingError, match="put into training mode"):
        value(loss, padded_batch())


def after(name: str, **changes: object) -> dict[str, object]:
    return RECIPE | {"after": name, "phases": [{"name": "only", "objectives": [SOFT]}]} | changes


@pytest.mark.parametrize(
    ("successors", "expected"),
    [
        (
            {"tiny": after("nobody")},
            "successors.tiny.after names 'nobody', which is not one of the students: distilbert, "
            "mlm_only, tiny",
        ),
        ({"tiny": after("tiny")}, "successors: none of tiny after tiny could be made first"),
        (
            {"a": after("b"), "b": after("c"), "c": after("b")},
            "successors: none of b after c after b could be made first",
        ),
        ({"distilbert": after("mlm_only")}, "the name 'distilbert' stands for two models"),
        ({"teacher": after("mlm_only")}, "the name 'teacher' stands for two models"),
        ({"tiny": RECIPE}, "successors.tiny.after: is missing"),
        (
            {"tiny": after("distilbert", taught_by=["teacher", "mlm_only"])},
            "successors.tiny.taught_by names 'mlm_only': it is taught by teacher or distilbert",
        ),
        (
            {"tiny": after("distilbert", taught_by=["teacher", "teacher"])},
            "successors.tiny: taught_by names one twice: teacher, teacher",
        ),
    ],
)
def test_successor_follows_a_student_that_can_be_made_first(
    tmp_path: Path, successors: dict[str, object], expected: str
) -> None:
    (line,) = mistakes(broken(tmp_path, successors=successors))
    assert expected in line


@pytest.mark.parametrize(
    "changes", [{"taught_by": ["distilbert"]}, {"initialise": {"kind": "student"}}]
)
def test_student_that_needs_another_is_sent_to_the_successors(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    (line,) = mistakes(broken(tmp_path, **{"students.mlm_only": RECIPE | changes}))
    assert line.startswith("students.mlm_only")
    assert "under successors, where `after` names it" in line


def test_recipes_come_after_those_they_need(tmp_path: Path) -> None:
    settings = params.load(
        broken(tmp_path, successors={"third": after("second"), "second": after("distilbert")})
    )
    assert list(settings.recipes) == ["distilbert", "mlm_only", "second", "third"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher and shards of random rows."""
    folder = tmp_path_factory.mktemp("world")
    save_teacher(folder / "teacher")
    vocabulary = AutoConfig.from_pretrained(folder / "teacher").vocab_size
    random_shards(folder / "shards", vocabulary)
    return folder


def chosen_for(world: Path) -> dict[str, object]:
    """Settings of two steps with the teacher of this world."""
    chosen = settings(world / "teacher", sha256_of(world / "teacher" / "model.safetensors"))
    chosen["distill"]["schedule"]["num_steps"] = 2
    chosen["teacher"]["adapt"]["num_steps"] = 2
    return chosen


def distilled(
    world: Path,
    student: str,
    successor: dict[str, object],
    after: str | None = None,
    teacher: Path | None = None,
    **students: object,
):
    """Run the stage in this process; return its report and the folder of the student."""
    chosen = chosen_for(world)
    chosen["students"] |= students
    chosen["students"]["untrained"] = RECIPE | {
        "architecture": {"kind": "distilbert", "num_layers": 2},
        "initialise": {"kind": "layers", "layers": [0, 2]},
        "phases": [],
    }
    params_given = params.Params.model_validate(chosen | {"successors": {"next": successor}})
    students, report = world / "students", world / f"{student}.json"
    arguments = Namespace(
        student=student, teacher=teacher or world / "teacher", shards=world / "shards",
        out=students / student, report=report, curve=world / f"{student}.csv",
        after=after and students / after,
    )  # fmt: skip
    distill(arguments, params_given, ALONE)
    return read_json(report), students / student


def test_untrained_student_is_made_at_no_cost_and_another_goes_on_from_it(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    successor = {
        "after": "untrained",
        "architecture": {"kind": "distilbert", "num_layers": 2},
        "initialise": {"kind": "student"},
        # The first is not what students are measured by.
        "taught_by": ["untrained", "teacher"],
        "dropout": 0.3,
        "phases": [
            {"name": name, "objectives": [SOFT | {"temperature": 3.0}]} for name in ("one", "two")
        ],
    }
    seeds = []

    def batches(*given: Any) -> Any:
        seeds.append(given[-1])
        return batches_of(*given)

    monkeypatch.setattr("stages.distillation.distill.batches_of", batches)
    untrained, folder = distilled(world, "untrained", successor)
    assert untrained["heldout"] == untrained["initial_heldout"]
    assert (untrained["num_steps"], untrained["seconds"], untrained["phases"]) == (0, 0, [])
    assert (world / "untrained.csv").read_text().strip() == "step,loss"
    assert (folder / "tokenizer.json").exists()
    trained, folder = distilled(world, "next", successor, "untrained")
    # It begins where the other ended; both are measured by the teacher.
    assert trained["initial_heldout"] == untrained["heldout"]
    assert trained["num_steps"] == 4
    assert trained["taught_by"] == ["untrained", "teacher"]
    phase = {"num_steps": 2, "weights": {"ce": 1.0}, "temperature": 3.0, "positions": "all"}
    assert trained["phases"] == [phase | {"name": "one"}, phase | {"name": "two"}]
    # Each in an order of its own.
    assert seeds == [56, 57]
    assert AutoConfig.from_pretrained(folder).dropout == 0.3
    assert trained["model_sha256"] != untrained["model_sha256"]
    with pytest.raises(SettingsError, match="--after: next needs the folder of untrained"):
        distilled(world, "next", successor)


def test_students_of_copied_layers_have_the_pooler_that_goes_with_them(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As BERT-PKD's. DistilBERT has none, and weights at random have no use for it."""
    monkeypatch.chdir(world)
    pooler = {"pooler.dense.weight": torch.randn(32, 32), "pooler.dense.bias": torch.ones(32)}
    teacher = tmp_path / "teacher"
    save_model(open_teacher(world / "teacher"), world / "teacher", teacher, pooler)
    bert = {"architecture": {"kind": "bert", "num_layers": 1}, "phases": []}
    first = bert | {"initialise": {"kind": "layers", "layers": [0]}}
    second = bert | {"initialise": {"kind": "student"}, "after": "first"}
    students = {"first": first, "fresh": bert | {"initialise": {"kind": "random"}}}
    folders = {
        name: distilled(world, name, second, after, teacher, **students)[1]
        for name, after in (
            ("first", None),
            ("next", "first"),
            ("fresh", None),
            ("untrained", None),
        )
    }
    for name in ("first", "next"):
        classifier = AutoModelForSequenceClassification.from_pretrained(folders[name])
        assert torch.equal(classifier.bert.pooler.dense.weight, pooler["pooler.dense.weight"])
    assert pooler_in(folders["fresh"]) == pooler_in(folders["untrained"]) == {}


def test_ensemble_of_teachers_is_adapted_and_teaches(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second teacher from the same weights, another seed; and one with weights of its own."""
    monkeypatch.chdir(world)
    chosen = chosen_for(world)
    chosen["teacher"]["others"] = {"second": {"seed": 9}}
    chosen["teacher"]["others"]["third"] = {"seed": 9, "source": chosen["teacher"]["source"]}
    chosen["students"]["taught"] = RECIPE | {
        "phases": [{"name": "only", "objectives": [SOFT]}],
        "taught_by": ["teacher", "second", "third"],
    }
    given = params.Params.model_validate(chosen)
    source, out = world / "fetched", world / "models"
    fetch_teacher(given.teacher.source, source)
    fetch_others(given.teacher.others, source)
    paths = {"report": world / "teacher.json", "curve": world / "teacher.csv"}
    adapt(Namespace(source=source, shards=world / "shards", out=out, **paths), given, ALONE)
    first, second, third = (
        sha256_of(out / name / "model.safetensors") for name in ("", "second", "third")
    )
    assert first != second == third
    assert set(read_json(world / "teacher.json")["others"]) == {"second", "third"}
    arguments = Namespace(
        student="taught", teacher=out, shards=world / "shards", after=None,
        out=world / "taught", report=world / "taught.json", curve=world / "taught.csv",
    )  # fmt: skip
    distill(arguments, given, ALONE)
    assert read_json(world / "taught.json")["taught_by"] == ["teacher", "second", "third"]
    assert not list((world / ".scratch").glob("*teacher*"))


def test_teacher_of_another_tokenizer_is_no_member(world: Path, tmp_path: Path) -> None:
    save_teacher(tmp_path / "odd")
    tokenizer = tmp_path / "odd" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"tensor"', '"tensors"'))
    sha256 = {"model.safetensors": sha256_of(tmp_path / "odd" / "model.safetensors")}
    odd = {"kind": "folder", "path": str(tmp_path / "odd"), "sha256": sha256}
    chosen = chosen_for(world)
    chosen["teacher"]["others"] = {"odd": {"seed": 1, "source": odd}}
    given = params.Params.model_validate(chosen)
    fetch_teacher(given.teacher.source, tmp_path / "out")
    with pytest.raises(TeacherError, match=r"others.odd: its tokenizer is not the teacher's"):
        fetch_others(given.teacher.others, tmp_path / "out")


def test_teacher_beside_the_teacher_must_differ_from_it(tmp_path: Path) -> None:
    path = broken(tmp_path, **{"teacher.adapt": "null", "teacher.others": {"second": {"seed": 1}}})
    path.write_text(path.read_text().replace("adapt: 'null'", "adapt: null"))
    (line,) = mistakes(path)
    assert "teacher: others.second would be the teacher itself: give it a source" in line
