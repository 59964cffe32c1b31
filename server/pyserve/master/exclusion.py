"""Exclusion: the master's side of whoever must run alone. It tells the gate what happens and does what it answers.

A request asks with a ticket: one end of a socket pair, which comes with EXCLUSIVE. It is answered on it, and gives it
back by closing it. An operator's command has a ticket without a socket, and is told by a callback.
"""

from __future__ import annotations

import contextlib
import socket
import time

from pyserve.app.alone import RETRY_AFTER
from pyserve.config import checkurl
from pyserve.ipc.channel import ProtocolError, drain
from pyserve.master.children import Pressure
from pyserve.master.parts import NEVER, Part
from pyserve.rules import gate, rollout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NamedTuple

    from pyserve.ipc.channel import Message
    from pyserve.ipc.log import Log
    from pyserve.ipc.scoreboard import Slot
    from pyserve.master.children import WorkerProcess
    from pyserve.master.watch import Watch
else:
    from pyserve.records import NamedTuple

QUEUED = 0.25  # seconds that clients wait at the least before the responder is asked to answer them
MOST_WAITING = 500  # tickets; each of a worker's takes a descriptor


class Notice(NamedTuple):
    """What workers tell those that may not enter; times in seconds."""

    hold: float = 0.0  # they wait for so long first
    retry_after: int = RETRY_AFTER
    line: str = ""  # requests with this method and path wait for their turn, for ``line_hold`` seconds
    line_hold: float = 0.0
    page: str = ""  # HTML; empty: a page of our own
    allow: tuple[str, ...] = ()  # paths that may be entered all the same


class Party:
    """Who has a ticket. ``told`` is given None when it is granted the gate, or why it is not."""

    def __init__(self, name: str, notice: Notice, told: Callable[[str | None], None]) -> None:
        self.name = name
        self.notice = notice
        self.told = told
        self.socket: socket.socket | None = None
        self.number = 0  # what its worker calls the ticket
        self.asked = time.monotonic()


def ticket_socket(message: Message) -> socket.socket:
    """The end of a ticket that came with EXCLUSIVE. Its worker has it, too: so it may block, whatever is set here.

    ProtocolError: it is something else, which stays the message's.
    """
    try:
        sock = socket.socket(fileno=message.fds[0])
    except OSError:
        raise ProtocolError("EXCLUSIVE with a ticket that is no socket") from None
    try:
        sock.getpeername()  # else nobody could give it back
        is_one = (sock.family, sock.type) == (socket.AF_UNIX, socket.SOCK_STREAM)
    except OSError:
        is_one = False
    if not is_one:
        sock.detach()
        raise ProtocolError("EXCLUSIVE with a ticket that is another kind of socket")
    message.fds.clear()
    return sock


