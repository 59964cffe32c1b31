"""The check request of a reload's canary: it asks itself, and tells the master what it answered.

The connection is one that no listener gave: a pair of sockets, of which the worker's loop serves one end as it will
serve clients, through the parser, the class's own way to run the app, and back. Nothing of it is on the network.
"""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_STREAM, socketpair

from pyserve.config.checkurl import parse, request, status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.ipc.log import Log

HEAD = 64  # bytes of the answer that matter
MOST_SAID = 16  # errors that are told to the master


class Check:
    """One check. ``fd`` is the client's end, ``server_fd`` belongs to whoever serves it."""

    def __init__(self, url: str, log: Log) -> None:
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
        ours.setblocking(False)
        theirs.setblocking(False)
        ours.send(request(parse(url)))
        self.socket = ours
        self.fd = ours.fileno()
        self.server_fd = theirs.detach()
        self.answer = b""
        self.said: list[str] = []  # what the log was told meanwhile
        self.log = log
        log.overheard = self.overhear

    def overhear(self, level: str, text: str) -> None:
        if level in ("error", "crit") and len(self.said) < MOST_SAID:
            self.said.append(text)

    def is_over(self) -> bool:
        """Take what has come of the answer; True at its end."""
        try:
            while part := self.socket.recv(65536):
                self.answer = (self.answer + part)[:HEAD]
        except BlockingIOError:
            return False
        except ConnectionResetError:
            pass  # cut short: the status tells nothing good, or the log does
        return True

    def close(self) -> tuple[int, str]:
        """The status that was answered, 0 for none, and what the log was told meanwhile."""
        self.log.overheard = None
        self.socket.close()
        return status(self.answer), "\n".join(self.said)
