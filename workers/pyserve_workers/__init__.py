"""The request side of pyserve: what runs in zygotes and workers.

This is the address of what classes of workers are made of that others ship; where it is defined may change. Each name
is looked up when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve_workers.classes.loop import LoopWorker
    from pyserve_workers.classes.sync import SyncWorker
    from pyserve_workers.classes.threads import ThreadsWorker
    from pyserve_workers.life.worker import Worker
    from pyserve_workers.native import forked
    from pyserve_workers.native.connection import BUSY, REQUEST, WANT_READ, WANT_WRITE, Connection

WHERE = {
    "Worker": "pyserve_workers.life.worker",
    "LoopWorker": "pyserve_workers.classes.loop",
    "SyncWorker": "pyserve_workers.classes.sync",
    "ThreadsWorker": "pyserve_workers.classes.threads",
    **dict.fromkeys(("Connection", "BUSY", "REQUEST", "WANT_READ", "WANT_WRITE"), "pyserve_workers.native.connection"),
    "forked": "pyserve_workers.native",
}
__all__ = [
    "BUSY",
    "REQUEST",
    "WANT_READ",
    "WANT_WRITE",
    "Connection",
    "LoopWorker",
    "SyncWorker",
    "ThreadsWorker",
    "Worker",
    "forked",
]


def __getattr__(name: str) -> object:
    if name not in WHERE:
        raise AttributeError(f"module 'pyserve_workers' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(WHERE[name]), name)
