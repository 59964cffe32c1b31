"""The scoreboard, which every worker can write to, in whoever's slot."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hostile_worker.shell import Shell, hostile
from lifecycle.operator import CTL
from pyserve.control import statuspage
from pyserve.control.conversation import VERSION
from support.processes import GENEROUS

pytestmark = pytest.mark.usefixtures("worker_class")

BOARD = """
worker = whole()
board = worker.generation.scoreboard
own = int(worker.slot.get("pid"))
"""

SIZES = {
    "cut": "os.ftruncate(board.fd, 0)",
    "cut a little": "os.ftruncate(board.fd, SLOT_SIZE * SLOTS - 1)",
    "grown": "os.ftruncate(board.fd, SLOT_SIZE * SLOTS * 2)",
    "grown by writing": "os.pwrite(board.fd, b'x', SLOT_SIZE * SLOTS)",
    "sealed": "fcntl.fcntl(board.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)",
    "sealed for others": "fcntl.fcntl(board.fd, fcntl.F_ADD_SEALS, 16)",  # F_SEAL_FUTURE_WRITE
}


@pytest.mark.parametrize("change", SIZES.values(), ids=SIZES)
def test_it_keeps_its_size(shared: Shell, change: str) -> None:
    """Else whoever looks next, the master before all, would die of a SIGBUS."""
    shared.run(f"""{BOARD}
try:
    {change}
except OSError:
    pass
else:
    raise AssertionError("it can be changed")
""")
    shared.is_well()


def test_holes_read_as_zeros(shared: Shell) -> None:
    """They can be punched: nothing is there then, as in a slot that is free."""
    before = shared.server.workers()
    shared.run(f"""{BOARD}
import ctypes
ctypes.CDLL(None).fallocate(board.fd, 3, ctypes.c_long(0), ctypes.c_long(SLOT_SIZE * SLOTS))
""")
    shared.is_well(workers=1)  # they do not know any more that they are two, and so do not take turns
    assert shared.server.workers() == before


FILL = {
    "ones": "b'\\xff' * SLOT_SIZE",
    "zeros": "bytes(SLOT_SIZE)",
    "at random": "os.urandom(SLOT_SIZE)",
    "the largest that is a signed one": "(b'\\xff' * 7 + b'\\x7f') * (SLOT_SIZE // 8)",
    "ones, as numbers": "(b'\\x01' + bytes(7)) * (SLOT_SIZE // 8)",
}
ALWAYS = """
program = '''
import mmap, os, sys, time
from pyserve.ipc.scoreboard import SLOT_SIZE, SLOTS
parent = os.getppid()
board = mmap.mmap(int(sys.argv[1]), SLOT_SIZE * SLOTS)
while os.getppid() == parent:
    for index in range(SLOTS):
        board[index * SLOT_SIZE : (index + 1) * SLOT_SIZE] = {content}
    time.sleep(0.02)
'''
fd = os.dup(board.fd)
os.set_inheritable(fd, True)
os.posix_spawn(sys.executable, [sys.executable, "-c", program, str(fd)], os.environ)
"""


def status(path: Path) -> str:
    """What pyservectl shows."""
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(GENEROUS)
        control.connect(str(path))
        control.sendall(json.dumps({"version": VERSION, "command": "status"}).encode() + b"\n")
        with control.makefile("rb") as lines:
            return statuspage.page(json.loads(next(lines)))


@pytest.mark.parametrize("content", FILL.values(), ids=FILL)
def test_rubbish_in_every_slot(worker_class: str, tmp_path: Path, content: str) -> None:
    """Through a status, an exclusive request, a reload, the end of a worker, and the end of all."""
    everything = (
        "--max-requests",
        "100000",
        "--max-memory",
        "100G",
        "--control-socket",
        "ctl",
        "--graceful-timeout",
        "5",
    )
    with hostile(tmp_path, *everything) as shell:
        server = shell.server
        shell.run(BOARD + ALWAYS.format(content=content.replace("\\", "\\\\")))
        lives(shell)
        assert "workers serve" in status(tmp_path / "ctl")
        shell.attack('ask_alone(ticket(), drain_timeout="0.5"); time.sleep(0.2); kept.clear()')
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done|rolled back|reload aborted")
        lives(shell)
        shell.attack("os.kill(os.getpid(), 9)")
        lives(shell)
        server.signal(signal.SIGTERM)
        assert server.wait() in (0, 70)
        assert "BUG" not in server.log


CLOSE = """
for index in range(SLOTS):
    if board.slot(index).get("pid"):
        board.slot(index).set("gate", 77)
"""
ALONE = """
import pyserve
pyserve.exclusive(lambda: kept.append(1))()
assert kept.pop() == 1
"""


def test_a_gate_that_the_master_has_not_closed(shell: Shell) -> None:
    """Nobody is there who would open it again. Requests go on; and they wait, later, for one that is alone."""
    shell.run(BOARD + CLOSE)
    answers = {shell.server.get("/").status_code for _ in range(4)}
    shell.is_well()
    assert answers == {200}
    assert len(re.findall(r"requests go on$", shell.server.log, re.MULTILINE)) in (1, 2), "once in each worker"
    assert "(epoch 77)" in shell.server.log
    for _ in range(3):
        shell.run(ALONE)
    shell.is_well()


def test_a_gate_that_is_closed_again_and_again(shell: Shell) -> None:
    """Clients are told to come again, and do not wait for ever."""
    flag = shell.folder / "again"
    flag.touch()
    shell.run(f"""{BOARD}
def again():
    while os.path.exists("again"):
        {CLOSE.strip().replace(chr(10), chr(10) + "        ")}
        time.sleep(0.0005)

apart(lambda: apart(again))
os.wait()
""")
    with ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(shell.server.get, ["/"] * 2))
    flag.unlink()
    assert {answer.status_code for answer in answers} <= {200, 503}
    assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 503)
    shell.is_well()


def test_what_a_request_line_can_be(worker_class: str, tmp_path: Path) -> None:
    """pyservectl shows it, whatever the terminal can."""
    line = bytes(range(1, 256)) + b"\xed\xb3\xbf"
    with hostile(tmp_path, "--control-socket", "ctl") as shell:
        shell.attack(f"""{BOARD}
from pyserve.ipc.scoreboard import OFFSETS
start = OFFSETS["request_line"]
worker.slot.memory[start : start + {len(line)}] = {line!r}
worker.slot.set("request_line_length", {len(line)})
worker.slot.set("request_start", time.monotonic_ns())
while not os.path.exists("seen"):
    time.sleep(0.02)
""")
        asked = [*CTL, "--socket", str(tmp_path / "ctl"), "status"]
        for encoding in ("ascii", "utf-8", "latin-1"):
            environ = {**os.environ, "PYTHONIOENCODING": encoding}

            def shown(environ: dict[str, str] = environ) -> bool:
                done = subprocess.run(asked, capture_output=True, env=environ, check=False)
                assert (done.returncode, done.stderr) == (0, b"")
                return re.search(rb"\\x01\\x02.*\\x0a\\x0b.* for \d", done.stdout) is not None  # in one row

            shell.server.wait_for(shown)
        (tmp_path / "seen").touch()
        shell.is_well()


def lives(shell: Shell) -> None:
    """The master hears. Whether a worker serves is for the one to say that has its hands on everybody's numbers."""
    server, before = shell.server, shell.server.log.count("log files reopened")
    server.signal(signal.SIGUSR1)
    server.wait_for(lambda: server.process.poll() is not None or server.log.count("log files reopened") > before)
    assert server.process.poll() is None, server.log
