"""A worker's side of the gate: which requests may enter the app, and those of this worker that want to be alone in it.

While the gate is open, a request looks at one word of the worker's slot on the scoreboard, in native code, and that is
all. The master closes the gate by setting that word in every slot, and sends PAUSE, which says what to do with whoever
comes now. From then on no request enters, and when the last one has left, the worker says IDLE. A request that waits
to be alone counts as having left.

A request that wants to be alone sends the master a *ticket*: one end of a socket pair. On the other end it hears
whether it is granted the gate; when that end closes, for whatever reason, the ticket is given back.
"""

from __future__ import annotations

import contextlib
import math
import time
from _thread import allocate_lock
from select import poll  # of gevent, where greenlets wait for others

from pyserve.app.alone import Refused, as_get
from pyserve.ipc.channel import LONGEST
from pyserve_workers.native.system import socketpair

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket

    from pyserve.app.alone import Terms
    from pyserve.ipc.channel import Message
    from pyserve_workers.classes.connections import Connections
    from pyserve_workers.classes.host import Host
    from pyserve_workers.native.connection import Connection

POLLIN = 1
SHUT_RD = 0
POLLRDHUP = 0x2000
ENTER = -1.0  # instead of seconds: this request may enter
UNTOLD = 0.25  # seconds that a request waits at the most for the PAUSE that is on its way
UNTOLD_TOO_LONG = 2.0  # seconds without it: the word on the scoreboard is not the master's
UNTOLD_IN_VAIN = 4.0  # and if it comes again, the request is refused
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Service unavailable</title>
<h1>Service unavailable</h1>
<p>This service is being worked on. Please try again in {seconds} s.</p>
</html>
"""


def refusal(seconds: int, page: str) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status, header fields and body of a 503."""
    fields = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Cache-Control", "no-store"),
        ("Retry-After", str(seconds)),
    ]
    return "503 Service Unavailable", fields, page.encode("utf-8", "surrogateescape")


class Ticket:
    """One request's wish to be alone. ``until``: when it has had the gate for too long, CLOCK_MONOTONIC seconds."""

    def __init__(self, number: int, sock: socket, terms: Terms) -> None:
        self.number = number
        self.socket = sock
        self.waits = terms.waits
        self.timeout = terms.timeout or math.inf
        self.until = math.inf

    def granted(self) -> None:
        self.until = time.monotonic() + self.timeout

    def give_back(self) -> None:
        """Said as well as shown by the closed socket, of which a process that the app has forked may hold a copy."""
        with contextlib.suppress(OSError):  # the master is gone, or has taken it back
            self.socket.send(b"done")
        self.socket.close()


