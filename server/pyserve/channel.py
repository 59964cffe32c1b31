"""The channel between the master and one child: typed messages over a SOCK_SEQPACKET socket pair.

One message is one packet: a JSON array of its kind and its fields, with file descriptors beside it (SCM_RIGHTS). JSON,
because the master may run as root and must be able to read what an unprivileged worker sends without trusting it.
The end of the file means that the other side is dead. Kernel facts (waitpid) outrank messages.
"""

from __future__ import annotations

import errno
import os
import socket
from array import array
from collections import deque
from posix import close  # the system's own, also where gevent replaces os.close() by one that takes its time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

MESSAGE_LIMIT = 120_000  # bytes; a default socket buffer (212,992) takes one of these with the kernel's overhead
DESCRIPTORS_LIMIT = 250  # SCM_MAX_FD is 253

NUMBER = (int, float)
# When one of these has to wait, it replaces one that waits already: only what was said last counts.
LAST_COUNTS = ("REOPEN", "RESPOND", "STACKS")

# Every message there is: kind → {field: type}.
MESSAGES: dict[str, dict[str, type | tuple[type, ...]]] = {
    # master → zygote
    # fds: scoreboard, both ends of the hand-off queue, error log, access log if there is one, listeners
    # spool_dir_given: where somebody has said what it is; empty: nobody has
    "CONFIG": {
        "generation": int,
        "master": int,
        "config": dict,
        "spool_dir_given": str,
        "listeners": list,
        "preload": str,
    },
    "SPAWN": {"id": int, "number": int, "slot": int},  # fds: the worker's end of its channel, its stack file, its bell
    # zygote → master
    "LOADED": {"description": str, "seconds": NUMBER},
    "LOAD_FAILED": {"kind": str, "message": str, "details": str},  # kind: "app", "hook", "config"
    "UNSAFE": {"reasons": str},  # preloading would not be clean: the app started threads …
    "SPAWN_FAILED": {"id": int, "kind": str, "message": str, "details": str},
    # worker → master
    "HELLO": {"pid": int},
    "READY": {"seconds": NUMBER, "heartbeat": bool},  # heartbeat: it stores one, whatever its requests do
    "BOOT_FAILED": {"kind": str, "message": str, "details": str},
    "LEAVING": {"cause": str},  # it stops accepting by itself: a TERM sent to it directly
    "CHECKED": {"status": int, "details": str},  # the answer to a check request, 0: none; what was logged meanwhile
    "BYE": {"cut": int},  # requests that were cut
    # A request wants to run alone. fds: what it is answered on; closed when it does not want to any more.
    "EXCLUSIVE": {
        "number": int,  # what the worker calls it
        "name": str,
        "line": str,  # method and path, empty for what is no request
        "blocks": bool,  # the worker runs nothing else meanwhile
        "waits": bool,  # while another has the gate
        "drain_timeout": NUMBER,
        "hold": NUMBER,  # seconds that other requests wait before they are refused
        "timeout": NUMBER,  # seconds; 0: none, or the worker sees to it
        "kills": bool,  # the workers that do not become idle
    },
    "IDLE": {"epoch": int},  # no request is in the app, nor will one enter in this epoch of the gate
    # master → worker
    "CHECK": {},  # answer the check request that the configuration names
    "GO": {},
    "TAKE": {"allowed": bool},  # connections from the hand-off queue, once it serves; unasked, it may
    # deadline: CLOCK_MONOTONIC seconds; share: how much of the queues it takes before it looks again, 0: all
    "DRAIN": {"cause": str, "deadline": NUMBER, "final": bool, "share": int},
    # Let nothing enter the app, and say IDLE. owner: the number of the worker's own request that is to be alone, or 0.
    # Requests wait ``hold`` seconds, those with this line (method and path) ``line_hold``, and are refused then.
    "PAUSE": {
        "epoch": int,
        "owner": int,
        "hold": NUMBER,
        "line": str,
        "line_hold": NUMBER,
        "retry_after": int,
        "page": str,
        "allow": list,  # paths that may be entered all the same
    },
    "RESUME": {"epoch": int},  # the gate is open
    "STACKS": {},  # write into the stack file what no signal handler can find
    "REOPEN": {},  # fds: error log, access log?
    # master → responder; retry_at: when a worker may be expected again, CLOCK_MONOTONIC seconds
    # retry_after: the least that clients are told, seconds; page: HTML, empty for a page of our own
    # Requests with this line (method and path) wait ``line_hold`` seconds for a worker.
    "RESPOND": {"on": bool, "retry_at": NUMBER, "retry_after": int, "page": str, "line": str, "line_hold": NUMBER},
}


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        close(fd)


class Message:
    """One message: ``message.kind``, its fields as ``message["name"]``, its descriptors in ``message.fds``."""

    __slots__ = ("fds", "fields", "kind")

    def __init__(self, kind: str, fields: Mapping[str, Any], fds: list[int]) -> None:
        self.kind = kind
        self.fields = fields
        self.fds = fds

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def close(self) -> None:
        """Close the descriptors that came with it."""
        _close(self.fds)
        self.fds = []


class ProtocolError(Exception):
    """The peer sent what is not a message."""


