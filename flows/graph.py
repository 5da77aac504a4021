"""DVC's graph as plain data, and which of its stages DVC would run now.

    python -m flows.graph

says of each stage, in the order in which they run: its name, whether it changed, whether it wants
the whole machine, and the stages that it needs. DVC is asked in this process (1.3 s, a third of
what two dvc commands take); stages themselves are always processes of their own.
"""

import argparse
import graphlib
import heapq
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.command import log, parser_for, run
from stages.errors import DistilleryError, SettingsError

RETRY_SECONDS = [5.0, 15.0, 45.0]
STRAYS = (
    "no stage makes these any more, but stages read the folders they lie in, and another checkout "
    "would find those changed: rm -r %s"
)


class Passing(DistilleryError):  # noqa: N818 - an outcome
    """Nothing is wrong with the work: the same command may succeed in a moment."""


class DvcBusy(Passing):
    """Another DVC process holds a path or the lock."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of dvc.yaml, as the flow needs to know it."""

    name: str
    """As `dvc stage list` gives it, such as `finetune@distilbert-acceptability`."""
    upstream: tuple[str, ...]
    is_exclusive: bool
    """Wants the whole machine (`meta.exclusive` in dvc.yaml)."""

    @property
    def group(self) -> str:
        """The name in dvc.yaml, before a matrix or foreach multiplied it."""
        return self.name.partition("@")[0]


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages in an order in which they can run: dvc.yaml's own, as far as dependencies allow."""

    stages: tuple[Stage, ...]

    def names(self) -> list[str]:
        """Return the stages' names, in order."""
        return [stage.name for stage in self.stages]

    def upstream_of(self, targets: Iterable[str]) -> "Graph":
        """Return the targets and all they need, as `dvc repro TARGETS` would.

        Args:
            targets: Names of stages, or of a whole matrix or foreach group.
        """
        by_name = {stage.name: stage for stage in self.stages}
        wanted: set[str] = set()
        pending = [stage for target in targets for stage in self._named(target)]
        while pending:
            stage = pending.pop()
            if stage.name not in wanted:
                wanted.add(stage.name)
                pending += [by_name[name] for name in stage.upstream]
        return Graph(tuple(stage for stage in self.stages if stage.name in wanted))

    def downstream_of(self, names: Iterable[str]) -> set[str]:
        """Return the named stages of this graph, and all that depends on them."""
        reached = set(names) & set(self.names())
        for stage in self.stages:
            if reached.intersection(stage.upstream):
                reached.add(stage.name)
        return reached

    def _named(self, target: str) -> list[Stage]:
        found = [stage for stage in self.stages if target in (stage.name, stage.group)]
        if not found:
            known = ", ".join(dict.fromkeys(stage.group for stage in self.stages))
            raise SettingsError(
                f"dvc.yaml has no stage '{target}'; it has: {known} (dvc stage list names them all)"
            )
        return found


def ordered(upstream: Mapping[str, Iterable[str]], exclusive: Iterable[str] = ()) -> Graph:
    """Return a graph whose order follows the mapping's, except where a dependency forbids it.

    Args:
        upstream: For each stage, the stages it depends on.
        exclusive: The stages that want the whole machine.
    """
    position = {name: i for i, name in enumerate(upstream)}
    alone = set(exclusive)
    sorter = graphlib.TopologicalSorter({name: set(needs) for name, needs in upstream.items()})
    sorter.prepare()
    ready: list[tuple[int, str]] = []
    stages = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, (position[name], name))
        _, name = heapq.heappop(ready)
        needs = tuple(sorted(upstream[name], key=position.__getitem__))
        stages.append(Stage(name, needs, name in alone))
        sorter.done(name)
    return Graph(tuple(stages))


def read_graph() -> Graph:
    """Ask DVC for the graph of the project in the working folder."""
    with _repository() as repository:
        edges = repository.index.graph
        stages = repository.index.stages
        upstream = {s.addressing: [n.addressing for n in edges.successors(s)] for s in stages}
        exclusive = [s.addressing for s in stages if (s.meta or {}).get("exclusive")]
    return ordered(upstream, exclusive)


def read_changed() -> dict[str, list[str]]:
    """Ask DVC what `dvc status` asks: the stages that changed, and what changed about each.

    Stages further down are not in it: they may be unchanged once those above have run.

    Raises:
        DvcBusy: another DVC process is at work here, and after a minute of patience still is.
    """
    for patience in RETRY_SECONDS:
        try:
            return _read_changed()
        except DvcBusy:
            log.warning("another DVC process is at work here: asking again in %g s", patience)
            time.sleep(patience)
    return _read_changed()


def _read_changed() -> dict[str, list[str]]:
    with _repository() as repository:
        status: dict[str, list[Any]] = repository.status()
    return {name: [_explain(change) for change in changes] for name, changes in status.items()}


def read_strays() -> list[Path]:
    """Return what lies among the outputs of stages and is none: what earlier settings left.

    DVC takes the folder that a stage reads for what is in it, and brings only outputs into another
    checkout: there, the stages that read such a folder would have changed.
    """
    with _repository() as repository:
        root = Path(repository.root_dir)
        outs = {Path(out.fs_path) for out in repository.index.outs}
        # What DVC does not keep is in git, and comes with it.
        kept = [Path(out.fs_path) for out in repository.index.outs if out.use_cache]
        read = {Path(dep.fs_path) for s in repository.index.stages for dep in s.deps}
    folders = [path for path in sorted(read) if any(path in out.parents for out in kept)]
    return [path.relative_to(root) for folder in folders for path in _strays(folder, outs)]


def _strays(folder: Path, outs: set[Path]) -> Iterator[Path]:
    for path in sorted(folder.glob("[!.]*")):
        if any(path in out.parents for out in outs):
            yield from _strays(path, outs)
        # DVC knows no folder without a file; `dvc checkout` leaves some.
        elif path not in outs and (path.is_file() or any(p.is_file() for p in path.rglob("*"))):
            yield path


def _explain(change: Any) -> str:
    if not isinstance(change, Mapping):
        return str(change)
    return "; ".join(
        f"{what}: "
        + (
            ", ".join(f"{path} ({how})" for path, how in paths.items())
            if isinstance(paths, Mapping)
            else str(paths)
        )
        for what, paths in change.items()
    )


@contextmanager
def _repository() -> Iterator[Any]:
    """Open the project for one question, and say in our words what DVC finds wrong with it."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    try:
        # A stage of another flow may hold the lock for the moment in which it saves its result.
        with Repo(_wait_for_lock=True) as repository:
            yield repository
    except LockError as error:
        raise DvcBusy(f"another DVC process is at work here; wait for it: {error}") from error
    except DvcException as error:
        raise SettingsError(
            f"DVC cannot read {Path.cwd()}/dvc.yaml: {error} (see: dvc status)"
        ) from error


def main(arguments: argparse.Namespace) -> None:
    """Print a line a stage: whether it changed, whether it wants the whole machine, its needs."""
    del arguments
    changed = read_changed()
    for stage in read_graph().stages:
        mark = "changed" if stage.name in changed else "-"
        alone = "whole machine" if stage.is_exclusive else ""
        print(f"{stage.name:<45}{mark:<10}{alone:<15}{', '.join(stage.upstream)}")


if __name__ == "__main__":
    run(main, parser_for(__doc__))
