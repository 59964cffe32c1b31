from pyserve_workers.native.connection import Connection
from pyserve_workers.native.context import Context

def accept(context: Context, listener: int, about: object) -> Connection | None: ...
