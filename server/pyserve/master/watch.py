"""What the master waits for: descriptors, and who is told when there is something to be had from one."""

from __future__ import annotations

import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Watch:
    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.told: dict[int, Callable[[int], None]] = {}

    def add(self, fd: int, told: Callable[[int], None], events: int = select.EPOLLIN) -> None:
        """``told`` is called with the events. OSError: it cannot be watched."""
        self.epoll.register(fd, events)
        self.told[fd] = told

    def change(self, fd: int, events: int) -> None:
        self.epoll.modify(fd, events)

    def drop(self, fd: int) -> None:
        """Before it is closed. One that is not watched is left alone."""
        if self.told.pop(fd, None) is not None:
            self.epoll.unregister(fd)

    def __contains__(self, fd: int) -> bool:
        return fd in self.told

    def wait(self, seconds: float) -> list[tuple[int, int]]:
        """What there is, for ``tell``: (descriptor, events); at the latest after so long."""
        return self.epoll.poll(seconds)

    def tell(self, ready: list[tuple[int, int]]) -> None:
        for fd, events in ready:
            if told := self.told.get(fd):  # else somebody who was told before has dropped it
                told(events)

    def close(self) -> None:
        self.epoll.close()
