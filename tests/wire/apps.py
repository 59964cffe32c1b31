"""Apps and bodies for tests of WSGI, and answer(), which asks one of them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from wire.loop import Client, Response, Server

App = Callable[[dict[str, Any], Callable[..., Any]], Any]

TEXT = [("Content-Type", "text/plain")]


def serving(app: App, **settings: Any) -> Server:
    return Server(app, **settings)


def answer(app: App, request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", method: str = "GET") -> Response:
    """The response to one request, with ``.log`` (errors) and ``.open`` (can the connection be used again?)."""

    def once(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] != "OPTIONS":
            return app(environ, start_response)
        start_response("200 OK", [])
        return []

    with serving(once) as server, server.connect() as client:
        client.send(request)
        response = client.response(method)
        response.open = response.headers.get("connection") != "close" and still_open(client)
        response.log = server.log.texts("error")
        return response


def still_open(client: Client) -> bool:
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    return client.more()


def simple(status: str = "200 OK", headers: list[Any] | None = None, body: Any = (b"ok",)) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, TEXT if headers is None else headers)
        return body

    return app


class Closing:
    """An iterable that counts its close()."""

    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = iter(chunks)
        self.closed = 0
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> Any:
        chunk = next(self.chunks)
        if isinstance(chunk, BaseException):
            raise chunk
        self.given += 1
        assert chunk is not None
        return chunk

    def close(self) -> None:
        self.closed += 1


class Sized(Closing):
    def __init__(self, chunks: list[Any]) -> None:
        super().__init__(chunks)
        self.size = len(chunks)

    def __len__(self) -> int:
        return self.size
