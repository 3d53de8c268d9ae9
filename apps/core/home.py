"""The one folder that everything is written to, and what lies where in it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


class HomeError(Exception):
    """The home cannot be used; the message says why and what to do."""


class HomeInUse(HomeError):
    """Another process runs this home."""


def private(path: str, flags: int) -> int:
    """An `opener` for files of the home that are nobody else's to read."""
    return os.open(path, flags, 0o600)


@dataclass(frozen=True)
class Home:
    """RUNYARD_HOME (default `.runyard/` in the checkout)."""

    path: Path

    @classmethod
    def from_environment(cls, env: Mapping[str, str], default: Path) -> Home:
        return cls(Path(env.get("RUNYARD_HOME") or default).absolute())

    @property
    def digest(self) -> str:
        """Twelve characters that tell this home from any other one on the machine."""
        return hashlib.sha256(os.fsencode(self.path.resolve())).hexdigest()[:12]

    @property
    def sockets(self) -> Path:
        """Folder of the embedded servers' sockets, derived from the home's real path.

        Not inside the home: a Unix socket's path ends at 107 characters, a home's may not.
        Not where TMPDIR says: two terminals of one person may disagree about that.
        """
        return Path(f"/tmp/runyard-{os.getuid()}-{self.digest}")  # noqa: S108 -- made 0700 and checked

    @property
    def database(self) -> Path:
        return self.path / "database"

    @property
    def broker(self) -> Path:
        return self.path / "broker"

    @property
    def logs(self) -> Path:
        """Job logs: <run>/<node run>.<attempt>.log."""
        return self.path / "logs"

    @property
    def work(self) -> Path:
        """The folders that attempts run in."""
        return self.path / "work"

    @property
    def environments(self) -> Path:
        """Python environments that jobs ask for, built once each."""
        return self.path / "environments"

    @property
    def data(self) -> Path:
        """What jobs keep beyond their attempts: one folder a workspace, by its id."""
        return self.path / "data"

    @property
    def java(self) -> Path:
        """What Spark and its Java lack on this machine: a launcher, files of Spark's UI."""
        return self.path / "java"

    @property
    def blobs(self) -> Path:
        """Workspace files and outputs, by sha256."""
        return self.path / "blobs"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    def make(self) -> None:
        """Make the home folder where it is missing, and see that it can be used.

        Raises HomeError where it cannot be written, or where its path cannot work.
        """
        if ":" in str(self.path):
            raise HomeError(
                f"the home's path has a ':' in it: {self.path}; Java splits its class path there "
                "and no Spark job could start. Set RUNYARD_HOME to a path without one"
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Closed themselves too: the home may be opened for jobs' users to pass through.
            for folder in (self.keys, self.blobs, self.broker):
                folder.mkdir(mode=0o700, exist_ok=True)
            probe = self.path / f".write.{secrets.token_hex(4)}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise HomeError(
                f"the home folder {self.path} cannot be written ({error.strerror}); make it "
                "writable, or set RUNYARD_HOME to another folder"
            ) from error

    def make_sockets(self) -> None:
        """Make the folder for sockets; refuse one that somebody else has put there.

        Whoever owns that folder can stand in for the database. /tmp is open to all, so the
        name alone proves nothing.
        """
        self.sockets.mkdir(mode=0o700, exist_ok=True)
        found = self.sockets.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise HomeError(
                f"{self.sockets} is not this user's folder; whoever made it could pose as the "
                "database. Remove it, or set RUNYARD_HOME to another folder"
            )
        self.sockets.chmod(0o700)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the home: only one process at a time may run its servers.

        The kernel lets go of the lock when the process is gone, however it went.
        Raises HomeInUse where another process holds it.
        """
        # Private: who can open it can hold it.
        with open(self.path / "lock", "w", opener=private) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise HomeInUse(f"another process runs the home {self.path}") from error
            yield

    def secret_key(self) -> str:
        """Django's SECRET_KEY, made on first use. Two processes at once get the same one."""
        return self._key("secret_key")

    def secrets_key(self) -> str:
        """What the workspaces' secrets are encrypted with, made on first use as above."""
        return self._key("secrets_key")

    def _key(self, name: str) -> str:
        file = self.keys / name
        try:
            if file.exists():
                return file.read_text()
            self.make()
            mine = self.keys / f"{name}.{secrets.token_hex(8)}"
            with open(mine, "x", opener=private) as fresh:
                fresh.write(secrets.token_urlsafe(50))
            try:
                os.link(mine, file)  # fails where another process was first: then its counts
            except FileExistsError:
                pass
            finally:
                mine.unlink()
            return file.read_text()
        except OSError as error:
            raise HomeError(f"the key {file} cannot be read or made: {error.strerror}") from error
