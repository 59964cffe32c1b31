"""The file that holds the master's pid."""

from __future__ import annotations

import contextlib
import os

from pyserve import ownfile
from pyserve.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Pidfile:
    """Written when serving begins and removed at its end. A running process named in it is never overruled.

    It stays open, so that no other file can get its inode, by which it is known.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = -1

    def carried(self) -> dict[str, Any]:
        return {"path": self.path, "fd": self.fd}

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Pidfile:
        pidfile = cls(record["path"])
        pidfile.fd = record["fd"]
        return pidfile

    def write(self) -> None:
        other = self._living_owner()
        if other:
            raise ConfigError(f"pidfile {self.path}: pid {other} is running; stop it or choose another --pid")
        try:
            with ownfile.folder_of(self.path) as (folder, name):
                self._write(folder, name)
        except OSError as error:
            raise ConfigError(f"cannot write the pidfile {self.path}: {error.strerror}") from None

    def _write(self, folder: int, name: str) -> None:
        temporary = f"{name}.{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):  # left by a crash: in a container pids are the same each time
            os.unlink(temporary, dir_fd=folder)
        how = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, how, 0o644, dir_fd=folder)
        try:
            os.write(fd, b"%d\n" % os.getpid())
            os.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        self.fd = fd

    def remove(self) -> None:
        """Remove it if it is still ours."""
        if self.fd >= 0 and pid_in(self.fd) == os.getpid():
            ownfile.remove(self.path, ownfile.identity(os.fstat(self.fd)))

    def _living_owner(self) -> int:
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return 0
        try:
            pid = pid_in(fd)
        finally:
            os.close(fd)
        if pid <= 0 or pid == os.getpid():
            return 0
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return 0
        except PermissionError:
            pass  # somebody else's, but running
        return pid


def pid_in(fd: int) -> int:
    """The number that a file holds; 0 if it holds none."""
    try:
        return int(os.pread(fd, 32, 0))
    except (OSError, ValueError):
        return 0
