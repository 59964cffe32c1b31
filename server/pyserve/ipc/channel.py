"""The channel between the master and one child: typed messages over a SOCK_SEQPACKET socket pair.

One message is one packet: a JSON array of its kind and its fields, with file descriptors beside it (SCM_RIGHTS). JSON,
because the master may run as root and must be able to read what an unprivileged worker sends without trusting it: the
table says which values each field may have. The end of the file means that the other side is dead. Kernel facts
(waitpid) outrank messages.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from _thread import start_new_thread
from array import array
from collections import deque
from posix import close  # the system's own, also where gevent replaces os.close() by one that takes its time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any, NamedTuple
else:
    from pyserve.records import NamedTuple

MESSAGE_LIMIT = 120_000  # bytes; a default socket buffer (212,992) takes one of these with the kernel's overhead
DESCRIPTORS_LIMIT = 253  # of a message, the kernel's own (SCM_MAX_FD)
WORD = array("i").itemsize
SCM_RIGHTS, SCM_PIDFD = socket.SCM_RIGHTS, 4
BESIDE_SPACE = socket.CMSG_SPACE(DESCRIPTORS_LIMIT * WORD) + 1024  # and what else socket options can bring
RECEIVING = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
LONGEST = 1e9  # seconds, thirty years: what a worker may ask for

# When one of these has to wait, it replaces what waits already under the same word: only what was said last counts.
LAST_COUNTS = {
    "REOPEN": "REOPEN", "RESPOND": "RESPOND", "STACKS": "STACKS", "TAKE": "TAKE", "PAUSE": "gate", "RESUME": "gate",
}  # fmt: skip


class Number(NamedTuple):
    """A field's values: a number of these types, finite, and in this range."""

    types: tuple[type, ...]
    least: float
    most: float


PID = Number((int,), 1, 1 << 22)  # PID_MAX_LIMIT
COUNT = Number((int,), 0, 1 << 53)
SECONDS = Number((int, float), 0, LONGEST)
OPERATORS = Number((int, float), 0, 1.7e308)  # seconds that an operator may ask for, and times of the master's
WHOLE = Number((int,), 0, float("inf"))  # the same

