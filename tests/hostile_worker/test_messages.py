"""What a worker says on its channel that no worker says: it is ended, with one line, and nothing else is."""

from __future__ import annotations

import pytest

from hostile_worker.shell import Shell, fd_count
from pyserve.ipc.channel import MESSAGE_LIMIT, MESSAGES, encode
from server.test_channel import EXAMPLES

pytestmark = pytest.mark.usefixtures("worker_class")

MISUSE = r"worker \d gen 1 pid \d+ was killed by pyserve \(SIGKILL\): it misused its channel: "
SAID = ("HELLO", "READY", "BOOT_FAILED", "LEAVING", "LET_GO", "CHECKED", "BYE", "EXCLUSIVE", "IDLE")  # by workers

GARBAGE = {
    "a NUL": r"b'\0'",
    "no JSON": "b'hello'",
    "no message": "b'[]'",
    "an object": """b'{"GO": {}}'""",
    "no such kind": """b'["STOP", {}]'""",
    "a kind that is a list": """b'[["GO"], {}]'""",
    "a long kind": "json.dumps(['x' * 100_000, {}])",
    "no UTF-8": r"""b'["LEAVING", {"cause": "\xff"}]'""",
    "deep lists": "b'[' * 120_000",
    "deep objects": """b'{"a":' * 24_000""",
    "deep fields": """b'["IDLE", {"epoch": ' + b'[' * 50_000 + b']' * 50_000 + b'}]'""",
    "an endless number": """b'["IDLE", {"epoch": ' + b'9' * 100_000 + b'}]'""",
    "a field too many": """b'["IDLE", {"epoch": 1, "and": 1}]'""",
    "too long": f"b'[\"GO\", {{}}]' + b' ' * {MESSAGE_LIMIT}",
}


@pytest.mark.parametrize("packet", GARBAGE.values(), ids=GARBAGE)
def test_garbage(shared: Shell, packet: str) -> None:
    assert len(shared.attacks(f"tell({packet})", MISUSE)) < 600, "the line does not repeat it"


@pytest.mark.parametrize("kind", sorted(MESSAGES.keys() - SAID))
def test_what_others_say(shared: Shell, kind: str) -> None:
    shared.attacks(f"tell({encode(kind, EXAMPLES[kind])!r})", MISUSE + f".*{kind}")


WRONG = ["1" + "0" * 400, "-1", "NaN", "Infinity", "-Infinity", "1e400", "true", "null", '"1"', "[1]", "{}"]
NUMBERS = {
    "HELLO": ["pid"],
    "READY": ["seconds"],
    "CHECKED": ["status"],
    "BYE": ["cut"],
    "IDLE": ["epoch"],
    "EXCLUSIVE": ["number", "drain_timeout", "hold", "timeout"],
}


@pytest.mark.parametrize("value", WRONG, ids=lambda value: value[:10])
@pytest.mark.parametrize("kind, field", [(kind, field) for kind, fields in NUMBERS.items() for field in fields])
def test_numbers_that_are_none(shared: Shell, kind: str, field: str, value: str) -> None:
    packet = encode(kind, {**EXAMPLES[kind], field: 4711}).decode().replace("4711", value)
    beside = "ticket()" if kind == "EXCLUSIVE" else ""
    shared.attacks(f"tell({packet!r}, {beside})", MISUSE + f".*{kind}")


AGAIN = {
    "its own pid": "os.getpid()",
    "another worker's": "next(pid for pid in others() if pid != os.getpid())",
    "the master's": "os.getppid()",
    "init's": "1",
    "a child's": "fork()",
    "that of a child that is the master's now": "fork(twice=True)",
}
FORKS = """
def others():
    return [int(pid) for pid in open(f"/proc/{os.getppid()}/task/{os.getppid()}/children").read().split()]

def fork(twice=False):
    reader, writer = os.pipe()
    alive, until = os.pipe()
    if os.fork() == 0:
        if not twice or os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            posix.close(until)
            os.read(alive, 1)  # until the worker ends
        os._exit(0)
    return int(os.read(reader, 100))
"""


