"""A model card: what a model is, what it was made from and at what cost, how near its exports are.

It begins with the metadata that the model hub reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from stages.export.story import Story, cost, data, training
from stages.params import TEACHER

CARD = "README.md"
PYTORCH = "PyTorch"
"""What the scores of a fine-tuned model in PyTorch stand under, beside those of its files."""
PARAGRAPH = "\n\n"


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What a fine-tuned model was measured to do."""

    task: str
    title: str
    is_derived: bool
    num_examples: int
    split: str
    labels: list[str] | None
    is_pair: bool
    scores: Mapping[str, float]
    """By artefact, 0 to 100."""


def model_card(
    name: str,
    config: Mapping[str, Any],
    report: Mapping[str, Any],
    story: Story | None = None,
    result: TaskResult | None = None,
    mask: str = "[MASK]",
) -> str:
    """Return the README of an exported model.

    Args:
        name: The model's.
        config: Its config.json.
        report: Its export report, for sizes, the longest sequence and parity.
        story: What made it; without it the card has no part about training and data.
        result: For a fine-tuned model, its task and scores.
        mask: The token that a masked language model fills in.
    """
    parts = [
        f"---\n{_metadata(name, story, result)}---",
        f"# {name}",
        _what_it_is(config, report["max_tokens"], story, result),
        *_use(result, mask),
        *(_scores(result) if result else []),
        *([*training(story), *data(story), *cost(story)] if story else []),
        *_files(report, result),
        *_limits(story, result),
    ]
    return PARAGRAPH.join(parts) + "\n"


def with_scores(card: str, student: str, summary: Mapping[str, Any]) -> str:
    """Return a student's card with what it scored: the export waits for no fine-tuning.

    Args:
        card: As it was exported.
        student: Its name.
        summary: reports/summary.json.
    """
    own, teacher = (summary["models"][name] for name in (student, TEACHER))
    convention = summary["average_convention"]
    averages = [f"{model['average'][convention]:.1f}" for model in (own, teacher)]
    rows = [
        f"| {task['title']} | {_spread(own['tasks'][task['name']])} | "
        f"{_spread(teacher['tasks'][task['name']])} |"
        for task in summary["tasks"]
    ]
    rows.append(f"| average: {convention} | {' | '.join(averages)} |")
    derived = any(task["is_derived"] for task in summary["tasks"])
    made = " Derived tasks are made from the training corpus; they are not GLUE." * derived
    kept = ""
    if own["retention"] is not None:
        kept = f" It keeps {own['retention']:.1f} % of its teacher's scores, the mean over tasks."
    scores = [
        "## Scores",
        "Fine-tuned on each task as its teacher was; 0 to 100 on validation examples, the median "
        f"over seeds, with the smallest and the largest.{kept}{made}",
        "\n".join(["| task | this model | its teacher |", "|---|---:|---:|", *rows]),
    ]
    before, heading, after = card.partition("## Files")
    return before + PARAGRAPH.join([*scores, heading + after])


def _spread(score: Mapping[str, float]) -> str:
    return f"{score['median']:.1f} ({score['min']:.1f} to {score['max']:.1f})"


def _metadata(name: str, story: Story | None, result: TaskResult | None) -> str:
    """Return the hub's YAML front matter, with what is known and nothing else."""
    about: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification" if result else "fill-mask",
        "tags": [*(["distillation"] if story and story.is_taught else []), "onnx", "int8"],
    }
    if story:
        datasets = [source.dataset for source in story.sources if source.dataset]
        about |= {"language": [story.language]} if story.language else {}
        about |= {"license": story.licence} if story.licence else {}
        about |= {"base_model": story.teacher_on_hub} if story.teacher_on_hub else {}
        about |= {"datasets": datasets} if datasets else {}
    if result:
        about["model-index"] = [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "text-classification"},
                        "dataset": {"name": result.title, "type": result.task},
                        "metrics": [{"type": "score", "value": round(result.scores[PYTORCH], 2)}],
                    }
                ],
            }
        ]
    return str(yaml.safe_dump(about, sort_keys=False, allow_unicode=True))


