"""The Django example for memory.py, which wants every worker to have served the same number of pages.

A worker that has served its pages says so, and no longer asks Django; it takes its time, so that others get the rest.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

sys.path.insert(0, os.environ["BENCHMARK_PROJECT"])

from mysite.wsgi import application as django

PAGES = int(os.environ["BENCHMARK_PAGES"])
RESTING = 0.02  # seconds
served = 0


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    global served
    served += 1
    if served <= PAGES:
        return django(environ, start_response)
    time.sleep(RESTING)
    start_response("200 OK", [("Content-Length", "0"), ("X-Worker", str(os.getpid()))])
    return []
