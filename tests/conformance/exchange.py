"""Send a case's bytes over one connection, and say what came back and whether the connection stayed open.

No silence is timed: behind the last step goes a request of our own. If it is answered the connection was open, and any
answer before that is one too many. An unfinished request is answered by the server's own timeout (408).
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from wire.loop import Client, Response

PROBE = b"GET /probe HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Outcome(NamedTuple):
    steps: tuple[bytes, ...]  # what was sent
    answers: tuple[Response | None, ...]  # the final response to each step; None: closed without
    interim: tuple[int, ...]  # statuses of the 1xx responses
    extra: int  # responses that nobody asked for
    open: bool  # after the last step

    def __str__(self) -> str:
        statuses = [str(status) for status in self.interim]
        statuses += [str(answer.status) for answer in self.answers if answer]
        statuses += [f"{self.extra} more"] if self.extra else []
        return ", ".join([*statuses, "open" if self.open else "closed"])


class Peer(Client):
    """A reset counts as a close here: we may send after the server has refused and gone."""

    interim: tuple[int, ...] = ()

    def __enter__(self) -> Peer:
        return self

    def more(self) -> bool:
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            return False
        self.buffer += data
        return bool(data)

    def offer(self, data: bytes) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.send(data)

    def final(self, method: str) -> Response | None:
        """The next response that is not an interim one; None if the server closes instead."""
        while self.buffer or self.more():
            response = self.response(method)
            if response.status // 100 != 1 or response.status == 101:
                return response
            self.interim += (response.status,)
        return None


def exchange(address: tuple[str, int], steps: tuple[bytes, ...]) -> Outcome:
    """AssertionError if what comes back is no sequence of whole HTTP/1.1 responses."""
    answers: list[Response | None] = []
    with Peer(address) as peer:
        for step in steps:
            if not answers or answers[-1]:
                peer.offer(step)
                answers.append(peer.final("HEAD" if step.startswith(b"HEAD ") else "GET"))
            else:
                answers.append(None)
        peer.offer(PROBE)
        behind: list[Response] = []
        while response := peer.final("GET"):
            behind.append(response)
        is_open = bool(behind) and behind[-1].headers.get("x-request") == "GET /probe"
        return Outcome(steps, tuple(answers), peer.interim, len(behind) - is_open, is_open)
