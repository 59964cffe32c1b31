"""The clients see what a bad server does to them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chaos.clients import Client, Crowd, body, simple
from chaos.evidence import ANSWERED, LOST


def answer(ident: str, *fields: str, data: bytes | None = None) -> bytes:
    text = body(ident) if data is None else data
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Length: {len(text)}", "X-Pid: 7", *fields, "", ""]).encode() + text


@contextmanager
def answering(data: bytes) -> Iterator[int]:
    """A server that answers whatever comes first with these bytes, and hangs up. Its port."""

    def serve_one() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(data)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve_one)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


def ask(data: bytes) -> Crowd:
    """What a client, whose request has the id "1-kept", has on record after that answer."""
    with answering(data) as port:
        crowd = Crowd(port)
        client = Client(crowd, "kept", keeps=True)
        client.prepare()
        simple(client)
        client.leave()
    return crowd


def test_a_whole_answer() -> None:
    crowd = ask(answer("1-kept"))
    (fate,) = crowd.fates
    assert (fate.outcome, fate.status, fate.whole, fate.pid) == (ANSWERED, 200, True, 7)
    assert crowd.extra == []


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        answer("1-kept")[:-1],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ],
)
def test_an_answer_that_is_cut_is_lost(data: bytes) -> None:
    (fate,) = ask(data).fates
    assert fate.outcome == LOST


def test_an_answer_to_somebody_else() -> None:
    (fate,) = ask(answer("2-kept")).fates
    assert not fate.whole


@pytest.mark.parametrize("fields", [(), ("Connection: close",)])
def test_a_second_answer_to_one_request(fields: tuple[str, ...]) -> None:
    crowd = ask(answer("1-kept", *fields) * 2)
    assert len(crowd.extra) == 1