# Every message there is: kind → {field: its values}.
MESSAGES: dict[str, dict[str, type | Number]] = {
    # master → zygote
    # named: whose the descriptors are, as namedfds reads it
    # spool_dir_given: where somebody has said what it is; empty: nobody has
    "CONFIG": {
        "generation": COUNT,
        "master": PID,
        "config": dict,
        "spool_dir_given": str,
        "listeners": list,
        "preload": str,
        "named": dict,
    },
    # fds: the worker's end of its channel, its stack file, its bell
    "SPAWN": {"id": COUNT, "number": COUNT, "slot": COUNT},
    # zygote → master
    "LOADED": {"description": str, "seconds": SECONDS, "folder": str, "interpreter": str},
    "LOAD_FAILED": {"kind": str, "message": str, "details": str},  # kind: "app", "hook", "config"
    "UNSAFE": {"reasons": str},  # preloading would not be clean: the app started threads …
    "SPAWN_FAILED": {"id": COUNT, "kind": str, "message": str, "details": str},
    # worker → master
    "HELLO": {"pid": PID},
    # heartbeat: it stores one, whatever its requests do; takes: it can serve connections from the hand-off queue
    "READY": {"seconds": SECONDS, "heartbeat": bool, "takes": bool},
    "BOOT_FAILED": {"kind": str, "message": str, "details": str},
    "LEAVING": {"cause": str},  # it stops accepting by itself: a TERM sent to it directly
    "LET_GO": {"heard": bool},  # its copies of the listening sockets are closed; heard: by its loop, which drains
    "CHECKED": {"status": COUNT, "details": str},  # the answer to a check request, 0: none; what was logged meanwhile
    "BYE": {"cut": COUNT},  # requests that were cut
    # A request wants to run alone. fds: what it is answered on; closed when it does not want to any more.
    "EXCLUSIVE": {
        "number": COUNT,  # what the worker calls it
        "name": str,
        "line": str,  # method and path, empty for what is no request
        "blocks": bool,  # the worker runs nothing else meanwhile
        "waits": bool,  # while another has the gate
        "drain_timeout": SECONDS,
        "hold": SECONDS,  # that other requests wait before they are refused
        "timeout": SECONDS,  # 0: none, or the worker sees to it
        "kills": bool,  # the workers that do not become idle
    },
    "IDLE": {"epoch": COUNT},  # no request is in the app, nor will one enter in this epoch of the gate
    # master → worker
    "CHECK": {},  # answer the check request that the configuration names
    "GO": {},
    "TAKE": {"allowed": bool},  # connections from the hand-off queue, once it serves; unasked, it may
    # deadline: CLOCK_MONOTONIC seconds; final: everything stops; takes: it serves the hand-off queue to its end. One
    # that comes later, or after the worker began by itself, can only make that more and sooner.
    "DRAIN": {"cause": str, "deadline": OPERATORS, "final": bool, "takes": bool},
    "CLOSED": {},  # nobody listens any more: the hand-off queue grows no more
    # Let nothing enter the app, and say IDLE. owner: the number of the worker's own request that is to be alone, or 0.
    # Requests wait ``hold`` seconds, those with this line (method and path) ``line_hold``, and are refused then.
    "PAUSE": {
        "epoch": COUNT,
        "owner": COUNT,
        "hold": OPERATORS,
        "line": str,
        "line_hold": OPERATORS,
        "retry_after": WHOLE,
        "page": str,
        "allow": list,  # paths that may be entered all the same
    },
    "RESUME": {"epoch": COUNT},  # the gate is open
    "STACKS": {},  # write into the stack file what no signal handler can find
    "REOPEN": {"named": dict},  # the log files
    # master → responder; retry_at: when a worker may be expected again, CLOCK_MONOTONIC seconds
    # retry_after: the least that clients are told, seconds; page: HTML, empty for a page of our own
    # Requests with this line (method and path) wait ``line_hold`` seconds for a worker.
    "RESPOND": {
        "on": bool,
        "retry_at": OPERATORS,
        "retry_after": WHOLE,
        "page": str,
        "line": str,
        "line_hold": OPERATORS,
    },
}

# What children say; nothing else is heard from them.
FROM_ZYGOTE = ("LOADED", "LOAD_FAILED", "UNSAFE", "SPAWN_FAILED")
FROM_WORKER = ("HELLO", "READY", "BOOT_FAILED", "LEAVING", "LET_GO", "CHECKED", "BYE", "EXCLUSIVE", "IDLE")
ONCE = ("LOADED", "LOAD_FAILED", "UNSAFE", "HELLO", "READY", "BOOT_FAILED", "BYE")
BESIDE = {"EXCLUSIVE": 1}  # descriptors; beside all else that a child says there are none


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

    def discard(self) -> None:
        """The same, where the peer is not to be trusted."""
        discard(self.fds)
        self.fds = []


class ProtocolError(Exception):
    """The peer sent what is not a message, or said what it may not."""


class LostError(Exception):
    """A message came without its descriptors, since no more can be had here: it is dropped."""


# Descriptors from somebody who is not to be trusted. The last owner of one may have to wait in close(): for the reader
# of what a TCP socket has not sent yet, if its SO_LINGER says so; for whoever serves the file system of a file; or for
# a descriptor that is on its way through a unix socket, in which there can be others.


