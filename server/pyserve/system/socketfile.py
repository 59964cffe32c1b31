"""Listening at a path: a unix socket and its file, made as if others could exchange any name at any moment.

They can where the folder is theirs, and root must not give away, open up or remove what they have put there instead.
So the file is touched only through a descriptor, and only after a connection to just that file has arrived at our
socket; until then nobody but its owner may connect. A lock keeps two servers that start at once from taking each
other's socket for a dead one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
import struct
import time

from pyserve.system import linux, ownfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyserve.system.ownfile import Identity

ONLY_ITS_OWNER = 0o200  # who may connect
LOCK_PATIENCE = 2.0  # seconds; a server holds the lock for some system calls only
LOCK_TICK = 0.01
CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


def listen(path: str, backlog: int, mode: int, owner: tuple[int, int]) -> tuple[socket.socket, Identity]:
    """A socket that listens at ``path`` (absolute), in place of a dead server's, and the identity of its file.

    mode: the file's permissions; owner: its (uid, gid), -1 for what stays. OSError, with a reason in words, if that
    cannot be, or if something else is there.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    before = os.umask(0o777 & ~ONLY_ITS_OWNER)
    try:
        with _alone_in(os.path.dirname(path)):
            _remove_stale(path)
            sock.bind(path)
            sock.listen(backlog)
            return sock, _open_up(sock, path, mode, owner)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)


def credentials(sock: socket.socket) -> tuple[int, int]:
    """pid and uid of the other side: of who connected, or, asked by who connected, of who listens."""
    pid, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return pid, uid


@contextlib.contextmanager
def _alone_in(folder: str) -> Iterator[None]:
    """While this lasts no other pyserve binds in this folder. OSError if there is none.

    Who can read the folder can lock it, and for as long as he likes: he is not waited for.
    """
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError:  # nobody but its owner can list it
        yield
        return
    try:
        limit = time.monotonic() + LOCK_PATIENCE
        while not _locked(fd) and time.monotonic() < limit:
            time.sleep(LOCK_TICK)
        yield
    finally:
        os.close(fd)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    return True


def _remove_stale(path: str) -> None:
    """Remove the socket of a server that is dead. OSError if anything else is there."""
    with ownfile.folder_of(path) as (folder, name):
        try:
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
        except FileNotFoundError:
            return
    try:
        found = os.fstat(fd)
        if not stat.S_ISSOCK(found.st_mode):
            raise OSError(errno.EEXIST, "a file that is not a socket is there; remove or rename it")
        if listener := _who_listens(fd):
            raise OSError(errno.EADDRINUSE, f"{listener} listens there")
        ownfile.remove(path, ownfile.identity(found))  # bind() says why, if it is still there
    finally:
        os.close(fd)


def _who_listens(fd: int) -> str:
    """At a socket's file; empty if it is dead."""
    with _connecting() as probe:
        code = probe.connect_ex(_by_descriptor(fd))
        if code == errno.ECONNREFUSED:
            return ""
        pid = credentials(probe)[0] if code == 0 else 0  # 0, too, for one of another pid namespace
        return f"pid {pid}" if pid else "another process"  # EAGAIN: its queue is full, so somebody listens


def _open_up(sock: socket.socket, path: str, mode: int, owner: tuple[int, int]) -> Identity:
    """Give the file its owner and its mode, if it is this socket's."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not stat.S_ISSOCK(os.fstat(fd).st_mode) or not _leads_to(fd, sock):
            raise OSError(errno.EBUSY, "somebody exchanges the file while it is made; name another folder")
        file = ownfile.identity(os.fstat(fd))
        try:
            os.chmod(_by_descriptor(fd), mode)
            os.chown(_by_descriptor(fd), *owner)
        except OSError:
            ownfile.remove(path, file)
            raise
        return file
    finally:
        os.close(fd)


def _leads_to(fd: int, sock: socket.socket) -> bool:
    """Does who connects to this file arrive at this socket? Our own connection is the first: nobody else may connect
    yet, but root, whose clients come again."""
    with _connecting() as probe, contextlib.suppress(OSError):
        probe.connect(_by_descriptor(fd))
        while True:
            with socket.socket(fileno=linux.accept(sock.fileno())) as arrived:
                if credentials(arrived)[0] == os.getpid():
                    return True
    return False


def _connecting() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


def _by_descriptor(fd: int) -> str:
    """A path that means this file, and is not resolved by names."""
    return f"/proc/self/fd/{fd}"
