from collections.abc import Mapping

from pyserve_workers.native.connection import Connection
from pyserve_workers.native.context import Context

def serve_ready(
    epoll: int,
    context: Context,
    connections: dict[int, Connection],
    listeners: Mapping[int, object],
    limit: int,
    patience: float,
) -> tuple[list[tuple[int, int]], list[tuple[Connection, int]], int]: ...
