"""The lines of the log about clients, which those can provoke as often as they like.

The first of a kind and client is logged in full. Once a minute, and when the worker ends, a line has the number of
those that came after it, until a minute has none. A client is an address, or the network that an IPv6 address is in:
everybody has as many addresses there as ports. Only so many clients and kinds are told from each other.
"""

from __future__ import annotations

import socket
import time
from _thread import allocate_lock

from pyserve_workers.native.spells import Spell

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.ipc.log import Log

EVERY = 60.0  # seconds between counts
MOST = 64  # clients and kinds that are counted by themselves
OTHERS = "other clients"
NETWORK = 8  # bytes of an IPv6 address


class Complaints:
    """One worker's. ``note()`` may be called by several threads at once."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.lock = allocate_lock()
        self.spells: dict[tuple[str, str, str], Spell] = {}  # level, what, client
        self.counted = 0.0  # when they were last counted, CLOCK_MONOTONIC seconds

    def note(self, level: str, what: str, address: str | None, name: str) -> None:
        """``what`` is one of a few texts, in which nothing is the client's own; ``name`` is its name for this line."""
        client = client_of(address)
        with self.lock:
            if not self.spells:
                self.counted = time.monotonic()
            key = level, what, client
            if key not in self.spells and len(self.spells) >= MOST:
                key = level, what, OTHERS
            spell = self.spells.setdefault(key, Spell())
            begins = spell.note()
            if begins:
                spell.count()  # this one is told
        if begins:
            getattr(self.log, level)(f"{name}: {what}")

    def look(self, now: float) -> None:
        """Once in a while: is it time to count?"""
        if self.spells and now - self.counted >= EVERY:
            self.tell(now)

    def tell(self, now: float) -> None:
        """Say how often each has come again, and forget those that have not."""
        with self.lock:
            seconds, self.counted = now - self.counted, now
            counts = {key: spell.count() for key, spell in self.spells.items()}
            self.spells = {key: spell for key, spell in self.spells.items() if counts[key]}
        for (level, what, client), count in counts.items():
            if count:
                times = "once more" if count == 1 else f"{count} times more"
                getattr(self.log, level)(f"{client}: {what}: {times} in {seconds:.0f} s")


def client_of(address: str | None) -> str:
    """Whom an address stands for, None being that of a unix socket's client."""
    if address is None:
        return "a unix socket"
    if ":" not in address:
        return address
    network = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:NETWORK]
    return f"{socket.inet_ntop(socket.AF_INET6, network + bytes(16 - NETWORK))}/{8 * NETWORK}"
