"""Clients that send requests until told to stop, and remember each that was not answered."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from urllib.parse import urlsplit


class Load:
    """``with Load(server.url, threads=4) as load:`` sends GETs meanwhile; afterwards look at ``answers`` and ``failures``.

    reuse: keep a connection for many requests, and think for ``pause`` seconds between two, instead of opening one for each.
    """

    def __init__(self, url: str, path: str = "/", *, threads: int = 4, reuse: bool = False, pause: float = 0.0) -> None:
        parts = urlsplit(url)
        self.host, self.port, self.path = str(parts.hostname), parts.port, path
        self.reuse, self.pause = reuse, pause
        self.answers: list[tuple[int, bytes]] = []
        self.failures: list[BaseException] = []
        self.sent: list[str] = []  # whether or not there is an answer yet
        self.stopped = threading.Event()
        run: Callable[[], None] = self.keep if reuse else self.renew
        self.threads = [threading.Thread(target=run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=60)

    def ask(self, connection: http.client.HTTPConnection, **headers: str) -> http.client.HTTPResponse:
        connection.request("GET", self.path, headers=headers)
        self.sent.append(self.path)
        response = connection.getresponse()
        self.answers.append((response.status, response.read()))
        return response

    def renew(self) -> None:
        while not self.stopped.wait(self.pause):
            connection = self.connect()
            try:
                self.ask(connection, Connection="close")
            except ConnectionRefusedError:
                return  # nobody listens any more: this request was never sent
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
            finally:
                connection.close()

    def keep(self) -> None:
        connection = self.connect()
        while not self.stopped.wait(self.pause):
            try:
                response = self.ask(connection)
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                connection.close()
                connection = self.connect()
            else:
                if response.will_close:
                    connection.close()
                    connection = self.connect()
        connection.close()
