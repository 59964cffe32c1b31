"""Named points in the lives of master, zygotes and workers at which tests can kill, stop or fail the process.

Off unless PYSERVE_FAILPOINTS names a folder; then a process that comes to a point obeys the file ``FOLDER/NAME``, if
there is one, and only the first that comes: ``kill`` (SIGKILL), ``stop`` (SIGSTOP, until somebody continues it), ``exit
N``, or ``raise`` (an OSError). Before that it appends ``NAME ACTION PID CLOCK_MONOTONIC`` to ``FOLDER/journal``.

Names: ``worker.STATE`` and ``responder.STATE`` before one of them enters a state; ``zygote.loading``,
``zygote.loaded``, ``zygote.forking``; ``master.ACTION`` before the master does what the rollout asks for
(``master.Spawn``, ``master.Drain``, …), and ``master.PHASE`` before a phase of its shutdown; ``upgrade.prove`` in the
child that proves an upgrade, and ``upgrade.exec`` in the master before it becomes the new program.
"""

from __future__ import annotations

import os

FOLDER = os.environ.get("PYSERVE_FAILPOINTS", "")


def failpoint(name: str) -> None:
    """Do here what a test has asked for; nothing in a server that serves people."""
    if FOLDER:
        _reach(name)


def _reach(name: str) -> None:
    import signal
    import time

    order = os.path.join(FOLDER, name)
    taken = f"{order}.{os.getpid()}"
    try:
        os.rename(order, taken)  # whoever succeeds is the first
    except FileNotFoundError:
        return
    with open(taken) as file:
        action, _, value = file.read().strip().partition(" ")
    os.unlink(taken)
    line = f"{name} {action} {os.getpid()} {time.monotonic()}\n".encode()
    journal = os.open(os.path.join(FOLDER, "journal"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    os.write(journal, line)
    os.close(journal)
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif action == "exit":
        os._exit(int(value))
    elif action == "raise":
        raise OSError(f"fail-point {name}")
    else:
        raise ValueError(f"fail-point {name}: {action!r} is no action")
