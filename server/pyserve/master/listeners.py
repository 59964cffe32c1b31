"""Listening sockets: bound once, by the master, and inherited by every generation of workers.

Nobody ever calls shutdown() on one: that would end the queue that all processes share.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

from pyserve.config import addresses
from pyserve.errors import BindError
from pyserve.system import linux, ownfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from pyserve.config.addresses import Address
    from pyserve.system.ownfile import Identity

GONE = (errno.ECONNABORTED, errno.EPROTO, errno.EPERM)  # concern one connection that is no more (accept(2))
SYN_RECEIVED = "03"  # the state's number in /proc/net/tcp


class Listener:
    """One listening socket and what the environ of its requests says of the server's side."""

    def __init__(self, sock: socket.socket, *, inherited: bool, file: Identity | None = None) -> None:
        self.socket = sock
        self.inherited = inherited
        self.file = file  # of a unix socket that was made here: another one may be at its path later
        self.path = ""
        if sock.family == socket.AF_UNIX:
            self.path = addresses.shown(os.fsdecode(sock.getsockname()))
            self.server_name, self.server_port = "localhost", "80"
        else:
            host, port = sock.getsockname()[:2]
            self.server_name, self.server_port = host, str(port)

            # Connections inherit it: what is sent in several pieces does not wait for the client's acknowledgements.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def fileno(self) -> int:
        return self.socket.fileno()

    @property
    def tcp(self) -> bool:
        return self.socket.family in (socket.AF_INET, socket.AF_INET6)

    @property
    def owned(self) -> bool:
        """Was it bound here, and is it open?"""
        return not self.inherited and self.fileno() >= 0

    @property
    def url(self) -> str:
        if not self.tcp:
            return f"unix:{self.path}"
        host = f"[{self.server_name}]" if ":" in self.server_name else self.server_name
        return f"http://{host}:{self.server_port}"

    def describe(self) -> dict[str, str | bool]:
        """What a worker needs to know beside the descriptor."""
        return {
            "url": self.url,
            "server_name": self.server_name,
            "server_port": self.server_port,
            "inherited": self.inherited,
        }

    def carried(self) -> dict[str, Any]:
        return {"fd": self.fileno(), "inherited": self.inherited, "file": self.file}

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Listener:
        file = record["file"] and tuple(record["file"])
        return cls(socket.socket(fileno=record["fd"]), inherited=record["inherited"], file=file)

    @property
    def lost(self) -> bool:
        """Is the file of a unix socket that was made here gone, or another's?"""
        return self.file is not None and not ownfile.is_there(self.path, self.file)

    def accept(self) -> tuple[socket.socket, Any] | None:
        """The client that has waited longest and its address; None if nobody waits. OSError if the system refuses."""
        look = select.poll()
        look.register(self.socket, select.POLLIN)
        while look.poll(0):
            self.socket.setblocking(False)  # workers have it, too, and may have changed that
            try:
                client = socket.socket(fileno=linux.accept(self.fileno()))
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in GONE:
                    continue
                raise
            client.setblocking(False)
            with contextlib.suppress(OSError):  # it has gone meanwhile
                return client, client.getpeername()
            client.close()
        return None

    def close(self, *, unlink: bool) -> None:
        """Close this process's descriptor; ``unlink`` removes the file of a unix socket that was made here."""
        if unlink and self.file:
            ownfile.remove(self.path, self.file)
            self.file = None
        self.socket.close()


def open_all(
    binds: Iterable[str], backlog: int, socket_mode: int, owner: tuple[int, int], activated: Sequence[int] = ()
) -> list[Listener]:
    """Listen on every address; sockets that systemd handed over (``activated``) replace ``binds``.

    owner: (uid, gid) of the unix sockets' files, -1 to leave them. BindError names the address and, if it can be known,
    the process that has it.
    """
    opened: list[Listener] = []
    try:
        if activated:
            return [adopt(fd) for fd in activated]
        wanted = [addresses.parse(text) for text in binds]
        ipv4 = {address.port for address in wanted if address.kind == "tcp" and ":" not in address.host}
        for address in wanted:
            opened += [listen(address, backlog, socket_mode, owner, v6only=address.port in ipv4)]
        return opened
    except BaseException:
        for listener in opened:
            listener.close(unlink=True)
        raise


