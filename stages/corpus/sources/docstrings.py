"""English prose in the docstrings of installed packages: read with `ast`, nothing is imported.

A document is the prose of one docstring; its title is the qualified name of what it documents.
"""

import hashlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from stages.command import num_cores
from stages.corpus.ahead import in_order
from stages.corpus.records import Document, Tally
from stages.corpus.sources.modules import Docstring, docstrings_of
from stages.corpus.workers import processes
from stages.errors import DataError
from stages.params import DocstringsSource

_OTHERS = frozenset(["tests", "test", "testing", "_vendor", "vendor", "externals"])
"""Folders whose docstrings are test code, or belong to another package."""


def documents(
    name: str,
    settings: DocstringsSource,
    hub_path: Callable[[str], str],  # noqa: ARG001 - every source has this signature
    tally: Tally,
) -> Iterator[Document]:
    """Yield the prose of docstrings until there is enough, each package contributing its share.

    The package with the least text so far is read on, so that all have the same share until one
    runs out. Within a package the modules come in the order of a hash of their name: a part of it
    is then a sample of all its corners, and independent of the file system.
    """
    budget = float("inf") if settings.max_megabytes is None else settings.max_megabytes * 1e6
    num_characters = dict.fromkeys(settings.packages, 0)
    seen: set[str] = set()
    titles: Counter[str] = Counter()
    num_workers = num_cores()
    with processes(num_workers) as executor:
        unread = {
            package: in_order(
                executor, num_workers, ((docstrings_of, module) for module in _modules(package))
            )
            for package in settings.packages
        }
        while unread and sum(num_characters.values()) < budget:
            package = min(unread, key=lambda package: num_characters[package])
            found = next(unread[package], None)
            if found is None:
                del unread[package]
                continue
            for docstring in found:
                text = _prose(docstring, seen, tally)
                if text is not None:
                    titles[docstring.title] += 1
                    copy = titles[docstring.title]
                    number = f"#{copy}" if copy > 1 else ""
                    num_characters[package] += len(text)
                    yield Document(f"{name}:{docstring.title}{number}", name, docstring.title, text)


def _prose(docstring: Docstring, seen: set[str], tally: Tally) -> str | None:
    """Return the paragraphs of a docstring that are prose and new, or count it as dropped."""
    tally.num_read += 1
    kept = []
    for paragraph, reason in docstring.paragraphs:
        if reason is None and paragraph in seen:
            # Docstrings are copied from base class to derived class, from model to model.
            reason = "repeated"
        if reason is None:
            seen.add(paragraph)
            kept.append(paragraph)
        else:
            tally.paragraphs.add(reason, paragraph)
    if not kept:
        tally.documents.add("no_prose", " ".join(text for text, _ in docstring.paragraphs))
        return None
    return "\n\n".join(kept)


def _modules(package: str) -> list[tuple[str, Path]]:
    """Return the modules of a package and their files, in the order of a hash of the name.

    Raises:
        DataError: there is no such package.
    """
    try:
        # Only a dotted name would import its parent, and packages are top-level names.
        spec = importlib.util.find_spec(package.partition(".")[0])
    except (ImportError, ValueError):
        spec = None
    if spec is None or "." in package:
        raise DataError(
            f"params.yaml: corpus.sources.*.packages names '{package}', and no package of that "
            "import name is installed; install it, or take the name off the list"
        )
    modules = {}
    for folder in map(Path, spec.submodule_search_locations or []):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if _OTHERS.isdisjoint(parts):
                parts = parts[:-1] if parts[-1] == "__init__" else parts
                modules[".".join([package, *parts])] = path
    if spec.submodule_search_locations is None and spec.origin and spec.origin.endswith(".py"):
        modules[package] = Path(spec.origin)
    return sorted(modules.items(), key=lambda item: hashlib.sha256(item[0].encode()).digest())
