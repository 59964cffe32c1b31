"""The hand-off queue: how connections go from a worker that leaves to one that serves.

A pair of sockets that every worker inherits: whoever leaves sends its connections into one end (SCM_RIGHTS), and
whoever may take reads the other, like a second listener (pyserve_workers/handoff.py). The master keeps both ends, so
that what is on its way outlives any worker. It decides who takes (``takers``) and answers what is left when the last
worker has gone.
"""

from __future__ import annotations

import contextlib
import socket

from pyserve import rollout
from pyserve.channel import BESIDE_SPACE, RECEIVING, discard, rights

BUFFER = 8 << 20  # bytes; the usual buffer would hold a few hundred connections, this one ten thousand
LABEL = 80  # bytes in front of those that the client has sent: parcel_label
MOST = 65536  # bytes; more than one message has
READS = 256  # of what a client has sent and nobody will look at
ANSWER = (
    b"HTTP/1.1 503 Service Unavailable\r\nServer: pyserve\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Length: 0\r\n\r\n"
)

SO_SNDBUFFORCE = getattr(socket, "SO_SNDBUFFORCE", 32)


def has_asked(client: socket.socket, message: bytes) -> bool:
    """Is there a byte of a request, in its message or on its way?"""
    if len(message) > LABEL:
        return True
    try:
        return bool(client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
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
            for _ in range(READS):  # what is unread when it is closed would reset the answer
                if not client.recv(MOST, socket.MSG_DONTWAIT):
                    break
    client.detach()
    return asked


def takers(state: rollout.State) -> set[int]:
    """The ids of the workers that take connections over.

    Once the first worker of a new generation serves, the others do not take any more: else a connection would go from
    one to the next and be handed over again. When a reload is rolled back it is the other way round.
    """
    if state.phase == rollout.STOPPING:
        return set()
    serving = [worker for worker in state.workers if worker.state == rollout.SERVING]
    if state.gated:  # nothing goes on until a request that is alone has ended, and all may say so for it
        return {worker.id for worker in serving}
    wanted = {worker.id for worker in serving if worker.generation == rollout.goal(state)}
    return wanted or {worker.id for worker in serving}


class HandoffQueue:
    """Both ends: where connections are put, and where they are taken."""

    def __init__(self, outlet: socket.socket, inlet: socket.socket) -> None:
        self.outlet = outlet
        self.inlet = inlet
        outlet.setblocking(False)
        inlet.setblocking(False)

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

    def answer_rest(self) -> int:
        """No worker is left: tell the clients in the queue that have asked for something. How many those were."""
        answered = 0
        self.end()
        while (found := self.take()) is not None:
            fds, message = found
            answered += bool(fds) and answer(fds[0], message)
            discard(fds)
        return answered

    def end(self) -> None:
        """Nothing more can be put there, whoever is left to do so."""
        with contextlib.suppress(OSError):
            self.inlet.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)  # beside each message is something now
            self.inlet.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        self.outlet.close()
        self.inlet.close()
