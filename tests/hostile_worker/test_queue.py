"""The hand-off queue, of which every worker has both ends: what one puts there, and what it does to the sockets."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from hostile_worker.shell import Shell, hostile
from support.processes import GENEROUS, wait_for

pytestmark = pytest.mark.usefixtures("worker_class")

QUEUE = '''
LABEL = struct.Struct("=IHHQQQBBB45s")
whole_one = whole()
outlet, inlet = (socket.socket(fileno=os.dup(fd)) for fd in whole_one.generation.handoff_fds)
request = b"GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n"

def parcel(data=request, format=0x50533032, listener=0, port=1, since=None, held_since=0, body=0, idle=0, has_body=0,
           host_length=9, host=b"127.0.0.1"):
    since = time.monotonic_ns() if since is None else since
    return LABEL.pack(format, listener, port, since, held_since, body, idle, has_body, host_length, host) + data

def put(packet, *fds):
    tell(packet, *fds, to=outlet)

def client():
    """A connection's two ends, ours kept open."""
    ours, theirs = socket.socketpair()
    kept.append(ours)
    return theirs
'''

LABELS = {
    "another format": "parcel(format=1)",
    "a listener that there is not": "parcel(listener=65535)",
    "a host that is longer than its place": "parcel(host_length=255, host=b'9' * 45)",
    "a host that is no UTF-8": r"parcel(host=b'\xff' * 9)",
    "a host of NULs": r"parcel(host_length=45, host=b'')",
    "from the future": "parcel(since=2**64 - 1)",
    "from the beginning": "parcel(since=0)",
    "held in the future": "parcel(held_since=2**64 - 1)",
    "idle with a request": "parcel(idle=255)",
    "a body that does not come": "parcel(has_body=1, body=5)",
    "a body and no request": "parcel(b'', has_body=1, body=5)",
    "half a label": "parcel()[:40]",
    "nothing": "b''",
    "a label alone": "parcel(b'')",
    "too much": "parcel(b'x' * 30_000)",
    "rubbish": "os.urandom(100)",
    "no HTTP": "parcel(b'\\0' * 1000)",
}
BODIES = {
    "shorter than it says": "memory(b'12345'), 2**62",
    "a pipe": "os.pipe()[0], 5",
    "a directory": "os.open('.', os.O_RDONLY), 0",
    "a device": "os.open('/dev/zero', os.O_RDONLY), 5",
    "a socket": "client(), 5",
    "only to be written": "os.open('written', os.O_WRONLY | os.O_CREAT), 0",
}
CONNECTIONS = {
    "a pipe": "os.pipe()[0]",
    "the null device": "os.open('/dev/null', os.O_RDWR)",
    "a file": "os.open('app.py', os.O_RDONLY)",
    "a directory": "os.open('.', os.O_RDONLY)",
    "a file in memory": "memory(b'x')",
    "an epoll": "__import__('pyserve_workers.native.system', fromlist=['epoll']).epoll()",
    "an eventfd": "os.eventfd(0)",
    "a terminal": "os.openpty()[1]",
    "the queue": "outlet",
    "its channel": "whole_one.channel",
    "a listener": "whole_one.generation.listener_fds[0]",
    "UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "one that is not connected": "socket.socket()",
    "more than there are": "*(client() for _ in range(253))",
    "none": "",
}
MEMORY = """
def memory(content):
    fd = os.memfd_create("x")
    os.write(fd, content)
    return fd
"""


def is_unharmed(shell: Shell, code: str) -> None:
    """An attack of which nobody dies."""
    shell.mark = len(shell.server.log)
    before = shell.server.workers()
    shell.run(QUEUE + MEMORY + code)
    shell.is_well()
    assert shell.server.workers() == before, shell.news


@pytest.mark.parametrize("packet", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("fds", ["", "client()", "client(), client()"], ids=["no", "one", "two"])
def test_wild_labels(shared: Shell, packet: str, fds: str) -> None:
    is_unharmed(shared, f"put({packet}, {fds})")


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_that_are_none(shared: Shell, body: str) -> None:
    is_unharmed(shared, f"fd, size = {body}; put(parcel(has_body=1, body=size), client(), fd)")


@pytest.mark.parametrize("connection", CONNECTIONS.values(), ids=CONNECTIONS)
def test_connections_that_are_none(shared: Shell, connection: str) -> None:
    is_unharmed(shared, f"put(parcel(), {connection})")


def test_a_connection_that_blocks_and_whose_client_does_not_read(shared: Shell) -> None:
    """The one who sent it has it still, and changes that again and again."""
    is_unharmed(
        shared,
        """
theirs = client()
theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
kept.append(theirs)
for _ in range(50):
    put(parcel(request * 500), theirs)
    theirs.setblocking(True)
    time.sleep(0.001)
""",
    )


def test_a_connection_whose_close_waits(shared: Shell) -> None:
    is_unharmed(shared, "fd = lingering(); put(parcel(), fd); os.close(fd)")


def test_a_flood(shared: Shell) -> None:
    is_unharmed(
        shared,
        """
outlet.setblocking(False)
for _ in range(3000):
    try:
        put(b"rubbish")
    except BlockingIOError:
        pass
""",
    )


# The sockets. They stay as they are for everybody, and for good.

SOCKETS = {
    "blocking": "outlet.setblocking(True); inlet.setblocking(True)",
    "credentials": "inlet.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)",
    "processes": "inlet.setsockopt(socket.SOL_SOCKET, 76, 1)",  # SO_PASSPIDFD
    "labels": "inlet.setsockopt(socket.SOL_SOCKET, 34, 1)",  # SO_PASSSEC
    "times": "inlet.setsockopt(socket.SOL_SOCKET, 35, 1)",  # SO_TIMESTAMPNS
    "no descriptors": "inlet.setsockopt(socket.SOL_SOCKET, 83, 0)",  # SO_PASSRIGHTS
    "no buffer": "outlet.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)",
    "nothing more in": "outlet.shutdown(socket.SHUT_WR)",
    "nothing more out": "inlet.shutdown(socket.SHUT_RD)",
    "nothing at all": "outlet.shutdown(socket.SHUT_RDWR); inlet.shutdown(socket.SHUT_RDWR)",
}


@pytest.mark.parametrize("change", SOCKETS.values(), ids=SOCKETS)
def test_the_sockets_themselves(shell: Shell, change: str) -> None:
    """A reload is done, with idle connections; and the stop, at which the master looks at what is in the queue, ends."""
    server = shell.server
    if not known(change):
        pytest.skip("this kernel does not know the option")
    shell.run(QUEUE + change)
    with socket.create_connection(("127.0.0.1", server.port), GENEROUS) as idle:
        idle.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert idle.recv(100).startswith(b"HTTP/1.1 200")
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done")
        shell.is_well()
        server.wait_for(lambda: len(server.workers()) == 2)
        shell.mark = len(server.log)
        shell.is_well()
    shell.run(
        QUEUE
        + """
for packet in (b"", b"rubbish", parcel()):
    for fds in ([], [client()], [os.pipe()[0], client()], [lingering()]):
        try:
            put(packet, *fds)
        except OSError:
            pass
kept.clear()
"""
    )
    server.signal(signal.SIGTERM)
    assert server.wait() in (0, 70), "what was put there can be a request that is cut"
    assert "the hand-off queue" not in shell.news or "shut" in change, shell.news


def known(change: str) -> bool:
    """Does the kernel know the option?"""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        try:
            exec(change, {"outlet": ours, "inlet": theirs, "socket": socket})
        except OSError:
            return False
    return True


def test_what_is_left_at_the_end(worker_class: str, tmp_path: Path) -> None:
    """Whoever puts something there until the very end, and after it, does not keep the master."""
    with hostile(tmp_path, "--graceful-timeout", "2") as shell:
        shell.run(
            QUEUE
            + """
if not ctypes.PyDLL(None).fork():  # Python does not hear of it
    outlet.setblocking(True)
    until = time.monotonic() + 60
    while time.monotonic() < until and os.getppid() != 1:
        try:
            put(parcel(), client())
            kept.clear()
        except OSError:
            os._exit(0)
    os._exit(1)
"""
        )
        shell.server.signal(signal.SIGTERM)
        assert shell.server.wait() in (0, 70), "one of those that were put there can be in the app at the deadline"
        wait_for(lambda: not shell.server.processes())
