"""Bounds on tables of statistics, judged by Great Expectations.

A bound is on a column's largest or smallest value, so that each verdict has one observed number.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Table = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Bound:
    """One expectation: no value of a column passes a limit."""

    name: str
    table: str
    column: str
    limit: float
    meaning: str
    """Why it is expected; shown in Data Docs."""
    is_minimum: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.is_minimum else '<='} {self.limit:,}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found for a bound."""

    bound: Bound
    observed: float | None
    passed: bool

    def __str__(self) -> str:
        if self.observed is None:
            return "not known"
        whole = self.observed.is_integer()
        return f"{int(self.observed):,}" if whole else f"{self.observed:.4g}"

    def as_json(self) -> dict[str, Any]:
        """Return the verdict as an entry of reports/expectations.json."""
        return {
            "name": self.bound.name,
            "column": f"{self.bound.table}.{self.bound.column}",
            "observed": self.observed,
            "bound": str(self.bound),
            "passed": self.passed,
        }


def judge(tables: Mapping[str, Table], bounds: Sequence[Bound], docs: Path) -> list[Verdict]:
    """Return a verdict for each bound, and build Data Docs in the existing folder `docs`."""
    # It tells how it builds itself, in hundreds of lines.
    logging.getLogger("great_expectations").setLevel(logging.WARNING)
    # Ten seconds: nothing that only handles bounds and verdicts should wait for it.
    import great_expectations as gx
    import pandas as pd

    context = gx.get_context(mode="ephemeral", project_config=_configuration(docs))
    source = context.data_sources.add_pandas("corpus")
    definitions = {}
    for table in tables:
        suite = gx.ExpectationSuite(table, [_expectation(b) for b in bounds if b.table == table])
        data = source.add_dataframe_asset(table).add_batch_definition_whole_dataframe(table)
        definition = gx.ValidationDefinition(name=table, data=data, suite=context.suites.add(suite))
        definitions[table] = context.validation_definitions.add(definition)
    found: dict[str, Any] = {}
    for table, rows in tables.items():
        outcome = definitions[table].run(batch_parameters={"dataframe": pd.DataFrame(list(rows))})
        found |= {result.expectation_config.meta["name"]: result for result in outcome.results}
    context.build_data_docs()
    return [_verdict(bound, found[bound.name]) for bound in bounds]


def _expectation(bound: Bound) -> Any:
    from great_expectations import expectations as gxe

    told = {"column": bound.column, "notes": bound.meaning, "meta": {"name": bound.name}}
    if bound.is_minimum:
        return gxe.ExpectColumnMinToBeBetween(min_value=bound.limit, **told)
    return gxe.ExpectColumnMaxToBeBetween(max_value=bound.limit, **told)


def _verdict(bound: Bound, result: Any) -> Verdict:
    observed = result.result.get("observed_value")
    return Verdict(bound, None if observed is None else float(observed), bool(result.success))


def _configuration(docs: Path) -> Any:
    """Return a context that keeps everything in memory but Data Docs, and shows no progress."""
    from great_expectations.data_context.types import base

    site = {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        "store_backend": {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs.resolve()),
        },
    }
    return base.DataContextConfig(
        store_backend_defaults=base.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
        data_docs_sites={"data_docs": site},
        progress_bars=base.ProgressBarsConfig(globally=False, metric_calculations=False),
        analytics_enabled=False,
    )
