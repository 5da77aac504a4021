"""A model card: what the student is, what it was made from, how near its exports are."""

from typing import Any

PARAGRAPH = "\n\n"


def model_card(
    name: str,
    config: dict[str, Any],
    export_report: dict[str, Any],
    student_report: dict[str, Any] | None,
) -> str:
    """Return the README of an exported student.

    Args:
        name: the student's.
        config: its config.json.
        export_report: reports/export/<name>.json, for sizes and parity.
        student_report: reports/students/<name>.json; without it the card has no training part.
    """
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: fill-mask\n---",
        f"# {name}",
        _what_it_is(config),
        *(_how_it_was_made(student_report) if student_report else []),
        *_files(export_report),
        *_limits(),
    ]
    return PARAGRAPH.join(parts) + "\n"


def _what_it_is(config: dict[str, Any]) -> str:
    # DistilBERT has names of its own for what every other configuration calls alike.
    layers, width, heads = (
        config.get(name, config.get(other))
        for name, other in (
            ("num_hidden_layers", "n_layers"),
            ("hidden_size", "dim"),
            ("num_attention_heads", "n_heads"),
        )
    )
    return (
        f"A distilled masked language model: {layers} layers of width {width}, {heads} heads, "
        f"{config['vocab_size']:,} tokens, sequences of up to "
        f"{config['max_position_embeddings']} tokens. It is a stock "
        f"`{config['architectures'][0]}` and needs no code but transformers or ONNX Runtime."
    )


def _how_it_was_made(report: dict[str, Any]) -> list[str]:
    weights = ", ".join(f"{term} {weight:g}" for term, weight in report["weights"].items())
    layers = ", ".join(str(layer) for layer in report["teacher_layers"])
    start = f"Made from layers {layers} of the teacher (counted from 0)" if layers else "Trained"
    soft = ""
    if "ce" in report["weights"]:
        soft = (
            f"; temperature {report['temperature']:g}, soft targets on {report['positions']} tokens"
        )
    heldout, before = report["heldout"], report["initial_heldout"]
    rows = [
        f"| {meaning} | {before[term]:.4f} | {heldout[term]:.4f} |"
        for term, meaning in {
            "kl": "divergence from the teacher, nats per token",
            "mlm": "masked language modelling loss",
            "cos": "cosine distance of the last hidden state",
        }.items()
        if term in heldout and term in before
    ]
    table = ["| on held-out text | before | after |", "|---|---:|---:|", *rows]
    return [
        "## Training",
        f"{start} in {report['num_steps']:,} "
        f"steps on {report['num_tokens']:,} tokens. Loss: {weights}{soft}. "
        f"{report['num_parameters']:,} parameters.",
        "\n".join(table),
    ]


def _files(report: dict[str, Any]) -> list[str]:
    rows = [
        f"| {file} | {entry['megabytes']:.1f} MB |"
        for file, entry in sorted(report["files"].items())
    ]
    fp32, int8 = report["fp32"], report["int8"]
    return [
        "## Files",
        "\n".join(["| file | size |", "|---|---:|", *rows]),
        "The ONNX graphs take `input_ids` and `attention_mask` (int64, batch x sequence) and give "
        "`logits`. Measured against PyTorch on held-out text, with tokens masked: fp32 differs by "
        f"{fp32['max_logit_difference']:.1e} at most and has the same first choice on "
        f"{fp32['agreement']:.2%} of tokens; INT8 has it on {int8['agreement']:.2%}.",
    ]


def _limits() -> list[str]:
    return [
        "## Limits",
        "It knows what its teacher and its corpus hold, their mistakes and leanings included. For "
        "a task of your own it must be fine-tuned; INT8 is faster and smaller, and its first "
        "choice differs now and then: measure on your own text.",
    ]
