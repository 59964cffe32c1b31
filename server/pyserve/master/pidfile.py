"""The file that holds the master's pid."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import time

from pyserve.errors import ConfigError
from pyserve.system import ownfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


LOCK = struct.Struct("@hhqqi0q")  # struct flock
CLOCKS_DIFFER = 1.0  # seconds


class Pidfile:
    """Written when serving begins and removed at its end. A running process that has written it is never overruled.

    It stays open and locked: no other file can get its inode, by which it is known, and who finds the lock knows that
    its owner runs. Only who can write it can lock it so.
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
            with contextlib.suppress(OSError):  # a file system without locks: the process is looked at
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
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
            if pid <= 0 or pid == os.getpid():
                return 0
            return pid if is_locked(fd) or ran_by(pid, os.fstat(fd).st_mtime) else 0
        finally:
            os.close(fd)


def is_locked(fd: int) -> bool:
    """Does the process run that has written a file as it is written here? The lock outlives an upgrade, not a crash."""
    try:
        asked = LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)  # only a lock of who can write it is in the way
        return bool(LOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK)
    except OSError:
        return False


def ran_by(pid: int, then: float) -> bool:
    """Does a process run that did so at a time (seconds since the epoch)? If it is younger, for example because the
    machine has been started again, only its number is that of an older one."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])  # proc(5): field 22, counted from the boot
    except (OSError, ValueError, IndexError):
        return False
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age < then + CLOCKS_DIFFER


def pid_in(fd: int) -> int:
    """The number that a file holds; 0 if it holds none."""
    try:
        return int(os.pread(fd, 32, 0))
    except (OSError, ValueError):
        return 0
