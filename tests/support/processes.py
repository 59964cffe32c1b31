"""Processes as /proc tells of them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

GENEROUS = 60.0  # seconds: beyond what even a very busy machine takes for a step that a test waits for


def wait_for(condition: Callable[[], object], what: str = "the condition", timeout: float = GENEROUS) -> None:
    """Wait until a condition holds. AssertionError, naming ``what`` did not come, after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {timeout:g} s"
        time.sleep(0.01)


def title(pid: int) -> str:
    """The command line, as ps shows it; empty for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def children(pid: int) -> list[int]:
    """The child processes, zombies included; oldest first."""
    return [child for child, (_, parent, _) in sorted(_table().items()) if parent == pid]


def descendants(pid: int) -> list[int]:
    """Children, their children, and so on."""
    found = [pid]
    for each in found:
        found += children(each)
    return found[1:]


def in_session(session: int) -> list[int]:
    """The running processes of a session: also those whose parents have ended. Zombies have left."""
    return [pid for pid, (state, _, own) in sorted(_table().items()) if own == session and state != "Z"]


def open_files() -> set[tuple[int, int, int]]:
    """Each descriptor of this process, and the file behind it: what is open afterwards has to be among what was before.
    Not their number, because the garbage collector may close meanwhile what another test has left open."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one of the listing
            status = os.fstat(int(name))
            found.add((int(name), status.st_dev, status.st_ino))
    return found


def _table() -> dict[int, tuple[str, int, int]]:
    """Every process's state letter, parent and session."""
    table = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                stat = Path(f"/proc/{name}/stat").read_text(errors="replace")
            except OSError:  # it has ended meanwhile
                continue
            state, parent, _, session = stat.rpartition(")")[2].split()[:4]
            table[int(name)] = (state, int(parent), int(session))
    return table
