"""A worker that does not live as workers do: deaf, mute, stopped, talkative, or with more children than anybody."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

import pytest

from hostile_worker.shell import Shell, hostile

pytestmark = pytest.mark.usefixtures("worker_class")

DEAF = r"worker \d gen 1 pid \d+ was killed by pyserve \(SIGKILL\): it has closed its channel"

ENDS = {
    "closed": "worker.channel.socket.close()",
    "closed under it": "posix.close(worker.channel.fileno())",
    "another file instead": "os.dup2(os.open('/dev/null', os.O_RDWR), worker.channel.fileno())",
    "nothing more is said": "worker.channel.socket.shutdown(socket.SHUT_WR)",
    "nothing more at all": "worker.channel.socket.shutdown(socket.SHUT_RDWR)",
    "an empty packet": "worker.channel.socket.send(b'')",
    "with a descriptor whose close waits": "fd = lingering(); tell(b'', fd); os.close(fd)",
    "closed with more unread": '[tell(\'["IDLE", {"epoch": 1}]\') for _ in range(100)]; worker.channel.socket.close()',
}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_channel_that_ends_before_its_worker(shared: Shell, end: str) -> None:
    """What is told there is not heard: such a worker would serve old code for ever."""
    shared.attacks(f"worker = whole(); {end}; time.sleep(600)", DEAF)


def test_nothing_more_is_heard(shared: Shell) -> None:
    """The worker closes its ears only, and goes on: it is told to leave in vain, and is ended when its time is over."""
    shared.mark = len(shared.server.log)
    shared.run("whole().channel.socket.shutdown(socket.SHUT_RD)")
    shared.is_well()


# Much is said.

FLOODS = {
    "of what changes nothing": """tell('["IDLE", {"epoch": 0}]', to=me)""",
    "of large packets": """tell('["IDLE", {"epoch": 0}]' + ' ' * 40_000, to=me)""",
    "of tickets": "ask_alone(theirs, to=me, waits='false')",
}


@pytest.mark.parametrize("say", FLOODS.values(), ids=FLOODS)
def test_floods(shared: Shell, say: str) -> None:
    """The master hears others meanwhile, and the end of this worker comes when there is never a pause."""
    shared.attacks(
        f"""
me, theirs = os.dup(whole().channel.fileno()), ticket()
def flood():
    while True:
        {say}
for _ in range(8):
    apart(flood)
""",
        r"worker \d gen 1 pid \d+ was killed by pyserve \(SIGKILL\): it misused its channel: 10001 messages without a pause",
    )


def test_a_worker_that_is_stopped_while_everybody_else_is_told_to_wait(shell: Shell) -> None:
    """What it is told waits in the master, which loses nothing for that: continued, it is as it was."""
    victim = shell.server.workers()[0]
    os.kill(victim, signal.SIGSTOP)
    shell.attack("pass")  # the kernel may wake the one that is stopped for the first connection
    try:
        before = memory(shell.server.pid)
        shell.run(
            """
for _ in range(1000):
    ask_alone(ticket(), drain_timeout="0", line='"' + "x" * 10_000 + '"')
    time.sleep(0.001)
"""
        )
        for _ in range(20):
            shell.server.signal(signal.SIGUSR1)
        shell.is_well(workers=1)
        assert memory(shell.server.pid) < before + (64 << 20)
    finally:
        os.kill(victim, signal.SIGCONT)
    shell.is_well()
    assert victim in shell.server.workers()


def memory(pid: int) -> int:
    """Bytes, resident."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_worker_that_stops_itself_and_is_told_to_leave(shell: Shell) -> None:
    shell.attack("os.kill(os.getpid(), signal.SIGSTOP)")
    shell.server.wait_for(lambda: any(stopped(pid) for pid in shell.server.workers()))
    victim = next(pid for pid in shell.server.workers() if stopped(pid))
    shell.server.signal(signal.SIGHUP)
    shell.said("reload done")
    os.kill(victim, signal.SIGKILL)
    shell.is_well()


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


# The bell, and the file for its stacks.

BELLS = {
    "full": """
bell = os.open(f"/proc/self/fd/{worker.bell_fd}", os.O_WRONLY | os.O_NONBLOCK)
try:
    while True:
        os.write(bell, bytes(4096))
except BlockingIOError:
    pass
""",
    "closed": "posix.close(worker.bell_fd)",
    "blocking": "os.set_blocking(worker.bell_fd, True)",
    "not blocking": "os.set_blocking(worker.bell_fd, False)",
    "a file": "os.dup2(os.open('app.py', os.O_RDONLY), worker.bell_fd)",
}


