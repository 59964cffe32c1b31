"""A server's processes: started on a core, counted, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

TICK = os.sysconf("SC_CLK_TCK")
ENDING = 3.0  # seconds


class Usage(NamedTuple):
    seconds: float
    pids: frozenset[int]


def start(
    command: list[str], folder: Path, log: Path, core: int | None = None, environ: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Run a command, on one core if ``core`` says which, with variables added; what it prints goes to ``log``."""
    if core is not None:
        command = ["taskset", "--cpu-list", str(core), *command]
    with log.open("wb") as output:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask with SIGINT, which ends all of these servers; then kill what is left of the process and all below it."""
    pids = tree(process.pid)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(ENDING)
    until = time.monotonic() + ENDING
    while any(alive(pid) for pid in pids) and time.monotonic() < until and process.returncode is not None:
        time.sleep(0.01)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def runs(pid: int) -> bool:
    """Is it there, and no zombie that nobody has waited for?"""
    try:
        return pid > 0 and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def pss(pid: int) -> int:
    """Proportional set size in KiB; 0 for a process that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in tree(int(child)))]


def usage(pid: int) -> Usage:
    """CPU seconds that a process and all below it have used, children that have ended included; and their ids."""
    pids = tree(pid)
    return Usage(sum(cpu_ticks(each) for each in pids) / TICK, frozenset(pids))


def cpu_ticks(pid: int) -> int:
    """utime, stime, cutime and cstime: all threads, user and system."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return sum(int(field) for field in stat.rpartition(")")[2].split()[11:15])


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port
