"""gevent's hub in a process that forks workers.

A hub and its loop that exist at the fork are one epoll shared by all workers, and every greenlet that waits would run
in each of them.
"""

from __future__ import annotations

import sys

from pyserve.errors import HookTimeout
from pyserve.hooktime import Call
from pyserve_workers.living import living

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def current() -> Any:
    """This thread's hub; None if there is none."""
    if "gevent.hub" not in sys.modules:
        return None
    from gevent._hub_local import get_hub_if_exists

    return get_hub_if_exists()


def audit() -> str:
    """What the import has left in the hub that a fork would double, as the end of "the import …"; empty if nothing."""
    hub = current()
    if hub is None:
        return ""
    from greenlet import getcurrent, greenlet

    if hub._threadpool is not None:  # its threads have greenlets of their own
        hub._threadpool.kill()
    known = {id(hub), id(getcurrent())}
    found = living(lambda kind: issubclass(kind, greenlet))
    left = sum(not greenlet.dead.__get__(each) and id(each) not in known for each in found)
    return f"started {left} greenlet{'s' if left > 1 else ''}" if left else ""


def prepare() -> None:
    """Import what gevent imports at its first use: once, and while the interpreter can be read (see --user)."""
    from gevent import get_hub

    hub = get_hub()
    hub.threadpool_class, hub.resolver_class  # noqa: B018  (they are imported when they are asked for)
    destroy()


class GreenletCall(Call):
    """A hook that may wait in the hub: the timer's signal then comes while another greenlet runs."""

    def __init__(self) -> None:
        from greenlet import getcurrent

        super().__init__()
        self.current = getcurrent
        self.greenlet = getcurrent()

    def end(self) -> None:
        hub = current()
        if hub is None or self.current() is self.greenlet:
            self.interrupt()
        else:
            hub.loop.run_callback(self.throw)

    def throw(self) -> None:
        if self.running:
            self.running = False
            self.greenlet.throw(HookTimeout())


def destroy() -> None:
    """Have no hub and no loop, before a fork."""
    hub = current()
    if hub is not None:
        hub.destroy(destroy_loop=True)