def _what_it_is(
    config: Mapping[str, Any], max_tokens: int, story: Story | None, result: TaskResult | None
) -> str:
    layers, width, heads = (
        config.get(ours, config.get(theirs))
        for ours, theirs in (
            ("n_layers", "num_hidden_layers"),
            ("dim", "hidden_size"),
            ("n_heads", "num_attention_heads"),
        )
    )
    kind = f"A{' distilled' if story and story.is_taught else ''} masked language model"
    if result:
        labels = ", ".join(result.labels) if result.labels else "a number"
        kind = f"An encoder fine-tuned on {result.title} ({labels})"
    return (
        f"{kind}: {layers} layers of width {width}, {heads} heads, "
        f"{config['vocab_size']:,} tokens, sequences of up to {max_tokens} tokens. It is a stock "
        f"`{config['architectures'][0]}` and needs no code but transformers or ONNX Runtime."
    )


def _use(result: TaskResult | None, mask: str) -> list[str]:
    pipeline = "text-classification" if result else "fill-mask"
    given = '"A text of your own."' if result else f'"He put the {mask} on the table."'
    if result and result.is_pair:
        given = '{"text": "A text of your own.", "text_pair": "And another."}'
    return [
        "## Use",
        "```python\nfrom transformers import pipeline\n\n"
        f'answer = pipeline("{pipeline}", model="path/to/this/folder")({given})\n```',
    ]


def _scores(result: TaskResult) -> list[str]:
    rows = [f"| {artefact} | {score:.2f} |" for artefact, score in result.scores.items()]
    lines = ["| files | score |", "|---|---:|", *rows]
    made = " The task is made from the training corpus; it is not GLUE." * result.is_derived
    return [
        "## Scores",
        f"{result.title}, split {result.split}, {result.num_examples:,} examples; 100 times the "
        f"mean of the task's metrics.{made}",
        "\n".join(lines),
    ]


def _files(report: Mapping[str, Any], result: TaskResult | None) -> list[str]:
    rows = [
        f"| {file} | {_size(entry['megabytes'])} |"
        for file, entry in sorted(report["files"].items())
    ]
    fp32, int8 = report["fp32"], report["int8"]
    unit, text = ("texts", "the task's texts") if result else ("tokens", "held-out text, masked")
    same = ""
    if fp32["agreement"] is not None:
        same = (
            f" and has the same first choice on {fp32['agreement']:.2%} of {unit}; INT8 has it on "
            f"{int8['agreement']:.2%}, {int8['divergence']:.2g} nats away"
        )
    return [
        "## Files",
        "\n".join(["| file | size |", "|---|---:|", *rows]),
        "The ONNX graphs take `input_ids` and `attention_mask` (int64, batch x sequence"
        f"{_types(report)}) and give `logits`. Measured against PyTorch on {text}: fp32 differs by "
        f"{fp32['max_logit_difference']:.1e} at most{same}.",
    ]


def _size(megabytes: float) -> str:
    return f"{megabytes:.1f} MB" if megabytes >= 0.1 else f"{1000 * megabytes:.1f} kB"


def _types(report: Mapping[str, Any]) -> str:
    return "; `token_type_ids` too" if "token_type_ids" in report.get("inputs", ()) else ""


def _limits(story: Story | None, result: TaskResult | None) -> list[str]:
    own = (
        "It answers its task and nothing else."
        if result
        else ("It restores masked words; for a task of your own it must be fine-tuned.")
    )
    english = "It reads English. " if story and story.language == "en" else ""
    return [
        "## Limits",
        f"{own} {english}It knows what its teacher and its corpus hold, their mistakes "
        "and leanings included, and was not examined for bias.",
        "INT8 is smaller and faster, and its first choice differs now and then: measure on your "
        "own text, and on the kind of processor that will serve.",
    ]
