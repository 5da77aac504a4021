"""The page: what each section shows, and the template that lays it out (page.html.j2, page.css).

A number is written as `<data value=... data-key=...>`: the exact value and where it stands in
summary.json, or in the report that `data-file` names, so that the page can be read by a program and
checked by a test.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.lineage import Origin
from stages.report import corpus, published, runtimes, sections, training, wording
from stages.report.reading import Json, Reports
from stages.report.svg import tag

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Links:
    """Where the page's neighbours are, as seen from the page."""

    summary: str
    data_docs: str


def render(reports: Reports, summary: Json, teacher_name: str, links: Links, origin: Origin) -> str:
    """Return the page; it is the same for the same reports, to the byte."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(wording.FILTERS)
    models = sections.models(reports, summary)
    hero = sections.hero(models, reports)
    costs = training.costs(reports)
    timed = runtimes.runtimes(reports, models)
    return environment.get_template("page.html.j2").render(
        reports=reports,
        summary=summary,
        teacher_name=teacher_name,
        links=links,
        models=models,
        hero=hero,
        baseline=next((model for model in models if model.is_baseline), None),
        comparisons=sections.comparisons(reports, summary, models, hero),
        tasks=summary["tasks"],
        is_glue=any(task["is_glue"] for task in summary["tasks"]),
        all_derived=all(task["is_derived"] for task in summary["tasks"]),
        is_derived=any(task["is_derived"] for task in summary["tasks"]),
        seeds=sections.seeds(reports),
        dots=sections.dots(reports, summary, models),
        scatters=sections.scatters(reports, summary, models),
        curves=training.curves(reports, models),
        drops=corpus.drops(reports),
        origin=origin,
        runtimes=timed,
        shapes=runtimes.shapes(reports),
        fastest_first=runtimes.fastest_first(reports, timed),
        beside_itself=runtimes.beside_itself(reports),
        costs=costs,
        has_energy=any(cost.joules is not None for cost in costs),
        published=published,
        glue_retention=partial(sections.glue_retention, summary),
        published_retention=sections.published_retention,
        traced=partial(traced, summary),
        measured=partial(measured, reports.files),
        between=partial(between, summary),
        num_tokens=corpus.num_tokens(reports),
        at_once=sections.at_once(reports),
        larger_batches=partial(sections.larger_batches, reports),
        task_size=partial(sections.num_judged, reports),
    )


def traced(summary: Mapping[str, Any], how: str, *keys: str) -> Markup | str:
    """Return a number of the summary as the page shows it, with its exact value and its place."""
    return _data(_at(summary, keys), how, data_key=".".join(keys))


def measured(files: Mapping[str, Any], file: str, how: str, *keys: str | int) -> Markup | str:
    """Return a number of a report in the same way; None where the report has no such number."""
    place = ".".join(str(key) for key in keys)
    return _data(_at(files[file], keys), how, data_file=file, data_key=place)


def _at(found: Any, keys: Sequence[str | int]) -> Any:
    for key in keys:
        found = found[key] if isinstance(key, int) else found.get(key)
        if found is None:
            return None
    return found


def _data(value: Any, how: str, **place: str) -> Markup | str:
    text = wording.FILTERS[how](value)
    return tag("data", text, value=repr(value), **place) if wording.is_number(value) else text


def between(summary: Mapping[str, Any], *keys: str) -> Markup:
    """Return an interval of the summary, both ends with their exact values and their places."""
    low, high = (traced(summary, "percent", *keys, end) for end in ("low", "high"))
    return Markup("{} to {}").format(low, high)