def encode(kind: str, fields: Mapping[str, Any]) -> bytes:
    """The packet for a message; long texts are cut in their middle, so that a huge traceback still arrives."""
    if not _are_fields_of(kind, fields):
        raise AssertionError(f"BUG: {kind} with {fields}")
    import json  # here, because the first zygote is started before anything is said to it

    packet = json.dumps([kind, dict(fields)]).encode("ascii")
    limit = MESSAGE_LIMIT  # characters; each can take up to twelve bytes in JSON
    while len(packet) > MESSAGE_LIMIT and limit > 100:
        limit //= 2
        cut = {name: shorten(value, limit) if isinstance(value, str) else value for name, value in fields.items()}
        packet = json.dumps([kind, cut]).encode("ascii")
    if len(packet) > MESSAGE_LIMIT:
        raise ValueError(f"a {kind} message of {len(packet)} bytes: {MESSAGE_LIMIT} is the limit")
    return packet


def shorten(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}\n[… {len(text) - limit} characters left out …]\n{text[-limit // 2 :]}"


def decode(packet: bytes, fds: list[int]) -> Message:
    """The message in a packet. ProtocolError if it is not one, down to the types of its fields."""
    import json

    try:
        kind, fields = json.loads(packet)
        if not _are_fields_of(kind, fields):
            raise ValueError(f"not the fields of {kind}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProtocolError(f"{packet[:80]!r}: {error!r}") from None
    return Message(kind, fields, fds)


def _are_fields_of(kind: str, fields: Mapping[str, Any]) -> bool:
    known = MESSAGES[kind]
    return (
        isinstance(fields, dict)
        and fields.keys() == known.keys()
        and all(isinstance(fields[name], known[name]) for name in known)
    )


class Channel:
    """One end. The master's ends never block: what the kernel does not take waits in ``outbox`` for ``flush()``.

    A child that never reads costs no more than one message of each kind that is said more than once.
    """

    def __init__(self, sock: socket.socket, *, blocking: bool = True) -> None:
        self.socket = sock
        self.outbox: deque[tuple[bytes, list[int], str]] = deque()
        sock.setblocking(blocking)

    @staticmethod
    def pair() -> tuple[Channel, socket.socket]:
        """The master's end, and the socket to give to a child."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(ours, blocking=False), theirs

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, kind: str, /, fds: Iterable[int] = (), **fields: Any) -> None:
        """Send a message; a dead peer is not an error here: its end of file says so to the reader.

        Descriptors that have to wait are duplicated, so that the caller may close its own at once. OSError: they cannot
        be.
        """
        packet = encode(kind, fields)
        descriptors = list(fds)
        if self.outbox or not self._transmit(packet, descriptors):
            self._put_by(kind, packet, descriptors)

    def _put_by(self, kind: str, packet: bytes, fds: list[int]) -> None:
        """Let a message wait."""
        kept: list[int] = []
        try:
            for fd in fds:
                kept.append(os.dup(fd))
        except OSError:
            _close(kept)
            raise
        if kind in LAST_COUNTS:
            for waiting in [entry for entry in self.outbox if entry[2] == kind]:
                self.outbox.remove(waiting)
                _close(waiting[1])
        self.outbox.append((packet, kept, kind))

    def flush(self) -> None:
        """Send what had to wait."""
        while self.outbox:
            packet, fds, _ = self.outbox[0]
            if not self._transmit(packet, fds):
                return
            self.outbox.popleft()
            _close(fds)

    def _transmit(self, packet: bytes, fds: list[int]) -> bool:
        try:
            # Not socket.send_fds() and recv_fds(): they drop the flags that they are given.
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            self.socket.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
        except OSError as error:
            # ETOOMANYREFS: too many descriptors in flight for this user; they arrive as the others read.
            if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS):
                return False
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise
        return True

    def receive(self) -> Message | None:
        """The next message; None at the end of the file. BlockingIOError when a non-blocking end has none."""
        try:
            packet, ancillary, flags, _ = self.socket.recvmsg(
                MESSAGE_LIMIT + 1, socket.CMSG_SPACE(DESCRIPTORS_LIMIT * array("i").itemsize), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:
            # It ended without reading all that we sent. The kernel says so once, before what it sent last.
            return self.receive()
        fds = array("i")
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        try:
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                raise ProtocolError("a message or its descriptors did not arrive whole")
            if packet:
                return decode(packet, list(fds))
        except ProtocolError:
            _close(fds)
            raise
        _close(fds)
        return None

    def carried(self) -> dict[str, Any]:
        outbox = [{"packet": packet.decode("ascii"), "fds": fds, "kind": kind} for packet, fds, kind in self.outbox]
        return {"fd": self.fileno(), "outbox": outbox}

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Channel:
        """The master's end."""
        channel = cls(socket.socket(fileno=record["fd"]), blocking=False)
        channel.outbox.extend((each["packet"].encode("ascii"), each["fds"], each["kind"]) for each in record["outbox"])
        return channel

    def peek(self) -> str | None:
        """The kind of the next message, which stays; None at the end of the file. BlockingIOError if there is none."""
        packet = self.socket.recv(MESSAGE_LIMIT + 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        return decode(packet, []).kind if packet else None

    def close(self) -> None:
        for _, fds, _ in self.outbox:
            _close(fds)
        self.outbox.clear()
        self.socket.close()
