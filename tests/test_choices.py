"""A deployment's form offers what the checkout has."""

from pathlib import Path

import jsonschema
import pytest
from prefect.utilities.callables import parameter_schema

from flows.ablations import parse_variant, parse_variants
from flows.choices import AS_IT_IS
from flows.distillation import distillation
from stages.errors import SettingsError


def test_the_form_offers_the_profiles_and_stages_of_the_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "profiles").mkdir()
    for name in ("tiny", "big"):
        (tmp_path / "profiles" / f"{name}.yaml").touch()
    (tmp_path / "dvc.yaml").write_text("stages: {train: {cmd: a}, score: {cmd: b}}")
    monkeypatch.chdir(tmp_path)
    fields = parameter_schema(distillation.fn).properties
    assert (fields["profile"]["type"], fields["profile"]["enum"]) == (
        "string",
        [AS_IT_IS, "big", "tiny"],
    )
    assert fields["targets"]["items"] == {"type": "string", "enum": ["train", "score"]}
    # What the form sends when nothing is filled in must be allowed.
    for name in ("profile", "targets"):
        jsonschema.validate(fields[name]["default"], fields[name])
    assert "stages, or groups" in fields["targets"]["description"]


def test_a_variant_is_settings_and_a_folder_beside_the_project(tmp_path: Path) -> None:
    variant = parse_variant(tmp_path / "here", "distill.temperature=4  students.s.layers=[0,2]")
    assert variant.changes == (("distill.temperature", 4), ("students.s.layers", [0, 2]))
    assert variant.folder == tmp_path / "here-distill.temperature=4_students.s.layers=_0_2_"


def test_variants_that_would_share_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"'seeds=\[1\]': another one would be tried in"):
        parse_variants(tmp_path, ["seeds=1", "seeds=[1]", "seeds=(1)"])


@pytest.mark.parametrize("text", ["", "temperature", "=4", "seed=", "seed=[1"])
def test_what_is_no_variant_is_said(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError, match=r"KEY=VALUE|seed = \[1 is not YAML"):
        parse_variant(tmp_path, text)
