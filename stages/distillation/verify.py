"""Verify every recipe against what was published: sizes, initialisation, objectives.

Needs no data and no weights. Prints the table that is in docs/recipes-verified.md, and exits 1 if
anything is off. Run: python -m stages.distillation.verify [--out docs/recipes-verified.md]
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from stages.command import log, parser_for, run
from stages.distillation.pinned import PINNED, TOLERANCE
from stages.distillation.sizes import FLOP_TOLERANCE, SIZES, measure
from stages.errors import DistilleryError
from stages.files import write_text
from stages.objectives.soft_targets import soft_target_kl
from stages.params import AtRandom, FromLayers, Recipe
from stages.students.building import build

HEADER = """\
# Recipes, verified

Made by `python -m stages.distillation.verify --out docs/recipes-verified.md`; a test keeps it
current. What each recipe is stands in [recipes.md](recipes.md).
"""
ALL, UPSTREAM = list(range(12)), [0, 2, 4, 7, 9, 11]


def verify() -> tuple[str, list[str]]:
    """Return the tables as Markdown, and a sentence for everything that is off."""
    parts, wrong = [HEADER], []
    for table, mistakes in (_sizes(), _initialisations(), _objectives()):
        parts.append(table)
        wrong += mistakes
    return "\n".join(parts), wrong


def _sizes() -> tuple[str, list[str]]:
    rows, wrong = [], []
    for measured in map(measure, SIZES):
        published = measured.published
        flop_error = measured.flop_error
        rows.append(
            (
                published.model,
                f"{published.parameters_m:g}",
                f"{measured.parameters_m:.2f}",
                f"{measured.parameter_error:+.1%}",
                "-" if published.gflops is None else f"{published.gflops:g}",
                f"{measured.gflops:.2f}",
                "-" if flop_error is None else f"{flop_error:+.1%}",
                published.note,
            )
        )
        if not measured.holds:
            wrong.append(f"{published.model}: {rows[-1]}")
    text = (
        "## Sizes\n\nParameters in millions, work in GFLOP for 128 tokens, counted as the papers "
        f"do. Allowed: 1.5 % on parameters (MobileBERT and IB-BERT 3 %, a figure printed in whole "
        f"millions 3.5 %) and {100 * FLOP_TOLERANCE:.0f} % on work.\n\n"
    )
    head = ("model", "published", "here", "off", "published", "here", "off", "")
    return text + _table(head, rows), wrong


def _initialisations() -> tuple[str, list[str]]:
    """Divergence of an untrained student from its teacher, by what was copied."""
    teacher = _random_teacher()
    cases: list[tuple[str, str, list[int] | None, bool]] = [
        ("DistilBERT, every layer, token types folded", "distilbert", ALL, True),
        ("DistilBERT, every layer, token types dropped (released code)", "distilbert", ALL, False),
        ("DistilBERT, layers 0 2 4 7 9 11, folded", "distilbert", UPSTREAM, True),
        ("BERT, every layer", "bert", ALL, True),
        ("BERT-PKD, the first six layers", "bert", ALL[:6], True),
        ("BERT, random", "bert", None, True),
    ]
    rows, wrong = [], []
    for title, kind, layers, fold in cases:
        start = (
            AtRandom(kind="random")
            if layers is None
            else FromLayers(kind="layers", layers=layers, fold_token_type=fold)
        )
        shape = {"kind": kind, "num_layers": len(layers or ALL)}
        recipe = Recipe.model_validate(
            {
                "architecture": shape,
                "initialise": start,
                "phases": [{"name": "none", "objectives": [{"kind": "mlm"}]}],
            }
        )
        kl = _divergence(teacher, build(teacher, recipe, dropout=0.0, seed=1))
        exact = layers == ALL and fold
        rows.append((title, "below 1e-6" if exact and kl < 1e-6 else f"{kl:.2f}"))
        if exact != (kl < 1e-6):
            wrong.append(f"{title}: KL {kl:.2g} where {'0' if exact else 'more'} was due")
    text = (
        "## Initialisation\n\nKL in nats per token from a random 12-layer teacher of width 32 to "
        "the student before it trains. A copy of every layer must be its teacher.\n\n"
    )
    return text + _table(("student", "KL"), rows), wrong


def _objectives() -> tuple[str, list[str]]:
    rows, wrong = [], []
    for pinned in PINNED:
        value = pinned.compute().item()
        rows.append(
            (pinned.recipe, pinned.objective, pinned.form, f"{pinned.value:.9f}", f"{value:.9f}")
        )
        if abs(value - pinned.value) > TOLERANCE:
            wrong.append(f"{pinned.recipe}, {pinned.objective}, {pinned.form}: {value}")
    text = (
        "## Objectives\n\nOn the tensors of `stages/distillation/pinned.py`, in float64. Where a "
        "paper and its released code differ, both forms are there.\n\n"
    )
    return text + _table(("recipe", "objective", "form", "pinned", "here"), rows), wrong


def _random_teacher() -> BertForMaskedLM:
    """Return a teacher whose every parameter matters, LayerNorms and token types included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model = BertForMaskedLM(
            BertConfig(
                vocab_size=61,
                hidden_size=32,
                num_hidden_layers=12,
                num_attention_heads=4,
                intermediate_size=48,
                max_position_embeddings=16,
            )
        ).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3)
            for module in model.modules():
                if isinstance(module, torch.nn.LayerNorm):
                    module.weight.add_(1)
    return model.eval()


@torch.no_grad()
def _divergence(teacher: PreTrainedModel, student: PreTrainedModel) -> float:
    ids_BS = torch.arange(5, 61).reshape(4, 14)
    logits = [model.double().eval()(input_ids=ids_BS).logits for model in (teacher, student)]
    return soft_target_kl(logits[1].flatten(0, 1), logits[0].flatten(0, 1), 1.0).mean.item()


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = tuple(head)
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def main(arguments: argparse.Namespace) -> None:
    """Print the tables, write them where asked, and fail if anything is off."""
    text, wrong = verify()
    print(text)
    if arguments.out is not None:
        write_text(arguments.out, text)
        log.info("written to %s", arguments.out)
    if wrong:
        raise DistilleryError("not as published:\n" + "\n".join(wrong))


if __name__ == "__main__":
    parser = parser_for(__doc__)
    parser.add_argument("--out", type=Path, default=None, help="also write the table to this file")
    run(main, parser)
