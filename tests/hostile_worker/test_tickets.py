"""EXCLUSIVE and its tickets: real ones, with which a worker does what no worker does."""

from __future__ import annotations

import os
import signal

import pytest

from hostile_worker.shell import Shell, fd_count

pytestmark = pytest.mark.usefixtures("worker_class")

TICKETS = {
    "closed at once": "ask_alone(ticket()); kept.clear()",
    "given back before it is asked for": "theirs = ticket(); kept.pop().send(b'done'); ask_alone(theirs)",
    "full and blocking": """
theirs = ticket()
theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
theirs.setblocking(False)
try:
    while True:
        theirs.send(bytes(100_000))
except BlockingIOError:
    pass
theirs.setblocking(True)
kept.append(theirs)
ask_alone(theirs)
""",
    "shut down": "theirs = ticket(); theirs.shutdown(socket.SHUT_RDWR); ask_alone(theirs)",
    "its other end shut down": "theirs = ticket(); kept[-1].shutdown(socket.SHUT_RDWR); ask_alone(theirs)",
    "the two ends of one": "ask_alone(ticket()); ask_alone(kept[-1])",
    "the same, again": "theirs = ticket(); [ask_alone(theirs) for _ in range(50)]",
    "a number twice": "ask_alone(ticket(), number='1'); ask_alone(ticket(), number='1')",
    "one that says much": "ask_alone(ticket()); kept[-1].setblocking(False); [say(bytes(1000)) for _ in range(1000)]",
    "one that descriptors come on whose close waits": """
theirs = ticket()
fd = lingering()
tell(b"x", fd, to=kept[0])
os.close(fd)
ask_alone(theirs)
try:
    tell(b"x", os.open("/dev/null", os.O_RDONLY), to=kept[0])
except BrokenPipeError:
    pass  # the master has read the first, and has taken the ticket back
""",
    "the longest times": "ask_alone(ticket(), drain_timeout='1000000000', hold='1e9', timeout='1e9')",
    "no time": "ask_alone(ticket(), drain_timeout='0', hold='0', timeout='0')",
    "the least time": "ask_alone(ticket(), drain_timeout='5e-324', hold='5e-324', timeout='5e-324')",
    "long words": """ask_alone(ticket(), name='"' + 'x' * 50_000 + '"', line='"' + 'y' * 60_000 + '"')""",
    "words that no encoding has": r"""ask_alone(ticket(), name=r'"\ud800\udfff\u0000\u001b[2J"', line=r'"\ud800"')""",
    "wide words": """ask_alone(ticket(), name='"' + 'é' * 50_000 + '"')""",
    "one that kills": "ask_alone(ticket(), kills='true', drain_timeout='0')",
}
SAY = """
def say(data):
    try:
        kept[-1].send(data)
    except OSError:
        pass
"""


@pytest.mark.parametrize("ask", TICKETS.values(), ids=TICKETS)
def test_tickets(shared: Shell, ask: str) -> None:
    """The gate is open again when they are closed, and no descriptor stays with the master."""
    before = fd_count(shared.server.pid)
    shared.mark = len(shared.server.log)
    shared.run(SAY + ask + "\nkept.clear()")
    shared.is_well()
    shared.server.wait_for(lambda: fd_count(shared.server.pid) <= before)


def test_more_tickets_than_there_can_be(shared: Shell) -> None:
    before = fd_count(shared.server.pid)
    shared.mark = len(shared.server.log)
    shared.run(
        """
for _ in range(1500):
    ask_alone(ticket())
assert kept[-1].recv(100) == b"500 others wait already"
kept.clear()
"""
    )
    shared.is_well()
    shared.server.wait_for(lambda: fd_count(shared.server.pid) <= before)


def test_one_that_holds_the_gate_ends_with_its_worker(shared: Shell) -> None:
    shared.attack("ask_alone(ticket()); open('pid', 'w').write(str(os.getpid()))")
    shared.said("x runs alone")
    os.kill(int((shared.folder / "pid").read_text()), signal.SIGKILL)
    shared.is_well()
