"""Files of the user's own that are not there, or changed after a stage had read them.

DVC watches the settings that name them and not the files: what is in them may be anything, from
anywhere. So a run would find everything up to date; this is what says that it is not.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from stages.corpus.sources.files import expand
from stages.params import FilesSource, FolderTeacher, Params


def changed(root: Path, settings: Params) -> dict[str, str]:
    """Return the stages whose files are newer than what was made of them, and what to do."""
    found = {}
    for stage, (made, files) in _watched(root, settings).items():
        if not made.is_dir():
            continue
        # A file that went, or came with an old date, shows in its folder.
        times = {path: path.stat().st_mtime for file in files for path in (file, file.parent)}
        newest = max(times, key=times.__getitem__, default=None)
        # The folder's own time: DVC may put old files of the same content into it.
        if newest is not None and times[newest] > made.stat().st_mtime:
            shown = newest.relative_to(root) if newest.is_relative_to(root) else newest
            found[stage] = (
                f"{shown} changed after {stage} had read it, and DVC does not look into it; "
                f"to read it again: dvc repro --force --single-item {stage}"
            )
    return found


def missing(root: Path, settings: Params) -> Iterator[str]:
    """Yield what params.yaml names and is not there, but for what has been read already."""
    folders = {"hub_root": settings.hub_root, "evaluation.task_root": settings.evaluation.task_root}
    watched = _watched(root, settings)
    if "fetch_teacher" in watched and not watched["fetch_teacher"][0].is_dir():
        folders["teacher.source.path"] = getattr(settings.teacher.source, "path", None)
    for name, task in settings.evaluation.own_tasks.items():
        if f"tasks@{name}" in watched and not watched[f"tasks@{name}"][0].is_dir():
            folders[f"evaluation.own_tasks.{name}.folder"] = task.folder
    for key, folder in folders.items():
        if folder is not None and not (root / folder).is_dir():
            yield f"params.yaml: {key} = {folder}: is not a folder"
    for name, source in settings.corpus.sources.items():
        if isinstance(source, FilesSource) and not watched[f"documents@{name}"][0].is_dir():
            for pattern in source.files:
                if not any(path.is_file() for path in expand(pattern, root)):
                    yield f"params.yaml: corpus.sources.{name}.files: no file matches '{pattern}'"


def _watched(root: Path, settings: Params) -> Mapping[str, tuple[Path, list[Path]]]:
    """Return for each stage that reads own files the folder it makes, and the files."""
    watched = {
        f"documents@{name}": (
            root / "data" / "documents" / name,
            [path for pattern in source.files for path in expand(pattern, root) if path.is_file()],
        )
        for name, source in settings.corpus.sources.items()
        if isinstance(source, FilesSource)
    }
    for name, task in settings.evaluation.own_tasks.items():
        if name in settings.evaluation.tasks:
            files = list(_files(root / task.folder))
            watched[f"tasks@{name}"] = (root / "data" / "tasks" / name, files)
    if isinstance(settings.teacher.source, FolderTeacher):
        files = [path for path in (root / settings.teacher.source.path).glob("*") if path.is_file()]
        watched["fetch_teacher"] = (root / "models" / "teacher_source", files)
    return watched


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
