"""GLUE's official TSV layout: hand-made files with the columns and the traps of the real ones."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages.errors import DataError
from stages.evaluation.official_tsv import COLA_COLUMNS, LAYOUTS, read_split
from stages.evaluation.task_folder import HIDDEN, Example
from stages.evaluation.task_sources import read_folder
from stages.evaluation.tasks import get_task

MNLI = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2"
)
MNLI_CELLS = "0\t31193\t31193n\tgovernment\t( a )\t( b )\t(ROOT a)\t(ROOT b)"
QQP = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
STSB = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"


def write(root: Path, name: str, *lines: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_cola_has_no_header_but_in_its_test_file(tmp_path: Path) -> None:
    write(tmp_path, "CoLA/train.tsv", "gj04\t1\t\tBill ate.", "gj04\t0\t*\tBill eated the.")
    write(tmp_path, "CoLA/test.tsv", "index\tsentence", "0\tBill whistled.")
    cola = get_task("cola")
    assert read_split(tmp_path, cola, "train") == [
        Example("Bill ate.", None, 1),
        Example("Bill eated the.", None, 0),
    ]
    assert read_split(tmp_path, cola, "test") == [Example("Bill whistled.", None, HIDDEN)]


def test_a_quotation_mark_is_a_character_like_any_other(tmp_path: Path) -> None:
    # An opening quotation mark without its fellow would swallow the following lines of a CSV.
    write(
        tmp_path,
        "QQP/train.tsv",
        QQP,
        '0\t1\t2\t"What is a "trap"?\tIs this one?\t0',
        "1\t3\t4\tA?\tA\u2028\rB?\t1",
    )
    assert read_split(tmp_path, get_task("qqp"), "train") == [
        Example('"What is a "trap"?', "Is this one?", 0),
        Example("A?", "A\u2028\rB?", 1),
    ]


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "MRPC" / "dev.tsv"
    path.parent.mkdir()
    path.write_bytes(
        b"\xef\xbb\xbfQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t10\t11\tOne .\tUno .\r\n"
    )
    assert read_split(tmp_path, get_task("mrpc"), "validation") == [Example("One .", "Uno .", 1)]


def test_mnli_is_read_by_its_column_names_and_label_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        "MNLI/train.tsv",
        f"{MNLI}\tlabel1\tgold_label",
        f"{MNLI_CELLS}\tP one.\tH one.\tneutral\tneutral",
    )
    write(
        tmp_path,
        "MNLI/dev_mismatched.tsv",
        f"{MNLI}\tlabel1\tlabel2\tlabel3\tlabel4\tlabel5\tgold_label",
        f"{MNLI_CELLS}\tP.\tH.\tneutral\tneutral\tcontradiction\tneutral\tneutral\tcontradiction",
    )
    write(tmp_path, "MNLI/test_matched.tsv", MNLI, f"{MNLI_CELLS}\tP.\tH.")
    mnli = get_task("mnli")
    assert read_split(tmp_path, mnli, "train") == [Example("P one.", "H one.", 1)]
    assert read_split(tmp_path, mnli, "validation_mismatched") == [Example("P.", "H.", 2)]
    assert read_split(tmp_path, mnli, "test_matched") == [Example("P.", "H.", HIDDEN)]


@pytest.mark.parametrize(
    ("name", "header", "line", "expected"),
    [
        ("sst2", "sentence\tlabel", "a fine film \t1", Example("a fine film ", None, 1)),
        (
            "stsb",
            STSB,
            "0\tn\tf\t2012\t1\ta\tb\tA plane.\tA jet.\t4.750",
            Example("A plane.", "A jet.", 4.75),
        ),
        (
            "qnli",
            "index\tquestion\tsentence\tlabel",
            "0\tWho?\tAda.\tentailment",
            Example("Who?", "Ada.", 0),
        ),
        (
            "qnli",
            "index\tquestion\tsentence\tlabel",
            "0\tWho?\tRain.\tnot_entailment",
            Example("Who?", "Rain.", 1),
        ),
        (
            "rte",
            "index\tsentence1\tsentence2\tlabel",
            "0\tA.\tB.\tnot_entailment",
            Example("A.", "B.", 1),
        ),
        # WNLI's 1 is entailment, QNLI's and RTE's is not.
        ("wnli", "index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t1", Example("A.", "B.", 1)),
    ],
)
def test_labels_become_ids_in_the_hubs_order(
    tmp_path: Path, name: str, header: str, line: str, expected: Example
) -> None:
    write(tmp_path, f"{LAYOUTS[name].folder}/train.tsv", header, line)
    assert read_split(tmp_path, get_task(name), "train") == [expected]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("cola", ["gj04\t2\t\tBill."], r"CoLA/train.tsv, line 1: label '2' is not one of: 0, 1"),
        (
            "rte",
            ["index\tsentence1\tsentence2\tlabel", "0\tA\tB\tentails"],
            r"RTE/train.tsv, line 2: label 'entails' is not one of: entailment, not_entailment",
        ),
        (
            "stsb",
            [STSB, "0\tn\tf\t2012\t1\ta\tb\tA\tB\t5.2"],
            r"STS-B/train.tsv, line 2: score '5.2' is not a number from 0 to 5",
        ),
        ("sst2", ["text\tlabel", "a\t1"], r"SST-2/train.tsv, line 1: no column sentence; .*: text"),
        ("sst2", ["sentence\tlabel", "a film"], r"line 2: 1 columns, and 2 are needed"),
    ],
)
def test_a_wrong_line_is_named_with_its_value_and_what_is_allowed(
    tmp_path: Path, name: str, lines: list[str], message: str
) -> None:
    write(tmp_path, f"{LAYOUTS[name].folder}/train.tsv", *lines)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path, get_task(name), "train")


def test_broken_rows_of_qqp_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "QQP/train.tsv", QQP, '"\tWas it real?\t0', "1\t3\t4\tA?\tB?\t1")
    assert read_split(tmp_path, get_task("qqp"), "train") == [Example("A?", "B?", 1)]
    assert "1 rows lack columns and are left out" in caplog.text


def test_the_diagnostic_set_is_labelled_where_its_full_file_is_there(tmp_path: Path) -> None:
    mnli = get_task("mnli")
    with pytest.raises(DataError, match=r"no diagnostic set; GLUE's is one of: diagnostic/diag"):
        read_split(tmp_path, mnli, "ax")
    write(tmp_path, "diagnostic/diagnostic.tsv", "index\tsentence1\tsentence2", "0\tP.\tH.")
    assert read_split(tmp_path, mnli, "ax") == [Example("P.", "H.", HIDDEN)]
    write(
        tmp_path,
        "diagnostic/diagnostic-full.tsv",
        "Lexical Semantics\tLogic\tDomain\tPremise\tHypothesis\tLabel",
        "\tNegation\tNews\tP.\tH.\tcontradiction",
    )
    assert read_split(tmp_path, mnli, "ax") == [Example("P.", "H.", 2)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    write(tmp_path, "CoLA/train.tsv", "gj04\t1\t\tBill ate.")
    with pytest.raises(DataError, match=r"CoLA/dev.tsv does not exist; task cola needs it"):
        read_folder(get_task("cola"), tmp_path)
    with pytest.raises(
        DataError, match=r"task rte: .* has none of RTE/train.tsv, rte/train.parquet"
    ):
        read_folder(get_task("rte"), tmp_path)


@pytest.mark.parametrize("name", ["cola", "mrpc", "stsb", "qqp", "qnli", "rte", "wnli"])
def test_real_examples_survive_the_official_layout(
    shared_data: Path, tmp_path: Path, name: str
) -> None:
    """The hub's rows, written as the official files have them, come back as they were."""
    spec, layout = get_task(name), LAYOUTS[name]
    (source,) = (shared_data / "hub/nyu-mll/glue" / name).glob("validation-*.parquet")
    rows = pq.read_table(source).slice(0, 300).to_pylist()
    header = COLA_COLUMNS if name == "cola" else ["index", *layout.texts, layout.label]
    lines = [] if name == "cola" else ["\t".join(header)]
    for row in rows:
        label = row["label"] if layout.numbered else (spec.labels or ())[row["label"]]
        cells = dict(zip(layout.texts, (row[column] for column in spec.columns), strict=True))
        cells[layout.label] = f"{label}"
        lines.append("\t".join(cells.get(column, "0") for column in header))
    write(tmp_path, f"{layout.folder}/dev.tsv", *lines)
    examples = read_split(tmp_path, spec, "validation")
    assert [(e.text_a, e.text_b, e.label) for e in examples] == [
        (row[spec.columns[0]], row[spec.columns[1]] if spec.pair else None, row["label"])
        for row in rows
    ]
