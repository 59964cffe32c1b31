"""What tests of real processes share."""

from support.server import Server, serve

__all__ = ["Server", "serve"]