class Gatekeeper:
    """One for each worker. Threads and greenlets of the app call ``enter_alone``; all else is the loop's."""

    def __init__(self, worker: Host, table: Connections) -> None:
        self.worker = worker
        self.table = table
        self.slot = worker.slot
        self.lock = allocate_lock()
        self.tickets: dict[int, Ticket] = {}  # by the descriptor of the request's client
        self.last_ticket = 0
        self.held: set[Connection] = set()  # whose requests wait for the gate to open
        self.notice: Message | None = None  # the PAUSE that holds now
        self.idle_said = 0  # the epoch in which the master knows that this worker is idle
        self.has_disbelieved = False  # has the word been found wrong, and set by what the master says?

    # What the master says.

    def obey(self, message: Message) -> None:
        """PAUSE and RESUME."""
        with self.lock:
            self.notice = message if message.kind == "PAUSE" else None
            if self.has_disbelieved:  # else the word is as the master has set it, perhaps for what it says next
                self.slot.set("gate", self.notice["epoch"] if self.notice is not None else 0)
        self.look()
        held, self.held = self.held, set()
        for connection in held:
            connection.resume()
        self.worker.go_on([connection for connection in held if connection.pending])

    def look(self) -> None:
        """Tell the master if no request is in the app any more, but those that wait to be alone and the one that is."""
        with self.lock:
            notice = self.notice
            if notice is None or self.idle_said == notice["epoch"]:
                return
            alone = sum(ticket.waits or ticket.number == notice["owner"] for ticket in self.tickets.values())
            checked = self.worker.check is not None and not self.tickets  # else it is the check that wants to be alone
            if self.slot.get("active") <= alone and not checked:
                self.idle_said = notice["epoch"]
                self.worker.channel.send("IDLE", epoch=self.idle_said)

    # What connections ask while the gate is closed; called in native code.

    def patience(self, connection: Connection, line: str, waited: float) -> float:
        """For how many seconds a request (``line``: its method and path), which has waited for some already, is to wait
        for the gate; 0: it is refused; ENTER: it may enter."""
        self.look()
        self.held.add(connection)  # first: from here on it is told what is new
        word, notice = self.slot.get("gate"), self.notice
        checked = self.worker.check is not None  # then this is the master's own request
        if checked and (notice is None or self.idle_said != notice["epoch"]):
            self.held.discard(connection)
            return ENTER
        if word and (notice is None or notice["epoch"] != word):
            if waited < UNTOLD_IN_VAIN:
                if waited >= UNTOLD_TOO_LONG:
                    self.disbelieve(word)
                return UNTOLD
            self.held.discard(connection)
            return 0.0
        left = ENTER
        if notice is not None and line.partition(" ")[2] not in notice["allow"]:
            hold: float = notice["line_hold"] if as_get(line) == notice["line"] else notice["hold"]
            hold = self.worker.config.boot_timeout if checked else hold
            left = max(0.0, hold - waited)
        if left <= 0.0:
            self.held.discard(connection)
        return left

    def disbelieve(self, word: int) -> None:
        """Whoever can write to the scoreboard has closed the gate here, and not the master. Nothing is lost if it has,
        and is slow to say so: it does not let anybody be alone before this worker has heard of it."""
        with self.lock:
            told = self.notice["epoch"] if self.notice is not None else 0
            if self.slot.get("gate") != word or word == told:
                return
            self.slot.set("gate", told)
            first, self.has_disbelieved = not self.has_disbelieved, True
        if first:
            self.worker.log.warning(
                f"the scoreboard said that the gate is closed (epoch {word}), and the master has not for "
                f"{UNTOLD_TOO_LONG:g} s: requests go on"
            )

    def refusal(self) -> tuple[str, list[tuple[str, str]], bytes]:
        """Status, header fields and body of the answer to who is refused."""
        notice = self.notice
        seconds = notice["retry_after"] if notice else 1
        return refusal(seconds, (notice["page"] if notice else "") or PAGE.format(seconds=seconds))

    def left(self, fd: int) -> None:
        """A request has left the app, its response is closed; it was alone, or the gate has closed behind it."""
        with self.lock:
            ticket = self.tickets.pop(fd, None)
        if ticket is not None:
            ticket.give_back()
        self.look()

    # What a request that wants to be alone does.

    def enter_alone(self, terms: Terms) -> Ticket | None:
        """Wait until no other request is in the app of any worker. Refused says that this did not come.

        What is returned is for ``leave_alone``; None: the server sees to it when the response is closed.
        """
        fd = self.worker.client_here()
        if fd in self.tickets:
            return None  # it is alone already
        ours, theirs = socketpair()
        with self.lock:
            self.last_ticket += 1
            ticket = Ticket(self.last_ticket, ours, terms)
        try:
            self.ask(fd, ticket, theirs, terms)
            refused = self.answer(fd, ticket)
        except BaseException:
            self.forget(fd, ticket)
            raise
        finally:
            theirs.close()
        if refused is not None:
            self.forget(fd, ticket)
            raise refused
        ticket.granted()
        return None if fd >= 0 else ticket

    def leave_alone(self, ticket: Ticket) -> None:
        self.forget(-1, ticket)

    def ask(self, fd: int, ticket: Ticket, theirs: socket, terms: Terms) -> None:
        blocks = fd >= 0 and not self.worker.concurrent
        with self.lock:
            if fd >= 0:
                self.tickets[fd] = ticket
        if blocks:
            self.slot.set("request_start", 0)  # while it waits and is alone, the request timeout does not count
            self.worker.will_be_kept()
        self.worker.channel.send(
            "EXCLUSIVE",
            fds=[theirs.fileno()],
            number=ticket.number,
            name=terms.name,
            line=as_get(self.line_of(fd).partition("?")[0]),
            blocks=blocks,
            waits=terms.waits,
            drain_timeout=float(min(terms.drain_timeout, LONGEST)),
            hold=float(min(terms.hold, LONGEST)),
            timeout=float(min(terms.timeout, LONGEST)),
            kills=terms.kills,
        )
        theirs.close()
        self.look()

    def line_of(self, fd: int) -> str:
        """``"GET /path"`` of the request whose client this is; empty if it is none."""
        if fd < 0:
            return ""
        return self.table.open[fd].request_line if self.worker.concurrent else self.slot.request_line

    def answer(self, fd: int, ticket: Ticket) -> Refused | None:
        """The master's answer, or None if it grants the gate."""
        watched = poll()
        watched.register(ticket.socket.fileno(), POLLIN)
        if fd >= 0 and not self.worker.watches_running:
            watched.register(fd, POLLRDHUP)
        ready = [found for found, _ in watched.poll()]
        if ticket.socket.fileno() not in ready:
            return Refused("its client has gone away")
        try:
            packet = ticket.socket.recv(1024)
        except OSError:
            packet = b""
        if packet == b"granted":
            return None
        return Refused(packet.decode() or "nobody can be asked any more")

    def forget(self, fd: int, ticket: Ticket) -> None:
        with self.lock:
            if self.tickets.get(fd) is ticket:
                del self.tickets[fd]
        ticket.give_back()

    def client_left(self, fd: int) -> None:
        """Where greenlets wait: a client has gone away. If its request waits for its turn, it need not any more."""
        ticket = self.tickets.get(fd)
        if ticket is not None and ticket.until == math.inf:
            ticket.socket.shutdown(SHUT_RD)  # whoever waits for the answer reads the end of the file

    def late(self, now: float) -> list[int]:
        """The clients whose requests have had the gate for too long."""
        return [fd for fd, ticket in self.tickets.items() if now > ticket.until]
