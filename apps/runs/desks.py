"""The folders that attempts run in, used again while they are clean.

To make one costs six new inodes and to remove it frees them. A file system such as ext4 walks
around what was freed within the last minute, so that a busy worker would soon wait a quarter
of a millisecond for each file. A desk that its job left as it was is therefore kept for the
next job of the same kind, whose files replace the last one's.

Only where all jobs run as one user. Else a folder that once was a user's stays that user's.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
import threading
from collections import defaultdict, deque
from dataclasses import dataclass, field
from pathlib import Path

from apps.nodes.kinds.base import FOLDERS, Command
from apps.nodes.process import remove_folder
from apps.runs.guard_process import CLOSED

#: Of a file or folder: inode, type and mode, owner, group.
Traits = tuple[int, int, int, int]


@dataclass
class Desk:
    """One attempt's folder."""

    path: Path
    #: What it is good for: jobs of one kind have files of the same names.
    kind: str
    #: Files that lie there, put by us.
    files: set[str] = field(default_factory=set)
    #: Which files and folders these were, whose, and open to whom.
    _laid: dict[str, Traits] = field(default_factory=dict)

    def lay_out(self, command: Command) -> None:
        """Put a command's files and folders in their places, for the worker's user alone."""
        for name in command.folders:
            if name not in FOLDERS:
                (self.path / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in self.files - command.files.keys():
            os.unlink(self.path / name)
        for name, text in command.files.items():
            path = self.path / name
            if os.sep in name:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The last one's text is written over and then cut: ext4 starts to write a file out
            # when it was cut to nothing before.
            flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            if name not in self.files:
                flags |= os.O_CREAT | os.O_EXCL
            with open(os.open(path, flags, 0o600), "wb", buffering=0) as file:
                data = memoryview(text.encode())
                while data:
                    data = data[file.write(data) :]
                file.truncate()
                self._laid[name] = _traits(os.fstat(file.fileno()))
        self.files = set(command.files)

    def note(self, name: str) -> None:
        """Remember what a folder is like, to know it again; "": the desk itself."""
        self._laid[name] = _traits(os.stat(self.path / name, follow_symlinks=False))

    def is_clean(self) -> bool:
        """Whether all that we put there lies there as it was, and nothing else.

        The very same files, by no other name too: through that, one job would read what the
        next one is to do.
        """
        try:
            with os.scandir(self.path) as entries:
                found = {entry.name: entry for entry in entries}
            return (
                found.keys() == self.files | set(FOLDERS)
                and all(self._is_as_laid(name) for name in ("", *self.files, *FOLDERS))
                and not any(os.listdir(found[name].path) for name in FOLDERS)
            )
        except OSError:  # gone, or closed to us
            return False

    def _is_as_laid(self, name: str) -> bool:
        now = os.stat(self.path / name, follow_symlinks=False)
        alone = stat.S_ISDIR(now.st_mode) or now.st_nlink == 1
        return alone and self._laid[name] == _traits(now)


def _traits(found: os.stat_result) -> Traits:
    return found.st_ino, found.st_mode, found.st_uid, found.st_gid


class Desks:
    """A worker's desks. `above` belongs to the worker; `reuse` is for where jobs are trusted."""

    def __init__(self, above: Path, *, reuse: bool, most: int) -> None:
        self.above = above
        self.reuse = reuse
        self.most = most
        self._free: defaultdict[str, deque[Desk]] = defaultdict(deque)
        self._used: deque[Desk] = deque()
        self._dirty: deque[Desk] = deque()
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def take(self, kind: str) -> Desk:
        """A desk with the folders that every job has, and no file that a job would not replace."""
        with self._lock:
            if self._free[kind]:
                return self._free[kind].pop()
        desk = Desk(self.above / f"{kind}-{next(self._numbers)}", kind)
        for name in ("", *FOLDERS):
            os.mkdir(desk.path / name, 0o700)
            desk.note(name)
        return desk

    def leave(self, desk: Desk) -> None:
        """The attempt is over. What follows is nobody's hurry."""
        self._used.append(desk)

    def sort(self) -> None:
        """Make the clean ones of the desks that were left free again. Quick."""
        with contextlib.suppress(IndexError):
            while True:
                desk = self._used.popleft()
                if self.reuse and len(self._free[desk.kind]) < self.most and desk.is_clean():
                    with self._lock:
                        self._free[desk.kind].append(desk)
                else:
                    self._dirty.append(desk)

    def clear(self) -> None:
        """Remove the others, however much lies on them."""
        self.sort()
        with contextlib.suppress(IndexError):
            while True:
                path = self._dirty.popleft().path
                remove_folder(path)
                remove_folder(path.with_name(path.name + os.fsdecode(CLOSED)))
