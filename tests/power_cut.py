"""What a disk may hold after a power cut at any moment of some writing.

A watched folder is really written to; before and after every call that changes a disk's state,
three states are noted that a machine may wake up with:

* killed: the process died, the machine did not. Everything is there as it was.
* data lost: names and folders reached the disk, contents only where fsync had been called.
* all lost: a folder lists what it listed when it was last fsynced, a file holds what it held then.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Tree = dict[str, Any]
"""Name -> bytes of a file, or the tree of a folder."""
CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")


class Disk:
    """The states in which a power cut could have left a folder, in the order of the writing."""

    def __init__(self, root: Path) -> None:
        self.root, self.states = root, []
        self._contents: dict[int, bytes] = {}
        self._listings: dict[int, dict[str, int]] = {}
        self._held: dict[int, int] = {}
        for folder in [root, *(p for p in root.rglob("*") if p.is_dir())]:
            self._sync(self._hold(folder))
        for file in (p for p in root.rglob("*") if p.is_file()):
            self._sync(self._hold(file))

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note the states of all that is written in the block."""
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._noting(getattr(os, name), name))
            yield
        self._note()
        for descriptor in self._held.values():
            os.close(descriptor)

    def _noting(self, call: Callable[..., Any], name: str) -> Callable[..., Any]:
        def noted(*arguments: Any, **named: Any) -> Any:
            self._note()
            result = call(*arguments, **named)
            if name == "fsync":
                self._sync(arguments[0])
            return result

        return noted

    def _note(self) -> None:
        for path in self.root.rglob("*"):
            self._hold(path)
        self.states += [
            ("killed", self._tree(self.root, fsynced=False)),
            ("data lost", self._tree(self.root, fsynced=True)),
            ("all lost", self._durable(self._inode(self.root))),
        ]

    def _inode(self, path: Path) -> int:
        return path.stat().st_ino

    def _hold(self, path: Path) -> int:
        """Keep a file or folder open: as long as it is, its inode names nothing else."""
        inode = self._inode(path)
        if inode not in self._held:
            self._held[inode] = os.open(path, os.O_RDONLY)
        return self._held[inode]

    def _sync(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):  # noqa: PTH112
            folder = Path(os.readlink(f"/proc/self/fd/{descriptor}"))  # noqa: PTH115
            self._listings[status.st_ino] = {p.name: self._inode(p) for p in folder.iterdir()}
            for path in folder.iterdir():
                self._hold(path)
        else:
            content = os.pread(descriptor, status.st_size, 0)
            self._contents[status.st_ino] = content

    def _tree(self, folder: Path, *, fsynced: bool) -> Tree:
        return {
            p.name: self._tree(p, fsynced=fsynced)
            if p.is_dir()
            else (self._contents.get(self._inode(p), b"") if fsynced else p.read_bytes())
            for p in folder.iterdir()
        }

    def _durable(self, inode: int) -> Tree:
        tree: Tree = {}
        for name, entry in self._listings.get(inode, {}).items():
            is_folder = os.path.isdir(f"/proc/self/fd/{self._held[entry]}")  # noqa: PTH112
            tree[name] = self._durable(entry) if is_folder else self._contents.get(entry, b"")
        return tree


def build(tree: Tree, folder: Path) -> Path:
    """Write a tree as real files, and return its folder."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        if isinstance(content, dict):
            build(content, folder / name)
        else:
            (folder / name).write_bytes(content)
    return folder
