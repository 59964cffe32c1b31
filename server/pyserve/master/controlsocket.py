"""The control socket: a unix socket whose clients are the server's own user, and root.

Its file is its owner's alone from its first moment on (``socketfile``), and each client's credentials are checked as
well. Opening and closing only; what is said on it is ``control``'s.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket

from pyserve.errors import BindError
from pyserve.system import linux, ownfile, socketfile
from pyserve.system.socketfile import credentials

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.system.ownfile import Identity

BACKLOG = 16
MODE = 0o600
NO_OWNER = (-1, -1)  # but who makes it
ALIVE = (
    "; is this server running already? If that is another, each needs a control_socket of its own "
    "(under systemd, a RuntimeDirectory of its own)"
)


class ForbiddenError(Exception):
    """A client that may not be here: ``pid`` and ``uid``."""

    def __init__(self, pid: int, uid: int) -> None:
        super().__init__(f"pid {pid} of uid {uid}")
        self.pid = pid
        self.uid = uid


class ControlSocket:
    """The listening socket. ``listen`` makes one."""

    def __init__(self, sock: socket.socket, path: str, file: Identity) -> None:
        self.socket = sock
        self.path = path
        self.file = file  # its identity: another one may be there later

    @classmethod
    def listen(cls, path: str) -> ControlSocket:
        """Listen at ``path``, in place of a server that is dead. BindError if that cannot be, as when one lives."""
        try:
            sock, file = socketfile.listen(path, BACKLOG, MODE, NO_OWNER)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            more = ALIVE if error.errno == errno.EADDRINUSE else ""
            raise BindError(f"cannot make the control socket {path}: {why}{more}") from None
        return cls(sock, path, file)

    def is_there(self) -> bool:
        """Do clients that come by the path arrive here?"""
        return ownfile.is_there(self.path, self.file)

    def renew(self) -> None:
        """Listen once more: the file has vanished, perhaps with its folder. BindError if that cannot be."""
        with contextlib.suppress(OSError):  # it is there, or listen() says why not
            os.mkdir(os.path.dirname(self.path))
        fresh = self.listen(self.path)
        self.socket.close()
        self.socket, self.file = fresh.socket, fresh.file

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
        client = socket.socket(fileno=linux.accept(self.fileno()))
        client.setblocking(False)
        pid, uid = credentials(client)
        if uid not in (0, os.geteuid()):
            client.close()
            raise ForbiddenError(pid, uid)
        return client

    def close(self) -> None:
        """Remove the file if it is still ours, and stop listening; in this order, so that nobody takes it for dead."""
        ownfile.remove(self.path, self.file)
        self.socket.close()
