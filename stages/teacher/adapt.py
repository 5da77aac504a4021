r"""Adapt the teacher to the corpus by masked language modelling, training a head if it has none.

Reads the fetched teacher and the shards; writes the teacher that students learn from, the others of
an ensemble in folders below it, a report and a loss curve. Killed anywhere, the same command goes
on from its last checkpoint.

Run: python -m stages.teacher.adapt --source models/teacher_source --shards data/shards \
         --out models/teacher --report reports/teacher.json --curve reports/curves/teacher.csv
On two processes, put `stages.training.torchrun --standalone --nproc-per-node 2 -m` after -m.
"""

import argparse
from pathlib import Path

from stages.command import log, parser_for, run
from stages.corpus.reading import open_split
from stages.files import discard, scratch, sha256_of, write_json
from stages.params import Params, Weights, load
from stages.students.heads import num_parameters
from stages.teacher.models import check_reads, open_teacher, pooler_in, save_model
from stages.training.ahead import Ahead
from stages.training.batches import MaskedBatches
from stages.training.checkpoints import CurveRow
from stages.training.compiling import compile_layers
from stages.training.curves import write_curve
from stages.training.heldout import heldout_batches, measure_heldout
from stages.training.loop import train
from stages.training.processes import Processes, joined_processes, start_processes
from stages.training.spending import Outcome
from stages.training.triple_loss import TripleLoss
from stages.training.work import asked_by, work_per_token


def adapt(arguments: argparse.Namespace, params: Params, processes: Processes) -> None:
    """Train the teacher and those beside it, or take them as they are, and write all of them."""
    source, out = arguments.source, arguments.out
    report, curve, workspace = adapt_one(
        "teacher", source, out, params.seed, arguments.shards, params, processes
    )
    workspaces, beside = [workspace], {}
    for name, other in params.teacher.others.items():
        folder = source if other.source is None else source / name
        beside[name], _, workspace = adapt_one(
            f"teacher-{name}", folder, out / name, other.seed, arguments.shards, params, processes
        )
        workspaces.append(workspace)
    if not processes.is_first:
        return
    write_curve(arguments.curve, curve or [{"step": 0, "loss": 0.0, "mlm": 0.0}])
    write_json(arguments.report, report | ({"others": beside} if beside else {}))
    # Not before all are whole: DVC deletes the models before the stage runs again.
    for workspace in workspaces:
        if workspace is not None:
            discard(workspace)


def adapt_one(
    title: str,
    source: Path,
    out: Path,
    seed: int,
    shards: Path,
    params: Params,
    processes: Processes,
) -> tuple[dict[str, object], list[CurveRow], Path | None]:
    """Train one teacher on the corpus, or take it as it is where `teacher.adapt` is null.

    Returns:
        Its report, its loss curve, and the folder of its checkpoints, which are still there.
    """
    settings = params.teacher
    sequences = open_split(shards, "train", verify=processes.is_first_here)
    heldout = heldout_batches(shards, params.seed, settings.masking, verify=processes.is_first_here)
    model = open_teacher(
        source, seed=seed, dropout=settings.dropout, needs_head=settings.adapt is None
    ).to(processes.device)
    check_reads(model.config, sequences, title)
    report: dict[str, object] = {"num_parameters": num_parameters(model)}

    def measured() -> dict[str, float]:
        return measure_heldout(model, None, heldout.fixed(params.distill.heldout_sequences))

    if processes.is_first:
        report["initial_heldout"] = measured()
    if settings.adapt is None:
        outcome, num_tokens, workspace = Outcome(0, 0.0, processes.device.type, 1, []), 0, None
    else:
        num_steps = settings.adapt.total_steps(sequences.num_sequences)
        num_tokens = num_steps * settings.adapt.batch_sequences * sequences.sequence_length
        workspace = scratch(
            title,
            seed,
            settings.model_dump(mode="json"),
            sequences.digest,
            sha256_of(source / "model.safetensors"),
        )
        if params.launch.compile:
            compile_layers(model)
        loss = TripleLoss(model, None, Weights(ce=0, mlm=1, cos=0))
        work = work_per_token(
            model.config,
            [],
            asked_by(loss, False, settings.masking),
            sequence_length=sequences.sequence_length,
            num_parameters=num_parameters(model),
            tokens_per_step=settings.adapt.batch_sequences * sequences.sequence_length,
        )
        batches = MaskedBatches(sequences, settings.adapt.batch_sequences, seed, settings.masking)
        with Ahead(batches, num_steps) as ahead:
            outcome = train(
                loss,
                ahead,
                settings.adapt,
                num_steps,
                params.launch,
                processes,
                seed=seed,
                workspace=workspace,
                title=title,
                flops_per_token=work.total,
            )
    if processes.is_first:
        report |= outcome.cost(num_tokens) | {"heldout": measured()}
        save_model(model, source, out, pooler_in(source))
    return report, outcome.curve, workspace


def main(arguments: argparse.Namespace) -> None:
    """Run the stage with the settings in force."""
    params = load()
    start_processes(params.launch)
    with joined_processes() as processes:
        adapt(arguments, params, processes)
    log.info("the teacher is in %s", arguments.out)


if __name__ == "__main__":
    run(main, parser_for(__doc__, ["source", "shards", "out", "report", "curve"]))
