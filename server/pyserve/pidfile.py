"""The file that holds the master's pid."""

from __future__ import annotations

import contextlib
import os

from pyserve.errors import ConfigError


class Pidfile:
    """Written when serving begins and removed at its end. A running process named in it is never overruled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def write(self) -> None:
        other = self._living_owner()
        if other:
            raise ConfigError(f"pidfile {self.path}: pid {other} is running; stop it or choose another --pid")
        temporary = f"{self.path}.{os.getpid()}"
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
            try:
                os.write(fd, b"%d\n" % os.getpid())
            finally:
                os.close(fd)
            os.replace(temporary, self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise ConfigError(f"cannot write the pidfile {self.path}: {error.strerror}") from None

    def remove(self) -> None:
        """Remove it if it is still ours."""
        if self._read() == os.getpid():
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def _read(self) -> int:
        try:
            with open(self.path) as file:
                return int(file.read(32))
        except (OSError, ValueError):
            return 0

    def _living_owner(self) -> int:
        pid = self._read()
        if pid <= 0 or pid == os.getpid():
            return 0
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return 0
        except PermissionError:
            pass  # somebody else's, but running
        return pid
