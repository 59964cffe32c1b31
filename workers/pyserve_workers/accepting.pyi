from pyserve_workers.connection import Connection
from pyserve_workers.context import Context

def accept(context: Context, listener: int, about: object) -> Connection | None: ...