@pytest.mark.parametrize("change", BELLS.values(), ids=BELLS)
def test_bells(shared: Shell, change: str) -> None:
    """A worker is in a long request and has other clients: it is rung, whatever it has made of the bell."""
    shared.mark = len(shared.server.log)
    shared.attack(
        f"""
worker = whole()
worker.slot.set("connections", 5)
{change}
until = time.monotonic() + 0.5
while time.monotonic() < until:
    worker.slot.set("request_start", 1)
worker.slot.set("request_start", 0)
"""
    )
    shared.is_well()


STACKS = {
    "NULs": "os.pwrite(fd, bytes(1 << 20), 0)",
    "a hole": "os.ftruncate(fd, 1 << 40)",
    "rubbish": "os.pwrite(fd, os.urandom(1 << 20), 0)",
    "a terminal's": r"os.write(fd, b'\x1b[2J\x07\0\x1b]0;x\x07\0' * 100)",
    "sealed": "fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK)",
}


@pytest.mark.parametrize("content", STACKS.values(), ids=STACKS)
def test_stacks(worker_class: str, tmp_path: Path, content: str) -> None:
    import subprocess
    import sys

    with hostile(tmp_path, "--control-socket", "ctl") as shell:
        shell.run(
            f"""
fd = whole().stacks_fd
try:
    {content}
except OSError:
    pass
"""
        )
        asked = [sys.executable, "-m", "pyserve.control.ctl", "--socket", str(tmp_path / "ctl"), "dump"]
        asked[1:3] = ["-c", "from pyserve.control.ctl import main; main()"]
        said = subprocess.run(asked, capture_output=True, text=True, timeout=100)
        assert "worker 0 gen 1" in said.stdout
        assert "worker 1 gen 1" in said.stdout
        assert "\x1b" not in said.stdout
        shell.is_well()


# Children.


def test_more_children_than_anybody_reaps(shared: Shell) -> None:
    """They become the master's, one after the other, and end."""
    shared.attack(
        """
program = '''
import os, signal, time
until = time.monotonic() + 3
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while time.monotonic() < until:
    if not os.fork():
        for _ in range(50):
            if not os.fork():
                os._exit(0)
        os._exit(0)
'''
os.posix_spawn(sys.executable, [sys.executable, "-c", program], os.environ)
"""
    )
    for _ in range(5):
        shared.is_well()


def test_a_child_that_goes_on_speaking(shared: Shell) -> None:
    """It has the channel of a worker that is no more."""
    shared.attacks(
        """
channel = os.dup(whole().channel.fileno())
def speak():
    end = time.monotonic() + 10
    while time.monotonic() < end:
        tell('["IDLE", {"epoch": 1}]', to=channel)
apart(speak)
os.kill(os.getpid(), signal.SIGKILL)
""",
        r"worker \d gen 1 pid \d+ was killed by SIGKILL",
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a worker's program rights that its master has not")
def test_nothing_that_it_executes_keeps_the_master(worker_class: str, tmp_path: Path) -> None:
    """A worker becomes another program in the middle of its life: its channel has ended, and it is ended."""
    with hostile(tmp_path) as shell:
        shell.attacks("os.execvp('sleep', ['sleep', '600'])", DEAF)


# Its log, which it shares with all others.


class Reader:
    """Of a log that is a pipe: it copies what it reads into a file, until it is told to rest."""

    def __init__(self, pipe: Path, copy: Path) -> None:
        os.mkfifo(pipe)
        self.fd = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        self.copy = copy.open("ab", buffering=0)
        self.reads = threading.Event()
        self.ended = threading.Event()
        self.reads.set()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.ended.wait(0.01):
            if self.reads.is_set():
                with contextlib.suppress(BlockingIOError):
                    self.copy.write(os.read(self.fd, 1 << 20))

    def close(self) -> None:
        self.ended.set()
        self.thread.join()
        os.close(self.fd)
        self.copy.close()


def test_a_log_that_nobody_reads(worker_class: str, tmp_path: Path) -> None:
    """A worker lets it block, and fills it: the master goes on, and so do the others."""
    reader = Reader(tmp_path / "pipe", tmp_path / "copy")
    try:
        with hostile(tmp_path, "--error-logfile", "pipe", error_log=tmp_path / "copy") as shell:
            server = shell.server
            reader.reads.clear()
            shell.run(
                """
fd = whole().generation.log_fds["error_log"]
try:
    while True:
        os.write(fd, b"x" * 4095 + b"\\n")
except BlockingIOError:
    os.set_blocking(fd, True)
"""
            )
            server.signal(signal.SIGTTIN)
            server.wait_for(lambda: len(server.workers()) == 3)
            for _ in range(20):
                assert server.get("/missing").status_code == 200
            server.signal(signal.SIGTTOU)
            server.wait_for(lambda: len(server.workers()) == 2)
            reader.reads.set()
            server.wait_for_log("lost before this one: its reader does not keep up")
    finally:
        reader.close()
