"""The zygote of gevent workers: first of all it has gevent replace what blocks in the standard library.

Before that only C modules and zygote.py's siblings without imports may be loaded: whatever has a lock, a socket or an
SSLContext of its own would keep the blocking kind.
"""

from __future__ import annotations

import contextlib

import pyserve_workers.native.system  # noqa: F401  (keeps what the server itself needs as it is)


def main() -> None:
    """Not while this module is imported: that has a lock, which belongs to a thread by a number that gevent changes."""
    try:
        from gevent import monkey
    except ImportError:
        pass  # to load the worker class will fail, and say what to install
    else:
        monkey.patch_all()
    from pyserve.app import hooktime
    from pyserve_workers.life import hubs
    from pyserve_workers.programs import zygote

    with contextlib.suppress(ImportError):
        import pyserve_workers.classes.geventworker  # noqa: F401

        hubs.prepare()
        hooktime.make_call = hubs.GreenletCall
    zygote.main()
