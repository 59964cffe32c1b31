"""Apps that do as they like with signals and with children: workers are forked, replaced, told to leave all the same."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest

from support import Server, serve

APP = """
import ctypes, os, signal, threading, time

def app(environ, start_response):
    in_request()
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]

def in_request():
    pass
"""
WAYS = {
    "children ignored": "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "a handler that reaps": """
def reap(*_):
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass

signal.signal(signal.SIGCHLD, reap)
""",
    "a thread that reaps": """
def reap():
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            time.sleep(0.0001)

threading.Thread(target=reap, daemon=True).start()
""",
    "a subreaper": """
PR_SET_CHILD_SUBREAPER = 36
assert ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
""",
    "all blocked by the import": "signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())",
    "all blocked by a thread": """
def block():
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
    time.sleep(3600)

threading.Thread(target=block, daemon=True).start()
""",
    "all blocked by a request": """
def in_request():
    signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
""",
}


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("preload", ["always", "never"])
@pytest.mark.parametrize("way", WAYS)
def test_workers_are_forked_and_replaced_and_leave(tmp_path: Path, way: str, preload: str) -> None:
    """The zygote learns of the process between it and the worker, whoever takes its status; TERM is always heard."""
    (tmp_path / "app.py").write_text(APP + WAYS[way])
    with serve("app:app", "--workers", "2", cwd=tmp_path, env={"PYSERVE_PRELOAD": preload}) as server:
        for _ in range(3):
            replaced(server, signal.SIGKILL)
        zygotes = server.zygotes()
        left = replaced(server, signal.SIGTERM)
        server.wait_for_log(rf"pid {left} has left \(SIGTERM\)")
        assert server.zygotes() == zygotes
        server.signal(signal.SIGHUP)
        server.wait_for_log("reload done: generation 2")
        replaced(server, signal.SIGTERM)
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert not re.search("BUG|zygote . (was|exited)|stuck|timeout", server.log)


def replaced(server: Server, number: signal.Signals) -> int:
    """Send this to a worker that has served, and wait until two others serve; its pid."""
    pids: set[int] = set()

    def both() -> bool:
        pids.add(int(server.get("/").text))
        return pids >= set(server.workers())

    server.wait_for(both)
    victim = server.workers()[0]
    os.kill(victim, number)
    server.wait_for(lambda: victim not in server.workers() and len(server.workers()) == 2)
    return victim
