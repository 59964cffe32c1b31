"""Django keeps a database connection for each thread or greenlet; who ends, closes its own.

Left to the garbage collector, a server would see them break off.
"""

from __future__ import annotations

import sys


def close_databases() -> None:
    """Close the calling thread's or greenlet's connections, if Django is in use. Never raises."""
    database = sys.modules.get("django.db")
    if database is None:
        return
    for connection in database.connections.all(initialized_only=True):
        try:
            connection.close()
        except Exception as error:  # noqa: BLE001  (it is going away in any case, and the others must be closed too)
            sys.stderr.write(f"pyserve: closing the database connection {connection.alias}: {error!r}\n")
