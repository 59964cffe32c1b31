"""The hand-off queue: how connections go from a worker that leaves to one that serves.

A pair of sockets that every worker inherits: whoever leaves sends its connections into one end (SCM_RIGHTS), and
whoever may take reads the other, like a second listener (pyserve_workers/handoff.py). The master keeps both ends, so
that what is on its way outlives any worker. It decides who takes (``takers``) and answers what is left when the last
worker has gone.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
import time
from array import array

from pyserve.ipc.channel import BESIDE_SPACE, RECEIVING, discard, rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

BUFFER = 8 << 20  # bytes; the usual buffer would hold a few hundred connections, this one ten thousand
# In front of the bytes that the client has sent: parcel_label of parcel.h.
LABEL = struct.Struct("=IHHQQQBBB45s")
PARCEL_FORMAT = 0x50533032
IDLE = 32  # where the label says whether it has had a request before
FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS)
LINGER = 1.0  # seconds that those have, all of them, who are answered at the end, to finish sending
TOGETHER = 500  # of them
MOST = 65536  # bytes; more than one message has
QUEUED = 20_000  # more connections than the queue holds
ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: pyserve\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)

SO_SNDBUFFORCE = getattr(socket, "SO_SNDBUFFORCE", 32)


def has_asked(client: socket.socket, message: bytes) -> bool:
    """Is there a byte of a request, in its message or on its way? Who has just connected is about to send one."""
    if len(message) > LABEL.size:
        return True
    try:
        return bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return len(message) > IDLE and not message[IDLE]
    except OSError:
        return False


def answer(fd: int, message: bytes) -> bool:
    """Answer a client if it has asked for something; has it? Nothing waits, whatever this is; it stays open."""
    try:
        client = socket.socket(fileno=fd)
    except OSError:
        return False
    asked = has_asked(client, message)
    if asked:
        with contextlib.suppress(OSError):
            client.send(ANSWER, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            client.shutdown(socket.SHUT_WR)
    client.detach()
    return asked


def is_sending(fd: int) -> bool:
    """Drop what a client has sent; False if it sends nothing more."""
    client = socket.socket(fileno=fd)
    try:
        return bool(client.recv(MOST, socket.MSG_DONTWAIT))
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        client.detach()


def read_to_the_end(told: list[list[int]], until: float) -> None:
    """What clients still send that were answered, by their descriptors, but not for longer. Then they are closed: what
    is unread then resets the answer."""
    sending, left = select.poll(), {fds[0] for fds in told}
    for fd in left:
        sending.register(fd, select.POLLIN)
    while left and (patience := until - time.monotonic()) > 0:
        for fd, _ in sending.poll(patience * 1000):
            if not is_sending(fd):
                sending.unregister(fd)
                left.remove(fd)
    discard([fd for fds in told for fd in fds])


class HandoffQueue:
    """Both ends: where connections are put, and where they are taken."""

    def __init__(self, outlet: socket.socket, inlet: socket.socket) -> None:
        self.outlet = outlet
        self.inlet = inlet
        outlet.setblocking(False)
        inlet.setblocking(False)
        self.outside: tuple[socket.socket, bytes] | None = None  # there was no room for it
        self.refused = 0  # clients

    @classmethod
    def create(cls) -> HandoffQueue:
        # Not SOCK_STREAM: a message is a connection, and arrives whole or not at all.
        queue = cls(*socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        for option in (SO_SNDBUFFORCE, socket.SO_SNDBUF):  # without the right to the first, as much as is allowed
            with contextlib.suppress(OSError):
                queue.outlet.setsockopt(socket.SOL_SOCKET, option, BUFFER)
                break
        return queue

    def carried(self) -> dict[str, list[int]]:
        return {"fds": list(self.fds)}

    @classmethod
    def resume(cls, record: dict[str, list[int]]) -> HandoffQueue:
        outlet, inlet = record["fds"]
        return cls(socket.socket(fileno=outlet), socket.socket(fileno=inlet))

    @property
    def fds(self) -> tuple[int, int]:
        """(where they are put, where they are taken)"""
        return self.outlet.fileno(), self.inlet.fileno()

    def take(self) -> tuple[list[int], bytes] | None:
        """The next connection's descriptors and message; None if the queue is empty.

        Workers have these sockets, too: what comes may be anything, and what is set here may have been changed.
        """
        try:
            message, ancillary, _, _ = self.inlet.recvmsg(MOST, BESIDE_SPACE, RECEIVING)
        except OSError:
            return None
        return (rights(ancillary), message) if ancillary else None

    def put(self, way_in: int, client: socket.socket, peer: Any) -> None:
        """A connection that was accepted just now, by the listener of this number. There must be ``has_room()``."""
        host, port = peer[:2] if isinstance(peer, tuple) else ("", 0)
        name = host.partition("%")[0].removeprefix("::ffff:").encode("ascii")
        label = LABEL.pack(PARCEL_FORMAT, way_in, port, time.monotonic_ns(), 0, 0, False, False, len(name), name)
        self.outside = client, label
        self.has_room()

    def has_room(self) -> bool:
        """Is there room for another? Who had to stay outside goes first."""
        if self.outside is None:
            return True
        client, label = self.outside
        try:
            beside = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [client.fileno()]))
            self.outlet.sendmsg([label], [beside], socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError as error:
            if error.errno in FULL:
                return False
            self.refused += answer(client.fileno(), label)  # somebody has shut the queue down
        client.close()
        self.outside = None
        return True

    def answer_rest(self) -> int:
        """No worker is left: tell the clients in the queue that have asked for something. How many those were."""
        answered, until = 0, time.monotonic() + LINGER
        told: list[list[int]] = []
        for _ in range(QUEUED):
            found = self.take()
            if found is None:
                break
            fds, message = found
            if fds and answer(fds[0], message):
                answered += 1
                told.append(fds)
            else:
                discard(fds)
            if len(told) == TOGETHER:
                read_to_the_end(told, until)
                told = []
        read_to_the_end(told, until)
        self.refused += answered
        return answered

    def end(self) -> None:
        """Nothing more can be put there, whoever is left to do so."""
        with contextlib.suppress(OSError):
            self.inlet.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # beside each message is something now
            self.inlet.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self.outlet.close()
        self.inlet.close()
