"""gevent's hub in a process that forks workers.

A hub and its loop that exist at the fork are one epoll shared by all workers, and every greenlet that waits would run
in each of them.
"""

from __future__ import annotations

import sys

from pyserve.app.hooktime import Call
from pyserve.errors import HookTimeout
from pyserve_workers.life.living import living

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


def keep_only(forker: Any) -> None:
    """In a process that was forked by the greenlet ``forker``: of all that there are, only it goes on, as of threads.

    What the others wait for may come here too, or be given to them by what goes on. Whoever is woken goes back to the
    hub before any code of its own runs.
    """
    import greenlet

    hub = current()
    if hub is None:  # a native thread
        return
    root = forker
    while root.parent is not None:
        root = root.parent
    own = {forker, hub, root}

    def send_back(_event: str, switch: tuple[Any, Any]) -> None:
        """In the greenlet that was switched to."""
        if switch[1] in own:
            return
        if sys._getframe().f_back is None:  # its first step: it was made here
            own.add(switch[1])
            return
        while True:
            greenlet.greenlet.switch(hub)

    greenlet.settrace(send_back)
    for callback in hub.loop._callbacks:  # greenlets that are still to take it
        callback.stop()


def destroy() -> None:
    """Have no hub and no loop, before a fork."""
    hub = current()
    if hub is not None:
        hub.destroy(destroy_loop=True)
