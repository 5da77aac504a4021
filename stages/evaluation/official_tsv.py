"""GLUE from a folder in its official download's layout: CoLA/train.tsv, MNLI/dev_matched.tsv ...

These files are not CSV: a quotation mark is a character like any other and a line is an example,
so they are split at tabs and nothing else. CoLA's train and dev files have no header. QQP's train
file has some broken rows, which the hub leaves out and so are left out here, counted in a warning.
The TSV files of a task of one's own are read alike; their header names the columns, and their
labels are names.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from stages.command import log
from stages.errors import DataError
from stages.evaluation.task_folder import HIDDEN, Example
from stages.evaluation.tasks import AX, TaskSpec

HIGHEST_SIMILARITY = 5.0


@dataclass(frozen=True, slots=True)
class Layout:
    """How one task's files are laid out; a column is a header's name."""

    folder: str
    texts: tuple[str, ...]
    label: str
    numbered: bool = True
    """Whether labels are written as ids; else as the names that the task table has."""


LAYOUTS: Mapping[str, Layout] = {
    "cola": Layout("CoLA", ("sentence",), "label"),
    "sst2": Layout("SST-2", ("sentence",), "label"),
    "mrpc": Layout("MRPC", ("#1 String", "#2 String"), "Quality"),
    "stsb": Layout("STS-B", ("sentence1", "sentence2"), "score"),
    "qqp": Layout("QQP", ("question1", "question2"), "is_duplicate"),
    "mnli": Layout("MNLI", ("sentence1", "sentence2"), "gold_label", numbered=False),
    "qnli": Layout("QNLI", ("question", "sentence"), "label", numbered=False),
    "rte": Layout("RTE", ("sentence1", "sentence2"), "label", numbered=False),
    "wnli": Layout("WNLI", ("sentence1", "sentence2"), "label"),
}
COLA_COLUMNS = ["source", "label", "original_judgement", "sentence"]
DIAGNOSTICS = (
    # The full file is the one that has labels.
    ("diagnostic/diagnostic-full.tsv", Layout("", ("Premise", "Hypothesis"), "Label", False)),
    ("diagnostic/diagnostic.tsv", Layout("", ("sentence1", "sentence2"), "label", False)),
    ("AX/AX.tsv", Layout("", ("sentence1", "sentence2"), "label", False)),
)


def has_task(root: Path, spec: TaskSpec) -> bool:
    """Say whether `root` holds the task's official train file."""
    path = path_of(root, spec, "train")
    return path is not None and path.is_file()


def path_of(root: Path, spec: TaskSpec, split: str) -> Path | None:
    """Return where a split's file would be; None for a task that has no such files."""
    if spec.is_own:
        return root / f"{split}.tsv"
    if spec.name not in LAYOUTS:
        return None
    return root / LAYOUTS[spec.name].folder / f"{split.replace('validation', 'dev')}.tsv"


def read_split(root: Path, spec: TaskSpec, split: str) -> list[Example]:
    """Return a split's examples in the file's order; labels that the file lacks are HIDDEN.

    Raises:
        DataError: the file is missing or a line is not as it must be; the message names the file,
            the line, the value and what is allowed.
    """
    if split == AX:
        for name, layout in DIAGNOSTICS:
            if (root / name).is_file():
                return list(_examples(root / name, spec, layout, labelled=None))
        raise DataError(
            f"{root} has no diagnostic set; GLUE's is one of: "
            + ", ".join(name for name, _ in DIAGNOSTICS)
        )
    path = path_of(root, spec, split)
    if path is None or not path.is_file():
        raise DataError(f"{path} does not exist; task {spec.name} needs it for its {split} split")
    own = Layout("", spec.columns, "label", numbered=False)
    layout = own if spec.is_own else LAYOUTS[spec.name]
    return list(_examples(path, spec, layout, labelled=not split.startswith("test")))


def _examples(
    path: Path, spec: TaskSpec, layout: Layout, *, labelled: bool | None
) -> Iterator[Example]:
    """Yield examples; `labelled` is None where a label column may be there or not."""
    rows = _rows(path)
    headless = spec.name == "cola" and labelled
    header = COLA_COLUMNS if headless else [name.strip() for name in next(rows, (0, []))[1]]
    wanted = [*layout.texts, layout.label] if labelled else list(layout.texts)
    missing = [name for name in wanted if name not in header]
    if missing:
        raise DataError(
            f"{path}, line 1: no column {', '.join(missing)}; the columns are: {', '.join(header)}"
        )
    places = [header.index(name) for name in layout.texts]
    has_labels = layout.label in header and labelled is not False
    label_place = header.index(layout.label) if has_labels else None
    parse = _label_parser(spec, layout)
    num_broken = 0
    for number, row in rows:
        # A tab too many in a text of your own would move the label.
        if len(row) < len(header) or (spec.is_own and len(row) > len(header)):
            # Known of QQP alone, in three rows of its train file.
            if spec.name != "qqp":
                raise DataError(
                    f"{path}, line {number}: {len(row)} columns, and {len(header)} are needed"
                )
            num_broken += 1
            continue
        texts = [row[place] for place in places]
        label: int | float = HIDDEN
        if label_place is not None:
            try:
                label = parse(row[label_place])
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
        yield Example(texts[0], texts[1] if len(texts) > 1 else None, label)
    if num_broken:
        log.warning("%s: %d rows lack columns and are left out, as the hub does", path, num_broken)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield line numbers from 1 and their cells; some files begin with a byte order mark."""
    # Only a line feed ends a line: texts hold other characters that Python would break at.
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.strip("\r\n"):
                    yield number, line.rstrip("\r\n").split("\t")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8: {error}") from error


def _label_parser(spec: TaskSpec, layout: Layout) -> Callable[[str], int | float]:
    if spec.kind == "regression":
        return _number if spec.is_own else _similarity
    assert spec.labels is not None
    written = [str(i) for i in range(len(spec.labels))] if layout.numbered else list(spec.labels)
    ids = {text: i for i, text in enumerate(written)}

    def parse(text: str) -> int:
        if text not in ids:
            raise ValueError(f"label '{text}' is not one of: {', '.join(written)}")
        return ids[text]

    return parse


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"label '{text}' is not a number")
    return value


def _similarity(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= HIGHEST_SIMILARITY:
        raise ValueError(f"score '{text}' is not a number from 0 to {HIGHEST_SIMILARITY:g}")
    return value
