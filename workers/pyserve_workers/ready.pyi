from pyserve_workers.connection import Connection

def serve_ready(
    epoll: int, connections: dict[int, Connection], patience: float
) -> tuple[list[tuple[int, int]], list[tuple[Connection, int]], int]: ...