class Exclusion(Part):
    name = "exclusion"

    def __init__(self, workers: dict[int, WorkerProcess], news: list[rollout.Event], watch: Watch, log: Log) -> None:
        """workers: by the rollout's id; news: for the rollout, told when the actions under way are done."""
        self.workers = workers
        self.news = news
        self.watch = watch
        self.log = log
        self.state = gate.State()
        self.parties: dict[int, Party] = {}  # by ticket
        self.last_ticket = 0
        self.maintenance = 0  # its ticket; 0: it is off
        self.closed_since = 0.0  # CLOCK_MONOTONIC seconds
        self.pressed: WorkerProcess | None = None  # whose request has been alone for too long

    # Over an upgrade, which waits while anybody but the operator's maintenance has a ticket.

    @property
    def quiet(self) -> bool:
        return self.parties.keys() <= {self.maintenance}

    def carried(self) -> dict[str, Any]:
        """What another program needs to go on, as JSON values."""
        return {
            **self.state._asdict(),
            "owner": self.state.owner and self.state.owner._asdict(),
            "serving": sorted(self.state.serving),
            "busy": sorted(self.state.busy),
            "notice": self.owner and self.owner.notice._asdict(),
            "closed_since": self.closed_since,
        }

    def resume(self, record: dict[str, Any]) -> None:
        owner = gate.Ticket(**record["owner"]) if record["owner"] else None
        self.state = gate.State(
            phase=record["phase"],
            epoch=record["epoch"],
            owner=owner,
            serving=frozenset(record["serving"]),
            busy=frozenset(record["busy"]),
        )
        self.closed_since = record["closed_since"]
        if owner is not None:
            self.maintenance = self.last_ticket = owner.id
            notice = Notice(**{**record["notice"], "allow": tuple(record["notice"]["allow"])})
            self.parties[owner.id] = Party("maintenance", notice, lambda _why: None)

    # What it is asked.

    @property
    def is_open(self) -> bool:
        return self.state.phase == gate.OPEN

    @property
    def owner(self) -> Party | None:
        return self.parties[self.state.owner.id] if self.state.owner else None

    @property
    def owned_by_operator(self) -> bool:
        """Is it the operator's maintenance that closes the gate?"""
        return self.state.owner is not None and self.state.owner.maintenance

    @property
    def alone(self) -> bool:
        """Is it, and has every other request left the app?"""
        return self.owned_by_operator and self.state.phase == gate.HELD

    @property
    def active(self) -> int:
        """Requests in the app."""
        return sum(process.slot.get("active") for process in self.workers.values())

    def keeps(self, worker_id: int) -> bool:
        """Does a request of this worker close the gate?"""
        return self.state.owner is not None and self.state.owner.worker == worker_id

    @property
    def patient_until(self) -> float:
        """How long those whom no worker can answer are left in the queue; infinity while the gate is open."""
        return self.closed_since + max(QUEUED, self.owner.notice.hold) if self.owner else float("inf")

    @property
    def detained(self) -> dict[int, float]:
        """The workers that do nothing else while a request of theirs is alone, or waits to be: {id: since when}, in
        CLOCK_MONOTONIC seconds."""
        owner, waiting = self.state.owner, self.state.waiting
        return {ticket.worker: ticket.since for ticket in (*waiting, *((owner,) if owner else ())) if ticket.blocks}

    def alone_until(self, worker_id: int) -> float:
        """When the request of this worker's that is alone will have been that for too long, CLOCK_MONOTONIC seconds; 0:
        there is none."""
        owner = self.state.owner
        held = owner is not None and owner.worker == worker_id and self.state.phase == gate.HELD
        return owner.since + owner.timeout if owner is not None and held else 0.0

    def blocks_all(self, serving: list[int], now: float) -> bool:
        """Can none of these workers even say no, and have those who wait been in the queue for long enough?"""
        owner, workers = self.state.owner, self.workers
        if owner is None or now < self.patient_until:
            return False
        deaf = self.detained.keys() | {
            worker for worker in self.state.busy if worker in workers and not workers[worker].heartbeat
        }
        return deaf.issuperset(serving)

    def soonest(self, now: float) -> float:
        """When ``turn``, or somebody who asks ``blocks_all``, has something to do."""
        patient_until = self.patient_until
        return min(gate.next_event(self.state), patient_until if patient_until > now else NEVER)

    # What happens.

    def turn(self, now: float) -> None:
        if self.state.owner is not None or self.state.waiting:
            self.tell(gate.Tick(now))

    def ask(self, party: Party, ticket: gate.Ticket) -> int:
        """The ticket's number; ``party.told`` may be called before this returns."""
        self.last_ticket += 1
        self.parties[self.last_ticket] = party
        self.tell(gate.Ask(ticket._replace(id=self.last_ticket), time.monotonic()))
        return self.last_ticket

    def give_back(self, ticket: int) -> None:
        if ticket in self.parties:
            if self.state.owner is not None and self.state.owner.id == ticket:
                self.relent()
            self.tell(gate.Gone(ticket, time.monotonic()))
            del self.parties[ticket]

    def stop(self) -> None:
        self.tell(gate.Stop(time.monotonic()))

    # Maintenance.

    @property
    def maintained(self) -> bool:
        """Is maintenance on, or next?"""
        return bool(self.maintenance)

    def maintain(self, notice: Notice) -> None:
        """Close the gate until ``end_maintenance``, or tell clients something else from now on."""
        if self.maintenance:
            party = self.parties[self.maintenance]
            party.notice = notice
            if self.owned_by_operator:
                self.pause_all(party)
            self.log.info("maintenance: clients are told something else from now on")
            return
        self.log.info("maintenance is on")
        ticket = gate.Ticket(0, waits=True, drain_timeout=float("inf"), maintenance=True)
        self.maintenance = self.last_ticket + 1
        self.ask(Party("maintenance", notice, lambda _why: None), ticket)

    def end_maintenance(self) -> None:
        self.log.info("maintenance is off")
        ticket, self.maintenance = self.maintenance, 0
        self.give_back(ticket)

    # Workers.

    def born(self, slot: Slot) -> None:
        """A worker is about to be forked: it starts paused if the gate is closed."""
        slot.set("gate", 0 if self.is_open else self.state.epoch)

    def serving(self, process: WorkerProcess) -> None:
        """It is about to get its GO, or to be checked."""
        if self.owner is not None:
            self.pause(process, self.owner)
        self.tell(gate.Serving(process.worker.id, time.monotonic()))

    def ended(self, worker_id: int) -> None:
        theirs = [ticket for ticket in self.parties if self.worker_of(ticket) == worker_id]
        for ticket in theirs:
            self.drop(self.parties[ticket])
        self.tell(gate.Ended(worker_id, time.monotonic()))
        for ticket in theirs:
            del self.parties[ticket]

    def worker_of(self, ticket: int) -> int:
        known = (*self.state.waiting, *([self.state.owner] if self.state.owner else []))
        return next((each.worker for each in known if each.id == ticket), gate.OPERATOR)

    def heard(self, process: WorkerProcess, message: Message) -> None:
        """EXCLUSIVE and IDLE."""
        if message.kind == "IDLE":
            self.tell(gate.Idle(process.worker.id, message["epoch"], time.monotonic()))
        else:
            self.asked(process, message, ticket_socket(message))

    def asked(self, process: WorkerProcess, message: Message, sock: socket.socket) -> None:
        notice = Notice(hold=message["hold"])
        if message["waits"]:  # others of its kind cannot say so themselves: they do not get as far as the app
            notice = notice._replace(line=message["line"], line_hold=message["drain_timeout"])
        party = Party(message["name"], notice, lambda why: self.answer(party, why))
        party.socket, party.number = sock, message["number"]
        if len(self.parties) >= MOST_WAITING:
            self.answer(party, f"{MOST_WAITING} others wait already")
            return
        ticket = self.last_ticket + 1
        self.watch.add(sock.fileno(), lambda _events: self.hang_up(ticket))
        self.ask(
            party,
            gate.Ticket(
                0,
                worker=process.worker.id,
                blocks=message["blocks"],
                waits=message["waits"],
                drain_timeout=message["drain_timeout"],
                timeout=message["timeout"] or float("inf"),
                kills=message["kills"],
            ),
        )

    def answer(self, party: Party, why: str | None) -> None:
        """Tell a worker's request whether it has the gate."""
        if party.socket is None:
            return
        with contextlib.suppress(OSError):  # it does not wait any more; its end of the socket says so
            party.socket.send(b"granted" if why is None else why.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        if why is not None:
            self.drop(party)

    def drop(self, party: Party) -> None:
        if party.socket is not None:
            self.watch.drop(party.socket.fileno())
            drain(party.socket)
            party.socket.close()
            party.socket = None

    def hang_up(self, ticket: int) -> None:
        """A ticket's socket is readable: it is given back."""
        self.drop(self.parties[ticket])
        self.give_back(ticket)

    # What the gate asks for.

    def tell(self, event: gate.Event) -> None:
        self.state, actions = gate.step(self.state, event)
        for action in actions:
            if isinstance(action, gate.Close):
                self.close(action)
            elif isinstance(action, gate.Open):
                self.open(action)
            elif isinstance(action, gate.Grant):
                self.grant(action.id)
            elif isinstance(action, gate.Refuse):
                self.refuse(action)
            elif isinstance(action, gate.Interrupt):
                self.interrupt(action.owner)
            else:
                self.kill(action.worker)

    def close(self, action: gate.Close) -> None:
        party = self.parties[action.owner.id]
        self.closed_since = self.closed_since or time.monotonic()
        for process in self.workers.values():
            process.slot.set("gate", action.epoch)
        self.pause_all(party)
        self.tell_rollout()

    def tell_rollout(self) -> None:
        """Nothing voluntary happens to a worker while a request is alone."""
        closed = not self.is_open and not self.owned_by_operator
        others = [event for event in self.news if not isinstance(event, rollout.Gate)]
        self.news[:] = [rollout.Gate(closed), *others]  # it holds for what has happened meanwhile, too

    def pause_all(self, party: Party) -> None:
        for process in self.workers.values():
            if process.worker.id in self.state.serving:
                self.pause(process, party)

    def pause(self, process: WorkerProcess, party: Party) -> None:
        notice = party.notice
        process.channel.send(
            "PAUSE",
            epoch=self.state.epoch,
            owner=party.number if self.keeps(process.worker.id) else 0,
            hold=0.0 if self.state.stopping else notice.hold,
            line=notice.line,
            line_hold=0.0 if self.state.stopping else notice.line_hold,
            retry_after=notice.retry_after,
            page=notice.page,
            allow=[*notice.allow, *self.checked_path(process)],
        )

    def checked_path(self, process: WorkerProcess) -> list[str]:
        """Under maintenance, too, new code has to show that it works."""
        if not self.owned_by_operator or process.worker.state != rollout.CHECKING:
            return []
        return [checkurl.parse(process.config.reload_check or "/").target.partition("?")[0]]

    def open(self, action: gate.Open) -> None:
        if self.is_open:  # else the next one has it already
            self.closed_since = 0.0
        for process in self.workers.values():
            process.slot.set("gate", 0)
            if process.worker.id in self.state.serving:
                process.channel.send("RESUME", epoch=action.epoch)
        self.tell_rollout()

    def grant(self, ticket: int) -> None:
        party = self.parties[ticket]
        if not self.owned_by_operator:
            waited = time.monotonic() - party.asked
            self.log.info(f"exclusive: {party.name} runs alone (after {waited * 1e3:.1f} ms)")
        party.told(None)

    def refuse(self, action: gate.Refuse) -> None:
        party = self.parties.pop(action.id)
        self.log.info(f"exclusive: {party.name} is refused: {action.why}")
        party.told(action.why)

    def interrupt(self, owner: gate.Ticket) -> None:
        process = self.workers.get(owner.worker)
        if process is not None and not process.leaving:
            why = f"{self.parties[owner.id].name} has run alone for longer than its timeout ({owner.timeout:g} s)"
            process.pressure = Pressure.request(time.monotonic(), why)
            self.pressed = process

    def relent(self) -> None:
        if self.pressed is not None and not self.pressed.leaving:
            self.pressed.pressure = None
        self.pressed = None

    def kill(self, worker_id: int) -> None:
        process = self.workers.get(worker_id)
        if process is not None:
            process.kill("it did not become idle in time for an exclusive request that asked for this")
