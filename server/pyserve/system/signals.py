"""The signals between master, zygotes and workers. ``signal`` itself is not imported: it takes a millisecond."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed does not have it

# Signals from the master to a child. Real-time ones, which neither apps nor people use.
INTERRUPT = _signal.SIGRTMIN + 1  # raise RequestTimeout in the app and log every thread's stack
DUMP = _signal.SIGRTMIN + 2  # faulthandler writes every thread's stack; works in C code too
STACKS = _signal.SIGRTMIN + 3  # the same, into the worker's stack file, for somebody who asked
LET_GO = _signal.SIGRTMIN + 4  # close the listening sockets, whatever the app is doing
END = _signal.SIGRTMIN + 5  # a worker's to itself: it is stuck, and nobody else ends it
LATE_HOOK = _signal.SIGRTMIN + 6  # a process's to itself: a lifecycle hook has taken its time

INTERRUPT_GRACE = 2.0  # seconds for an interrupted request to end

# Terminals, service managers and people send these to every process of the service, and mean the master. They are
# blocked over each fork and exec, so that none ends a process that has no handler yet.
BLOCKED = (
    _signal.SIGINT, _signal.SIGHUP, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2, _signal.SIGTTIN, _signal.SIGTTOU,
)  # fmt: skip
