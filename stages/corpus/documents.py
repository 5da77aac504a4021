"""Read one source of text into a documents file, with every drop counted by reason.

By hand: python -m stages.corpus.documents --source docstrings --out data/documents/docstrings
Writes documents.parquet and drops.json into the folder --out (docs/data-format.md).
"""

import argparse
from pathlib import Path

from tqdm import tqdm

from stages import params
from stages.command import log, parser_for, run
from stages.corpus.records import Tally, document_writer
from stages.corpus.sources import reader_of
from stages.errors import DataError, SettingsError
from stages.files import atomic_output, write_json


def read_source(name: str, settings: params.Params, out: Path) -> None:
    """Write one source's documents and drop counts into a folder, whole or not at all.

    Raises:
        DataError: the source cannot be read, or gave no document.
    """
    source = settings.corpus.sources[name]
    tally = Tally()
    found = reader_of(source.kind)(name, source, settings.hub_path, tally)
    with atomic_output(out) as folder:
        with (
            document_writer(folder / "documents.parquet") as writer,
            tqdm(
                desc=name, unit="B", unit_scale=True, mininterval=1, total=_expected(source)
            ) as bar,
        ):
            for document in found:
                writer.write(document)
                bar.update(len(document.text))
        if writer.num_documents == 0:
            raise DataError(
                f"params.yaml: corpus.sources.{name} gave no document: {tally.num_read} were read "
                f"and dropped ({tally.documents}). "
                + "; ".join([*tally.warnings[:1], "name another file, data set or package"])
            )
        report = {"source": name, "num_kept": writer.num_documents, **tally.as_json()}
        write_json(folder / "drops.json", report)
    log.info(
        "%s: %d documents of %d read, %.1f MB; what was dropped is in %s",
        name,
        writer.num_documents,
        tally.num_read,
        writer.num_characters / 1e6,
        out / "drops.json",
    )


def _expected(source: params.Source) -> float | None:
    """Return about how many characters a source will give, where its settings tell."""
    if isinstance(source, params.DocstringsSource) and source.max_megabytes:
        return source.max_megabytes * 1e6
    return None


def main(arguments: argparse.Namespace) -> None:
    """Read the source that the command line names."""
    settings = params.load()
    if arguments.source not in settings.corpus.sources:
        known = ", ".join(settings.corpus.sources)
        raise SettingsError(f"--source {arguments.source}: params.yaml has only: {known}")
    read_source(arguments.source, settings, arguments.out)


if __name__ == "__main__":
    parser = parser_for(__doc__, ["out"])
    parser.add_argument("--source", required=True, help="a name under corpus.sources")
    run(main, parser)