def rights(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came beside a packet: of what else can be there, a process's is closed."""
    found = {SCM_RIGHTS: array("i"), SCM_PIDFD: array("i")}
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind in found:
            found[kind].frombytes(data[: len(data) - len(data) % WORD])
    _close(found[SCM_PIDFD])
    return list(found[SCM_RIGHTS])


def discard(fds: list[int]) -> None:
    """Close such descriptors, and leave the waiting to a thread."""
    if fds:
        try:
            start_new_thread(_discard, (fds,))
        except RuntimeError:  # there can be no more threads
            _discard(fds)


def _discard(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):  # it is closed all the same
            close(fd)


def drain(sock: socket.socket) -> None:
    """Before a unix socket is closed: take what was sent to it, which is dropped, and let nothing more come."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # then there is something beside an empty packet, too
        sock.shutdown(socket.SHUT_RD)
        more = True
        while more:
            packet, ancillary, _, _ = sock.recvmsg(MESSAGE_LIMIT, BESIDE_SPACE, RECEIVING)
            discard(rights(ancillary))
            more = bool(packet or (ancillary and sock.type != socket.SOCK_STREAM))


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
        raise ProtocolError(f"{packet[:80]!r}: {repr(error)[:80]}") from None
    return Message(kind, fields, fds)


def _are_fields_of(kind: str, fields: Mapping[str, Any]) -> bool:
    known = MESSAGES[kind]
    return (
        isinstance(fields, dict)
        and fields.keys() == known.keys()
        and all(_is_one_of(fields[name], known[name]) for name in known)
    )


def _is_one_of(value: Any, values: type | Number) -> bool:
    if isinstance(values, type):
        return isinstance(value, values)
    is_number = isinstance(value, values.types) and not isinstance(value, bool)
    return is_number and values.least <= value <= values.most  # NaN is in no range


class Channel:
    """One end. The master's ends never block: what the kernel does not take waits in ``outbox`` for ``flush()``.

    A child that never reads costs no more than one message of each kind that is said more than once (LAST_COUNTS).
    """

    def __init__(self, sock: socket.socket, *, blocking: bool = True) -> None:
        self.socket = sock
        self.outbox: deque[tuple[bytes, list[int], str]] = deque()
        self.failure: OSError | None = None  # why nothing can be sent, if it is not that the peer has to read first
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
            for waiting in [entry for entry in self.outbox if LAST_COUNTS.get(entry[2]) == LAST_COUNTS[kind]]:
                self.outbox.remove(waiting)
                _close(waiting[1])
        self.outbox.append((packet, kept, kind))

    def flush(self) -> None:
        """Send what had to wait. OSError: the kernel refuses it for another reason than that the peer has to read."""
        while self.outbox:
            packet, fds, _ = self.outbox[0]
            if not self._transmit(packet, fds):
                if self.failure is not None:
                    raise self.failure
                return
            self.outbox.popleft()
            _close(fds)

    def _transmit(self, packet: bytes, fds: list[int]) -> bool:
        try:
            # Not socket.send_fds() and recv_fds(): they drop the flags that they are given.
            beside = [(socket.SOL_SOCKET, SCM_RIGHTS, array("i", fds))] if fds else []
            self.socket.sendmsg([packet], beside, socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET):
                return True
            # ETOOMANYREFS: too many descriptors in flight for this user; they arrive as the others read.
            waits = error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)
            self.failure = None if waits else error
            return False
        return True

    def receive(self) -> Message | None:
        """The next message; None at the end of the file. BlockingIOError when a non-blocking end has none.

        ProtocolError, LostError.
        """
        try:
            packet, ancillary, flags, _ = self.socket.recvmsg(MESSAGE_LIMIT + 1, BESIDE_SPACE, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # It ended without reading all that we sent. The kernel says so once, before what it sent last.
            return self.receive()
        fds = rights(ancillary)
        try:
            if flags & socket.MSG_TRUNC:
                raise ProtocolError(f"{packet[:80]!r}: longer than {MESSAGE_LIMIT} bytes")
            if flags & socket.MSG_CTRUNC:
                raise LostError(f"{packet[:80]!r}: no descriptor is free for what came with it")
            if packet:
                return decode(packet, fds)
        except (ProtocolError, LostError):
            discard(fds)
            raise
        discard(fds)
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

    def end(self) -> None:
        """Close the master's end, whatever is unheard."""
        drain(self.socket)
        self.close()
