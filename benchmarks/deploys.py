"""The app that is deployed again and again: it says which version it is, and in which process."""

from __future__ import annotations

from pathlib import Path

WORK = 0.020  # seconds
APP = """
import os, time

{preamble}

def wsgi(environ, start_response):
    time.sleep(float(environ["QUERY_STRING"] or {work}))
    body = b"{version} %d" % os.getpid()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
"""
# A server that caches bytecode would take a new version of the same second and size for the old one.
ENVIRON = {"PYTHONDONTWRITEBYTECODE": "1"}


class Deploys:
    """``app.py`` in a folder; ``version`` is the one that was written last."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "app.py"
        self.version = 0

    def deploy(self, preamble: str = "") -> int:
        """Write the next version, with something to do at its import; its number."""
        self.version += 1
        new = self.file.with_suffix(".new")
        new.write_text(APP.format(preamble=preamble, work=WORK, version=self.version))
        new.rename(self.file)
        return self.version
