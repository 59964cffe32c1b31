"""An application that is deployed again and again while its client works with it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from examples.running import Client
from support import Server, serve

RELOADS = 5  # that a flow meets at least
PATIENCE = 240.0  # seconds for one command of a client
FAULT = re.compile(r"^.* (?:warn|error|crit) +(?:master|zygote|worker).*$|^Traceback.*$", re.MULTILINE)


def needs(program: str) -> pytest.MarkDecorator:
    """Skips a test where a program is missing."""
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed (Debian: {program})")


@contextmanager
def serving(*arguments: str, cwd: Path, env: dict[str, str] | None = None, workers: int = 2) -> Iterator[Server]:
    """The application, which must not fail once, and whose log must tell of no fault until it has stopped."""
    statuses = cwd / "statuses.log"
    arguments = (
        *arguments,
        "--workers",
        str(workers),
        "--access-logfile",
        str(statuses),
        "--access-logformat",
        "%(s)s %(r)s",
    )
    with serve(*arguments, cwd=cwd, env=env) as server:
        yield server
        server.stop()
        assert not (faults := FAULT.findall(server.log)), faults
        assert "stopped; the stop cut no request" in server.log
        assert not (failed := re.findall("^5.*", statuses.read_text(), re.MULTILINE)), failed


def during_reloads(server: Server, flow: Callable[[int], None]) -> None:
    """Run ``flow(1)``, ``flow(2)``, ... while HUP follows HUP, until RELOADS of them are done."""
    over = threading.Event()
    generation = 1

    def reload() -> None:
        nonlocal generation
        while not over.is_set():
            server.signal(signal.SIGHUP)
            server.wait_for_log(f"reload done: generation {generation + 1} ")
            generation += 1

    with ThreadPoolExecutor(1) as pool:
        reloading = pool.submit(reload)
        try:
            number = 0
            while generation <= RELOADS and not reloading.done():
                number += 1
                flow(number)
        finally:
            over.set()
        reloading.result()


class Browser(Client):
    """Keeps cookies and connections, follows redirects, and meets no error."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        response = super().request(*args, **options)
        assert response.status_code == 200, f"{response.url}: {response.status_code}\n{response.text[:2000]}"
        return response


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> str:
    """What a client's command prints. A program of the application's own environment goes before the system's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PATH": path, "HOME": str(cwd), **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout
