"""The control socket: a unix socket whose clients are the server's own user, and root.

Its file has mode 0600 from its first moment on, and each client's credentials are checked as well. Opening and closing
only; what is said on it is ``control``'s.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct

from pyserve.errors import BindError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

BACKLOG = 16
CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class ForbiddenError(Exception):
    """A client that may not be here: ``pid`` and ``uid``."""

    def __init__(self, pid: int, uid: int) -> None:
        super().__init__(f"pid {pid} of uid {uid}")
        self.pid = pid
        self.uid = uid


class ControlSocket:
    """The listening socket. ``listen`` makes one."""

    def __init__(self, sock: socket.socket, path: str, file: tuple[int, int]) -> None:
        self.socket = sock
        self.path = path
        self.file = file  # its identity: another one may be there later

    @classmethod
    def listen(cls, path: str) -> ControlSocket:
        """Listen at ``path``, in place of a server that is dead. BindError if that cannot be, as when one lives."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        before = os.umask(0o177)  # what bind() makes then has the mode 0600; it follows no symbolic link
        try:
            with _alone_in(os.path.dirname(path)):
                _remove_stale(path)
                sock.bind(path)
                sock.listen(BACKLOG)
                return cls(sock, path, _identity(path))
        except OSError as error:
            sock.close()
            raise _failure(path, (error.strerror or str(error)).lower()) from None
        except BindError:
            sock.close()
            raise
        finally:
            os.umask(before)

    def carried(self) -> dict[str, Any]:
        return {"fd": self.fileno(), "path": self.path, "file": self.file}

    @classmethod
    def resume(cls, record: dict[str, Any]) -> ControlSocket:
        device, inode = record["file"]
        return cls(socket.socket(fileno=record["fd"]), record["path"], (device, inode))

    def fileno(self) -> int:
        return self.socket.fileno()

    def accept(self) -> socket.socket:
        """The next client, not blocking. ForbiddenError if it is another user's; OSError if there is none."""
        client, _ = self.socket.accept()
        client.setblocking(False)
        pid, uid = credentials(client)
        if uid not in (0, os.geteuid()):
            client.close()
            raise ForbiddenError(pid, uid)
        return client

    def close(self) -> None:
        """Stop listening, and remove the file if it is still ours."""
        self.socket.close()
        with contextlib.suppress(OSError):  # removed already, or the directory is not ours any more
            if _identity(self.path) == self.file:
                os.unlink(self.path)


def credentials(sock: socket.socket) -> tuple[int, int]:
    """pid and uid of the other side: of who connected, or, asked by who connected, of who listens."""
    pid, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return pid, uid


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """While this lasts, no other pyserve takes a dead server's socket in this directory for its own."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Held for some system calls only. Somebody else who locks the directory for longer is not worth waiting for.
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(fd)


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that is dead; all else that is there stays and is an error."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise _failure(path, "a file that is not a socket is there; remove or rename it")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(path)
        if code == errno.ECONNREFUSED:
            os.unlink(path)
            return
        who = f"pid {credentials(probe)[0]}" if code == 0 else "another process"
    raise _failure(path, f"{who} listens there; is this server running already?")


def _failure(path: str, why: str) -> BindError:
    return BindError(f"cannot make the control socket {path}: {why}")