def listen(
    address: Address, backlog: int, socket_mode: int, owner: tuple[int, int], *, v6only: bool = False
) -> Listener:
    """v6only: an IPv4 address of the same port is listened on, too; else [::] takes clients of both versions."""
    if address.kind == "fd":
        return adopt(address.fd)
    if address.kind == "unix":
        return _listen_unix(address.path, backlog, socket_mode, owner)
    return _listen_tcp(address, backlog, v6only)


def adopt(fd: int) -> Listener:
    """Take over a listening socket that was inherited. It keeps the queue length that its maker chose."""
    try:
        sock = socket.socket(fileno=fd)
        listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise BindError(f"cannot listen on fd://{fd}: {error.strerror}; it must be an open socket") from None
    if not listening or sock.type != socket.SOCK_STREAM:
        sock.detach()
        raise BindError(f"cannot listen on fd://{fd}: it is not a listening stream socket")
    sock.setblocking(False)
    os.set_inheritable(fd, False)
    return Listener(sock, inherited=True)


def _listen_tcp(address: Address, backlog: int, v6only: bool) -> Listener:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BindError(f"cannot listen on {address}: the host is not known ({reason})") from None
    # A name can have addresses of both families ("localhost"); the IPv4 one is what everybody tries, sooner or later.
    family, _, _, _, where = min(found, key=lambda info: info[0] != socket.AF_INET)
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only or where[0] != "::")
        sock.bind(where)
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise BindError(_explain(address, error)) from None
    sock.setblocking(False)
    return Listener(sock, inherited=False)


def _listen_unix(path: str, backlog: int, mode: int, owner: tuple[int, int]) -> Listener:
    from pyserve.system import socketfile

    if addresses.is_abstract(path):
        return _listen_abstract(path, backlog)
    path = os.path.abspath(path)
    try:
        sock, file = socketfile.listen(path, backlog, mode, owner)
    except OSError as error:
        raise BindError(f"cannot listen on unix:{path}: {_lower(error)}") from None
    return Listener(sock, inherited=False, file=file)


def _listen_abstract(path: str, backlog: int) -> Listener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.bind("\0" + path[1:])
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        raise BindError(f"cannot listen on unix:{path}: {_lower(error)}") from None
    return Listener(sock, inherited=False)


def _lower(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[0].lower() + text[1:]


def _explain(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        holder = holder_of(address.port) or "another process"
        return f"cannot listen on {address}: the port is in use by {holder}; choose another with --bind"
    if error.errno == errno.EACCES:
        return f"cannot listen on {address}: not permitted; ports below 1024 need root or CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot listen on {address}: this machine has no such address"
    return f"cannot listen on {address}: {_lower(error)}"


# Reading /proc/net: who listens, and are handshakes under way?


def _table(family: int) -> list[list[str]]:
    try:
        with open("/proc/net/tcp6" if family == socket.AF_INET6 else "/proc/net/tcp") as table:
            return [line.split() for line in table][1:]
    except OSError:
        return []


def _local_port(row: list[str]) -> int:
    return int(row[1].rpartition(":")[2], 16)


def handshakes_under_way(listener: Listener) -> bool:
    """Has the kernel half-open connections for this TCP listener?"""
    port = int(listener.server_port)
    rows = _table(socket.AF_INET) + _table(socket.AF_INET6)
    return any(row[3] == SYN_RECEIVED and _local_port(row) == port for row in rows)


def holder_of(port: int) -> str:
    """``"nginx (pid 4711)"`` for the process that listens on a TCP port; empty if it cannot be known."""
    rows = _table(socket.AF_INET) + _table(socket.AF_INET6)
    inodes = {row[9] for row in rows if row[3] == "0A" and _local_port(row) == port}
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for pid in sorted((name for name in os.listdir("/proc") if name.isdigit()), key=int):
        with contextlib.suppress(OSError):  # it has ended, or is not ours to look into
            if wanted.intersection(_descriptors(pid)):
                with open(f"/proc/{pid}/comm") as comm:
                    return f"{comm.read().strip()} (pid {pid})"
    return ""


def _descriptors(pid: str) -> list[str]:
    links = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
    return links
