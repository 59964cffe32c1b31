"""What tests of real processes share."""

from support.server import WORKER_CLASSES, Server, serve

__all__ = ["WORKER_CLASSES", "Server", "serve"]
