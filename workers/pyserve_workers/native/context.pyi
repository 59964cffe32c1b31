from collections.abc import Callable
from typing import Any, Protocol

from pyserve_workers.native.accesslog import AccessLog
from pyserve_workers.native.bunch import Bunch
from pyserve_workers.native.complaints import Complaints

class _Log(Protocol):
    def debug(self, text: str, /) -> None: ...
    def info(self, text: str, /) -> None: ...
    def warning(self, text: str, /) -> None: ...
    def error(self, text: str, /) -> None: ...

class Context:
    app: Any
    settings: Any
    errors: Any
    log: _Log
    complaints: Complaints
    access_log: AccessLog | None
    multithread: bool
    concurrent: bool
    draining: bool
    epoll: int
    forked: bool
    client: int
    gatekeeper: Any
    draining_event: Any
    held: int
    spooled: int
    bunch: Bunch
    running: bool
    wait_writable: Callable[[int, float | None], bool] | None
    def __init__(
        self,
        app: Callable[..., Any] | None,
        settings: Any,
        slot: memoryview,
        errors: Any,
        log: _Log,
        access_log: AccessLog | None = None,
        multithread: bool = False,
        concurrent: bool = False,
    ) -> None: ...
