"""An example, served from a copy of its directory as its README says, and clients that use it during releases."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import requests

from support import Server, serve
from support.processes import GENEROUS

EXAMPLES = Path(__file__).parents[2] / "examples"
RELEASES = 5


class Client(requests.Session):
    """Keeps cookies, as a browser does; a URL may be a path. reuse=False: every request has a connection of its own."""

    def __init__(self, url: str, *, reuse: bool = True) -> None:
        super().__init__()
        self.url = url
        self.trust_env = False  # no proxy between a test and its server
        if not reuse:
            self.headers["Connection"] = "close"

    def request(self, method: Any, url: Any, *args: Any, **options: Any) -> requests.Response:
        options.setdefault("timeout", GENEROUS)
        return super().request(method, urljoin(self.url, url), *args, **options)


class Example:
    """A running example; ``directory`` is its copy, to be changed at will."""

    def __init__(self, directory: Path, server: Server) -> None:
        self.directory = directory
        self.server = server
        self.generation = 1

    def client(self, *, reuse: bool = True) -> Client:
        return Client(self.server.url, reuse=reuse)

    def memory(self) -> int:
        """Bytes that the server takes: a page that several processes share is divided among them (Pss)."""
        return sum(_pss(pid) for pid in self.server.processes())

    def reload(self) -> None:
        """Send SIGHUP, and wait until new workers serve and the old ones, which may finish requests, have left."""
        old = set(self.server.workers())
        self.generation += 1
        self.server.signal(signal.SIGHUP)
        self.server.wait_for_log(f"reload done: generation {self.generation} ")
        self.server.wait_for(lambda: old.isdisjoint(self.server.processes()))


def _pss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"no Pss of process {pid}")


@contextmanager
def serve_example(name: str, parent: Path, set_up: Callable[[Path], None] | None = None) -> Iterator[Example]:
    """Copy the example into ``parent``, prepare it by ``set_up``, and serve it as its pyserve.toml says."""
    directory = parent / name
    shutil.copytree(EXAMPLES / name, directory, ignore=shutil.ignore_patterns("__pycache__", "db.sqlite3*"))
    if set_up:
        set_up(directory)
    with serve(cwd=directory) as server:
        yield Example(directory, server)


def during_releases(release: Callable[[int], None], clients: Sequence[Callable[[], None]]) -> None:
    """Run every client again and again while releases 2, 3, ... follow one another; none may fail."""
    done = threading.Event()

    def run(client: Callable[[], None]) -> None:
        client()
        while not done.is_set():
            client()

    with ThreadPoolExecutor(len(clients)) as pool:
        running = [pool.submit(run, client) for client in clients]
        try:
            for number in range(2, 2 + RELEASES):
                if not any(client.done() for client in running):  # else one has failed, and says so below
                    release(number)
        finally:
            done.set()
        for client in running:
            client.result()