@pytest.mark.parametrize("pid", AGAIN.values(), ids=AGAIN)
def test_hello_counts_once(shared: Shell, pid: str) -> None:
    shared.attacks(f"""{FORKS}\ntell('["HELLO", {{"pid": %d}}]' % {pid})""", MISUSE + "HELLO")


@pytest.mark.parametrize(
    "packet", ['["READY", {"seconds": 1, "heartbeat": true}]', '["CHECKED", {"status": 200, "details": ""}]']
)
def test_what_a_worker_that_serves_does_not_say(shared: Shell, packet: str) -> None:
    shared.attacks(f"tell({packet!r})", MISUSE)


HARMLESS = {
    "an epoch that is not yet": ['["IDLE", {"epoch": 1000}]'],
    "an epoch that is over": ['["IDLE", {"epoch": 0}]'],
    "a field twice": ['["IDLE", {"epoch": -1, "epoch": 1}]'],
    "idle while the gate is open": ['["IDLE", {"epoch": 1}]'],
    "white space": ['["IDLE", {"epoch": 1}]' + " " * 100_000],
}


@pytest.mark.parametrize("packets", HARMLESS.values(), ids=HARMLESS)
def test_what_changes_nothing(shared: Shell, packets: list[str]) -> None:
    shared.mark = len(shared.server.log)
    for packet in packets:
        shared.run(f"tell({packet!r})")
    shared.is_well()
    assert "was killed" not in shared.news


# Surrogates and words for a terminal in what goes into the log and to pyservectl.


def test_texts_that_no_encoding_has(shared: Shell) -> None:
    shared.attack(r"""tell(r'["LEAVING", {"cause": "\ud800\u001b[2J"}]'); os._exit(0)""")
    shared.said(r"pid \d+ has to leave \(\\udc?800\\x1b\[2J\)|has left")
    shared.is_well()


# What is beside a message.

BESIDE = {
    "nothing": "",
    "two sockets": "*socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)",
    "as many as go": "*[os.open('/dev/null', os.O_RDONLY)] * 253",
    "a pipe": "os.pipe()[1]",
    "the null device": "os.open('/dev/null', os.O_RDWR)",
    "a file": "os.open('app.py', os.O_RDONLY)",
    "a directory": "os.open('.', os.O_RDONLY)",
    "a file in memory": "os.memfd_create('x')",
    "an epoll": "__import__('pyserve_workers.native.system', fromlist=['epoll']).epoll()",
    "an eventfd": "os.eventfd(0)",
    "its channel": "whole().channel",
    "the queue": "whole().generation.handoff_fds[0]",
    "a listener": "whole().generation.listener_fds[0]",
    "one that listens": "listening()",
    "one that is not connected": "socket.socket(socket.AF_UNIX)",
    "datagrams": "socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "netlink": "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "TCP whose close waits": "lingering()",
}


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_tickets_that_are_none(shared: Shell, beside: str) -> None:
    before = fd_count(shared.server.pid)
    shared.attacks(f"ask_alone({beside})", MISUSE + "EXCLUSIVE")
    shared.server.wait_for(lambda: fd_count(shared.server.pid) <= before)


@pytest.mark.parametrize("beside", BESIDE.values(), ids=BESIDE)
def test_descriptors_beside_what_has_none(shared: Shell, beside: str) -> None:
    if not beside:
        pytest.skip("that is as it should be")
    before = fd_count(shared.server.pid)
    shared.attacks(f"""tell('["IDLE", {{"epoch": 1}}]', {beside})""", MISUSE + "IDLE")
    shared.server.wait_for(lambda: fd_count(shared.server.pid) <= before)


def test_a_descriptor_whose_close_waits_and_that_nobody_hears_of(shared: Shell) -> None:
    """It comes behind a message for which the worker is ended."""
    shared.attacks(
        """
last = lingering()
tell('garbage')
tell('["IDLE", {"epoch": 1}]', last)
os.close(last)
""",
        MISUSE,
    )
