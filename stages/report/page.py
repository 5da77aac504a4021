"""The page: what each section shows, and the template that lays it out (page.html.j2, page.css).

A number that is also in summary.json is written as `<data value=... data-key=...>`: the exact value
and where it stands in the file, so that the page can be read by a program and checked by a test.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from stages.report import published, sections, wording
from stages.report.reading import Json, Reports
from stages.report.svg import tag

HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Links:
    """Where the page's neighbours are, as seen from the page."""

    summary: str
    data_docs: str


def render(reports: Reports, summary: Json, teacher_name: str, links: Links) -> str:
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
        curves=sections.curves(reports, models),
        drops=sections.drops(reports),
        dropped_examples=sections.dropped_examples(reports),
        costs=sections.costs(reports),
        published=published,
        traced=partial(traced, summary),
        between=partial(between, summary),
        spread=wording.spread,
        num_tokens=sections.num_tokens(reports),
        larger_batches=partial(sections.larger_batches, reports),
        task_size=partial(sections.num_judged, reports),
    )


def traced(summary: Mapping[str, Any], how: str, *keys: str) -> Markup | str:
    """Return a number of the summary as the page shows it, with its exact value and its place."""
    value: Any = summary
    for key in keys:
        value = value[key]
    text = wording.FILTERS[how](value)
    if not wording.is_number(value):
        return text
    return tag("data", text, value=repr(value), data_key=".".join(keys))


def between(summary: Mapping[str, Any], *keys: str) -> Markup:
    """Return an interval of the summary, both ends with their exact values and their places."""
    low, high = (traced(summary, "percent", *keys, end) for end in ("low", "high"))
    return Markup("{} to {}").format(low, high)
