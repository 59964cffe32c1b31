"""What the parts of a worker's loop ask of the worker."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    from pyserve.config.config import Config
    from pyserve.ipc.channel import Channel
    from pyserve.ipc.log import Log
    from pyserve.ipc.scoreboard import Slot
    from pyserve_workers.life.check import Check
    from pyserve_workers.life.generation import Generation
    from pyserve_workers.native.connection import Connection
    from pyserve_workers.native.context import Context
else:
    Protocol = object


class Host(Protocol):
    config: Config
    generation: Generation
    log: Log
    slot: Slot
    channel: Channel
    context: Context
    check: Check | None  # the master's own request, while it waits for its answer
    pid: int
    state: str
    final: bool  # it leaves because everything stops
    orphaned: bool  # its master is gone
    may_take: bool  # connections from the hand-off queue
    concurrent: bool
    never_busy: bool
    watches_running: bool

    @property
    def listeners(self) -> dict[int, Any]: ...

    @property
    def ways_in(self) -> list[Any]: ...

    def pause_accepting(self, listener_fd: int) -> None: ...

    def sweep_within(self, seconds: float) -> None: ...

    def linger(self) -> None: ...

    def go_on(self, connections: list[Connection]) -> None: ...

    def client_here(self) -> int: ...

    def will_be_kept(self) -> None: ...
