"""Servers that have no command of their own, or none that takes what matters here.

python launch.py MODULE_OF_SERVER MODULE:APP PORT
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"


def bjoern(server: Any, app: Any, port: int) -> None:
    server.run(app, HOST, port)


def cheroot(server: Any, app: Any, port: int) -> None:
    server.Server((HOST, port), app, numthreads=1).start()


def fastwsgi(server: Any, app: Any, port: int) -> None:
    server.server.tcp_nodelay = 1
    server.run(app, HOST, port)


def freastal(server: Any, app: Any, port: int) -> None:
    server.serve(app, host=HOST, port=port, workers=1)


def pywsgi(server: Any, app: Any, port: int) -> None:
    server.WSGIServer((HOST, port), app, log=None, backlog=2048).serve_forever()


LAUNCHERS: dict[str, Callable[[Any, Any, int], None]] = {
    "bjoern": bjoern,
    "cheroot.wsgi": cheroot,
    "fastwsgi": fastwsgi,
    "fastpysgi": fastwsgi,  # its successor
    "freastal": freastal,
    "gevent.pywsgi": pywsgi,
}


def main() -> None:
    name, target, port = sys.argv[1:]
    if name.startswith("gevent."):
        from gevent import monkey

        monkey.patch_all()
    module, _, attribute = target.partition(":")
    app = getattr(importlib.import_module(module), attribute)
    LAUNCHERS[name](importlib.import_module(name), app, int(port))


if __name__ == "__main__":
    main()
