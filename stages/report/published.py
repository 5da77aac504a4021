"""Published GLUE scores that a page about GLUE shows beside its own, and where they are from."""

from dataclasses import dataclass

SOURCE = (
    "DistilBERT's README in Hugging Face's research_projects/distillation: development sets, "
    "median of 5 seeds"
)
CONVENTION = "macro9_dev"
COLUMNS = {
    "cola": "CoLA",
    "mnli": "MNLI",
    "mrpc": "MRPC",
    "qnli": "QNLI",
    "qqp": "QQP",
    "rte": "RTE",
    "sst2": "SST-2",
    "stsb": "STS-B",
    "wnli": "WNLI",
}


@dataclass(frozen=True, slots=True)
class Published:
    """One published system: a score per column, and the average that was printed with them."""

    system: str
    scores: tuple[float, ...]
    average: float


# MNLI as in the README; two later tables misprint it as 86.7 and 82.2.
ROWS = (
    Published("BERT-base-uncased", (56.3, 84.7, 88.6, 91.8, 89.6, 69.3, 92.7, 89.0, 53.5), 79.5),
    Published("DistilBERT-uncased", (51.3, 82.1, 87.5, 89.2, 88.5, 59.9, 91.3, 86.9, 56.3), 77.0),
)
