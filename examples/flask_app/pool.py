"""A pool of database connections, one for each worker: opened before the worker is ready, closed when it leaves.

This file knows nothing of pyserve; app.py says when its functions are called.
"""

import queue
import sqlite3
from contextlib import contextmanager

SIZE = 4


class Pool:
    def __init__(self, size=SIZE):
        self.size = size
        self.idle = queue.LifoQueue()
        for _ in range(size):
            self.idle.put(sqlite3.connect(":memory:", check_same_thread=False))

    @contextmanager
    def connection(self):
        """One of them; it waits while all are taken."""
        taken = self.idle.get(timeout=10)
        try:
            yield taken
        finally:
            self.idle.put(taken)

    def close(self):
        """Close every connection, those that are taken when they are back."""
        for _ in range(self.size):
            self.idle.get(timeout=10).close()
