"""A small app that each test of this folder changes as its story needs."""

from __future__ import annotations

from pathlib import Path

from support import Server

APP = """
import os, time
import pyserve

VERSION = "one"

def wsgi(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    if path == "/sleep":
        environ["wsgi.errors"].write("asleep\\n")
        if query.startswith("until="):
            while not os.path.exists(query[6:]):
                time.sleep(0.01)
        else:
            time.sleep(float(query))
        environ["wsgi.errors"].write("awake\\n")
    if path == "/exit":
        os._exit(int(query))
    if path == "/c":
        sum(range(10 ** int(query)))  # one long call of C code
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{VERSION} {os.getpid()}".encode()]
"""


class Project:
    """A folder with ``app.py``: ``project.replace("one", "two")`` is a deploy."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.app = folder / "app.py"
        self.app.write_text(APP)

    def replace(self, old: str, new: str) -> None:
        text = self.app.read_text()
        assert old in text
        # The length changes, so that no cached bytecode of the same second and size is taken for it.
        self.app.write_text(text.replace(old, new) + "\n# another deploy\n")

    def let_go(self) -> None:
        """End the requests for /sleep?until=go."""
        (self.folder / "go").touch()

    def append(self, text: str) -> None:
        self.app.write_text(self.app.read_text() + text)


def in_app(server: Server, count: int) -> bool:
    """Do that many requests sleep in the app?"""
    log = server.log
    return log.count("  asleep\n") - log.count("  awake\n") >= count
