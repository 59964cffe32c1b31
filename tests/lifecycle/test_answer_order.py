"""What the gate says to a request comes behind the large answer before it (see wire/test_answer_order.py)."""

from __future__ import annotations

from itertools import product

import pytest

from lifecycle.operator import ctl, serving
from lifecycle.project import Project
from wire.loop import Client

pytestmark = pytest.mark.usefixtures("worker_class")

LARGE = b"a large answer\n" * 60_000
APP = """
LARGE = b"a large answer\\n" * 60_000

def wsgi(environ, start_response):
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/small":
        return [b"small"]
    if environ["QUERY_STRING"] == "file":
        return environ["wsgi.file_wrapper"](open("large", "rb"))
    if environ["QUERY_STRING"] == "stream":
        return (LARGE[start:start + 30_000] for start in range(0, len(LARGE), 30_000))
    return [LARGE]
"""
KINDS = ("item", "stream", "file")
SMALL = b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
def project(project: Project) -> Project:
    project.app.write_text(APP)
    project.folder.joinpath("large").write_bytes(LARGE)
    return project


def ask(kind: str) -> bytes:
    return b"GET /large?%b HTTP/1.1\r\nHost: x\r\n\r\n" % kind.encode()


def addresses(project: Project) -> tuple[str, ...]:
    """For a client of a unix socket the kernel keeps little: the rest waits in the worker."""
    return ("--bind", "127.0.0.1:0", "--bind", f"unix:{project.folder}/socket", "--response-buffer", "100000")


def test_under_maintenance(project: Project) -> None:
    with serving(project, *addresses(project)) as server:
        ctl(project, "maintenance", "on", "--allow", "/large")
        for kind, address in product(KINDS, (("127.0.0.1", server.port), f"{project.folder}/socket")):
            with Client(address) as client:
                client.send(ask(kind) + SMALL + ask(kind) + SMALL + SMALL)
                for status in (200, 503, 200, 503, 503):
                    answer = client.response()
                    assert answer.status == status
                    assert (answer.body == LARGE) == (status == 200)
                    assert b"HTTP/1.1" not in answer.body


def test_held_by_maintenance(project: Project) -> None:
    with serving(project, *addresses(project)) as server:
        ctl(project, "maintenance", "on", "--allow", "/large", "--hold", "60")
        places = list(product(KINDS, (("127.0.0.1", server.port), f"{project.folder}/socket")))
        clients = [Client(address) for _, address in places]
        for (kind, _), client in zip(places, clients, strict=True):
            client.send(ask(kind) + SMALL)
        for client in clients:
            assert client.response().body == LARGE
            assert client.buffer == b""
        ctl(project, "maintenance", "off")
        for client in clients:
            assert client.response().body == b"small"
            client.socket.close()
